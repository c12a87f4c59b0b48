"""Temperatures and calibration errors, on predictions whose calibration is known."""

import numpy as np
import pytest
import scipy.optimize
from sklearn import metrics

from catsdogs.evaluation.calibration import (
    apply_temperature,
    expected_calibration_error,
    fit_temperature,
    reliability,
)


def calibrated(num_images, num_classes, seed=0):
    """Labels drawn from the probabilities themselves."""
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.full(num_classes, 0.5), num_images)
    labels = np.array([rng.choice(num_classes, p=row) for row in probabilities])
    return labels, probabilities


@pytest.mark.parametrize("num_classes", [2, 4])
@pytest.mark.parametrize("wrong", [0.4, 1.0, 2.5])
def test_finds_the_temperature_that_was_applied(num_classes, wrong):
    labels, probabilities = calibrated(20_000, num_classes)
    sharpened = apply_temperature(probabilities, 1 / wrong)
    np.testing.assert_allclose(sharpened.sum(axis=1), 1)
    np.testing.assert_array_equal(sharpened.argmax(axis=1), probabilities.argmax(axis=1))
    found = fit_temperature(labels, sharpened)
    assert found == pytest.approx(wrong, rel=0.05)
    cured = expected_calibration_error(labels, apply_temperature(sharpened, found))
    assert cured < 0.015
    if wrong != 1:
        assert expected_calibration_error(labels, sharpened) > 3 * cured


def test_is_the_temperature_of_least_loss():
    labels, probabilities = calibrated(5_000, 3, seed=2)
    sharpened = apply_temperature(probabilities, 0.6)

    def loss(temperature):
        return metrics.log_loss(labels, apply_temperature(sharpened, temperature))

    best = scipy.optimize.minimize_scalar(loss, bounds=(0.2, 5), method="bounded")
    # Platt's targets move it by less than a percent with so many images.
    assert fit_temperature(labels, sharpened) == pytest.approx(best.x, rel=0.01)


def test_a_few_images_all_right_do_not_ask_for_certainty():
    labels = np.array([0, 1] * 10)
    probabilities = np.where(np.eye(2)[labels] == 1, 0.9, 0.1)
    found = apply_temperature(probabilities, fit_temperature(labels, probabilities))
    np.testing.assert_allclose(found.max(axis=1), 21 / 22, rtol=1e-3)


def test_what_float32_rounded_to_certainty_stays_finite():
    certain = np.array([[0.0, 1.0], [1.0, 0.0]])
    assert np.isfinite(apply_temperature(certain, 2.0)).all()
    assert 0.1 <= fit_temperature([1, 1], certain) <= 10


def test_reliability_counts_every_image_once():
    labels = np.array([0, 0, 1, 1])
    probabilities = np.array([[0.95, 0.05], [0.93, 0.07], [0.94, 0.06], [0.3, 0.7]])
    low, high = reliability(labels, probabilities, num_bins=5)
    assert low == {"num_images": 1, "confidence": 0.7, "accuracy": 1.0}
    assert high["num_images"] == 3 and high["accuracy"] == pytest.approx(2 / 3)
    error = (0.3 + 3 * (0.94 - 2 / 3)) / 4
    assert expected_calibration_error(labels, probabilities, 5) == pytest.approx(error)
    assert reliability([1], [[0.0, 1.0]])[0]["num_images"] == 1
