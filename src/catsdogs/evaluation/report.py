"""Pages about evaluated runs, each one file that needs nothing but a browser."""

import base64
import csv
import io
import itertools
import math
import os
import pathlib
import statistics

import jinja2
import numpy as np
from PIL import Image

from catsdogs.errors import InputError
from catsdogs.evaluation.significance import adjust_p_values, mcnemar_test
from catsdogs.files import atomic_path, read_json

__all__ = ["compare_runs", "write_comparison", "write_report"]

_NUM_SHOWN = 12  # pictures in a gallery
_THUMBNAIL = 176  # pixels
_SIGNIFICANCE_LEVEL = 0.05  # of adjusted p-values


def write_report(folder, run_dir, metrics, *, files, labels, probabilities, images):
    """Writes `report.html` about an evaluated run, figures and thumbnails included.

    Args:
        folder: Where to write it, with `confusion.png`, `reliability.png` and, if there are
            images of at least two classes, `roc.png`.
        run_dir: The run folder, with `curves.png`.
        metrics: Its `metrics.json` with `"test"`.
        files: Names of the test pictures.
        labels: int (num_images,).
        probabilities: float (num_images, num_classes) in [0, 1].
        images: uint8 (num_images, side, side, 3), the test pictures as the model saw them.
    """
    folder, run_dir = pathlib.Path(folder), pathlib.Path(run_dir)
    classes, predicted = metrics["classes"], probabilities.argmax(axis=1)
    by_confidence = np.argsort(-probabilities.max(axis=1), kind="stable")
    mistakes = [index for index in by_confidence if predicted[index] != labels[index]]

    def gallery(indices):
        return [
            {
                "thumbnail": _thumbnail(images[index]),
                "file": pathlib.PurePath(files[index]).name,
                "label": classes[labels[index]],
                "prediction": classes[predicted[index]],
                "confidence": probabilities[index].max(),
            }
            for index in indices[:_NUM_SHOWN]
        ]

    charts = {"curves": run_dir / "curves.png"}
    charts |= {name: folder / f"{name}.png" for name in ("confusion", "roc", "reliability")}
    slices = metrics["test"]["slices"]
    _write_page(
        folder / "report.html",
        run=run_dir.name,
        metrics=metrics,
        test=metrics["test"],
        num_mistakes=len(mistakes),
        charts={name: _data_uri(path) for name, path in charts.items() if path.is_file()},
        most_confident_mistakes=gallery(mistakes),
        least_confident=gallery(by_confidence[::-1]),
        slices=slices,
        lowest=_start_of_scale(part for parts in slices.values() for part in parts),
        environment=_environment(metrics),
    )


def compare_runs(run_dirs):
    """Compares the most accurate of several evaluated runs with each of the others.

    Which run is the most accurate was decided by the very images that the runs are compared on, so
    all pairs of runs are tested and the p-values adjusted for their number.

    Args:
        run_dirs: Run folders with `metrics.json` and `predictions.csv`.

    Returns:
        A list of dictionaries, one for every run but the best: `best`, `other` (`str`),
        `only_best`, `only_other` (numbers of images that only one of them classified correctly),
        `p_value`, `adjusted_p_value`, and `sentence`, the same in words. For a run on other images
        only `best`, `other` and `sentence`.

    Raises:
        InputError: If a run has not been evaluated.
    """
    digests = {str(run): _read_digest(pathlib.Path(run)) for run in run_dirs}
    correct = {run: _read_correct(pathlib.Path(run)) for run in digests}
    best, *others = sorted(correct, key=lambda run: -statistics.fmean(correct[run].values()))
    pairs = {}
    for pair in itertools.combinations([best, *others], 2):
        first, second = (correct[run] for run in pair)
        if digests[pair[0]] == digests[pair[1]] and first.keys() == second.keys():
            pairs[pair] = mcnemar_test(list(first.values()), [second[file] for file in first])
    adjusted = adjust_p_values([found["p_value"] for found in pairs.values()])
    adjusted = dict(zip(pairs, adjusted, strict=True))

    names = {run: pathlib.PurePath(run).name for run in correct}
    if len(set(names.values())) < len(names):
        names = {run: run for run in correct}
    comparisons = []
    for other in others:
        found = {"best": best, "other": other}
        if pair := pairs.get((best, other)):
            found |= {
                "only_best": pair["only_first"],
                "only_other": pair["only_second"],
                "p_value": pair["p_value"],
                "adjusted_p_value": adjusted[best, other],
            }
        found["sentence"] = _sentence(found, names, len(correct[other]), len(pairs))
        comparisons.append(found)
    return comparisons


def write_comparison(metrics, comparisons):
    """Writes a page about several runs: their metrics in a table, and which differences are real.

    Args:
        metrics: `{run folder: metrics with "test"}`, two or more.
        comparisons: From `compare_runs`.

    Returns:
        Its `Path`: `comparison.html` in the innermost folder that contains all these runs.
    """
    path = pathlib.Path(os.path.commonpath(map(os.path.abspath, metrics))) / "comparison.html"
    runs = [
        {
            "name": pathlib.PurePath(run).name,
            "report": pathlib.Path(
                os.path.relpath(os.path.join(run, "report.html"), path.parent)
            ).as_posix(),
            "minutes": found["wall_seconds"] / 60,
            **found["test"],
        }
        for run, found in metrics.items()
    ]
    runs.sort(key=lambda run: -run["accuracy"])
    _write_page(path, runs=runs, comparisons=comparisons, lowest=_start_of_scale(runs))
    return path


def _write_page(path, **content):
    """Writes a page from the template of the same name."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("catsdogs.evaluation"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda value: f"{100 * value:.1f}\N{NO-BREAK SPACE}%"
    page = environment.get_template(path.name).render(content)
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _data_uri(path):
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


def _thumbnail(image):
    stream = io.BytesIO()
    small = Image.fromarray(image).resize((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BICUBIC)
    small.save(stream, "jpeg", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"


def _start_of_scale(found):
    """The lower end, a multiple of 5 %, of a scale of accuracies that all intervals fit on."""
    return math.floor(20 * min(one["accuracy_interval95"][0] for one in found)) / 20


def _environment(metrics):
    """What the run was made with, as `{name: text}`."""
    environment = dict(metrics["environment"])
    packages = environment.pop("packages")
    for number, changed in enumerate(environment.pop("resumed", []), start=1):
        changes = ", ".join(f"{name} {value}" for name, value in changed.items())
        environment[f"resumed in another environment, {number}"] = changes
    return environment | {
        "packages": ", ".join(f"{name} {version}" for name, version in packages.items()),
        "precision": metrics["precision"],
        "training time": f"{metrics['wall_seconds'] / 60:.1f} minutes",
        "peak memory": f"{metrics['peak_rss_mb'] / 1024:.1f} GiB",
        "parameters": f"{metrics['num_parameters']:,}, of which {metrics['num_trainable']:,} "
        "trainable",
    }


def _read_digest(run_dir):
    return read_json(run_dir / "metrics.json")["dataset_digest"]


def _read_correct(run_dir):
    """Whether each test picture was classified correctly, by the name of its file."""
    path = run_dir / "predictions.csv"
    if not path.is_file():
        raise InputError(
            f"Expected an evaluated run, found no {path}. Run scripts/evaluate.py {run_dir}."
        )
    with open(path, newline="", encoding="utf-8") as file:
        return {row["file"]: row["label"] == row["prediction"] for row in csv.DictReader(file)}


def _sentence(found, names, num_images, num_pairs):
    best, other = names[found["best"]], names[found["other"]]
    if "p_value" not in found:
        return f"{best} and {other} were tested on different images: no comparison."
    significant = found["adjusted_p_value"] < _SIGNIFICANCE_LEVEL
    verdict = f"{best} is significantly better" if significant else "no significant difference"
    p_value = f"p = {found['p_value']:.2g}"
    if num_pairs > 1:
        p_value += f", adjusted for {num_pairs} comparisons {found['adjusted_p_value']:.2g}"
    return (
        f"Of {num_images:,} test images {found['only_best']} are classified correctly only by "
        f"{best}, {found['only_other']} only by {other}: {verdict} (exact McNemar test, {p_value})."
    )
