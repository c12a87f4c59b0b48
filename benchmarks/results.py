"""The evidence under `results/`, its summary, and the README's table made from it.

results/DATASET/RUN/metrics.json, history.csv, curves.png    copied from a run folder
results/summary.json                                         one object a recipe
results/ladder.png                                           the same as a picture
results/frontier.png                                         test accuracy against minutes
results/benchmark.json                                       from benchmarks/run_benchmark.py
results/growth.json, growth.png                              from benchmarks/measure_growth.py
"""

import json
import pathlib
import shutil
import statistics

from frontier_plot import plot_frontier
from growth import plot_growth
from plots import plot_results
from results_table import results_table

from catsdogs import config as presets
from catsdogs.errors import InputError
from catsdogs.evaluation.figures import save_figure
from catsdogs.evaluation.significance import summarize_seeds
from catsdogs.files import atomic_folder, atomic_path, read_json, write_json
from catsdogs.stages import run as runs
from catsdogs.stages.recipe import changes
from catsdogs.tables import BENCHMARK, EVIDENCE, GROWTH

__all__ = ["add_runs", "readme_with_table", "summarize", "update"]

_EVIDENCE_FILES = ("metrics.json", "history.csv", "curves.png")
_PRESETS = {
    "scratch": presets.SCRATCH,
    "feature_extract": presets.FEATURE_EXTRACT,
    "finetune": presets.FINETUNE,
}
_BEGIN, _END = "<!-- results table: begin -->", "<!-- results table: end -->"
# Settings that are no part of the recipe, or stand in a column of their own.
_NOT_SETTINGS = {"preset", "variant", "augmentation", "seed", "smoke"}
# The best of the three editions of Deep Learning with Python, 2,000 training images: test accuracy
# where the book gives it, else validation accuracy.
_PUBLISHED = (
    ("book, scratch + augmentation (3rd ed.)", 0.839),
    ("book, small Xception from scratch (3rd ed.)", 0.908),
    ("book, VGG16 features + augmentation (2nd ed.)", 0.975),
    ("book, Xception features + augmentation (3rd ed.)", 0.984),
    ("book, VGG16 fine-tuned (2nd ed.)", 0.985),
    ("book, Xception fine-tuned (3rd ed.)", 0.986),
)
# Test accuracy that the second edition states for the recipe that the benchmark times.
_BOOK = {"scratch": 0.835, "feature_extract": 0.975, "finetune": 0.985}


def add_runs(run_dirs, results_dir="results"):
    """Copies the small evidence of evaluated runs to `results/DATASET/RUN/`.

    Args:
        run_dirs: Run folders.
        results_dir: Where the evidence is kept.

    Raises:
        InputError: If a run is not finished or not evaluated, or two have one name; then none is
            added.
    """
    places = {}
    for run_dir in map(pathlib.Path, run_dirs):
        _, metrics = runs.load_run(run_dir)
        if "test" not in metrics:
            raise InputError(
                f"Expected an evaluated run, received {run_dir}, which has no test figures. "
                f"Run python scripts/evaluate.py {run_dir} first."
            )
        for path in (run_dir / name for name in _EVIDENCE_FILES):
            if not path.is_file():
                raise InputError(f"Expected a file at {path}, found none. Train the run again.")
        if metrics["config"]["smoke"]:
            raise InputError(f"Expected a full run, received {run_dir}, made with --smoke.")
        resolved = run_dir.resolve()
        place = pathlib.Path(results_dir) / metrics["dataset"] / resolved.name
        if (other := places.setdefault(place, resolved)) != resolved:
            raise InputError(
                f"Expected one run a name, received {other} and {resolved}. Rename one of them."
            )
    for place, run_dir in places.items():
        with atomic_folder(place) as folder:
            for name in _EVIDENCE_FILES:
                shutil.copyfile(run_dir / name, folder / name)


def summarize(results_dir="results"):
    """Summary rows of all evidence, one a recipe: by stage, the textbook's before this project's.

    Returns:
        A list of dictionaries, JSON-ready; accuracies are fractions.
    """
    recipes = {}
    for path in sorted(pathlib.Path(results_dir).glob("*/*/metrics.json")):
        metrics = read_json(path, "Remove it, or add the run again.", EVIDENCE)
        settings = _settings(metrics)
        key = (
            list(_PRESETS).index(metrics["stage"]), metrics["preset"] != "textbook",
            metrics["dataset"], metrics["variant"], metrics["image_size"], len(settings),
            json.dumps(settings, sort_keys=True), metrics["precision"], metrics["dataset_digest"],
        )  # fmt: skip
        recipes.setdefault(key, []).append((path.parent, metrics))
    return [_row(recipes[key], pathlib.Path(results_dir)) for key in sorted(recipes)]


def readme_with_table(readme, summary):
    """The README's text with its results table made anew.

    Args:
        readme: The README's text, with the two marker lines.
        summary: Rows from `summarize`.

    Raises:
        InputError: If the markers are missing.
    """
    if readme.count(_BEGIN) != 1 or readme.count(_END) != 1:
        raise InputError(f"Expected the lines {_BEGIN} and {_END} once each in the README.")
    before, rest = readme.split(_BEGIN)
    _, after = rest.split(_END)
    return f"{before}{_BEGIN}\n{results_table(summary)}\n{_END}{after}"


def update(root="."):
    """Writes `results/summary.json`, the pictures and the README's table.

    Returns:
        Paths of the files, relative to `root`.
    """
    root = pathlib.Path(root)
    summary = summarize(root / "results")
    if not summary:
        raise InputError(
            f"Expected evaluated runs in {root / 'results'}, found none. "
            "Add some: python benchmarks/update_results.py runs/dogs-vs-cats/*/"
        )
    figures = {"ladder": plot_results(summary, _PUBLISHED)}
    benchmark, growth = root / "results" / "benchmark.json", root / "results" / "growth.json"
    if benchmark.exists():
        found = read_json(benchmark, "Run benchmarks/run_benchmark.py again.", BENCHMARK)
        figures["frontier"] = _frontier(summary, found)
    if growth.exists():
        found = read_json(growth, "Run benchmarks/measure_growth.py again.", GROWTH)
        figures["growth"] = plot_growth(found["rows"])
    readme = readme_with_table((root / "README.md").read_text(encoding="utf-8"), summary)
    # From here on nothing is read that could be refused.
    write_json(root / "results" / "summary.json", summary)
    for name, figure in figures.items():
        save_figure(figure, root / "results" / f"{name}.png")
    with atomic_path(root / "README.md") as path:
        path.write_text(readme, encoding="utf-8")
    return ["results/summary.json", *(f"results/{name}.png" for name in figures), "README.md"]


def _frontier(summary, benchmark):
    if benchmark["quick"]:
        raise InputError(
            "Expected results/benchmark.json of a whole benchmark, received one made with --quick. "
            "Run python benchmarks/run_benchmark.py --output results/benchmark.json."
        )
    environment = benchmark["environment"]
    hardware = f"{environment['cores']} cores, {environment['processor']}"
    # Minutes of other machines and accuracies of other pictures do not belong in one figure.
    rows = [
        row
        for row in summary
        if row["wall_seconds"]
        and (row["dataset"], row["hardware"]) == (benchmark["dataset"], hardware)
    ]
    return plot_frontier([_point(row) for row in rows], _book_points(benchmark))


def _point(row):
    changed = ", ".join(
        f"{name.replace('_', ' ')} {value}"
        for name, value in row["settings"].items()
        if name not in ("image_size", "crop_size", "pooled_only")
    )
    label = f"{row['variant']} {row['image_size']}²".replace("_", " ")
    label += f", {row['preset']}" if row["preset"] != "best" else ""
    return {
        "stage": row["stage"],
        "label": label + (f", {changed}" if changed else ""),
        "minutes": row["wall_seconds"] / 60,
        "accuracy": row["test_accuracy"]["mean"],
        "interval95": row["test_accuracy"]["interval95"],
    }


def _book_points(benchmark):
    minutes = {stage: found["seconds_scaled"] / 60 for stage, found in benchmark["book"].items()}
    minutes["finetune"] += minutes["feature_extract"]  # it starts from the head
    names = {"scratch": "convnet", "feature_extract": "features", "finetune": "fine-tuned"}
    return [
        {"label": f"book's {names[stage]}", "minutes": minutes[stage], "accuracy": accuracy}
        for stage, accuracy in _BOOK.items()
    ]


def _settings(metrics):
    """What differs from the preset, seed and variant aside, and what the start was made with that
    differs from the one which fine-tuning makes itself."""
    presets_of_stage = _PRESETS[metrics["stage"]]
    if metrics["preset"] not in presets_of_stage:
        raise InputError(
            f"Expected a preset out of {', '.join(presets_of_stage)} for {metrics['stage']}. "
            f"Received: {metrics['preset']}."
        )
    changed = changes(metrics["config"], presets_of_stage[metrics["preset"]])
    settings = {name: changed[name] for name in changed if name not in _NOT_SETTINGS}
    # The same start for several seeds, and how the precision was asked for, make no other recipe.
    at_start = metrics.get("start_changes", {})
    names = [name for name in at_start if name not in ("seed", "precision")]
    return settings | {f"start_{name}": at_start[name] for name in names}


def _row(members, results_dir):
    members = sorted(members, key=lambda member: member[1]["config"]["seed"])
    first = members[0][1]
    seeds = [metrics["config"]["seed"] for _, metrics in members]
    if len(set(seeds)) < len(seeds):
        places = ", ".join(str(path) for path, _ in members)
        raise InputError(
            f"Expected one run a seed, received seeds {seeds} of one recipe: {places}. "
            "Remove the run that is too many."
        )
    tests = [metrics["test"] for _, metrics in members]
    values = [test["accuracy"] for test in tests]

    def mean_seconds(timing):
        seconds = [metrics["wall_seconds"] for _, metrics in members if metrics[timing]]
        return round(statistics.fmean(seconds), 1) if seconds else None

    environment = first["environment"]
    commits = sorted({metrics["environment"]["commit"] or "unknown" for _, metrics in members})
    return {
        "stage": first["stage"],
        "preset": first["preset"],
        "variant": first["variant"],
        "dataset": first["dataset"],
        "settings": _settings(first),
        "image_size": first["image_size"],
        "seeds": seeds,
        "test_accuracy": summarize_seeds(values, tests[0]["num_images"]),
        "flip_accuracy": _mean_or_none([m.get("test_flip") for _, m in members]),
        "val_accuracy": statistics.fmean(m["validation"]["accuracy"] for _, m in members),
        "wall_seconds": mean_seconds("cold"),
        "warm_wall_seconds": mean_seconds("warm"),
        "peak_rss_mb": max(metrics["peak_rss_mb"] for _, metrics in members),
        "hardware": f"{environment['cores']} cores, {environment['processor']}",
        "precision": first["precision"],
        "commit": ", ".join(commits),
        "evidence": [path.relative_to(results_dir).as_posix() for path, _ in members],
    }


def _mean_or_none(tests):
    return statistics.fmean(test["accuracy"] for test in tests) if all(tests) else None
