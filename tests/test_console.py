"""What commands print: progress, and the table of an evaluation."""

import io
import itertools
import sys
import time

import pytest

from catsdogs.console import Progress, print_evaluation


@pytest.mark.parametrize(
    ("auc", "shown"), [(0.98765, " 0.9877"), (None, "      \N{EN DASH}")], ids=["number", "none"]
)
def test_evaluation_table_and_mistakes(auc, shown, capsys):
    test = {
        "accuracy": 0.5, "accuracy_interval95": [0.1, 0.9], "loss": 0.7, "roc_auc": auc,
        "confusion_matrix": [[3, 0, 0], [1, 2, 4], [0, 0, 5]],
    }  # fmt: skip
    found = {"test": test, "classes": ["cat", "dog", "owl"]}
    better = {"test": {**test, "confusion_matrix": [[1, 0, 0], [0, 1, 0], [0, 0, 1]]}}
    print_evaluation({"runs/a": found, "runs/the-other": {**found, **better, "test_tta": test}})
    header, row, _, tta, mistakes, none = capsys.readouterr().out.splitlines()
    assert row.startswith("runs/a ") and row.endswith(shown)
    assert tta.startswith("  with test-time augmentation  ")
    assert {len(header), len(row), len(tta)} == {len(header)}
    # The most frequent mistake first.
    assert "4 of 7 dog pictures predicted as owl, 1 of 7 dog pictures predicted as cat" in mistakes
    assert "runs/the-other: no mistakes" in none


def test_evaluation_on_sketches_says_so(capsys):
    test = {
        "accuracy": 1.0, "accuracy_interval95": [0.9, 1.0], "loss": 0.1, "roc_auc": 1.0,
        "confusion_matrix": [[1, 0], [0, 1]],
    }  # fmt: skip
    print_evaluation({"run": {"test": test, "classes": ["cat", "dog"], "sketches": True}})
    assert capsys.readouterr().out.splitlines()[1].endswith("(sketches)")


def test_progress_off_a_terminal_is_a_line_every_ten_seconds(monkeypatch, capsys):
    seconds = itertools.count(step=4)
    monkeypatch.setattr(time, "monotonic", lambda: next(seconds))
    with Progress("Downloading", 9_000_000, "MB", scale=1_000_000) as progress:
        for done in range(1, 10):
            progress.update(done * 1_000_000)
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1] == "Downloading: 9/9 MB"
    assert 2 < len(lines) < 5 and all(line.startswith("Downloading: ") for line in lines)


def test_progress_ends_where_its_task_fails(capsys):
    """The error is the last word."""
    with pytest.raises(OSError), Progress("Decoding", 5) as progress:
        progress.update(3)
        raise OSError
    assert capsys.readouterr().err == ""


def test_progress_on_a_terminal_is_a_bar(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    with Progress("Decoding", 2000) as progress:
        progress.update(2000)
    assert "Decoding" in sys.stderr.getvalue() and "2,000/2,000" in sys.stderr.getvalue()


def test_hidden_progress_is_silent(capsys):
    with Progress("Predicting", None, hidden=True) as progress:
        progress.update(3)
    assert capsys.readouterr().err == ""
