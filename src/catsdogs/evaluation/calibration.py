"""Do probabilities match frequencies? Of images called a cat at 80 %, 80 % should be cats."""

import numpy as np
import scipy.special

__all__ = ["apply_temperature", "expected_calibration_error", "fit_temperature", "reliability"]

_SMALLEST = 1e-7  # gives a probability that float32 rounded to 0 or 1 a finite logit
_MIN_TEMPERATURE, _MAX_TEMPERATURE = 0.1, 10.0


def apply_temperature(probabilities, temperature):
    """Divides the logits behind probabilities by a temperature.

    Args:
        probabilities: float (num_images, num_classes) in [0, 1], rows summing to one.
        temperature: Above 1 lowers the confidence, below 1 raises it; no prediction changes.

    Returns:
        float64 (num_images, num_classes) in [0, 1].

    Reference:
        Guo et al., "On calibration of modern neural networks", 2017.
    """
    logits = np.log(np.clip(np.asarray(probabilities, np.float64), _SMALLEST, None)) / temperature
    return scipy.special.softmax(logits, axis=1)


def fit_temperature(labels, probabilities):
    """The temperature that maximises the likelihood of the true classes.

    As in Platt scaling, the target for the true class is (n + 1) / (n + 2) for n images; with 1,
    a small set without a mistake would ask for certainty.

    Args:
        labels: int (num_images,) in [0, num_classes), of images that were not trained on.
        probabilities: float (num_images, num_classes) in [0, 1].

    Returns:
        float in [0.1, 10].
    """
    labels, probabilities = np.asarray(labels), np.asarray(probabilities, np.float64)
    num_images, num_classes = probabilities.shape
    targets = np.full(probabilities.shape, 1 / (num_images + 2) / (num_classes - 1))
    targets[np.arange(num_images), labels] = (num_images + 1) / (num_images + 2)
    logits = np.log(np.clip(probabilities, _SMALLEST, None))
    # The loss is convex in 1 / temperature, so its slope changes sign once: bisection.
    low, high = 1 / _MAX_TEMPERATURE, 1 / _MIN_TEMPERATURE
    for _ in range(60):
        middle = (low + high) / 2
        slope = ((apply_temperature(probabilities, 1 / middle) - targets) * logits).sum()
        low, high = (low, middle) if slope > 0 else (middle, high)
    return float(2 / (low + high))


def reliability(labels, probabilities, num_bins=15):
    """Accuracy by confidence, the probability of the predicted class.

    Args:
        labels: int (num_images,).
        probabilities: float (num_images, num_classes) in [0, 1].
        num_bins: Equal parts of [0, 1].

    Returns:
        A list of `{"num_images", "confidence", "accuracy"}`, one for every bin that is not empty:
        the mean confidence and the fraction that was predicted correctly.
    """
    probabilities = np.asarray(probabilities, np.float64)
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == np.asarray(labels)
    bins = np.minimum((confidence * num_bins).astype(int), num_bins - 1)
    return [
        {
            "num_images": int((bins == number).sum()),
            "confidence": float(confidence[bins == number].mean()),
            "accuracy": float(correct[bins == number].mean()),
        }
        for number in np.unique(bins)
    ]


def expected_calibration_error(labels, probabilities, num_bins=15):
    """Mean difference between confidence and accuracy over the bins of `reliability`.

    Returns:
        float in [0, 1]; 0 is calibrated. By chance even a calibrated model has some 0.005 at
        n = 1,000 and 99 % accuracy.

    Reference:
        Naeini et al., "Obtaining well calibrated probabilities using Bayesian binning", 2015.
    """
    bins = reliability(labels, probabilities, num_bins)
    gaps = [part["num_images"] * abs(part["confidence"] - part["accuracy"]) for part in bins]
    return sum(gaps) / sum(part["num_images"] for part in bins)
