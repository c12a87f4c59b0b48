"""Which runs are evaluated, and figures of pictures that do not show every class."""

import numpy as np
import pytest
from conftest import METRICS

from catsdogs.data.manifest import load_manifest
from catsdogs.errors import InputError
from catsdogs.evaluation.metrics import evaluate_predictions
from catsdogs.files import write_json
from catsdogs.models.model_file import save_model
from catsdogs.models.networks import build_textbook_convnet
from catsdogs.stages import evaluate as evaluate_run


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


def test_runs_on_other_pictures_are_left_out(data_dir, tmp_path, monkeypatch, capsys):
    digest = load_manifest(data_dir).digest
    for name, seen, place in (
        ("a", digest, data_dir), ("b", "other", data_dir), ("c", digest, "gone"),
        ("d", digest, data_dir),
    ):  # fmt: skip
        config = {"stage": "scratch", "data_dir": str(place), "smoke": False}
        write_json(tmp_path / name / "config.json", config)
        metrics = {**METRICS, "dataset_digest": seen}
        write_json(tmp_path / name / "metrics.json", metrics)
    monkeypatch.setattr(evaluate_run, "evaluate", lambda run_dir, data_dir, flip: flip)
    run_dirs = [tmp_path / name for name in "abcd"]
    found = evaluate_run.evaluate_runs(run_dirs, flip=True)
    assert found == {run_dirs[0]: True, run_dirs[3]: True}
    other, gone = capsys.readouterr().err.splitlines()
    assert f"Left out, {run_dirs[1]}: Expected the data set that" in other
    assert f"Left out, {run_dirs[2]}: Expected a prepared data set in gone" in gone
    with pytest.raises(InputError, match="might be in its test split"):
        evaluate_run.evaluate_runs([run_dirs[1]])
    with pytest.raises(InputError, match="Expected a prepared data set in gone"):
        evaluate_run.evaluate_runs(run_dirs[1:3])


@pytest.mark.parametrize(
    "change", [{"classes": ["dog", "cat"]}, {"classes": ["a", "b", "c"]}, {"temperature": 9.0}]
)
def test_metrics_that_tell_of_another_model_are_refused(change, data_dir, tmp_path):
    digest = load_manifest(data_dir).digest
    config = {"stage": "scratch", "data_dir": str(data_dir), "smoke": False}
    write_json(tmp_path / "config.json", config)
    write_json(tmp_path / "metrics.json", {**METRICS, "dataset_digest": digest, **change})
    model = build_textbook_convnet(48)
    save_model(
        model, tmp_path / "model.keras", classes=("cat", "dog"), image_size=48, temperature=1.0
    )
    before = {path.name for path in tmp_path.iterdir()}
    with pytest.raises(InputError, match="of the model beside it, received others"):
        evaluate_run.evaluate(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == before


def test_a_folder_in_the_way_of_a_report_leaves_all_as_it_was(data_dir, tmp_path):
    digest = load_manifest(data_dir).digest
    config = {"stage": "scratch", "data_dir": str(data_dir), "smoke": False}
    write_json(tmp_path / "config.json", config)
    write_json(tmp_path / "metrics.json", {**METRICS, "dataset_digest": digest})
    model = build_textbook_convnet(48)
    save_model(
        model, tmp_path / "model.keras", classes=("cat", "dog"), image_size=48, temperature=1.0
    )
    (tmp_path / "report.html").mkdir()
    before = {path.name for path in tmp_path.iterdir()}
    with pytest.raises(InputError, match="Expected no folder"):
        evaluate_run.evaluate(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == before
