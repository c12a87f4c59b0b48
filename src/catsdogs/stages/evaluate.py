"""Evaluation of finished runs, and the only function that opens the test split."""

import csv
import os
import pathlib
import shutil
import sys

from catsdogs.data.batches import encode_labels, evaluation_batches
from catsdogs.data.images import load_split
from catsdogs.data.manifest import load_manifest
from catsdogs.errors import InputError, printable
from catsdogs.evaluation.calibration import (
    apply_temperature,
    expected_calibration_error,
    reliability,
)
from catsdogs.evaluation.metrics import (
    accuracy_by_slices,
    class_probabilities,
    evaluate_predictions,
    measure_pictures,
    roc_curves,
)
from catsdogs.evaluation.plots import (
    plot_confusion_matrix,
    plot_reliability,
    plot_roc,
    save_figure,
)
from catsdogs.evaluation.report import write_report
from catsdogs.files import PART, lock, write_json
from catsdogs.models.backbones import BACKBONES, split_model
from catsdogs.models.model_file import load_saved_model
from catsdogs.stages.features import FeatureStore
from catsdogs.stages.run import load_run, subset

__all__ = ["evaluate", "evaluate_runs", "load_test_split"]


def evaluate(run_dir, data_dir=None, *, tta=False):
    """Measures a finished run on the test split and adds the result to its `metrics.json`.

    Also writes `predictions.csv` (file, label, prediction, probability of each class),
    `confusion.png`, `roc.png`, `reliability.png` and `report.html` into the run folder.

    Args:
        run_dir: The run folder.
        data_dir: The dataset, or `None` for the one the run was trained on.
        tta: Test-time augmentation: also measure the mean probability of each picture and its
            horizontal flip.

    Returns:
        The run's metrics with `"test"` added, and `"test_tta"` if asked for.

    Raises:
        InputError: If there is no such run, or the dataset is not the one it was trained on.
    """
    run_dir = pathlib.Path(run_dir)
    with lock(run_dir, wait=True):
        return _evaluate(run_dir, data_dir, tta)


def evaluate_runs(run_dirs, data_dir=None, *, tta=False):
    """Measures runs; those whose dataset is gone or has changed are skipped, and reported.

    Args:
        run_dirs: Folders of finished runs.
        data_dir, tta: As for `evaluate`.

    Returns:
        `{run folder: metrics}` of those that were measured.

    Raises:
        InputError: If none could be measured.
    """
    found, failure = {}, None
    for run_dir in run_dirs:
        try:
            found[run_dir] = evaluate(run_dir, data_dir, tta=tta)
        except InputError as error:
            failure = error
            if len(run_dirs) > 1:
                print(printable(f"Skipped {run_dir}: {error}"), file=sys.stderr)
    if failure and not found:
        raise failure
    return found


def load_test_split(data_dir, manifest, image_size):
    """The test split, as `load_split` returns it: for final figures, never to choose anything."""
    return load_split(data_dir, manifest, "test", image_size)


def _evaluate(run_dir, data_dir, tta):
    config, metrics = load_run(run_dir)
    data_dir = pathlib.Path(data_dir or config["data_dir"])
    manifest = load_manifest(data_dir)
    if manifest.digest != metrics["dataset_digest"]:
        raise InputError(
            f"{data_dir} is not the dataset that {run_dir} was trained on: its pictures or splits "
            "differ, so training pictures may be in its test split. Prepare the same data again, "
            "or train again."
        )
    images, labels = load_test_split(data_dir, manifest, metrics["image_size"])
    files, classes = manifest.split("test"), manifest.classes
    if config["smoke"]:
        images, labels, files = (subset(rows, "test") for rows in (images, labels, files))

    model = load_saved_model(run_dir).model
    inputs = [(images, False), (images, True)][: 1 + tta]
    backbone = BACKBONES.get(config.get("backbone"))  # none of a convnet, nor of a user's own file
    if cut := config.get("cut") or (backbone and backbone.cut):
        # The frozen layers are the same in every run, so all runs share their activations.
        store = FeatureStore(
            data_dir / "features",
            model,
            cut,
            dataset_digest=manifest.digest,
            precision=metrics["precision"],
            engine=metrics.get("engine", "tensorflow"),
        )
        inputs = [(store.features(images, "test", view, cut), False) for view in range(1 + tta)]
        _, model = split_model(model, cut)
    targets = encode_labels(labels, len(classes))
    probabilities, *flipped = (
        class_probabilities(
            model.predict(evaluation_batches(arrays, targets, flip=flip), verbose=0)
        )
        for arrays, flip in inputs
    )
    unscaled = apply_temperature(probabilities, 1 / metrics["temperature"])
    is_correct = probabilities.argmax(axis=1) == labels
    metrics["test"] = {
        **evaluate_predictions(labels, probabilities, classes),
        "calibration_error_unscaled": expected_calibration_error(labels, unscaled),
        "slices": accuracy_by_slices(measure_pictures(images, files), is_correct),
    }
    metrics.pop("test_tta", None)
    if tta:
        mean = (probabilities + flipped[0]) / 2
        metrics["test_tta"] = evaluate_predictions(labels, mean, classes)

    # All files are written elsewhere first, then moved, which takes no space on the disk. The
    # metrics come last: they say that the evaluation is complete.
    names = [file.name for file in files]
    folder = run_dir / f"{PART}evaluation"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        _write_predictions(folder / "predictions.csv", names, labels, probabilities, classes)
        _draw(folder, run_dir.name, metrics, labels, probabilities, unscaled)
        write_report(
            folder, run_dir, metrics, files=names, labels=labels, probabilities=probabilities,
            images=images,
        )  # fmt: skip
        write_json(folder / "metrics.json", metrics)
        for path in sorted(folder.iterdir(), key=lambda path: path.name == "metrics.json"):
            os.replace(path, run_dir / path.name)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return metrics


def _write_predictions(path, names, labels, probabilities, classes):
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["file", "label", "prediction", *(f"probability_of_{n}" for n in classes)])
        for name, label, row in zip(names, labels, probabilities, strict=True):
            answers = classes[label], classes[row.argmax()]
            writer.writerow([name, *answers, *(f"{value:.6f}" for value in row)])


def _draw(folder, run_name, metrics, labels, probabilities, unscaled):
    """Writes `confusion.png`, `roc.png` and `reliability.png` of a run."""
    classes = metrics["classes"]
    confusion = plot_confusion_matrix(metrics["test"]["confusion_matrix"], classes)
    save_figure(confusion, folder / "confusion.png")
    curves = roc_curves(labels, probabilities, classes)
    if len(classes) == 2:
        curves = {run_name: curves[classes[1]]}
    save_figure(plot_roc(curves), folder / "roc.png")
    bins = (reliability(labels, outputs) for outputs in (unscaled, probabilities))
    save_figure(plot_reliability(*bins), folder / "reliability.png")
