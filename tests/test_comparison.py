"""Two runs on the same pictures: what is said about their difference."""

import csv

import pytest

from catsdogs.comparison import compare_runs
from catsdogs.files import InputError


def make_run(folder, wrong, num_images=200, prefix="a"):
    folder.mkdir()
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
    assert first == (
        f"{good} alone is right on 5 of 200 pictures, {close} alone on 3: no real difference "
        "between them is shown (McNemar's test, p = 0.73)."
    )
    assert f"{poor} alone on 4: {good} is better, and not by chance" in second


def test_other_pictures_are_not_compared(tmp_path):
    runs = [make_run(tmp_path / "a", ()), make_run(tmp_path / "b", (), prefix="b")]
    (sentence,) = compare_runs(runs)
    assert sentence.endswith("were tested on different pictures: no comparison.")


@pytest.mark.parametrize("content", ["", "file,label\nx,cat\n", "\xff\xfe"])
def test_broken_predictions_are_an_error(tmp_path, content):
    run = make_run(tmp_path / "a", ())
    (run / "predictions.csv").write_bytes(content.encode("latin-1"))
    with pytest.raises(InputError, match="received something else"):
        compare_runs([run])
    (run / "predictions.csv").unlink()
    with pytest.raises(InputError, match="Expected an evaluated run"):
        compare_runs([run])
