"""What the scripts print about figures that are there and figures that are not."""

import pytest

from catsdogs.console import print_evaluation, print_predictions
from catsdogs.files import InputError


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
