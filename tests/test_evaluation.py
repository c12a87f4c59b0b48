"""Metrics, held against scikit-learn, scipy and figures worked out by hand."""

import json
import math

import numpy as np
import pytest
import scipy.stats
from scipy import stats
from sklearn import metrics

from catsdogs.evaluation.metrics import (
    class_probabilities,
    confusion_matrix,
    evaluate_predictions,
    log_loss,
    roc_auc,
    roc_curve,
)
from catsdogs.evaluation.significance import mcnemar_test, summarize_seeds, wilson_interval


@pytest.fixture(params=range(5))
def predictions(request):
    """Labels and probabilities; the fewer decimals, the more ties."""
    rng = np.random.default_rng(request.param)
    labels = rng.integers(0, 2, 200)
    probabilities = rng.normal(0.35 + 0.3 * labels, 0.25).round(1 + request.param % 3)
    return labels, np.clip(probabilities, 0.01, 0.99)


@pytest.mark.parametrize("successes, total", [(0, 10), (1, 10), (486, 500), (988, 1000), (7, 7)])
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_wilson_agrees_with_scipy(successes, total, confidence):
    expected = stats.binomtest(successes, total).proportion_ci(confidence, method="wilson")
    actual = wilson_interval(successes, total, confidence)
    np.testing.assert_allclose(actual, [expected.low, expected.high], atol=1e-12)
    assert 0 <= actual[0] <= successes / total <= actual[1] <= 1


def test_roc_agrees_with_sklearn(predictions):
    labels, scores = predictions
    expected = metrics.roc_curve(labels, scores, drop_intermediate=False)[:2]
    np.testing.assert_allclose(roc_curve(labels, scores), expected, atol=1e-12)
    assert roc_auc(labels, scores) == pytest.approx(metrics.roc_auc_score(labels, scores))
    # Only the order of the scores matters.
    assert roc_auc(labels, 100 * scores - 7) == pytest.approx(roc_auc(labels, scores))


def test_roc_auc_extremes():
    assert roc_auc([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9]) == 1
    assert roc_auc([1, 1, 0, 0], [0.1, 0.2, 0.8, 0.9]) == 0
    assert roc_auc([0, 1, 0, 1], [0.5, 0.5, 0.5, 0.5]) == 0.5


def test_confusion_matrix_agrees_with_sklearn():
    rng = np.random.default_rng(0)
    labels, guesses = rng.integers(0, 4, (2, 300))
    expected = metrics.confusion_matrix(labels, guesses, labels=range(5))
    np.testing.assert_array_equal(confusion_matrix(labels, guesses, 5), expected)


def test_log_loss_agrees_with_sklearn_and_stays_finite(predictions):
    labels, probabilities = predictions
    found = log_loss(labels, class_probabilities(probabilities[:, None]))
    assert found == pytest.approx(metrics.log_loss(labels, probabilities))
    assert log_loss([0, 1], [[0.0, 1.0], [1.0, 0.0]]) == pytest.approx(-math.log(1e-7))


def test_outputs_of_a_sigmoid_and_of_a_softmax_become_columns():
    pair = class_probabilities(np.array([[0.25], [1.0]], np.float32))
    assert pair.dtype == np.float64
    np.testing.assert_array_equal(pair, [[0.75, 0.25], [0.0, 1.0]])
    np.testing.assert_array_equal(class_probabilities([[0.2, 0.3, 0.5]]), [[0.2, 0.3, 0.5]])


def test_evaluate_predictions(predictions):
    labels, probabilities = predictions
    report = evaluate_predictions(
        labels, class_probabilities(probabilities[:, None]), ["cat", "dog"]
    )
    assert json.loads(json.dumps(report)) == report
    guesses = probabilities > 0.5
    assert report["num_images"] == 200
    assert report["accuracy"] == metrics.accuracy_score(labels, guesses)
    low, high = report["accuracy_interval95"]
    assert low < report["accuracy"] < high and 0.05 < high - low < 0.15
    assert report["loss"] == pytest.approx(metrics.log_loss(labels, probabilities), rel=1e-5)
    assert report["roc_auc"] == pytest.approx(metrics.roc_auc_score(labels, probabilities))
    assert report["confusion_matrix"] == metrics.confusion_matrix(labels, guesses).tolist()
    recalls = metrics.recall_score(labels, guesses, average=None)
    assert list(report["per_class_accuracy"].values()) == pytest.approx(recalls.tolist())


def test_evaluate_predictions_of_four_classes():
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 4, 300)
    probabilities = rng.random((300, 4)) + 0.8 * np.eye(4)[labels]
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    report = evaluate_predictions(labels, probabilities, list("abcd"))
    assert report["accuracy"] == metrics.accuracy_score(labels, probabilities.argmax(axis=1))
    assert report["loss"] == pytest.approx(metrics.log_loss(labels, probabilities))
    expected = metrics.roc_auc_score(labels, probabilities, multi_class="ovr", average="macro")
    assert report["roc_auc"] == pytest.approx(expected)
    matrix = metrics.confusion_matrix(labels, probabilities.argmax(axis=1))
    assert report["confusion_matrix"] == matrix.tolist()


def test_evaluate_predictions_of_one_class_only():
    report = evaluate_predictions([1, 1], [[0.1, 0.9], [0.8, 0.2]], ["cat", "dog"])
    assert report["roc_auc"] is None
    assert report["per_class_accuracy"] == {"cat": None, "dog": 0.5}
    assert report["confusion_matrix"] == [[0, 0], [1, 1]]


def test_summarize_seeds():
    summary = summarize_seeds([0.986, 0.987, 0.989], num_images=1000)
    assert summary["mean"] == pytest.approx(0.98733333)
    assert summary["std"] == pytest.approx(np.std([0.986, 0.987, 0.989], ddof=1))
    # As wide as one run's interval: three seeds do not make 3,000 test images.
    assert summary["interval95"] == pytest.approx(wilson_interval(987 + 1 / 3, 1000))
    single = summarize_seeds([np.float32(0.5)], num_images=40)
    assert single["std"] is None and single["values"] == [0.5]
    assert json.loads(json.dumps(single)) == single
    assert summarize_seeds([1.0, 1.0, 1.0], num_images=10)["interval95"][1] == 1


@pytest.mark.parametrize("only_first, only_second", [(0, 0), (5, 5), (9, 1), (0, 6), (40, 20)])
def test_mcnemar_is_the_exact_binomial_test(only_first, only_second):
    first = [True] * only_first + [False] * only_second + [True] * 30 + [False] * 4
    second = [False] * only_first + [True] * only_second + [True] * 30 + [False] * 4
    found = mcnemar_test(np.array(first), np.array(second))
    assert (found["only_first"], found["only_second"]) == (only_first, only_second)
    number = only_first + only_second
    expected = scipy.stats.binomtest(only_first, number).pvalue if number else 1.0
    assert found["p_value"] == pytest.approx(expected)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: wilson_interval(3, 2), "successes=3, total=2"),
        (lambda: wilson_interval(0, 0), "total=0"),
        (lambda: wilson_interval(1, 2, 95), "confidence=95"),
        (lambda: roc_curve([1, 1], [0.2, 0.3]), "both classes.*2 images, 2 of class 1"),
        (lambda: roc_auc([0, 1], [0.2, math.nan]), "finite scores.*nan"),
        (lambda: roc_auc([0, 2], [0.2, 0.3]), r"integers in \[0, 2\).*2"),
        (lambda: confusion_matrix([0, 1], [0, 5], 3), "predictions containing 5"),
        (lambda: confusion_matrix([0, 0.5], [0, 1]), "labels containing 0.5"),
        (lambda: roc_curve([0, 1], [0.5]), r"labels.shape=\(2,\), scores.shape=\(1,\)"),
        (lambda: log_loss([], np.zeros((0, 2))), "num_images >= 1"),
        (lambda: log_loss([0, 1], [0.5, 0.5]), r"\(num_images, num_classes\)"),
        (lambda: log_loss([0, 1], [[0.5, 0.5], [-0.5, 1.5]]), r"probabilities in \[0, 1\].*-0.5"),
        (lambda: log_loss([0, 2], [[0.5, 0.5]] * 2), r"integers in \[0, 2\).*2"),
        (lambda: evaluate_predictions([0], [[1.0]], ["cat"]), "two class names"),
        (lambda: evaluate_predictions([0], [[0.5, 0.5]], list("abc")), "column of probabilities"),
        (lambda: mcnemar_test([True], [True, False]), "zip"),
        (lambda: summarize_seeds([], 10), "values=\\[\\]"),
        (lambda: summarize_seeds([98.6], 1000), "98.6"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
