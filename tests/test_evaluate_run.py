"""Figures of an evaluation whose test pictures do not show every class."""

import numpy as np
import pytest

from catsdogs import evaluate_run
from catsdogs.evaluation import evaluate_predictions


@pytest.mark.parametrize(
    "classes, labels, drawn",
    [
        ("abcd", [0, 0, 1, 1, 3, 3], ["a", "b", "d"]),
        ("abc", [0, 0, 2, 2], ["a", "c"]),
        ("ab", [0, 0, 1, 1], ["run"]),
        ("ab", [1, 1, 1], None),
    ],
)
def test_absent_classes_have_no_roc_curve(classes, labels, drawn, tmp_path, monkeypatch):
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    labels = np.array(labels)
    probabilities = np.random.default_rng(0).dirichlet(np.ones(len(classes)), len(labels))
    metrics = {
        "classes": list(classes),
        "test": evaluate_predictions(labels, probabilities, classes),
    }
    curves, plot_roc = [], evaluate_run.plot_roc
    monkeypatch.setattr(evaluate_run, "plot_roc", lambda c: (curves.extend(c), plot_roc(c))[1])
    evaluate_run._draw(run_dir, "run", metrics, labels, probabilities, probabilities)
    assert curves == (drawn or [])
    assert (run_dir / "roc.png").is_file() == bool(drawn)
    assert (run_dir / "confusion.png").is_file() and (run_dir / "reliability.png").is_file()
