"""How good are the predictions? Numpy only; knows nothing of models."""

import statistics

import numpy as np

from catsdogs.errors import InputError
from catsdogs.evaluation.calibration import expected_calibration_error
from catsdogs.evaluation.significance import wilson_interval

__all__ = [
    "class_probabilities",
    "confusion_matrix",
    "evaluate_predictions",
    "log_loss",
    "roc_auc",
    "roc_curve",
]


def roc_curve(labels, scores):
    """The receiver operating characteristic, one point for every distinct score.

    Args:
        labels: int `(num_images,)`, 0 or 1; both must occur.
        scores: float `(num_images,)`, greater where class 1 is likelier; any range.

    Returns:
        `(false_positive_rate, true_positive_rate)`: float64 `(num_points,)` each, rising from
        0 to 1.

    Raises:
        ValueError: If the shapes differ, a label is not 0 or 1, a class is absent, or a score is
            not finite.
    """
    labels, scores = _checked(labels, scores)
    positives = int(labels.sum())
    if positives in (0, len(labels)):
        raise ValueError(
            "Expected labels of both classes. "
            f"Received: {len(labels)} images, {positives} of class 1"
        )
    order = np.argsort(-scores, kind="stable")
    # Images of one score cross the threshold together, so only the last of each tie is a point.
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    true_positives = np.cumsum(labels[order])[last]
    false_positives = last + 1 - true_positives
    return (
        np.append(0.0, false_positives / (len(labels) - positives)),
        np.append(0.0, true_positives / positives),
    )


def roc_auc(labels, scores):
    """Area under the ROC curve: how often a dog outscores a cat, ties counting half.

    Args:
        labels: int `(num_images,)`, 0 or 1; both must occur.
        scores: float `(num_images,)`, greater where class 1 is likelier; any range.

    Returns:
        float in [0, 1]; 0.5 is chance.

    Raises:
        ValueError: As `roc_curve`.
    """
    false_positive_rate, true_positive_rate = roc_curve(labels, scores)
    return float(np.trapezoid(true_positive_rate, false_positive_rate))


def confusion_matrix(labels, predictions, num_classes=2):
    """Counts images by true class (row) and predicted class (column).

    Args:
        labels: int `(num_images,)` in [0, `num_classes`).
        predictions: int `(num_images,)` in [0, `num_classes`).
        num_classes: Number of classes, at least 1.

    Returns:
        int64 `(num_classes, num_classes)`.

    Raises:
        ValueError: If the shapes differ or a class index is not an integer in range.
    """
    labels, predictions = np.asarray(labels), np.asarray(predictions)
    _check_shapes(labels, predictions, "predictions")
    for name, classes in (("labels", labels), ("predictions", predictions)):
        _check_classes(name, classes, num_classes)
    cells = labels.astype(np.int64) * num_classes + predictions
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def class_probabilities(outputs):
    """What a classifier returns as one column a class.

    Args:
        outputs: float (num_images, 1), the probability of class 1 of two, or (num_images,
            num_classes).

    Returns:
        float64 (num_images, num_classes) in [0, 1]; rows sum to one up to rounding.

    Raises:
        InputError: If these are not finite, as a model with broken weights answers.
    """
    outputs = np.asarray(outputs, dtype=np.float64)
    if not np.isfinite(outputs).all():
        raise InputError(
            "Expected probabilities from the model, received no numbers: its weights are damaged. "
            "Train the run again."
        )
    return np.concatenate([1 - outputs, outputs], axis=1) if outputs.shape[1] == 1 else outputs


def log_loss(labels, probabilities):
    """Mean cross-entropy in nats, clipped as Keras does so that it matches `val_loss`.

    Args:
        labels: int `(num_images,)` in [0, `num_classes`).
        probabilities: float `(num_images, num_classes)` in [0, 1].

    Returns:
        float, 0 or greater; a coin flip has log 2 = 0.693.

    Raises:
        ValueError: If the shapes differ, or a label or a probability is out of range.
    """
    labels, probabilities = _checked_probabilities(labels, probabilities)
    of_truth = probabilities[np.arange(len(labels)), labels]
    return float(-np.log(np.clip(of_truth, 1e-7, 1 - 1e-7)).mean())


def evaluate_predictions(labels, probabilities, class_names):
    """Everything `metrics.json` says about one set of predictions.

    Args:
        labels: int `(num_images,)` in [0, `num_classes`).
        probabilities: float `(num_images, num_classes)` in [0, 1]; the greatest is predicted, of
            equal ones the first.
        class_names: `num_classes` names, two or more.

    Returns:
        `dict`, ready for JSON: `num_images`, `loss` (nats), `accuracy` (fraction),
        `accuracy_interval95` ([low, high], Wilson), `roc_auc` (of class 1 of two, else the mean
        over the classes, each against all others), `class_names`, `confusion_matrix` (list of
        rows, row = true class, column = predicted), `per_class_accuracy` (by name). `roc_auc` and
        the accuracy of a class without images are `None`. `calibration_error` is in [0, 1]; see
        `catsdogs.evaluation.calibration`.

    Raises:
        ValueError: As `log_loss`, or if the columns are not one a class name.
    """
    class_names = list(class_names)
    labels, probabilities = _checked_probabilities(labels, probabilities)
    num_classes = len(class_names)
    if num_classes < 2 or probabilities.shape[1] != num_classes:
        raise ValueError(
            "Expected two class names or more and a column of probabilities for each. "
            f"Received: class_names={class_names}, probabilities.shape={probabilities.shape}"
        )
    matrix = confusion_matrix(labels, probabilities.argmax(axis=1), num_classes)
    correct, counts = matrix.diagonal(), matrix.sum(axis=1)
    total = len(labels)
    areas = [
        roc_auc(labels == index, probabilities[:, index])
        for index in ((1,) if num_classes == 2 else range(num_classes))
        if counts.all()
    ]
    return {
        "num_images": total,
        "loss": log_loss(labels, probabilities),
        "accuracy": int(correct.sum()) / total,
        "accuracy_interval95": list(wilson_interval(int(correct.sum()), total)),
        "calibration_error": expected_calibration_error(labels, probabilities),
        "roc_auc": statistics.fmean(areas) if areas else None,
        "class_names": class_names,
        "confusion_matrix": matrix.tolist(),
        "per_class_accuracy": {
            name: int(right) / int(count) if count else None
            for name, right, count in zip(class_names, correct, counts, strict=True)
        },
    }


def _checked(labels, scores):
    """Labels as int64 and scores as float64, once they are known to be sound."""
    labels, scores = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    _check_shapes(labels, scores, "scores")
    _check_classes("labels", labels, 2)
    wrong = scores[~np.isfinite(scores)]
    if wrong.size:
        raise ValueError(
            f"Expected finite scores. Received: {wrong[0]}, and {wrong.size} such in all"
        )
    return labels.astype(np.int64), scores


def _checked_probabilities(labels, probabilities):
    labels, probabilities = np.asarray(labels), np.asarray(probabilities, dtype=np.float64)
    if probabilities.ndim != 2:
        raise ValueError(
            "Expected probabilities of shape (num_images, num_classes). "
            f"Received: probabilities.shape={probabilities.shape}"
        )
    _check_shapes(labels, probabilities[:, 0], "probabilities[:, 0]")
    _check_classes("labels", labels, probabilities.shape[1])
    # Not (value < 0), because NaN must fail too.
    wrong = probabilities[~((probabilities >= 0) & (probabilities <= 1))]
    if wrong.size:
        raise ValueError(
            f"Expected probabilities in [0, 1]. Received: {wrong[0]}, and {wrong.size} such in all"
        )
    return labels.astype(np.int64), probabilities


def _check_shapes(labels, others, name):
    if labels.ndim != 1 or labels.shape != others.shape or not labels.size:
        raise ValueError(
            f"Expected labels and {name} of one shape (num_images,), with num_images >= 1. "
            f"Received: labels.shape={labels.shape}, {name}.shape={others.shape}"
        )


def _check_classes(name, classes, num_classes):
    sound = (classes >= 0) & (classes < num_classes) & (classes == np.floor(classes))
    if not sound.all():
        raise ValueError(
            f"Expected {name} to be integers in [0, {num_classes}). "
            f"Received: {name} containing {classes[~sound][0]}"
        )


from catsdogs.evaluation.slices import accuracy_by_slices, measure_pictures  # noqa
