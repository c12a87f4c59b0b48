"""The stage that measures a finished run. No other one opens the test split."""

import csv
import os
import pathlib
import shutil
import sys

from catsdogs.data.batches import encode_labels, evaluation_batches
from catsdogs.data.images import load_split
from catsdogs.data.manifest import load_manifest
from catsdogs.errors import InputError, say_line
from catsdogs.evaluation.calibration import (
    apply_temperature,
    expected_calibration_error,
    reliability,
)
from catsdogs.evaluation.figures import save_figure
from catsdogs.evaluation.metrics import (
    class_probabilities,
    evaluate_predictions,
    roc_auc,
    roc_curve,
)
from catsdogs.evaluation.plots import plot_confusion_matrix, plot_reliability, plot_roc
from catsdogs.evaluation.report import write_report
from catsdogs.evaluation.slices import accuracy_by_slices, measure_pictures
from catsdogs.files import write_json
from catsdogs.locks import PART, hold
from catsdogs.models.backbones import check_frozen_layers, split_model
from catsdogs.models.model_file import load_saved_model
from catsdogs.stages import run as runs
from catsdogs.stages.features import CUT, FeatureStore
from catsdogs.stages.stage_run import EVALUATION_BATCH, few

__all__ = ["evaluate", "evaluate_runs"]


def evaluate(run_dir, data_dir=None, *, flip=False):
    """Measures a finished run on the test split and adds the result to its `metrics.json`.

    Also writes `predictions.csv` (file, label, prediction, probability of each class),
    `confusion.png`, `roc.png`, `reliability.png` and `report.html`, which holds it all, into the
    run folder: all of it, or, if the disk gets full, nothing.

    Args:
        run_dir: The run folder.
        data_dir: The data set, or `None` for the one the run was trained on.
        flip: Whether to measure also the mean probability of each picture and its mirror image.

    Returns:
        The run's metrics with `"test"` added, and `"test_flip"` if asked for.

    Raises:
        InputError: If there is no such run, or the data set is not the one it was trained on.
    """
    run_dir = pathlib.Path(run_dir)
    data_dir, _ = _find_data(run_dir, data_dir)
    with hold(run_dir, wait=True), hold(data_dir, shared=True):
        return _evaluate(run_dir, data_dir, flip)


def evaluate_runs(run_dirs, data_dir=None, *, flip=False):
    """Measures runs, except those whose data set is gone or is another one now, and says which.

    Args:
        run_dirs: Folders of finished runs.
        data_dir, flip: As for `evaluate`.

    Returns:
        `{run folder: metrics}` of those that were measured.

    Raises:
        InputError: If there is none, or as `evaluate`.
    """
    usable = []
    for number, run_dir in enumerate(run_dirs, start=1):
        try:
            _find_data(run_dir, data_dir)
            usable.append(run_dir)
        except InputError as error:
            if number == len(run_dirs) and not usable:
                raise
            print(say_line(f"Left out, {run_dir}: {error}"), file=sys.stderr)
    return {run_dir: evaluate(run_dir, data_dir, flip=flip) for run_dir in usable}


def _find_data(run_dir, data_dir):
    """The data set to evaluate a run on, a `Path`, and its manifest."""
    config, metrics = runs.load_run(run_dir)
    data_dir = pathlib.Path(data_dir or config["data_dir"])
    manifest = load_manifest(data_dir)
    if manifest.digest != metrics["dataset_digest"]:
        raise InputError(
            f"Expected the data set that {run_dir} was trained on, received {data_dir}, whose "
            "pictures or splits differ: training pictures might be in its test split. Prepare "
            "the same data again, or train again."
        )
    return data_dir, manifest


def _evaluate(run_dir, data_dir, flip):
    config, metrics = runs.load_run(run_dir)
    _, manifest = _find_data(run_dir, data_dir)
    _refuse_folders(run_dir)
    images, labels = load_split(data_dir, manifest, "test", metrics["image_size"])
    files, classes = manifest.split("test"), manifest.classes
    if config["smoke"]:
        images, labels, files = (few(rows, "test") for rows in (images, labels, files))

    saved = load_saved_model(run_dir)
    model = saved.model
    told = tuple(metrics["classes"]), metrics["image_size"], metrics["temperature"]
    if told != (saved.classes, saved.image_size, saved.temperature):
        raise InputError(
            f"Expected {run_dir / 'metrics.json'} to tell the classes, image size and temperature "
            f"of the model beside it, received others. Train the run again."
        )
    if saved.classes != classes:
        raise InputError(
            f"Expected the model of {run_dir} to know {', '.join(classes)}, received one for "
            f"{', '.join(saved.classes)}. Train the run again."
        )
    views = [(images, False), (images, True)][: 1 + flip]  # whether to mirror them
    if metrics["stage"] != "scratch":
        check_frozen_layers(model, "vgg16", run_dir)
        # The first four blocks are frozen in every run, so all runs share their activations.
        store = FeatureStore(
            data_dir / "features",
            model,
            dataset_digest=manifest.digest,
            precision=metrics["precision"],
        )
        views = [(store.features(images, "test", view, CUT), False) for view in range(1 + flip)]
        _, model = split_model(model, CUT)
    targets = encode_labels(labels, len(classes))
    probabilities, *mirrored = (_predict(model, targets, *view) for view in views)
    unscaled = apply_temperature(probabilities, 1 / metrics["temperature"])
    right = probabilities.argmax(axis=1) == labels
    metrics["test"] = {
        **evaluate_predictions(labels, probabilities, classes),
        "calibration_error_unscaled": expected_calibration_error(labels, unscaled),
        "slices": accuracy_by_slices(measure_pictures(images, files), right),
    }
    metrics.pop("test_flip", None)
    if flip:
        both = (probabilities + mirrored[0]) / 2
        metrics["test_flip"] = evaluate_predictions(labels, both, classes)

    names = [file.name for file in files]
    folder = run_dir / f"{PART}evaluation"
    shutil.rmtree(folder, ignore_errors=True)  # of one that was killed
    folder.mkdir()
    try:
        _write_predictions(folder / "predictions.csv", names, labels, probabilities, classes)
        _draw(folder, run_dir.name, metrics, labels, probabilities, unscaled)
        write_report(
            folder, run_dir, metrics, files=names, labels=labels, probabilities=probabilities,
            images=images,
        )  # fmt: skip
        write_json(folder / "metrics.json", metrics)
        # All is written: moving takes no space. The metrics come last, they say that it is done.
        if not (folder / "roc.png").exists():
            (run_dir / "roc.png").unlink(missing_ok=True)
        for path in sorted(folder.iterdir(), key=lambda path: path.name == "metrics.json"):
            os.replace(path, run_dir / path.name)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return metrics


def _refuse_folders(run_dir):
    """Files are moved over those of an earlier evaluation: all of them can be, or none is."""
    for name in ("predictions.csv", "confusion.png", "roc.png", "reliability.png", "report.html"):
        if (run_dir / name).is_dir():
            raise InputError(f"Expected no folder at {run_dir / name}, found one. Move it away.")


def _predict(model, targets, arrays, mirror):
    """Probability of each class, (n, num_classes)."""
    batches = evaluation_batches(arrays, targets, batch_size=EVALUATION_BATCH, mirror=mirror)
    return class_probabilities(model.predict(batches, verbose=0))


def _write_predictions(path, names, labels, probabilities, classes):
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")  # prepared names have no line ends
        columns = (f"probability_of_{name}" for name in classes)
        writer.writerow(["file", "label", "prediction", *columns])
        for name, label, row in zip(names, labels, probabilities, strict=True):
            answers = classes[label], classes[row.argmax()]
            writer.writerow([name, *answers, *(f"{value:.6f}" for value in row)])


def _draw(folder, run_name, metrics, labels, probabilities, unscaled):
    """Writes `confusion.png`, `roc.png` and `reliability.png` of a run."""
    classes = metrics["classes"]
    confusion = plot_confusion_matrix(metrics["test"]["confusion_matrix"], classes)
    save_figure(confusion, folder / "confusion.png")
    curves = {}
    for index, name in enumerate(classes):
        of_class = labels == index, probabilities[:, index]
        if len(set(of_class[0].tolist())) == 2:  # a curve needs pictures of the class and others
            curves[name] = (*roc_curve(*of_class), roc_auc(*of_class))
    if len(classes) == 2 and curves:  # one is the other's mirror image
        curves = {run_name: curves[classes[1]]}
    if curves:
        save_figure(plot_roc(curves), folder / "roc.png")
    both = (reliability(labels, outputs) for outputs in (unscaled, probabilities))
    save_figure(plot_reliability(*both), folder / "reliability.png")
