"""How good are the predictions, and how sure is that? Numpy only; knows nothing of models."""

import math
import statistics

import numpy as np

__all__ = [
    "binary_log_loss",
    "confusion_matrix",
    "evaluate_predictions",
    "roc_auc",
    "roc_curve",
    "summarize_seeds",
    "wilson_interval",
]


def wilson_interval(successes, total, confidence=0.95):
    """Confidence interval of a proportion, by Wilson's score.

    Near 100 % the usual p ± 1.96 s reaches past 1 and covers too rarely; this one does neither.

    Args:
        successes: Number of successes in [0, `total`]; may be fractional (a mean over seeds).
        total: Number of trials, at least 1.
        confidence: Coverage, in (0, 1).

    Returns:
        `(low, high)`, floats in [0, 1].

    Raises:
        ValueError: If an argument is out of its range.

    Reference:
        Wilson, [Probable inference, the law of succession, and statistical
        inference](https://doi.org/10.1080/01621459.1927.10502953), 1927.
    """
    if not (total >= 1 and 0 <= successes <= total and 0 < confidence < 1):
        raise ValueError(
            "Expected 0 <= successes <= total, total >= 1 and 0 < confidence < 1. "
            f"Received: successes={successes}, total={total}, confidence={confidence}"
        )
    z = statistics.NormalDist().inv_cdf((1 + confidence) / 2)
    rate = successes / total
    centre = rate + z * z / (2 * total)
    margin = z * math.sqrt(rate * (1 - rate) / total + (z / (2 * total)) ** 2)
    scale = 1 + z * z / total
    low, high = (centre - margin) / scale, (centre + margin) / scale
    # The interval holds the rate; rounding alone would miss an exact 0 or 1 by 1e-17.
    return max(0.0, min(low, rate)), min(1.0, max(high, rate))


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


def binary_log_loss(labels, probabilities):
    """Mean binary cross-entropy in nats, clipped as Keras does so that it matches `val_loss`.

    Args:
        labels: int `(num_images,)`, 0 or 1.
        probabilities: float `(num_images,)` in [0, 1], of class 1.

    Returns:
        float, 0 or greater; a coin flip has log 2 = 0.693.

    Raises:
        ValueError: If the shapes differ, a label is not 0 or 1, or a probability is out of range.
    """
    labels, probabilities = _checked(labels, probabilities, probabilities=True)
    of_truth = np.where(labels == 1, probabilities, 1 - probabilities)
    return float(-np.log(np.clip(of_truth, 1e-7, 1 - 1e-7)).mean())


def evaluate_predictions(labels, probabilities, class_names):
    """Everything `metrics.json` says about one set of predictions.

    Args:
        labels: int `(num_images,)`, 0 or 1.
        probabilities: float `(num_images,)` in [0, 1], of class 1; above 0.5 predicts class 1.
        class_names: The names of class 0 and class 1.

    Returns:
        `dict`, ready for JSON: `num_images`, `loss` (nats), `accuracy` (fraction),
        `accuracy_interval95` ([low, high], Wilson), `roc_auc`, `class_names`, `confusion_matrix`
        (list of rows, row = true class, column = predicted), `per_class_accuracy` (by name).
        `roc_auc` and the accuracy of a class without images are `None`.

    Raises:
        ValueError: As `binary_log_loss`, or if there are not two class names.
    """
    class_names = list(class_names)
    if len(class_names) != 2:
        raise ValueError(f"Expected two class names. Received: class_names={class_names}")
    labels, probabilities = _checked(labels, probabilities, probabilities=True)
    matrix = confusion_matrix(labels, probabilities > 0.5)
    correct, counts = matrix.diagonal(), matrix.sum(axis=1)
    total = len(labels)
    return {
        "num_images": total,
        "loss": binary_log_loss(labels, probabilities),
        "accuracy": int(correct.sum()) / total,
        "accuracy_interval95": list(wilson_interval(int(correct.sum()), total)),
        "roc_auc": roc_auc(labels, probabilities) if counts.all() else None,
        "class_names": class_names,
        "confusion_matrix": matrix.tolist(),
        "per_class_accuracy": {
            name: int(right) / int(count) if count else None
            for name, right, count in zip(class_names, correct, counts, strict=True)
        },
    }


def summarize_seeds(values, num_images):
    """Mean accuracy of several seeds, with what it is uncertain by.

    All seeds are tested on the same images, so more seeds do not make the test set larger: the
    interval is Wilson's for the mean accuracy on `num_images`, not on seeds times images. How much
    the seed matters is `std`, beside it.

    Args:
        values: Test accuracy of each seed, fractions in [0, 1]; at least one.
        num_images: Number of test images that each was measured on.

    Returns:
        `dict`, ready for JSON: `mean`, `std` (of the sample, ddof 1; `None` for a single seed,
        which says nothing of the spread), `values`, `interval95` ([low, high]).

    Raises:
        ValueError: If there are no values, or one is out of range.
    """
    values = [float(value) for value in values]
    if not values or not all(0 <= value <= 1 for value in values):
        raise ValueError(f"Expected accuracies in [0, 1]. Received: values={values}")
    mean = statistics.fmean(values)
    return {
        "mean": mean,
        "std": statistics.stdev(values) if len(values) > 1 else None,
        "values": values,
        "interval95": list(wilson_interval(mean * num_images, num_images)),
    }


def _checked(labels, scores, probabilities=False):
    """Labels as int64 and scores as float64, once they are known to be sound."""
    labels, scores = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    _check_shapes(labels, scores, "scores")
    _check_classes("labels", labels, 2)
    low, high = (0, 1) if probabilities else (-np.finfo(np.float64).max, np.finfo(np.float64).max)
    # Not (scores < low), because NaN must fail too.
    wrong = scores[~((scores >= low) & (scores <= high))]
    if wrong.size:
        expected = "probabilities in [0, 1]" if probabilities else "finite scores"
        raise ValueError(f"Expected {expected}. Received: {wrong[0]}, and {wrong.size} such in all")
    return labels.astype(np.int64), scores


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
