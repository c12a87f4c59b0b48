"""The page about a run: whole in one file, nothing asked of the network, nothing unescaped."""

import html.parser
import re

import numpy as np
import pytest
from PIL import Image

from catsdogs.evaluation.metrics import evaluate_predictions
from catsdogs.evaluation.report import write_comparison, write_report

CLASSES = ["cat", "a <b>dog</b>"]
NUM, SIDE = 40, 16


class Page(html.parser.HTMLParser):
    """Tags that were opened, their attributes, and the text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.sources, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("runs") / "a-run&co"
    run_dir.mkdir()
    for name in ("curves", "confusion", "roc", "reliability"):
        Image.new("RGB", (20, 20), "white").save(run_dir / f"{name}.png")
    rng = np.random.default_rng(0)
    labels = np.arange(NUM) % 2
    second = np.clip(0.5 + 0.35 * (2 * labels - 1) + rng.normal(0, 0.4, NUM), 0.01, 0.99)
    probabilities = np.stack([1 - second, second], axis=1)
    test = evaluate_predictions(labels, probabilities, CLASSES)
    part = {"from": 1.0, "to": 2.0, "num_images": NUM, "accuracy": 0.9,
            "accuracy_interval95": [0.8, 0.95]}  # fmt: skip
    test |= {"calibration_error_unscaled": 0.123, "slices": {"brightness": [part]}}
    metrics = {
        "test": test, "test_flip": {"accuracy": 0.975}, "classes": CLASSES, "drawings": False,
        "dataset": "pets", "temperature": 0.8, "config": {"learning_rate": 0.001}, "precision": "x",
        "environment": {"commit": "abc", "packages": {"keras": "3"}}, "wall_seconds": 90,
        "peak_rss_mb": 1500, "num_parameters": 1000, "num_trainable": 10,
    }  # fmt: skip
    write_report(
        run_dir, run_dir, metrics, files=[f"test/cat/{i}<.jpg" for i in range(NUM)], labels=labels,
        probabilities=probabilities, images=np.zeros((NUM, SIDE, SIDE, 3), np.uint8),
    )  # fmt: skip
    wrong = int((probabilities.argmax(axis=1) != labels).sum())
    return (run_dir / "report.html").read_text(), test, wrong


def test_says_how_good_it_is(page):
    text, test, wrong = page
    seen = re.sub(r"\s+", " ", Page(text).text)
    low, high = test["accuracy_interval95"]
    assert f"{test['accuracy']:.1%}of 40 test pictures right" in seen
    assert f"95 % interval {low:.1%} to {high:.1%}" in seen and f"{wrong} mistakes" in seen
    assert "mirror image averaged 97.5%" in seen and "temperature 0.80" in seen
    assert "12.3%" in seen and "80.0% to 95.0%" in seen and "learning rate" in seen


def test_galleries_show_mistakes_and_doubts(page):
    text, _, wrong = page
    found = Page(text)
    assert found.tags.count("figure") == min(wrong, 12) + 12 and wrong > 0
    assert found.tags.count("img") == 4 + min(wrong, 12) + 12


def test_is_one_file_and_escapes_names(page):
    text = page[0]
    found = Page(text)
    assert found.sources and all(source.startswith("data:") for source in found.sources)
    assert "http" not in text and "script" not in found.tags
    assert "a-run&co" in found.text and "a <b>dog</b>" in found.text and "<.jpg" in found.text
    assert "prefers-color-scheme: dark" in text


def test_runs_are_compared_on_a_page_that_links_their_reports(tmp_path):
    test = {"accuracy_interval95": [0.8, 0.95], "loss": 0.2}
    metrics = {
        str(tmp_path / "runs" / name): {"test": {**test, "accuracy": accuracy}, "wall_seconds": 90}
        for name, accuracy in (("worse & #1", 0.85), ("better", 0.9))
    }
    (tmp_path / "runs").mkdir()
    path = write_comparison(metrics, [{"sentence": "better is <better>."}])
    assert path == tmp_path / "runs" / "comparison.html"
    found = Page(path.read_text())
    # The best stands first; a folder's name is quoted in the link and escaped in the text.
    assert found.sources == ["data:,", "better/report.html", "worse%20%26%20%231/report.html"]
    assert "better is <better>." in found.text and "90.0%" in found.text
    assert "worse & #1" in found.text and "script" not in found.tags
