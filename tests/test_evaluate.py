"""Evaluation of finished runs: the right pictures and figures, or the run stays as it was."""

import csv
import json
import sys

import keras
import numpy as np
import pytest
from conftest import METRICS
from pictures import contents, encode, noise_picture, write_files
from pixel_model import SIZE, save_pixel_model
from tiny_backbone import TINY

from catsdogs import cli
from catsdogs.data.images import decode_image
from catsdogs.data.manifest import load_manifest
from catsdogs.data.sources import open_source
from catsdogs.data.splits import prepare
from catsdogs.errors import InputError
from catsdogs.evaluation import plots
from catsdogs.evaluation.calibration import apply_temperature, expected_calibration_error
from catsdogs.evaluation.metrics import evaluate_predictions
from catsdogs.files import write_json
from catsdogs.inference.predict import predict_images
from catsdogs.models.backbones import BACKBONES, build_base, build_classifier, build_head
from catsdogs.models.model_file import SavedModel, save_model
from catsdogs.stages import evaluate as stage
from catsdogs.stages.evaluate import evaluate, evaluate_runs
from catsdogs.stages.run import load_run

WRITTEN = {"confusion.png", "roc.png", "reliability.png", "predictions.csv", "report.html"}


def make_run(run_dir, data_dir, *, settings=None, **changes):
    """Writes what a finished run consists of, but for its model."""
    settings = {"stage": "scratch", "data_dir": str(data_dir), "smoke": False, **(settings or {})}
    digest = load_manifest(data_dir).digest
    own = {"dataset_digest": digest, "image_size": SIZE, "temperature": 2.0, **changes}
    write_json(run_dir / "config.json", settings)
    write_json(run_dir / "metrics.json", {**METRICS, "config": settings, **own})
    write_files(run_dir, {"curves.png": encode(noise_picture(0))})
    return run_dir


@pytest.fixture
def run_dir(data_dir, tmp_path):
    """A finished run whose model is linear in the pixels."""
    save_pixel_model(tmp_path / "run" / "model.keras")
    return make_run(tmp_path / "run", data_dir)


def read_test_split(data_dir, image_size=SIZE):
    """Names, labels and pixels, from the pictures themselves."""
    paths = sorted((data_dir / "test").glob("*/*"))
    images = np.stack([decode_image(path, image_size) for path in paths])
    names = [path.relative_to(data_dir).as_posix() for path in paths]
    return names, [path.parent.name for path in paths], images


@pytest.fixture(scope="module")
def expected(data_dir, tmp_path_factory):
    """What the model predicts for the test pictures: names, labels, (plain, flipped)."""
    saved = save_pixel_model(tmp_path_factory.mktemp("model") / "model.keras")
    names, labels, images = read_test_split(data_dir)
    flips = images, images[:, :, ::-1]
    return names, labels, [predict_images(saved, rows) for rows in flips]


def test_the_test_split_is_measured(run_dir, data_dir, expected):
    names, labels, (plain, flipped) = expected
    indices = np.array([label == "dog" for label in labels], dtype=int)
    before = load_run(run_dir)[1]
    metrics = evaluate(run_dir, tta=True)
    assert metrics == load_run(run_dir)[1]
    assert {k: v for k, v in metrics.items() if k not in ("test", "test_tta")} == before
    assert {path.name for path in run_dir.iterdir()} - {
        "config.json", "curves.png", "metrics.json", "model.keras",
    } == WRITTEN  # fmt: skip

    for kind, probabilities in (("test", plain), ("test_tta", (plain + flipped) / 2)):
        scores = evaluate_predictions(indices, probabilities, ("cat", "dog"))
        for key in ("num_images", "accuracy", "confusion_matrix"):
            assert metrics[kind][key] == scores[key]
        assert metrics[kind]["loss"] == pytest.approx(scores["loss"], rel=1e-5)
    unscaled = expected_calibration_error(indices, apply_temperature(plain, 1 / 2))
    assert metrics["test"]["calibration_error_unscaled"] == pytest.approx(unscaled, abs=1e-5)
    assert sum(part["num_images"] for part in metrics["test"]["slices"]["size"]) == len(names)

    with open(run_dir / "predictions.csv", newline="") as file:
        rows = {row["file"]: row for row in csv.DictReader(file)}
    assert sorted(rows) == names
    for name, label, probabilities in zip(names, labels, plain, strict=True):
        assert rows[name]["label"] == label
        assert rows[name]["prediction"] == ("cat", "dog")[probabilities.argmax()]
        assert float(rows[name]["probability_of_dog"]) == pytest.approx(probabilities[1], abs=1e-5)

    # Evaluated again without test-time augmentation: nothing of the first time is left.
    assert "test_tta" not in evaluate(run_dir)


def test_a_smoke_run_is_measured_on_a_subset(pictures, tmp_path):
    with open_source(pictures) as source:
        prepare(source, tmp_path / "data", train=16, validation=16, test=64)
    save_pixel_model(tmp_path / "run" / "model.keras")
    run_dir = make_run(tmp_path / "run", tmp_path / "data", settings={"smoke": True})
    test = evaluate(run_dir)["test"]
    assert test["num_images"] == 32 and np.sum(test["confusion_matrix"], axis=1).tolist() == [
        16,
        16,
    ]


@pytest.fixture
def pretrained(data_dir, tmp_path, monkeypatch):
    """A finished run on a frozen backbone, as a `SavedModel`."""
    monkeypatch.setitem(BACKBONES, "tiny", TINY)
    keras.utils.set_random_seed(0)
    base = build_base("tiny", 32, "average")
    model = build_classifier(base, build_head(base.output.shape[1:], 16))
    settings = {"stage": "feature_extract", "backbone": "tiny"}
    make_run(tmp_path / "run", data_dir, settings=settings, image_size=32)
    saved = SavedModel(tmp_path / "run" / "model.keras", model, ("cat", "dog"), 32, 2.0)
    save(saved)
    return saved


def save(saved):
    card = {"classes": saved.classes, "image_size": saved.image_size}
    save_model(saved.model, saved.path, **card, temperature=saved.temperature)


def test_cached_activations_predict_as_the_complete_model(pretrained, data_dir):
    _, labels, images = read_test_split(data_dir, 32)
    plain = predict_images(pretrained, images)
    mean = (plain + predict_images(pretrained, images[:, :, ::-1])) / 2
    indices = np.array([label == "dog" for label in labels], dtype=int)
    for _ in range(2):  # computed, then from the disk
        metrics = evaluate(pretrained.path.parent, tta=True)
        for kind, probabilities in (("test", plain), ("test_tta", mean)):
            scores = evaluate_predictions(indices, probabilities, ("cat", "dog"))
            assert metrics[kind]["loss"] == pytest.approx(scores["loss"], rel=2e-3)  # float16


def test_other_frozen_layers_never_meet_the_activations_of_the_first(pretrained, data_dir):
    evaluate(pretrained.path.parent)
    kernel, bias = pretrained.model.get_layer("conv1").get_weights()
    pretrained.model.get_layer("conv1").set_weights([kernel, bias + 1])
    save(pretrained)
    _, labels, images = read_test_split(data_dir, 32)
    indices = np.array([label == "dog" for label in labels], dtype=int)
    scores = evaluate_predictions(indices, predict_images(pretrained, images), ("cat", "dog"))
    found = evaluate(pretrained.path.parent)["test"]["loss"]
    assert found == pytest.approx(scores["loss"], rel=2e-3)


def test_other_splits_are_refused(run_dir, pictures, tmp_path):
    """The same pictures split otherwise: training pictures would be in the test split."""
    with open_source(pictures) as source:
        prepare(source, tmp_path / "data", train=48, validation=32, test=32)
    before = contents(run_dir)
    with pytest.raises(InputError, match="training pictures may be in its test split"):
        evaluate(run_dir, tmp_path / "data")
    assert contents(run_dir) == before


def test_an_interrupted_evaluation_changes_nothing(run_dir, monkeypatch):
    evaluate(run_dir)
    before, drawn = contents(run_dir), []

    def save_figure(figure, path):
        drawn.append(path)
        if len(drawn) == 3:
            raise KeyboardInterrupt
        plots.save_figure(figure, path)

    monkeypatch.setattr(stage, "save_figure", save_figure)
    with pytest.raises(KeyboardInterrupt):
        evaluate(run_dir, tta=True)
    assert contents(run_dir) == before


def test_runs_without_their_data_set_are_skipped(run_dir, data_dir, tmp_path, capsys):
    other = make_run(tmp_path / "other", data_dir, dataset_digest="other")
    gone = make_run(tmp_path / "gone", data_dir, settings={"data_dir": "moved"})
    save_pixel_model(gone / "model.keras")
    assert list(evaluate_runs([other, gone, run_dir])) == [run_dir]
    errors = [line for line in capsys.readouterr().err.splitlines() if "Skipped" in line]
    assert [line.split(":")[0] for line in errors] == [f"Skipped {other}", f"Skipped {gone}"]
    with pytest.raises(InputError, match=r"moved/manifest\.json"):
        evaluate_runs([other, gone])
    assert list(evaluate_runs([gone], data_dir)) == [gone]


def test_the_command_compares_runs(run_dir, data_dir, tmp_path, monkeypatch, capsys):
    def run(*words):
        monkeypatch.setattr(sys, "argv", ["evaluate.py", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            cli.evaluate()
        assert stop.value.code == 0
        return capsys.readouterr()

    save_pixel_model(tmp_path / "second" / "model.keras", seed=1)
    second = make_run(tmp_path / "second", data_dir)
    (tmp_path / "unfinished").mkdir()
    output, errors = run(run_dir, tmp_path / "unfinished", second)
    assert f"Skipped, not a finished run: {tmp_path / 'unfinished'}\n" in errors
    accuracies = {path: load_run(path)[1]["test"]["accuracy"] for path in (run_dir, second)}
    for path, accuracy in accuracies.items():
        (row,) = (line for line in output.splitlines() if line.startswith(f"{path} "))
        assert f" {accuracy:.1%} " in row
    assert (tmp_path / "comparison.html").exists()

    found = json.loads(run(run_dir, second, "--json", "--tta").out)
    assert found["runs"].keys() == {str(run_dir), str(second)}
    assert found["runs"][str(second)]["test"]["accuracy"] == accuracies[second]
    assert "test_tta" in found["runs"][str(second)]
    (comparison,) = found["comparisons"]
    assert comparison["best"] == str(max(accuracies, key=accuracies.get))
    assert comparison["sentence"] in output
