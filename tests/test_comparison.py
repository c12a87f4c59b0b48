"""Two runs on the same pictures: what is said about their difference."""

import csv
import random

import pytest

from catsdogs.errors import InputError
from catsdogs.evaluation.comparison import compare_runs
from catsdogs.evaluation.significance import adjust_p_values
from catsdogs.files import write_json


def make_run(folder, wrong, num_images=200, prefix="a", digest="pets"):
    folder.mkdir()
    write_json(folder / "metrics.json", {"dataset_digest": digest})
    with open(folder / "predictions.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "label", "prediction", "probability_of_cat"])
        for index in range(num_images):
            found = "dog" if index in wrong else "cat"
            writer.writerow([f"test/cat/{prefix}{index}.jpg", "cat", found, 0.5])
    return folder


def test_the_best_is_compared_with_each_other(tmp_path):
    good = make_run(tmp_path / "good", wrong=range(5))
    close = make_run(tmp_path / "close", wrong=range(3, 10))
    poor = make_run(tmp_path / "poor", wrong=range(4, 40))
    first, second = compare_runs([close, poor, good])
    assert (first["only_best"], first["only_other"], first["best"]) == (5, 3, str(good))
    assert first["sentence"] == (
        "good alone is right on 5 of 200 pictures, close alone on 3: no real difference "
        "between them is shown (McNemar's test, p = 0.73, adjusted for 3 comparisons 0.73)."
    )
    assert second["other"] == str(poor) and second["adjusted_p_value"] >= 2 * second["p_value"]
    assert "poor alone on 4: good is better; chance" in second["sentence"]
    (alone,) = compare_runs([good, close])
    assert alone["sentence"].endswith("(McNemar's test, p = 0.73).")


def test_many_equal_runs_are_not_told_apart(tmp_path):
    """One p-value of 45 is below 0.05, as chance has it; adjusted, it is not."""
    rng = random.Random(3)
    runs = [
        make_run(tmp_path / f"run{number}", {i for i in range(1000) if rng.random() < 0.05}, 1000)
        for number in range(10)
    ]
    found = compare_runs(runs)
    assert len(found) == 9 and min(one["p_value"] for one in found) < 0.05
    assert all("no real difference" in one["sentence"] for one in found)


def test_holms_adjustment():
    # Worked by hand: 3 x 0.01, then 2 x 0.02, then 1 x 0.03, which must not fall below 0.04.
    assert adjust_p_values([0.03, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert adjust_p_values([0.9, 0.8]) == [1.0, 1.0] and adjust_p_values([]) == []


@pytest.mark.parametrize("other", [{"prefix": "b"}, {"digest": "drawings"}])
def test_other_pictures_are_not_compared(other, tmp_path):
    runs = [make_run(tmp_path / "a", ()), make_run(tmp_path / "b", (), **other)]
    (found,) = compare_runs(runs)
    assert found["sentence"].endswith("were tested on different pictures: no comparison.")
    assert "p_value" not in found


@pytest.mark.parametrize("content", ["", "file,label\nx,cat\n", "\xff\xfe"])
def test_broken_predictions_are_an_error(tmp_path, content):
    run = make_run(tmp_path / "a", ())
    (run / "predictions.csv").write_bytes(content.encode("latin-1"))
    with pytest.raises(InputError, match="received something else"):
        compare_runs([run])
    (run / "predictions.csv").unlink()
    with pytest.raises(InputError, match="Expected an evaluated run"):
        compare_runs([run])
