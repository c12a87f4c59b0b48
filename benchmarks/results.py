"""Keeps the evidence under `results/` and makes the tables and figures from it.

results/DATASET/RUN/metrics.json, history.csv, curves.png    copied from a run folder
results/DATASET-sweep/RUN/                                   of the runs of the sweep
results/benchmark.json, growth.json, cross_validation.json   from the scripts of these names
results/benchmark-avx2.json                                  with oneDNN limited to AVX2
results/ladder.png, frontier.png, growth.png                 drawn here
README.md, docs/results.md, docs/speed.md                    the tables between marker lines

Examples:
    python benchmarks/results.py runs/dogs-vs-cats/*/    add these runs, then update everything
    python benchmarks/results.py                         update tables and figures
"""

import dataclasses
import pathlib
import shutil
import statistics

import tyro
from plots import STAGES, plot_frontier, plot_growth, plot_ladder

from catsdogs import cli
from catsdogs import config as presets
from catsdogs.evaluation.plots import save_figure
from catsdogs.evaluation.significance import summarize_seeds
from catsdogs.files import atomic_path, read_json

__all__ = [
    "add_runs",
    "benchmark_table",
    "cross_validation_table",
    "full_table",
    "replace_table",
    "short_table",
    "summarize",
    "sweep_table",
    "update",
]

_ROOT = pathlib.Path(__file__).parents[1]
_DATASET = "dogs-vs-cats"
_PRESETS = {
    "scratch": presets.SCRATCH,
    "feature_extract": presets.FEATURE_EXTRACT,
    "finetune": presets.FINETUNE,
}
_VARIANTS = {
    "none": "no augmentation",
    "basic": "basic augmentation",
    "strong": "strong augmentation",
    "cached": "cached features",
    "augmented": "augmented views",
    "end_to_end": "end to end",
}
# Settings that are no part of the recipe, or are shown elsewhere in its row.
_NOT_SETTINGS = {
    "preset", "variant", "augmentation", "backbone", "image_size", "crop_size", "seed", "smoke",
}  # fmt: skip
# The rows of the README, by the names of their runs.
_SHORT = (
    "scratch-textbook-basic", "scratch-best-strong", "scratch-record-strong",
    "feature_extract-light-cached", "feature_extract-best-cached", "feature_extract-record-cached",
    "finetune-light-augmented", "finetune-best-augmented",
)  # fmt: skip


def add_runs(run_dirs, results_dir):
    """Copies the evidence of runs to `results_dir/DATASET/RUN/`, or `DATASET-sweep/RUN/` if they
    are of the sweep, which opens no test split.
    """
    for run_dir in map(pathlib.Path, run_dirs):
        metrics, root = read_json(run_dir / "metrics.json"), run_dir.resolve().parent.name
        is_sweep = root == f"{metrics['dataset']}-sweep"
        if not is_sweep and "test" not in metrics:
            print(f"Left out, not evaluated: {run_dir}")
            continue
        dataset = metrics["dataset"] + "-sweep" * is_sweep
        folder = pathlib.Path(results_dir) / dataset / run_dir.resolve().name
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("metrics.json", "history.csv", "curves.png"):
            shutil.copyfile(run_dir / name, folder / name)


def summarize(folder):
    """Summarizes the evidence of one dataset.

    Args:
        folder: Folder of run folders.

    Returns:
        A list of dictionaries, one for each recipe, which is what the seeds have in common: from
        scratch first, then by test accuracy. Accuracies are fractions.
    """
    recipes = {}
    for path in sorted(pathlib.Path(folder).glob("*/metrics.json")):
        metrics = read_json(path)
        key = (
            metrics["stage"], _label(metrics), metrics["image_size"], metrics["precision"],
            metrics["dataset_digest"],
        )  # fmt: skip
        recipes.setdefault(key, []).append((path.parent.name, metrics))
    rows = [_summarize_recipe(members) for members in recipes.values()]
    stages = list(STAGES)
    return sorted(rows, key=lambda row: (stages.index(row["stage"]), row["accuracy"]["mean"]))


def full_table(rows):
    """The table of `docs/results.md` as Markdown: every row from `summarize`, and its evidence."""
    cells = []
    for row in rows:
        links = " ".join(
            f"[{seed}](../results/{_DATASET}/{run}/metrics.json)"
            for seed, run in zip(row["seeds"], row["runs"], strict=True)
        )
        cells.append((
            STAGES[row["stage"]][0], row["label"], f"{row['image_size']}²", _accuracy(row),
            _interval(row["accuracy"]["interval95"]),
            "" if row["tta_accuracy"] is None else f"{100 * row['tta_accuracy']:.1f} %",
            f"{100 * row['val_accuracy']:.1f} %", _minutes(row["cold_seconds"]),
            _minutes(row["cached_seconds"]), _memory(row), row["processor"], links,
        ))  # fmt: skip
    return _markdown(
        "stage | recipe | image | test accuracy | 95 % interval | with TTA | validation | minutes "
        "| minutes, cached | peak memory | processor | seeds", cells,
    )  # fmt: skip


def short_table(rows):
    """The README's table as Markdown: some of the rows from `summarize`."""
    cells = []
    for row in rows:
        if row["runs"][0].rpartition("-seed")[0] in _SHORT:
            cached = "" if row["cold_seconds"] else " (cached)"
            cells.append((
                f"{STAGES[row['stage']][0]}, {row['label']}", f"{row['image_size']}²",
                _accuracy(row), _interval(row["accuracy"]["interval95"]),
                _minutes(row["cold_seconds"] or row["cached_seconds"]) + cached, _memory(row),
            ))  # fmt: skip
    return _markdown(
        "recipe | image | test accuracy | 95 % interval | minutes | peak memory", cells
    )


def cross_validation_table(found):
    """Accuracies by cross-validation as Markdown.

    Args:
        found: Results of `cross_validate`.
    """
    cells = [
        (
            f"{one['backbone']} ({one['config']['preset']})", f"{one['image_size']}²",
            f"{100 * one['accuracy']:.2f} %"
            + (f" ± {100 * one['std']:.2f}" if one["repeats"] > 1 else ""),
            _interval(one["interval95"], digits=2), f"{one['engine']}, {one['precision']}",
            f"{one['seconds']:.0f}", one["processor"].partition(" ")[0],
        )
        for one in sorted(found, key=lambda one: one["accuracy"])
    ]  # fmt: skip
    return _markdown(
        "backbone | image | accuracy | 95 % interval | engine | seconds | processor", cells
    )


def sweep_table(folder):
    """What the sweep compared on the validation split, the best first, as Markdown.

    Args:
        folder: Folder of run folders.
    """
    found = map(read_json, sorted(pathlib.Path(folder).glob("*/metrics.json")))
    cells = [
        (
            _label(metrics), f"{metrics['validation']['loss']:.3f}",
            f"{100 * metrics['validation']['accuracy']:.1f} %",
            _interval(metrics["validation"]["accuracy_interval95"]),
        )
        for metrics in sorted(found, key=lambda one: one["validation"]["loss"])
    ]  # fmt: skip
    return _markdown("recipe | cross-entropy | accuracy | 95 % interval", cells)


def benchmark_table(benchmarks):
    """Benchmarks side by side as Markdown.

    Args:
        benchmarks: Results of `run_benchmark`.
    """
    columns, header = [], "what"
    for found in benchmarks:
        limit = found["onednn_max_cpu_isa"]
        header += f" | {found['environment']['processor']}" + (f", {limit} alone" if limit else "")
        largest = max(found["extraction"], key=lambda one: one["image_size"])
        cells = {"precision": found["precision"]}
        for name, stage in found["stages"].items():
            epochs = f", {stage['epochs']} epochs" if name == "scratch" else ""
            cells[f"stage: {name}{epochs}, {stage['image_size']}²"] = (
                f"{stage['seconds'] / 60:.1f} min, {stage['peak_rss_mb'] / 1024:.1f} GiB, "
                f"{100 * stage['val_accuracy']:.1f} %"
            )
        for name, one in found["prediction"].items():
            cells[f"prediction: {name}"] = (
                f"{one['one_picture_ms']:.0f} ms, {one['files_per_second']:.0f} files/s, "
                f"{one['onnx_megabytes']:.1f} MB"
            )
        ratios = {name: f"{ratio:,g}" for name, ratio in found["ratios"].items()}
        ratios |= {
            f"VGG16's features at {largest['image_size']}², of the speed of its fastest layer":
                f"{100 * largest['utilisation']:.0f} %",
            "training its last block, likewise":
                f"{100 * found['fine_tuning']['utilisation']:.0f} %",
            "training the convnet, likewise": f"{100 * found['training']['utilisation']:.0f} %",
            "training the convnet, waiting for images":
                f"{100 * found['training']['waiting_fraction']:.1f} %",
        }  # fmt: skip
        columns.append(cells | ratios)
    labels = dict.fromkeys(label for cells in columns for label in cells)
    rows = [(label, *(cells.get(label, "") for cells in columns)) for label in labels]
    return _markdown(header, rows)


def replace_table(text, name, table):
    """The text with everything between the two marker lines of this name replaced."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, rest = text.split(begin)
    _, after = rest.split(end)
    return f"{before}{begin}\n{table}\n{end}{after}"


def update(root=_ROOT):
    """Writes the tables and figures of the project at `root`."""
    results = pathlib.Path(root) / "results"
    rows = summarize(results / _DATASET)
    cross_validated = read_json(results / "cross_validation.json", list[dict])
    benchmark = read_json(results / "benchmark.json")
    for name, tables in {
        "README.md": {"results": short_table(rows)},
        "docs/results.md": {
            "results": full_table(rows),
            "cross-validation": cross_validation_table(cross_validated),
            "sweep": sweep_table(results / f"{_DATASET}-sweep"),
        },
        "docs/speed.md": {
            "benchmark": benchmark_table([benchmark, read_json(results / "benchmark-avx2.json")])
        },
    }.items():
        text = (root / name).read_text(encoding="utf-8")
        for marker, table in tables.items():
            text = replace_table(text, marker, table)
        with atomic_path(root / name) as path:
            path.write_text(text, encoding="utf-8")
    save_figure(plot_ladder(rows), results / "ladder.png")
    hardware = _hardware(benchmark["environment"])
    points = [row for row in rows if row["cold_seconds"]]
    seconds = {stage: timed["seconds"] for stage, timed in benchmark["textbook"].items()}
    save_figure(plot_frontier(points, seconds, hardware), results / "frontier.png")
    save_figure(plot_growth(read_json(results / "growth.json")["rows"]), results / "growth.png")


def _label(metrics):
    """Names a recipe: its variant, its preset, and what differs from the preset."""
    backbone = metrics["config"].get("backbone")
    label = (f"{backbone}, " if backbone else "") + _VARIANTS[metrics["variant"]]
    if metrics["preset"] != "best":
        label += f" ({metrics['preset']})"
    preset = _PRESETS[metrics["stage"]][metrics["preset"]]
    changed = presets.changed_settings(metrics["config"], preset)
    settings = {name: changed[name] for name in changed if name not in _NOT_SETTINGS}
    of_head = metrics["start"]["changes"] if "start" in metrics else {}
    settings |= {f"head {k}": of_head[k] for k in of_head if k not in ("seed", "precision")}
    return label + "".join(f", {k.replace('_', ' ')} {v}" for k, v in settings.items())


def _summarize_recipe(members):
    """One row from pairs of a run's name and its metrics."""
    members = sorted(members, key=lambda member: member[1]["config"]["seed"])
    runs, found = zip(*members, strict=True)
    first = found[0]
    with_tta = [metrics["test_tta"]["accuracy"] for metrics in found if "test_tta" in metrics]

    def mean_seconds(kind):
        seconds = [metrics["wall_seconds"] for metrics in found if metrics[kind]]
        return statistics.fmean(seconds) if seconds else None

    return {
        "stage": first["stage"],
        "label": _label(first),
        "image_size": first["image_size"],
        "runs": runs,
        "seeds": [metrics["config"]["seed"] for metrics in found],
        "accuracy": summarize_seeds(
            [metrics["test"]["accuracy"] for metrics in found], first["test"]["num_images"]
        ),
        "tta_accuracy": statistics.fmean(with_tta) if with_tta else None,
        "val_accuracy": statistics.fmean(m["validation"]["accuracy"] for m in found),
        "cold_seconds": mean_seconds("cold"),
        "cached_seconds": mean_seconds("warm"),
        "peak_rss_mb": max(metrics["peak_rss_mb"] for metrics in found),
        "hardware": _hardware(first["environment"]),
        "processor": first["environment"]["processor"].partition(" ")[0].removesuffix("(R)"),
    }


def _markdown(header, rows):
    lines = [header, " | ".join("-" for _ in header.split("|")), *map(" | ".join, rows)]
    return "\n".join(f"| {line} |" for line in lines)


def _hardware(environment):
    return f"{environment['cores']} cores, {environment['processor']}"


def _accuracy(row):
    accuracy = row["accuracy"]
    text = f"**{100 * accuracy['mean']:.1f} %**"
    if accuracy["std"] is not None:
        text += f" ± {100 * accuracy['std']:.1f} ({len(row['seeds'])} seeds)"
    return text


def _interval(interval, digits=1):
    low, high = interval
    return f"{100 * low:.{digits}f} to {100 * high:.{digits}f}"


def _minutes(seconds):
    return "" if seconds is None else f"{seconds / 60:.1f}"


def _memory(row):
    return f"{row['peak_rss_mb'] / 1024:.1f} GiB"


@dataclasses.dataclass(frozen=True)
class Arguments:
    runs: tyro.conf.Positional[tuple[str, ...]] = ()
    """Folders of evaluated runs to add."""


@cli.command
def results():
    add_runs(cli.parse(Arguments, __doc__).runs, _ROOT / "results")
    update()


if __name__ == "__main__":
    results()
