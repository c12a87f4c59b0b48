"""The pages about runs: what they state, complete in one file; and comparisons of runs."""

import csv
import html.parser
import random
import re

import numpy as np
import pytest
from conftest import METRICS
from PIL import Image

from catsdogs.errors import InputError
from catsdogs.evaluation.metrics import evaluate_predictions
from catsdogs.evaluation.report import compare_runs, write_comparison, write_report
from catsdogs.files import write_json

CLASSES = ["cat", "a <b>dog</b>"]


class Page(html.parser.HTMLParser):
    """A page's tags, links, descriptions of pictures, and text."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.links, self.descriptions, self.text = [], [], [], ""
        self.feed(path.read_text(encoding="utf-8"))
        self.text = re.sub(r"\s+", " ", self.text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append(tag)
        self.links += [attrs[name] for name in ("src", "href") if name in attrs]
        if tag == "img":
            self.descriptions.append(attrs["alt"])

    def handle_data(self, data):
        self.text += f"{data} "


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The report of a run with seven mistakes in forty images, and its test metrics."""
    run_dir = tmp_path_factory.mktemp("runs") / "a-run&co"
    run_dir.mkdir()
    for name in ("curves", "confusion", "roc", "reliability"):
        Image.new("RGB", (20, 20), "white").save(run_dir / f"{name}.png")
    labels = np.arange(40) % 2
    second = np.where(labels == 1, 0.7, 0.2) + 0.005 * np.arange(40)
    second[:7] = 1 - second[:7]
    probabilities = np.stack([1 - second, second], axis=1)
    test = evaluate_predictions(labels, probabilities, CLASSES)
    part = {"from": 1.0, "to": 2.0, "num_images": 12, "accuracy": 0.9,
            "accuracy_interval95": [0.6, 0.95]}  # fmt: skip
    test |= {"calibration_error_unscaled": 0.123, "slices": {"brightness": [part]}}
    metrics = METRICS | {"classes": CLASSES, "test": test, "test_tta": {"accuracy": 0.975}}
    metrics["environment"] = METRICS["environment"] | {"resumed": [{"commit": "def"}]}
    write_report(
        run_dir, run_dir, metrics, files=[f"test/cat/{i}<.jpg" for i in range(40)], labels=labels,
        probabilities=probabilities, images=np.zeros((40, 16, 16, 3), np.uint8),
    )  # fmt: skip
    return Page(run_dir / "report.html"), test


def test_a_report_states_the_metrics(report):
    page, test = report
    low, high = (f"{100 * bound:.1f} %" for bound in test["accuracy_interval95"])
    for text in (
        "Accuracy 82.5 %", f"95 % interval {low} to {high}", "augmentation 97.5 %", "Mistakes 7 ",
        f"Loss {test['loss']:.3f}", f"AUC {test['roc_auc']:.4f}", "temperature 1.00", "12.3 %",
        "1 to 2 12 90.0 % 60.0 % to 95.0 %", "seed 0", "commit abc", "environment, 1 commit def",
    ):  # fmt: skip
        assert text in page.text


def test_a_report_shows_mistakes_and_doubts_in_order(report):
    page, _ = report
    _, mistakes, doubts = re.split("Most confident mistakes|Least confident", page.text)
    for gallery, number, order in ((mistakes, 7, -1), (doubts, 12, 1)):
        shown = [order * float(percent) for percent in re.findall(r"(\d\d\.\d) % true:", gallery)]
        assert len(shown) == number and shown == sorted(shown)


def test_a_report_is_one_file_in_which_names_are_text(report):
    page, _ = report
    assert page.links and all(link.startswith("data:") for link in page.links)
    assert len(page.descriptions) == 4 + 7 + 12 and all(page.descriptions)
    assert "script" not in page.tags
    for name in ("a-run&co", "a <b>dog</b>", "6<.jpg"):
        assert name in page.text


def test_a_comparison_links_the_reports_the_most_accurate_run_first(tmp_path):
    runs = {tmp_path / "runs" / "worse & #1": 0.85, tmp_path / "runs" / "other" / "better": 0.9}
    metrics = {
        str(run): {"test": {**METRICS["validation"], "accuracy": accuracy}, "wall_seconds": 90}
        for run, accuracy in runs.items()
    }
    path = write_comparison(metrics, [{"sentence": "better is <better>."}])
    assert path == tmp_path / "runs" / "comparison.html"
    page = Page(path)
    reports = ["other/better/report.html", "worse%20%26%20%231/report.html"]
    assert page.links == ["data:,", *reports]
    assert "better 90.0 % 60.0 % to 90.0 %" in page.text and "worse & #1 85.0 %" in page.text
    assert "better is <better>." in page.text


# ---- Differences between runs ----


def make_run(folder, mistakes, num_images=200, prefix="a", digest="pets"):
    """Writes what an evaluated run is compared by."""
    write_json(folder / "metrics.json", {"dataset_digest": digest})
    with open(folder / "predictions.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "label", "prediction"])
        for index in range(num_images):
            prediction = "dog" if index in mistakes else "cat"
            writer.writerow([f"test/cat/{prefix}{index}.jpg", "cat", prediction])
    return folder


def test_the_most_accurate_run_is_compared_with_every_other(tmp_path):
    good = make_run(tmp_path / "good", range(5))
    close = make_run(tmp_path / "close", range(3, 10))
    poor = make_run(tmp_path / "poor", range(4, 40))
    first, second = compare_runs([close, poor, good])
    assert first["sentence"] == (
        "Of 200 test images 5 are classified correctly only by good, 3 only by close: "
        "no significant difference (exact McNemar test, p = 0.73, "
        "adjusted for 3 comparisons 0.73)."
    )
    assert (first["best"], first["only_best"], first["only_other"]) == (str(good), 5, 3)
    assert second["other"] == str(poor) and second["adjusted_p_value"] >= 2 * second["p_value"]
    assert "only by good, 4 only by poor: good is significantly better" in second["sentence"]
    (single,) = compare_runs([good, close])
    assert single["sentence"].endswith("(exact McNemar test, p = 0.73).")


def test_equally_good_runs_do_not_differ_significantly(tmp_path):
    """One p-value of 45 is below 0.05, as happens by chance; adjusted it is not."""
    rng = random.Random(3)
    runs = [
        make_run(tmp_path / f"run{number}", {i for i in range(1000) if rng.random() < 0.05}, 1000)
        for number in range(10)
    ]
    found = compare_runs(runs)
    assert len(found) == 9 and min(one["p_value"] for one in found) < 0.05
    assert all("no significant difference" in one["sentence"] for one in found)


@pytest.mark.parametrize("other", [{"prefix": "b"}, {"digest": "other"}])
def test_runs_on_other_images_are_not_compared(other, tmp_path):
    runs = [make_run(tmp_path / "a", ()), make_run(tmp_path / "b", (), **other)]
    (found,) = compare_runs(runs)
    assert found["sentence"].endswith("were tested on different images: no comparison.")
    assert "p_value" not in found


def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path):
    runs = [
        make_run(tmp_path / name / "run", range(number)) for name, number in (("a", 0), ("b", 9))
    ]
    (found,) = compare_runs(runs)
    assert all(f"only by {run}" in found["sentence"] for run in runs)


def test_a_run_that_was_not_evaluated_is_an_error(tmp_path):
    run = make_run(tmp_path / "run", ())
    (run / "predictions.csv").unlink()
    with pytest.raises(InputError, match="Expected an evaluated run"):
        compare_runs([run])
