"""How good are the predictions? Knows arrays only, no models and no datasets."""

import statistics

import numpy as np
import sklearn.metrics

from catsdogs.errors import InputError
from catsdogs.evaluation.calibration import expected_calibration_error
from catsdogs.evaluation.significance import wilson_interval

__all__ = [
    "accuracy_by_slices",
    "class_probabilities",
    "evaluate_predictions",
    "measure_pictures",
    "roc_curves",
]


def class_probabilities(outputs):
    """A classifier's outputs as one column per class.

    Args:
        outputs: float (num_images, 1), the probability of class 1 of two, or (num_images,
            num_classes).

    Returns:
        float64 (num_images, num_classes) in [0, 1]; rows sum to one up to rounding.

    Raises:
        InputError: If the outputs are not finite, because the model's weights are damaged.
    """
    outputs = np.asarray(outputs, dtype=np.float64)
    if not np.isfinite(outputs).all():
        raise InputError(
            "Expected probabilities from the model. Received NaN or infinity: its weights are "
            "damaged. Train the run again."
        )
    return np.concatenate([1 - outputs, outputs], axis=1) if outputs.shape[1] == 1 else outputs


def evaluate_predictions(labels, probabilities, class_names):
    """The metrics of one set of predictions.

    Args:
        labels: int (num_images,) in [0, num_classes).
        probabilities: float (num_images, num_classes) in [0, 1]; the greatest is predicted, and
            the first of equal ones.
        class_names: `num_classes` names, two or more.

    Returns:
        `dict`, ready for JSON: `num_images`, `loss` (mean cross-entropy, nats), `accuracy`
        (fraction), `accuracy_interval95` ([low, high], Wilson), `calibration_error` (in [0, 1]),
        `roc_auc` (of class 1 of two, else the mean over the classes, one against the rest),
        `class_names`, `confusion_matrix` (rows are the true classes, columns the predicted ones),
        `per_class_accuracy` (by name). `roc_auc` and the accuracy of a class without images are
        `None`.
    """
    labels, probabilities = np.asarray(labels), np.asarray(probabilities, dtype=np.float64)
    class_names, num_images = list(class_names), len(labels)
    matrix = sklearn.metrics.confusion_matrix(
        labels, probabilities.argmax(axis=1), labels=range(len(class_names))
    )
    correct, counts = matrix.diagonal(), matrix.sum(axis=1)
    num_correct = int(correct.sum())
    # Clipped as Keras does; scikit-learn clips at 2e-16.
    of_truth = np.clip(probabilities[np.arange(num_images), labels], 1e-7, 1 - 1e-7)
    areas = [area for _, _, area in roc_curves(labels, probabilities, class_names).values()]
    return {
        "num_images": num_images,
        "loss": float(-np.log(of_truth).mean()),
        "accuracy": num_correct / num_images,
        "accuracy_interval95": list(wilson_interval(num_correct, num_images)),
        "calibration_error": expected_calibration_error(labels, probabilities),
        "roc_auc": statistics.fmean(areas) if counts.all() else None,
        "class_names": class_names,
        "confusion_matrix": matrix.tolist(),
        "per_class_accuracy": {
            name: int(hits) / int(count) if count else None
            for name, hits, count in zip(class_names, correct, counts, strict=True)
        },
    }


def roc_curves(labels, probabilities, class_names):
    """Receiver operating characteristics, one class against the rest.

    Args:
        labels: int (num_images,) in [0, num_classes).
        probabilities: float (num_images, num_classes) in [0, 1].
        class_names: `num_classes` names.

    Returns:
        `{class name: (false_positive_rate, true_positive_rate, area under the curve)}`, the rates
        float64 (num_points,) rising from 0 to 1. Of two classes only the second, since the first
        one's curve is the same reflected. A class that no image or every image belongs to has no
        curve.
    """
    curves = {}
    for index, name in enumerate(class_names):
        positive = np.asarray(labels) == index
        if 0 < positive.sum() < len(positive) and (index == 1 or len(class_names) > 2):
            x, y, _ = sklearn.metrics.roc_curve(positive, np.asarray(probabilities)[:, index])
            curves[name] = x, y, float(sklearn.metrics.auc(x, y))
    return curves


def measure_pictures(images, files):
    """Measures what may make each picture easy or hard to classify.

    Args:
        images: uint8 (num_images, side, side, 3), as the model sees them.
        files: `num_images` objects with `width` and `height` of the picture's file in pixels.

    Returns:
        `{name: float64 (num_images,)}`: `brightness`, the mean grey level in [0, 255];
        `sharpness`, the standard deviation of the Laplacian in grey levels, small where all is
        blurred; `size`, megapixels of the file.
    """
    brightness, sharpness = [], []
    for image in images:
        grey = image.astype(np.float32) @ np.float32([0.299, 0.587, 0.114])  # ITU-R BT.601
        laplacian = (
            grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
            - 4 * grey[1:-1, 1:-1]
        )  # fmt: skip
        brightness.append(grey.mean())
        sharpness.append(laplacian.std())
    return {
        "brightness": np.array(brightness, dtype=np.float64),
        "sharpness": np.array(sharpness, dtype=np.float64),
        "size": np.array([file.width * file.height / 1e6 for file in files]),
    }


def accuracy_by_slices(measured, correct, num_slices=4):
    """Accuracy in equally large parts of the images, from the smallest values to the greatest.

    Args:
        measured: From `measure_pictures`.
        correct: bool (num_images,), whether each image was classified correctly.
        num_slices: Parts of each measure; fewer where values are equal.

    Returns:
        `{name: [{"from", "to", "num_images", "accuracy", "accuracy_interval95"}, ...]}`.
    """
    slices = {name: [] for name in measured}
    for name, values in measured.items():
        edges = np.unique(np.quantile(values, np.linspace(0, 1, num_slices + 1)))
        # A value on an edge belongs to the part that starts there, the greatest to the last part.
        parts = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2)
        for part in np.unique(parts):
            inside, hits = values[parts == part], correct[parts == part]
            slices[name].append(
                {
                    "from": float(inside.min()),
                    "to": float(inside.max()),
                    "num_images": len(hits),
                    "accuracy": float(hits.mean()),
                    "accuracy_interval95": list(wilson_interval(int(hits.sum()), len(hits))),
                }
            )
    return slices
