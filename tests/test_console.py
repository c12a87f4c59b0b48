"""What the scripts print: figures that are there or not, and hostile names."""

import csv
import io
import json
import sys

import pytest

from catsdogs.console import print_evaluation, print_predictions
from catsdogs.console import Progress
from catsdogs.errors import InputError
from catsdogs.inference.predict import Prediction


@pytest.mark.parametrize("area, shown", [(0.98765, " 0.9877"), (None, "      \N{EN DASH}")])
def test_evaluation_table_with_and_without_an_area(area, shown, capsys):
    test = {
        "accuracy": 0.5, "accuracy_interval95": [0.1, 0.9], "loss": 0.7, "roc_auc": area,
        "confusion_matrix": [[0, 0], [1, 1]],
    }  # fmt: skip
    print_evaluation({"a-run": {"test": test, "classes": ["cat", "dog"], "drawings": False}})
    header, row, mistakes = capsys.readouterr().out.splitlines()
    assert row.endswith(shown) and len(row) == len(header)
    assert "1 of 2 dog pictures taken for cat" in mistakes


def test_a_threshold_is_a_probability():
    with pytest.raises(InputError, match="from 0 to 1"):
        print_predictions([], ("cat", "dog"), 7)


HOSTILE = "a\x1b[2J\r\nlabel  99 %\x9b.jpg"


def print_two(form, capsys):
    """What stands on standard output and standard error: an answer, and a file that is broken."""
    answers = [
        Prediction(HOSTILE, {"cat": 0.25, "dog": 0.75}, None),
        Prediction(HOSTILE, None, f"Expected a picture at {HOSTILE}, received none."),
    ]
    assert print_predictions(answers, ("cat", "dog"), 0.8, form) == 1
    return capsys.readouterr()


def test_names_do_not_steer_the_terminal(capsys):
    found = print_two("table", capsys)
    _, row = found.out.splitlines()
    error, _, left_out = found.err.splitlines()
    assert row.endswith("a [2J label 99 % .jpg") and row.isprintable()
    assert error == "predict.py: Expected a picture at a [2J label 99 % .jpg, received none."
    assert left_out == "predict.py: 1 of 2 files left out."


def test_csv_and_json_have_names_as_they_are(capsys):
    (row,) = csv.DictReader(io.StringIO(print_two("csv", capsys).out, newline=""))
    assert row["file"] == HOSTILE
    (answer,) = json.loads(print_two("json", capsys).out)
    assert answer["file"] == HOSTILE


def test_a_long_path_is_whole(capsys):
    name = "folder/" * 500 + "cat.jpg"
    print_predictions([Prediction(name, {"cat": 1.0, "dog": 0.0}, None)], ("cat", "dog"), 0.8)
    assert capsys.readouterr().out.endswith(f"{name}\n")


@pytest.mark.parametrize("on_terminal", [False, True])
def test_a_stop_finds_a_progress_line_with_its_end(on_terminal, monkeypatch):
    """Between two writes the words of a stop would come behind the line."""
    written = []

    class Stream(io.StringIO):
        def isatty(self):
            return on_terminal

        def write(self, text):
            written.append(text)

    monkeypatch.setattr(sys, "stderr", Stream())
    with Progress("Downloading", 4_000_000, "MB", scale=1_000_000) as progress:
        progress.update(3_000_000)
    *before, last = written
    assert last.endswith(" 3/4 MB\n") and len(before) == on_terminal
