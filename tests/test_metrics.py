"""Metrics, significance and calibration, against scikit-learn, SciPy and results by hand."""

import itertools
import json
import math
import types

import hypothesis
import numpy as np
import pytest
import scipy.stats
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from catsdogs.errors import InputError
from catsdogs.evaluation.calibration import (
    apply_temperature,
    expected_calibration_error,
    fit_temperature,
    reliability,
)
from catsdogs.evaluation.metrics import (
    accuracy_by_slices,
    class_probabilities,
    evaluate_predictions,
    measure_pictures,
    roc_curves,
)
from catsdogs.evaluation.significance import (
    adjust_p_values,
    mcnemar_test,
    summarize_seeds,
    wilson_interval,
)


@st.composite
def predictions(draw):
    """Labels and probabilities of two to five classes, in coarse steps, so that many are equal."""
    num_classes, num_images = draw(st.integers(2, 5)), draw(st.integers(1, 200))
    steps = draw(st.sampled_from([4, 32, 1024]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows = rng.multinomial(steps, rng.dirichlet(np.full(num_classes, 0.5), num_images)) / steps
    return rng.integers(0, num_classes, num_images), rows


# ---- Metrics ----


@hypothesis.given(predictions())
def test_metrics_agree_with_scikit_learn(made):
    labels, probabilities = made
    num_classes = probabilities.shape[1]
    every, predicted = range(num_classes), probabilities.argmax(axis=1)
    found = evaluate_predictions(labels, probabilities, "abcde"[:num_classes])
    assert found["num_images"] == len(labels)
    assert found["accuracy"] == sklearn_metrics.accuracy_score(labels, predicted)
    low, high = found["accuracy_interval95"]
    assert 0 <= low <= found["accuracy"] <= high <= 1
    if probabilities.min() > 0:
        expected = sklearn_metrics.log_loss(labels, probabilities, labels=every)
        assert found["loss"] == pytest.approx(expected)
    recalls = sklearn_metrics.recall_score(
        labels, predicted, labels=every, average=None, zero_division=0
    )
    for index, (name, accuracy) in enumerate(found["per_class_accuracy"].items()):
        assert name == "abcde"[index]
        assert accuracy == (pytest.approx(recalls[index]) if index in labels else None)
    if len(set(labels)) < num_classes:
        assert found["roc_auc"] is None
    else:
        scores = probabilities[:, 1] if num_classes == 2 else probabilities
        area = sklearn_metrics.roc_auc_score(labels, scores, multi_class="ovr")
        assert found["roc_auc"] == pytest.approx(area)


def test_metrics_by_hand():
    probabilities = [[0.6, 0.2, 0.2], [0.5, 0.5, 0.0], [0.1, 0.7, 0.2], [0.3, 0.4, 0.3]]
    found = evaluate_predictions([0, 1, 1, 0], probabilities, ("cat", "dog", "rabbit"))
    # Rows are true, columns predicted classes; of equal probabilities the first is predicted.
    assert found["confusion_matrix"] == [[1, 1, 0], [1, 1, 0], [0, 0, 0]]
    assert found["accuracy"] == 0.5
    assert found["per_class_accuracy"] == {"cat": 0.5, "dog": 0.5, "rabbit": None}
    assert found["loss"] == pytest.approx(-np.log([0.6, 0.5, 0.7, 0.3]).mean())
    assert found["roc_auc"] is None
    certain = evaluate_predictions([0, 1], [[0.0, 1.0], [1.0, 0.0]], ["cat", "dog"])
    assert certain["loss"] == pytest.approx(-math.log(1e-7))  # finite
    assert json.loads(json.dumps(found)) == found


def test_outputs_become_one_column_per_class():
    pair = class_probabilities(np.array([[0.25], [1.0]], np.float32))
    np.testing.assert_array_equal(pair, [[0.75, 0.25], [0.0, 1.0]])
    np.testing.assert_array_equal(class_probabilities([[0.2, 0.3, 0.5]]), [[0.2, 0.3, 0.5]])
    with pytest.raises(InputError, match="its weights are damaged"):
        class_probabilities([[0.5], [math.nan]])


def test_roc_curves_are_of_the_classes_that_have_images():
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6], [0.1, 0.9]])
    ((name, (x, y, area)),) = roc_curves([0, 0, 1, 1], probabilities, ["cat", "dog"]).items()
    assert (name, area) == ("dog", 0.75)
    assert [*zip(x, y, strict=True)] == [(0, 0), (0, 0.5), (0.5, 0.5), (0.5, 1), (1, 1)]
    assert roc_curves([1] * 4, probabilities, ["cat", "dog"]) == {}
    four = np.eye(4)[[0, 0, 1, 1, 3, 3]]
    assert list(roc_curves([0, 0, 1, 1, 3, 3], four, "abcd")) == ["a", "b", "d"]


# ---- Significance ----


@hypothesis.given(st.integers(1, 5000), st.floats(0, 1))
@hypothesis.example(10, 0.0)
@hypothesis.example(7, 1.0)
def test_wilson_interval_agrees_with_scipy(total, fraction):
    successes = round(fraction * total)
    expected = scipy.stats.binomtest(successes, total).proportion_ci(0.95, method="wilson")
    low, high = wilson_interval(successes, total)
    np.testing.assert_allclose([low, high], [expected.low, expected.high], atol=1e-12)
    assert 0 <= low <= successes / total <= high <= 1


def test_summary_of_seeds():
    found = summarize_seeds([0.986, 0.987, 0.989], num_images=1000)
    assert found["mean"] == pytest.approx(2.962 / 3)
    assert found["std"] == pytest.approx(np.std([0.986, 0.987, 0.989], ddof=1))
    # As wide as one run's interval: three seeds do not make 3,000 test images.
    assert found["interval95"] == pytest.approx(wilson_interval(2962 / 3, 1000))
    assert summarize_seeds([0.5], num_images=40)["std"] is None


@pytest.mark.parametrize(
    "only_first, only_second, p_value",
    [(0, 0, 1), (5, 5, 1), (0, 6, 2 / 2**6), (9, 1, 2 * (1 + 10) / 2**10)],
)
def test_mcnemar_counts_the_images_that_one_model_gets_right(only_first, only_second, p_value):
    first = [True] * only_first + [False] * only_second + [True] * 30 + [False] * 4
    second = [False] * only_first + [True] * only_second + [True] * 30 + [False] * 4
    found = mcnemar_test(first, second)
    assert (found["only_first"], found["only_second"]) == (only_first, only_second)
    assert found["p_value"] == pytest.approx(p_value)


def test_holms_adjustment():
    # 3 x 0.01, then 2 x 0.02, then 1 x 0.03, which must not fall below 0.04.
    assert adjust_p_values([0.03, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert adjust_p_values([0.9, 0.8]) == [1.0, 1.0]
    assert adjust_p_values([]) == []


# ---- Calibration ----


def calibrated(num_images, num_classes):
    """Labels that were drawn from the probabilities themselves."""
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.full(num_classes, 0.5), num_images)
    labels = (rng.random((num_images, 1)) > probabilities.cumsum(axis=1)).sum(axis=1)
    return labels, probabilities


@pytest.mark.parametrize("num_classes", [2, 4])
@pytest.mark.parametrize("wrong", [0.4, 2.5])
def test_scaling_by_the_fitted_temperature_calibrates(num_classes, wrong):
    labels, probabilities = calibrated(20_000, num_classes)
    distorted = apply_temperature(probabilities, 1 / wrong)
    found = fit_temperature(labels, distorted)
    assert found == pytest.approx(wrong, rel=0.05)
    error = expected_calibration_error(labels, apply_temperature(distorted, found))
    assert error < 0.015 and expected_calibration_error(labels, distorted) > 3 * error


def test_a_small_set_without_mistakes_does_not_ask_for_certainty():
    labels = np.array([0, 1] * 10)
    probabilities = np.where(np.eye(2)[labels] == 1, 0.9, 0.1)
    scaled = apply_temperature(probabilities, fit_temperature(labels, probabilities))
    np.testing.assert_allclose(scaled.max(axis=1), 21 / 22, rtol=1e-3)


@hypothesis.given(predictions(), st.floats(0.1, 10))
def test_a_temperature_changes_no_prediction(made, temperature):
    _, probabilities = made
    scaled = apply_temperature(probabilities, temperature)
    np.testing.assert_allclose(scaled.sum(axis=1), 1)
    np.testing.assert_array_equal(scaled.argmax(axis=1), probabilities.argmax(axis=1))
    if probabilities.shape[1] == 2:  # nor the order of the images, and so not the ROC curve
        assert (np.diff(scaled[probabilities[:, 1].argsort(), 1]) >= 0).all()


def test_reliability_by_hand():
    labels = [0, 0, 1, 1]
    probabilities = [[0.95, 0.05], [0.93, 0.07], [0.94, 0.06], [0.3, 0.7]]
    low, high = reliability(labels, probabilities, num_bins=5)
    assert low == {"num_images": 1, "confidence": 0.7, "accuracy": 1.0}
    assert high == {"num_images": 3, "confidence": pytest.approx(0.94), "accuracy": 2 / 3}
    error = (0.3 + 3 * (0.94 - 2 / 3)) / 4
    assert expected_calibration_error(labels, probabilities, 5) == pytest.approx(error)
    (last,) = reliability([1, 1], [[0.0, 1.0], [0.01, 0.99]])  # the last bin is closed
    assert last["num_images"] == 2


# ---- Slices ----


def test_measures_of_known_pictures():
    dark, bright = np.full((8, 8, 3), 10, np.uint8), np.full((8, 8, 3), 240, np.uint8)
    checkered = (np.indices((8, 8)).sum(axis=0) % 2 * 100).astype(np.uint8)
    images = [dark, bright, np.repeat(checkered[..., None], 3, axis=2)]
    files = [types.SimpleNamespace(width=1000, height=k * 1000) for k in (1, 2, 3)]
    found = measure_pictures(images, files)
    np.testing.assert_allclose(found["brightness"], [10, 240, 50], rtol=1e-5)
    np.testing.assert_allclose(found["sharpness"], [0, 0, 400], atol=1e-2)
    np.testing.assert_array_equal(found["size"], [1, 2, 3])


def test_slices_are_quarters_from_the_smallest_value_to_the_greatest():
    values = np.random.default_rng(0).permutation(100).astype(float)
    parts = accuracy_by_slices({"size": values}, values >= 30)["size"]
    assert [part["num_images"] for part in parts] == [25, 25, 25, 25]
    assert [part["accuracy"] for part in parts] == [0, 0.8, 1, 1]
    assert [part["from"] for part in parts] == [0, 25, 50, 75]
    assert [part["to"] for part in parts] == [24, 49, 74, 99]
    assert parts[1]["accuracy_interval95"] == pytest.approx(wilson_interval(20, 25))


@pytest.mark.parametrize("values", [[1.0] * 6, [5.0] * 30 + [7.0] * 10, [0, 1, 1, 1, 1, 1, 9, 9]])
def test_equal_values_are_in_one_slice(values):
    parts = accuracy_by_slices({"size": np.array(values)}, np.ones(len(values), bool))["size"]
    assert sum(part["num_images"] for part in parts) == len(values)
    assert all(one["to"] < other["from"] for one, other in itertools.pairwise(parts))
