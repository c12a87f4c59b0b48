"""The training stages from end to end: what they write, open, repeat, resume and refuse.

Most run on a backbone of three layers, which is one more record in `BACKBONES`.
"""

import dataclasses
import functools
import json
import math
import shutil

import keras
import numpy as np
import pytest
from tiny_backbone import TINY
from tiny_stages import HEAD, VARIANTS, tiny_networks, train

from catsdogs.config import FeatureExtractConfig, FinetuneConfig
from catsdogs.data.images import load_split
from catsdogs.data.manifest import load_manifest
from catsdogs.data.sources import open_source
from catsdogs.data.splits import prepare
from catsdogs.errors import InputError
from catsdogs.evaluation.metrics import class_probabilities, evaluate_predictions
from catsdogs.files import read_history
from catsdogs.models.model_file import load_model, load_saved_model
from catsdogs.stages.checkpoint import Checkpoint
from catsdogs.stages.evaluate import evaluate
from catsdogs.stages.run import load_run

FILES = {
    "config.json", "environment.json", "history.csv", "metrics.json", "model.keras", "curves.png",
}  # fmt: skip

SLOW = {"residual", "augmented", "finetune_end_to_end"}
slow = pytest.mark.slow


def variants(*fast):
    """Parametrizes a test with all variants, of which all others are slow."""
    params = [pytest.param(name, marks=[] if name in fast else slow) for name in VARIANTS]
    return pytest.mark.parametrize("name", params)


every_variant = variants(*VARIANTS.keys() - SLOW)


@pytest.fixture(scope="module", autouse=True)
def tiny():
    with tiny_networks():
        yield


@pytest.fixture(scope="module")
def data(data_dir, tmp_path_factory):
    """The tiny dataset without its test pictures: no training stage can miss them."""
    folder = tmp_path_factory.mktemp("data") / "dark-and-bright"
    shutil.copytree(data_dir, folder, ignore=shutil.ignore_patterns("decoded", "features"))
    shutil.rmtree(folder / "test")
    return folder


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """Returns the folder of a variant's run; each is trained once."""
    root = tmp_path_factory.mktemp("runs")

    @functools.cache
    def run(name):
        config = VARIANTS[name]
        if name == "augmented":
            run("cached")  # whose features it reuses
        if name == "finetune_end_to_end":
            config = dataclasses.replace(config, start=str(run("cached")))
        return train(config, data, root / name / name)[0]

    return run


def files_in(folder):
    return {path.name for path in folder.iterdir()}


def weights_of(run_dir):
    return [weight.tobytes() for weight in load_model(run_dir).get_weights()]


@every_variant
def test_a_run_is_complete_and_repeats_its_figures(name, finished, data):
    run_dir = finished(name)
    config, metrics = load_run(run_dir)
    history = read_history(run_dir)
    assert files_in(run_dir) == FILES
    assert {len(values) for values in history.values()} == {config["epochs"]}
    assert metrics["best_epoch"] == 1 + np.argmin(history["val_loss"])
    assert metrics["dataset_digest"] == load_manifest(data).digest
    assert metrics["environment"]["packages"]["keras"] == keras.version()
    # `augmented` reuses the first view of `cached`; a named head was not made within the run.
    assert metrics["cold"] == (name not in ("augmented", "finetune_end_to_end"))
    assert not metrics["warm"] and metrics["wall_seconds"] > 0 and metrics["peak_rss_mb"] > 100

    # The saved model, loaded again, on the pictures themselves.
    saved = load_saved_model(run_dir)
    assert (saved.classes, saved.image_size) == (("cat", "dog"), metrics["image_size"])
    images, labels = load_split(data, load_manifest(data), "validation", saved.image_size)
    outputs = class_probabilities(saved.model.predict(images.astype(np.float32), verbose=0))
    again = evaluate_predictions(labels, outputs, saved.classes)
    for key in ("loss", "accuracy", "calibration_error"):
        assert again[key] == pytest.approx(metrics["validation"][key], rel=0.01, abs=2e-3)
    # Its logits were divided by the temperature, once; the history is of the model before.
    assert saved.temperature == metrics["temperature"] != 1
    odds = np.log(outputs[:, 1] / outputs[:, 0]) * metrics["temperature"]
    before = np.logaddexp(0, np.where(labels == 1, -odds, odds)).mean()
    assert before == pytest.approx(min(history["val_loss"]), rel=5e-3)


@every_variant
def test_no_training_stage_sees_the_test_split(name, finished, data):
    """Its pictures were not there; evaluation, which needs them, notices."""
    run_dir = finished(name)
    assert "test" not in load_run(run_dir)[1]
    assert not [path for path in data.glob("*/*") if path.name.startswith("test")]
    with pytest.raises(InputError, match=r"test/cat"):
        evaluate(run_dir)


NUM_TRAINABLE = {
    # All; normalisation and two dense layers; these and `conv2`.
    "textbook": 307_393,
    "cached": 2 * 8 + 9 * 256 + 257,
    "finetune": 2 * 8 + 9 * 256 + 257 + (9 * 4 + 1) * 8,
}
NUM_TRAINABLE["augmented"] = NUM_TRAINABLE["end_to_end"] = NUM_TRAINABLE["cached"]
NUM_TRAINABLE["finetune_end_to_end"] = NUM_TRAINABLE["finetune"]


@every_variant
def test_a_stage_trains_its_tensors_and_no_others(name, finished):
    metrics = load_run(finished(name))[1]
    if name in NUM_TRAINABLE:
        assert metrics["num_trainable"] == NUM_TRAINABLE[name]
    if metrics["stage"] == "scratch":
        return
    # The frozen layers are the pretrained ones to the bit, statistics of batch normalisation too.
    model = load_model(finished(name))
    frozen = {"conv1": True, "norm": True, "conv2": metrics["stage"] != "finetune"}
    pretrained = TINY.build(32)
    for layer in frozen:
        tensors = (one.get_layer(layer).get_weights() for one in (model, pretrained))
        pairs = zip(*tensors, strict=True)
        assert all(np.array_equal(one, other) for one, other in pairs) == frozen[layer], layer


def train_with_interruptions(config, data, run_dir, monkeypatch):
    """Interrupts each fit in its second epoch, then the saving of each model; resumes every time.

    Returns:
        The run's folder, its metrics and the number of interruptions.
    """
    interrupted = set()

    def interrupt_once(key):
        if key not in interrupted:
            interrupted.add(key)
            raise KeyboardInterrupt

    def on_train_batch_end(self, batch, logs=None):
        if self.epoch == 1:
            interrupt_once(self.model.count_params())

    def save(model, path):
        if ("save", model.count_params()) not in interrupted:
            path.write_bytes(b"the first bytes of many")
        interrupt_once(("save", model.count_params()))
        keras.saving.save_model(model, path)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "on_train_batch_end", on_train_batch_end)
        patch.setattr(keras.Model, "save", save)
        while True:
            try:
                run_dir, metrics = train(config, data, run_dir, resume=True)
                return run_dir, metrics, len(interrupted)
            except KeyboardInterrupt as interruption:
                assert not (run_dir / "model.keras").exists()
                assert f"of {run_dir}" in str(interruption) or "finetune" in str(run_dir)


@variants("textbook", "cached")
def test_an_interrupted_run_ends_as_if_it_had_not_been(name, finished, data, tmp_path, monkeypatch):
    """To the bit: weights, history and figures. This is also: same seed, same result."""
    straight = finished(name)
    config = VARIANTS[name]
    if name == "finetune_end_to_end":
        config = dataclasses.replace(config, start=str(finished("cached")))
    run_dir, metrics, number = train_with_interruptions(
        config, data, tmp_path / "runs" / "run", monkeypatch
    )
    assert number == (3 if name == "finetune" else 2)  # it has two fits
    assert files_in(run_dir) == FILES
    assert (run_dir / "history.csv").read_text() == (straight / "history.csv").read_text()
    assert weights_of(run_dir) == weights_of(straight)
    timing = ("cold", "warm", "wall_seconds", "peak_rss_mb", "environment", "start")
    expected = load_run(straight)[1]
    assert metrics.keys() == expected.keys() and not metrics["warm"]
    assert {k: v for k, v in metrics.items() if k not in timing} == {
        k: v for k, v in expected.items() if k not in timing
    }


@slow
def test_another_seed_gives_another_result(finished, data, tmp_path):
    run_dir, _ = train(dataclasses.replace(HEAD, seed=1), data, tmp_path / "run")
    assert weights_of(run_dir) != weights_of(finished("cached"))


def test_a_loss_that_is_not_finite_is_one_line(data, finished, tmp_path, monkeypatch):
    """The weights break in an epoch's last step, which its training loss does not show."""

    def break_weights(self, batch, logs=None):
        if self.epoch == 2:
            self.model.trainable_weights[-1].assign([np.nan])

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "on_train_batch_end", break_weights)
        with pytest.raises(InputError, match=r"in epoch 3\b.*--learning-rate") as caught:
            train(HEAD, data, tmp_path / "run")
    assert "\n" not in str(caught.value)
    # What was trained before is there still.
    run_dir, _ = train(HEAD, data, tmp_path / "run", resume=True)
    assert weights_of(run_dir) == weights_of(finished("cached"))


def test_fine_tuning_refuses_a_wrong_head(finished, data, tmp_path):
    head = finished("cached")
    metrics = json.loads((head / "metrics.json").read_text())
    config = dataclasses.replace(VARIANTS["finetune"], smoke=False)
    for number, (changes, problem) in enumerate((
        ({"stage": "scratch"}, "to be a feature extraction.*: scratch"),
        ({"config": {**metrics["config"], "backbone": "vgg16"}}, "Pass --backbone vgg16"),
        ({"dataset_digest": "other"}, "may have seen test pictures"),
        ({"config": {**metrics["config"], "smoke": True}}, "a smoke run"),
        ({"precision": "mixed_bfloat16"}, "Expected --precision mixed_bfloat16"),
    )):  # fmt: skip
        other = shutil.copytree(head, tmp_path / str(number))
        (other / "metrics.json").write_text(json.dumps({**metrics, **changes}))
        with pytest.raises(InputError, match=problem) as caught:
            train(dataclasses.replace(config, start=str(other)), data, tmp_path / "run")
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"Expected a finished run at .*absent"):
        train(dataclasses.replace(config, start="absent"), data, tmp_path / "run")


@slow
def test_fine_tuning_finds_the_right_head(finished, data_dir, pictures, tmp_path):
    """A folder's name holds no settings: there may be others where the head is expected."""
    data, config = shutil.copytree(data_dir, tmp_path / "data"), VARIANTS["finetune"]
    runs = tmp_path / "runs"
    other, metrics = train(HEAD, data, runs / "feature_extract-best-tiny-cached-seed0")
    _, metrics = train(config, data, runs / "tuned")
    assert metrics["start"]["made"] and metrics["start"]["run"] == f"{other.name}-2"
    assert metrics["start"]["changes"] == {}
    _, metrics = train(config, data, runs / "tuned")
    assert not metrics["start"]["made"] and metrics["start"]["run"] == f"{other.name}-2"
    assert metrics["warm"] and not metrics["cold"]
    # One that is named is used, and what is special about it recorded.
    _, metrics = train(dataclasses.replace(config, start=str(other)), data, runs / "named")
    changes = metrics["start"]["changes"]
    assert (changes["image_size"], changes["epochs"]) == (32, 3) and "dropout" not in changes
    # Other pictures need another head.
    with open_source(pictures) as source:
        prepare(source, data, train=48, validation=32, test=32, overwrite=True)
    _, metrics = train(config, data, runs / "tuned")
    assert metrics["start"]["made"] and metrics["start"]["run"] == f"{other.name}-3"


def test_a_run_resumes_from_the_same_head_only(finished, data, tmp_path, monkeypatch):
    head = shutil.copytree(finished("cached"), tmp_path / "head")
    config = dataclasses.replace(VARIANTS["finetune_end_to_end"], start=str(head))

    def interrupt(self, batch, logs=None):
        if self.epoch == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt, match="after 1 of 3"):
        patch.setattr(Checkpoint, "on_train_batch_end", interrupt)
        train(config, data, tmp_path / "run")
    shutil.copy(finished("textbook") / "model.keras", head)
    with pytest.raises(InputError, match="started from another head"):
        train(config, data, tmp_path / "run", resume=True)


@slow
@pytest.mark.parametrize("name", ["residual", "augmented"])
def test_three_classes(name, three_classes, tmp_path):
    config = VARIANTS[name]
    epochs = 20 if name == "augmented" else 1
    config = dataclasses.replace(config, epochs=epochs, learning_rate=0.01)
    run_dir, metrics = train(config, three_classes, tmp_path / "run")
    assert metrics["classes"] == ["apple", "leaf", "sky"]
    assert load_model(run_dir).output_shape == (None, 3)
    test = evaluate(run_dir, tta=True)["test"]
    assert np.shape(test["confusion_matrix"]) == (3, 3) and test["num_images"] == 24
    assert name == "residual" or test["accuracy"] > 0.6


def test_bfloat16_is_used_where_it_was_chosen(data, finished, tmp_path):
    config = dataclasses.replace(HEAD, precision="mixed_bfloat16")
    run_dir, metrics = train(config, data, tmp_path / "run")
    assert metrics["precision"] == "mixed_bfloat16"
    model = load_model(run_dir)
    assert model.get_layer("conv1").compute_dtype == "bfloat16"
    assert model.dtype == "float32" == model.predict(np.zeros((1, 32, 32, 3)), verbose=0).dtype
    assert math.isfinite(metrics["validation"]["loss"])
    assert weights_of(run_dir) != weights_of(finished("cached"))


@slow
def test_the_textbooks_ladder_on_vgg16(vgg16_weights, data, data_dir, tmp_path):
    textbook = {"preset": "textbook", "variant": "end_to_end", "optimizer": "rmsprop"}
    head, metrics = train(
        FeatureExtractConfig(
            **textbook, image_size=32, pooling="none", normalize=False, epochs=1
        ),
        data, tmp_path / "head",
    )  # fmt: skip
    assert metrics["num_trainable"] == (512 + 1) * 256 + 257
    config = FinetuneConfig(**textbook, start=str(head), epochs=1)
    run_dir, tuned = train(config, data, tmp_path / "tuned")
    assert tuned["num_trainable"] == metrics["num_trainable"] + 3 * (9 * 512 + 1) * 512
    for old, new in zip(load_model(head).weights, load_model(run_dir).weights, strict=True):
        if "block" in old.path:
            assert np.array_equal(old, new) == ("block5" not in old.path), old.path
    assert evaluate(run_dir, data_dir)["test"]["num_images"] == 32
