"""Do probabilities mean what they say? Of pictures called a cat at 80 %, 80 % should be cats."""

import numpy as np

__all__ = ["apply_temperature", "expected_calibration_error", "fit_temperature", "reliability"]

_SMALLEST = 1e-7  # probability; what float32's sigmoid rounds to 0 or 1 has a finite logit with it
_RANGE = (0.1, 10.0)  # of temperatures


def apply_temperature(probabilities, temperature):
    """Divides the logits that probabilities come from by a temperature.

    Args:
        probabilities: float (num_images, num_classes) in [0, 1], rows summing to one.
        temperature: Above 1 makes them less sure, below 1 surer; no prediction changes.

    Returns:
        float64 (num_images, num_classes) in [0, 1].

    Reference:
        Guo et al., "On calibration of modern neural networks" (2017).
    """
    logits = np.log(np.clip(np.asarray(probabilities, np.float64), _SMALLEST, None)) / temperature
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def fit_temperature(labels, probabilities):
    """The temperature that makes the true classes likeliest.

    As in Platt's scaling the truth counts as (n + 1) / (n + 2) for n images, or a few images that
    are all predicted right would ask for certainty.

    Args:
        labels: int (num_images,) in [0, num_classes); not of images that were trained on.
        probabilities: float (num_images, num_classes) in [0, 1].

    Returns:
        float in [0.1, 10].
    """
    labels, probabilities = np.asarray(labels), np.asarray(probabilities, np.float64)
    num_images, num_classes = probabilities.shape
    truth = np.full(probabilities.shape, 1 / (num_images + 2) / (num_classes - 1))
    truth[np.arange(num_images), labels] = (num_images + 1) / (num_images + 2)
    logits = np.log(np.clip(probabilities, _SMALLEST, None))
    # The loss is convex in 1 / temperature: its slope changes sign once.
    low, high = 1 / _RANGE[1], 1 / _RANGE[0]
    for _ in range(60):
        middle = (low + high) / 2
        expected = apply_temperature(probabilities, 1 / middle)
        slope = ((expected - truth) * logits).sum()
        low, high = (low, middle) if slope > 0 else (middle, high)
    return float(2 / (low + high))


def reliability(labels, probabilities, num_bins=15):
    """How often the predicted class is right, by the probability it was given.

    Args:
        labels: int (num_images,).
        probabilities: float (num_images, num_classes) in [0, 1].
        num_bins: Equal parts of [0, 1].

    Returns:
        A list of `{"num_images", "confidence", "accuracy"}`, one for every bin that is not empty:
        the mean probability given and the share that was right.
    """
    labels, probabilities = np.asarray(labels), np.asarray(probabilities, np.float64)
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    bins = np.minimum((confidence * num_bins).astype(int), num_bins - 1)
    return [
        {
            "num_images": int((bins == number).sum()),
            "confidence": float(confidence[bins == number].mean()),
            "accuracy": float(right[bins == number].mean()),
        }
        for number in np.unique(bins)
    ]


def expected_calibration_error(labels, probabilities, num_bins=15):
    """Mean distance of probability and accuracy over the bins of `reliability`.

    Returns:
        float in [0, 1]; 0 is calibrated. With n images even a calibrated model has some 0.5
        percentage points at n = 1,000 and 99 % accuracy, by chance.

    Reference:
        Naeini et al., "Obtaining well calibrated probabilities using Bayesian binning" (2015).
    """
    bins = reliability(labels, probabilities, num_bins)
    gaps = [part["num_images"] * abs(part["confidence"] - part["accuracy"]) for part in bins]
    return sum(gaps) / sum(part["num_images"] for part in bins)
