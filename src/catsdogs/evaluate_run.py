"""The stage that measures a finished run. No other one opens the test split."""

import csv
import pathlib

from catsdogs import models, runs
from catsdogs.calibration import apply_temperature, expected_calibration_error, reliability
from catsdogs.data.images import load_split
from catsdogs.data.pipeline import encode_labels, evaluation_batches
from catsdogs.data.splits import load_manifest
from catsdogs.evaluation import class_probabilities, evaluate_predictions, roc_auc, roc_curve
from catsdogs.features import CUT, FeatureStore
from catsdogs.figures import save_figure
from catsdogs.files import InputError, atomic_path, write_json
from catsdogs.plots import plot_confusion_matrix, plot_reliability, plot_roc
from catsdogs.report import write_report
from catsdogs.saved_model import load_model
from catsdogs.slices import accuracy_by_slices, measure_pictures
from catsdogs.stage_run import EVALUATION_BATCH, few

__all__ = ["evaluate"]


def evaluate(run_dir, data_dir=None, *, flip=False):
    """Measures a finished run on the test split and adds the result to its `metrics.json`.

    Also writes `predictions.csv` (file, label, prediction, probability of each class),
    `confusion.png`, `roc.png`, `reliability.png` and `report.html`, which holds it all, into the
    run folder.

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
    config, metrics = runs.load_run(run_dir)
    data_dir = pathlib.Path(data_dir or config["data_dir"])
    manifest = load_manifest(data_dir)
    if manifest.digest != metrics["dataset_digest"]:
        raise InputError(
            f"Expected the data set that {run_dir} was trained on, received {data_dir}, whose "
            "pictures or splits differ: training pictures might be in its test split. Prepare "
            "the same data again, or train again."
        )
    model = load_model(run_dir)
    images, labels = load_split(data_dir, manifest, "test", metrics["image_size"])
    files = manifest.split("test")
    if config["smoke"]:
        images, labels, files = (few(rows, "test") for rows in (images, labels, files))
    views = [(images, False), (images, True)][: 2 if flip else 1]  # whether to mirror them
    if config["stage"] != "scratch":
        # The first four blocks are frozen in every run, so all runs share their activations.
        store = FeatureStore(
            data_dir / "features",
            model,
            dataset_digest=manifest.digest,
            precision=metrics["precision"],
        )
        views = [(store.features(images, "test", view, CUT), False) for view in range(len(views))]
        _, model = models.split_base(model, CUT)

    targets = encode_labels(labels, len(manifest.classes))

    def predict(view):
        arrays, mirror = view
        batches = evaluation_batches(arrays, targets, batch_size=EVALUATION_BATCH, mirror=mirror)
        return class_probabilities(model.predict(batches, verbose=0))

    probabilities, *mirrored = map(predict, views)
    metrics["test"] = evaluate_predictions(labels, probabilities, manifest.classes)
    unscaled = apply_temperature(probabilities, 1 / metrics["temperature"])
    metrics["test"]["calibration_error_unscaled"] = expected_calibration_error(labels, unscaled)
    right = probabilities.argmax(axis=1) == labels
    metrics["test"]["slices"] = accuracy_by_slices(measure_pictures(images, files), right)
    metrics.pop("test_flip", None)
    if flip:
        both = (probabilities + mirrored[0]) / 2
        metrics["test_flip"] = evaluate_predictions(labels, both, manifest.classes)
    with (
        atomic_path(run_dir / "predictions.csv") as path,
        path.open("w", newline="", encoding="utf-8") as output,
    ):
        writer = csv.writer(output, lineterminator="\n")
        writer.writerow(
            [
                "file",
                "label",
                "prediction",
                *(f"probability_of_{name}" for name in manifest.classes),
            ]
        )
        for file, label, row in zip(files, labels, probabilities, strict=True):
            names = manifest.classes[label], manifest.classes[row.argmax()]
            writer.writerow([file.name, *names, *(f"{probability:.6f}" for probability in row)])
    save_figure(
        plot_confusion_matrix(metrics["test"]["confusion_matrix"], manifest.classes),
        run_dir / "confusion.png",
    )
    curves = {}
    for index, name in enumerate(manifest.classes):
        of_class = labels == index, probabilities[:, index]
        curves[name] = (*roc_curve(*of_class), roc_auc(*of_class))
    if len(curves) == 2:  # one is the other's mirror image
        curves = {run_dir.name: curves[manifest.classes[1]]}
    save_figure(plot_roc(curves), run_dir / "roc.png")
    both = (reliability(labels, outputs) for outputs in (unscaled, probabilities))
    save_figure(plot_reliability(*both), run_dir / "reliability.png")
    write_json(run_dir / "metrics.json", metrics)
    write_report(
        run_dir, metrics, files=[file.name for file in files], labels=labels,
        probabilities=probabilities, images=images,
    )  # fmt: skip
    return metrics
