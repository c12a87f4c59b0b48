"""Keeps the evidence under `results/` and makes the tables and figures from it.

results/DATASET/RUN/metrics.json, history.csv, curves.png    copied from a run folder
results/benchmark.json, growth.json                          from benchmark.py and growth.py
results/ladder.png, frontier.png, growth.png                 drawn here
README.md, docs/results.md                                   the table between the marker lines

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

__all__ = ["add_runs", "full_table", "replace_table", "short_table", "summarize", "update"]

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
_BEGIN, _END = "<!-- results: begin -->", "<!-- results: end -->"


def add_runs(run_dirs, results_dir):
    """Copies the evidence of evaluated runs to `results_dir/DATASET/RUN/`."""
    for run_dir in map(pathlib.Path, run_dirs):
        metrics = read_json(run_dir / "metrics.json")
        if "test" not in metrics:
            print(f"Left out, not evaluated: {run_dir}")
            continue
        folder = pathlib.Path(results_dir) / metrics["dataset"] / run_dir.resolve().name
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
    lines = [
        "| stage | recipe | image | test accuracy | 95 % interval | with TTA | validation "
        "| minutes | minutes, cached | peak memory | processor | seeds |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        links = " ".join(
            f"[{seed}](../results/{_DATASET}/{run}/metrics.json)"
            for seed, run in zip(row["seeds"], row["runs"], strict=True)
        )
        tta = "" if row["tta_accuracy"] is None else f"{100 * row['tta_accuracy']:.1f} %"
        cells = (
            STAGES[row["stage"]][0], row["label"], f"{row['image_size']}²", _accuracy(row),
            _interval(row), tta, f"{100 * row['val_accuracy']:.1f} %",
            _minutes(row["cold_seconds"]), _minutes(row["cached_seconds"]), _memory(row),
            row["processor"], links,
        )  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def short_table(rows):
    """The README's table as Markdown: some of the rows from `summarize`."""
    lines = [
        "| recipe | image | test accuracy | 95 % interval | minutes | peak memory |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        if row["runs"][0].rpartition("-seed")[0] in _SHORT:
            cached = "" if row["cold_seconds"] else " (cached)"
            minutes = _minutes(row["cold_seconds"] or row["cached_seconds"]) + cached
            recipe = f"{STAGES[row['stage']][0]}, {row['label']}"
            cells = recipe, f"{row['image_size']}²", _accuracy(row), _interval(row)
            lines.append(f"| {' | '.join((*cells, minutes, _memory(row)))} |")
    return "\n".join(lines)


def replace_table(text, table):
    """The text with everything between its two marker lines replaced."""
    before, rest = text.split(_BEGIN)
    _, after = rest.split(_END)
    return f"{before}{_BEGIN}\n{table}\n{_END}{after}"


def update(root=_ROOT):
    """Writes the tables and figures of the project at `root`."""
    results = pathlib.Path(root) / "results"
    rows = summarize(results / _DATASET)
    for name, table in (("README.md", short_table(rows)), ("docs/results.md", full_table(rows))):
        text = (root / name).read_text(encoding="utf-8")
        with atomic_path(root / name) as path:
            path.write_text(replace_table(text, table), encoding="utf-8")
    save_figure(plot_ladder(rows), results / "ladder.png")
    benchmark = read_json(results / "benchmark.json")
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


def _hardware(environment):
    return f"{environment['cores']} cores, {environment['processor']}"


def _accuracy(row):
    accuracy = row["accuracy"]
    text = f"**{100 * accuracy['mean']:.1f} %**"
    if accuracy["std"] is not None:
        text += f" ± {100 * accuracy['std']:.1f} ({len(row['seeds'])} seeds)"
    return text


def _interval(row):
    low, high = row["accuracy"]["interval95"]
    return f"{100 * low:.1f} to {100 * high:.1f}"


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
