"""The stages from end to end on a tiny data set: what they open, write, refuse and repeat."""

import csv
import dataclasses
import functools
import json
import shutil
import zipfile

import keras
import numpy as np
import pytest

from catsdogs import console
from catsdogs.config import FeatureExtractConfig, FinetuneConfig, ScratchConfig
from catsdogs.data.images import load_split
from catsdogs.data.manifest import load_manifest
from catsdogs.data.sources import open_source
from catsdogs.data.splits import prepare
from catsdogs.errors import InputError
from catsdogs.evaluation.calibration import apply_temperature
from catsdogs.evaluation.metrics import class_probabilities, evaluate_predictions
from catsdogs.models import networks as models
from catsdogs.models.model_file import load_model, load_saved_model
from catsdogs.stages import checkpoint as run_state
from catsdogs.stages import evaluate as evaluate_run
from catsdogs.stages import run as runs
from catsdogs.stages import stage_run
from catsdogs.stages import training_stages as stages
from catsdogs.stages.start import keep_start

# The book's convnet is compiled in a third of the residual one's time; the rest is as in `best`.
SCRATCH = ScratchConfig(
    architecture="textbook", image_size=48, epochs=3, batch_size=16, precision="float32"
)
EXTRACT = FeatureExtractConfig(image_size=32, epochs=8, batch_size=16, precision="float32")
TUNE = FinetuneConfig(epochs=1, precision="float32", smoke=True)

FINISHED = {
    "config.json", "environment.json", "history.csv", "metrics.json", "model.keras", "curves.png",
}  # fmt: skip
EVALUATED = FINISHED | {
    "predictions.csv", "confusion.png", "roc.png", "reliability.png", "report.html",
}  # fmt: skip


def files_in(folder):
    return {path.name for path in folder.iterdir()}


def recomputed(split, run_dir, data_dir, temperature=1.0):
    """Predictions of the saved model on a split's pictures, measured anew.

    A temperature is taken back out of them.
    """
    _, metrics = runs.load_run(run_dir)
    manifest = load_manifest(data_dir)
    images, labels = load_split(data_dir, manifest, split, metrics["image_size"])
    model = load_model(run_dir)
    probabilities = class_probabilities(model.predict(images.astype(np.float32), verbose=0))
    probabilities = apply_temperature(probabilities, 1 / temperature)
    return evaluate_predictions(labels, probabilities, manifest.classes)


@pytest.fixture(scope="module")
def opened():
    """Which splits have been opened, through any door that a stage has."""
    seen = []

    def record(data_dir, manifest, split, image_size):
        seen.append(split)
        return load_split(data_dir, manifest, split, image_size)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage_run, "load_split", record)
        patch.setattr(evaluate_run, "load_split", record)
        yield seen


def flipped_loss(run_dir, data_dir):
    """Test loss of the mean of both mirror images, worked out the plain way."""
    _, metrics = runs.load_run(run_dir)
    images, labels = load_split(data_dir, load_manifest(data_dir), "test", metrics["image_size"])
    model = load_model(run_dir)
    both = [model.predict(np.array(x, np.float32), verbose=0) for x in (images, images[:, :, ::-1])]
    probabilities = class_probabilities(np.mean(both, axis=0))
    return evaluate_predictions(labels, probabilities, metrics["classes"])["loss"]


@pytest.fixture(scope="module")
def scratch_run(data_dir, opened, tmp_path_factory):
    """A finished scratch run, and which splits it had opened."""
    opened.clear()
    run_dir, _ = stages.train_scratch(SCRATCH, data_dir, tmp_path_factory.mktemp("runs") / "s")
    return run_dir, set(opened)


@pytest.fixture(scope="module")
def tuned_run(data_dir, opened, vgg16_weights, tmp_path_factory):
    """A finished fine-tuning that had to make its start itself."""
    opened.clear()
    run_dir, _ = stages.finetune(TUNE, data_dir, tmp_path_factory.mktemp("runs") / "tuned")
    return run_dir, set(opened)


@pytest.fixture(scope="module")
def start_run(tuned_run):
    """The feature extraction that the fine-tuning made."""
    return tuned_run[0].with_name("feature_extract-best-cached-seed0")


@pytest.mark.parametrize("run", ["scratch_run", "tuned_run"])
def test_run_is_whole_and_never_saw_the_test_split(run, request, data_dir):
    run_dir, opened = request.getfixturevalue(run)
    assert files_in(run_dir) == FINISHED
    assert opened == {"train", "validation"}

    config, metrics = runs.load_run(run_dir)
    history = runs.read_history(run_dir)
    assert len(history["loss"]) == config["epochs"]
    assert metrics["best_epoch"] == 1 + int(np.argmin(history["val_loss"]))
    assert "test" not in metrics
    assert metrics["dataset_digest"] == load_manifest(data_dir).digest
    assert (metrics["num_train"], metrics["validation"]["num_images"]) == (64, 32)
    assert metrics["cold"] is True
    assert metrics["wall_seconds"] > 0 and metrics["peak_rss_mb"] > 100
    assert metrics["environment"]["packages"]["keras"] == keras.version()


@pytest.mark.parametrize("run", ["scratch_run", "tuned_run"])
def test_saved_model_is_the_one_that_was_measured(run, request, data_dir):
    run_dir, _ = request.getfixturevalue(run)
    _, metrics = runs.load_run(run_dir)
    found = recomputed("validation", run_dir, data_dir)
    assert found["accuracy"] == metrics["validation"]["accuracy"]
    assert found["loss"] == pytest.approx(metrics["validation"]["loss"], rel=0.01)
    # The model is calibrated, the history is of the one before.
    best = min(runs.read_history(run_dir)["val_loss"])
    before = recomputed("validation", run_dir, data_dir, metrics["temperature"])
    assert before["loss"] == pytest.approx(best, rel=2e-3)
    assert metrics["temperature"] != 1 and found["loss"] <= before["loss"] + 0.02
    saved = load_saved_model(run_dir)
    assert (saved.classes, saved.image_size) == (("cat", "dog"), metrics["image_size"])
    assert saved.temperature == metrics["temperature"]
    assert load_saved_model(run_dir / "model.keras").classes == saved.classes
    with zipfile.ZipFile(run_dir / "model.keras") as archive:  # only what predicting needs
        assert b"optimizer" not in archive.read("config.json")
        size = archive.getinfo("model.weights.h5").file_size
    assert size < 4.1 * metrics["num_parameters"] + 100_000


def test_fine_tuning_makes_its_start_and_trains_block5_alone(start_run, tuned_run):
    config, metrics = runs.load_run(start_run)
    assert config["stage"] == "feature_extract" and config["variant"] == "cached"
    assert files_in(start_run) == FINISHED and metrics["num_trainable"] < 200_000
    before, after = load_model(start_run), load_model(tuned_run[0])
    for old, new in zip(before.weights, after.weights, strict=True):
        if "block" in old.path:
            same = old.numpy().tobytes() == new.numpy().tobytes()
            assert same == ("block5" not in old.path), old.path
    _, tuned = runs.load_run(tuned_run[0])
    assert tuned["num_trainable"] == metrics["num_trainable"] + 3 * (3 * 3 * 512 + 1) * 512
    assert tuned["image_size"] == metrics["image_size"] == 64


def test_fine_tuning_again_is_warm_and_the_same(tuned_run, data_dir, opened):
    again, metrics = stages.finetune(TUNE, data_dir, tuned_run[0])
    assert (metrics["cold"], metrics["warm"]) == (False, True)
    assert again == tuned_run[0].with_name("tuned-2")
    assert (again / "history.csv").read_text() == (tuned_run[0] / "history.csv").read_text()
    shutil.rmtree(again)


def stop_in_the_second_epoch(train, config, data_dir, run_dir):
    save = run_state.RunState.on_epoch_end

    def stop(self, epoch, logs=None):
        if epoch == 1:
            raise KeyboardInterrupt
        save(self, epoch, logs)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(run_state.RunState, "on_epoch_end", stop)
        train(config, data_dir, run_dir)
    assert "model.keras" not in files_in(run_dir)


def assert_same_end(run_dir, straight):
    assert files_in(run_dir) == FINISHED
    assert (run_dir / "history.csv").read_text() == (straight / "history.csv").read_text()
    weights = [load_model(folder).get_weights() for folder in (run_dir, straight)]
    for resumed, expected in zip(*weights, strict=True):
        np.testing.assert_array_equal(resumed, expected)


def test_stopped_stage_goes_on_to_the_same_end(scratch_run, data_dir, tmp_path):
    straight, _ = scratch_run
    stop_in_the_second_epoch(stages.train_scratch, SCRATCH, data_dir, tmp_path / "run")
    with pytest.raises(InputError, match="--resume"):
        stages.train_scratch(SCRATCH, data_dir, tmp_path / "run")
    with pytest.raises(InputError, match=r"seed=0 \(not 1\)"):
        other = dataclasses.replace(SCRATCH, seed=1)
        stages.train_scratch(other, data_dir, tmp_path / "run", resume=True)

    earlier = run_state.completed_seconds(tmp_path / "run")
    run_dir, metrics = stages.train_scratch(SCRATCH, data_dir, tmp_path / "run", resume=True)
    assert metrics["cold"] and metrics["wall_seconds"] > earlier > 0.1  # both parts count
    assert_same_end(run_dir, straight)


@pytest.mark.parametrize(
    "stage, config",
    [
        ("train_scratch", ScratchConfig(smoke=True)),
        ("train_feature_extract", FeatureExtractConfig(variant="end_to_end", smoke=True)),
    ],
    ids=["scratch", "end_to_end"],
)
def test_other_recipes_go_on_to_the_same_end(stage, config, vgg16_weights, data_dir, tmp_path):
    """The residual net on growing crops; the frozen base run anew in every epoch."""
    train = getattr(stages, stage)
    straight, _ = train(config, data_dir, tmp_path / "straight")
    stop_in_the_second_epoch(train, config, data_dir, tmp_path / "run")
    run_dir, _ = train(config, data_dir, tmp_path / "run", resume=True)
    assert_same_end(run_dir, straight)


@pytest.mark.parametrize(
    "changes",
    [
        {"architecture": "residual", "image_size": 40, "crop_size": 32},
        {"preset": "textbook", "augmentation": "book", "optimizer": "rmsprop"},
        {"augmentation": "none", "dropout": 0.0},
    ],
    ids=["residual", "book", "none"],
)
def test_other_ways_from_scratch(changes, data_dir, tmp_path, monkeypatch):
    # Two blocks instead of eight: what takes long is to compile them.
    few_blocks = functools.partial(models.build_residual_convnet, widths=(8, 16), blocks=1)
    monkeypatch.setattr(models, "build_residual_convnet", few_blocks)
    config = dataclasses.replace(SCRATCH, epochs=1, **changes)
    run_dir, metrics = stages.train_scratch(config, data_dir, tmp_path / "run")
    assert metrics["variant"] == config.augmentation and files_in(run_dir) == FINISHED


def test_textbook_ladder_end_to_end(data_dir, vgg16_weights, tmp_path, opened):
    book = {"preset": "textbook", "variant": "end_to_end", "optimizer": "rmsprop", "epochs": 1}
    features, _ = stages.train_feature_extract(
        dataclasses.replace(EXTRACT, pooling="none", normalize=False, **book),
        data_dir,
        tmp_path / "features",
    )
    _, metrics = runs.load_run(features)
    assert metrics["num_trainable"] == (512 + 1) * 256 + 257  # nothing is normalised
    settings = dataclasses.replace(TUNE, smoke=False, start=str(features), **book)
    _, metrics = stages.finetune(settings, data_dir, tmp_path / "tuned")
    assert metrics["variant"] == "end_to_end" and metrics["num_trainable"] > 7_000_000
    assert set(opened) == {"train", "validation"}


def test_augmented_features_use_every_view(data_dir, vgg16_weights, tmp_path):
    shutil.rmtree(data_dir / "features", ignore_errors=True)
    config = dataclasses.replace(EXTRACT, variant="augmented", views=3)
    _, metrics = stages.train_feature_extract(config, data_dir, tmp_path / "run")
    made = sorted(path.name for path in (data_dir / "features").glob("train-*-average_pool-32-*"))
    assert [name.split("-")[1] for name in made] == ["view0", "view1", "view2"]
    assert metrics["cold"] and metrics["validation"]["accuracy"] > 0.8


@pytest.mark.parametrize("run", ["scratch_run", "tuned_run"])
def test_evaluate_measures_the_test_split(run, request, data_dir, tmp_path):
    finished, _ = request.getfixturevalue(run)
    run_dir = shutil.copytree(finished, tmp_path / "run")
    metrics = evaluate_run.evaluate(run_dir)
    assert files_in(run_dir) == EVALUATED
    assert json.loads((run_dir / "metrics.json").read_text()) == metrics
    assert metrics["test"]["num_images"] == 32 and "validation" in metrics
    before = recomputed("test", run_dir, data_dir, metrics["temperature"])["calibration_error"]
    assert metrics["test"]["calibration_error_unscaled"] == pytest.approx(before, abs=2e-3)
    for parts in metrics["test"]["slices"].values():
        assert sum(part["num_images"] for part in parts) == 32
        right = sum(part["num_images"] * part["accuracy"] for part in parts)
        assert right == pytest.approx(32 * metrics["test"]["accuracy"])

    with open(run_dir / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    names = [file.name for file in load_manifest(data_dir).split("test")]
    assert [row["file"] for row in rows] == names
    assert all(f"/{row['label']}/" in row["file"] for row in rows)
    right = [row["prediction"] == row["label"] for row in rows]
    assert np.mean(right) == metrics["test"]["accuracy"]
    for row in rows:
        cat, dog = float(row["probability_of_cat"]), float(row["probability_of_dog"])
        assert cat + dog == pytest.approx(1, abs=2e-6)
        assert row["prediction"] == ("dog" if dog > 0.5 else "cat")
    assert "test_flip" not in metrics
    both = evaluate_run.evaluate(run_dir, data_dir, flip=True)
    assert both["test"] == metrics["test"]
    assert both["test_flip"]["num_images"] == 32
    assert both["test_flip"]["loss"] == pytest.approx(flipped_loss(run_dir, data_dir), rel=0.01)


@pytest.mark.parametrize(
    "settings",
    [
        dataclasses.replace(SCRATCH, augmentation="strong", mixup=0.5, epochs=12),
        dataclasses.replace(EXTRACT, epochs=20),
    ],
    ids=["scratch", "features"],
)
def test_three_classes(settings, three_classes, vgg16_weights, tmp_path, capsys):
    train = stages.train_scratch if settings.__class__ is ScratchConfig else None
    run_dir, metrics = (train or stages.train_feature_extract)(
        settings, three_classes, tmp_path / "run"
    )
    assert metrics["classes"] == ["apple", "leaf", "sky"]
    model = load_model(run_dir)
    assert model.output.shape == (None, 3)
    found = recomputed("validation", run_dir, three_classes)
    assert metrics["validation"]["confusion_matrix"] == found["confusion_matrix"]
    assert metrics["validation"]["loss"] == pytest.approx(found["loss"], rel=1e-3)
    test = evaluate_run.evaluate(run_dir, flip=True)["test"]
    assert test["accuracy"] > 0.7 and test["roc_auc"] > 0.85
    assert np.shape(test["confusion_matrix"]) == (3, 3)
    with open(run_dir / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[3:] == [f"probability_of_{name}" for name in metrics["classes"]]
    console.print_evaluation({run_dir: evaluate_run.evaluate(run_dir)})
    mistakes = 0 < test["accuracy"] < 1
    assert ("pictures taken for" if mistakes else "no mistakes") in capsys.readouterr().out
    if not train:
        tuned, metrics = stages.finetune(
            dataclasses.replace(TUNE, start=str(run_dir), smoke=False), three_classes,
            tmp_path / "tuned",
        )  # fmt: skip
        assert metrics["validation"]["accuracy"] > 0.7
        assert evaluate_run.evaluate(tuned)["test"]["accuracy"] > 0.7


def test_fine_tuning_passes_over_the_head_of_other_pictures(data_dir, pictures, tmp_path):
    """The data set was prepared anew, and the head of the earlier pictures lies there still."""
    data = shutil.copytree(data_dir, tmp_path / "data")
    run_dir = tmp_path / "runs" / "finetune"
    stages.finetune(TUNE, data, run_dir)
    with open_source(pictures) as source:
        prepare(source, data, train=48, validation=32, test=32, overwrite=True)
    _, metrics = stages.finetune(TUNE, data, run_dir)
    assert metrics["start"]["made"] and metrics["start"]["run"].endswith("-seed0-2")
    _, again = stages.finetune(TUNE, data, run_dir)
    assert not again["start"]["made"] and again["start"]["run"].endswith("-seed0-2")


def test_fine_tuning_passes_over_the_head_of_other_settings(
    start_run, data_dir, tmp_path, vgg16_weights
):
    """Names of folders carry no recipe: another one lies where the head is expected."""
    place = tmp_path / "runs" / start_run.name
    settings = dataclasses.replace(EXTRACT, epochs=1)
    stages.train_feature_extract(settings, data_dir, place)
    shutil.copytree(start_run, place.with_name(f"{place.name}-2"))
    _, metrics = stages.finetune(TUNE, data_dir, tmp_path / "runs" / "tuned")
    assert metrics["start"]["run"] == f"{place.name}-2" and not metrics["start"]["made"]
    assert metrics["start_changes"] == {}
    # Named, it is taken, and what is special about it is kept.
    settings = dataclasses.replace(TUNE, start=str(place))
    _, metrics = stages.finetune(settings, data_dir, tmp_path / "runs" / "named")
    changed = metrics["start_changes"]
    assert (changed["image_size"], changed["epochs"], changed["smoke"]) == (32, 1, False)
    assert "dropout" not in changed


def test_evaluate_refuses_other_data(scratch_run, pictures, tmp_path):
    run_dir = shutil.copytree(scratch_run[0], tmp_path / "run")
    with open_source(pictures) as source:
        prepare(source, tmp_path / "other", train=60, validation=30, test=30)
    with pytest.raises(InputError, match="training pictures might be in its test split"):
        evaluate_run.evaluate(run_dir, tmp_path / "other")
    with pytest.raises(InputError, match=r"found no manifest\.json"):
        evaluate_run.evaluate(run_dir, tmp_path / "absent")
    assert files_in(run_dir) == FINISHED


@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "flipped", "text"])
def test_broken_model_is_an_error(scratch_run, tmp_path, damage):
    path = shutil.copytree(scratch_run[0], tmp_path / "run") / "model.keras"
    content = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    else:
        content[len(content) // 2] ^= 0xFF
        half = bytes(content[: len(content) // 2])
        path.write_bytes({"empty": b"", "truncated": half, "text": b"hello"}.get(damage, content))
    with pytest.raises(InputError, match=r"Expected a .*model at .*model\.keras") as caught:
        load_model(path.parent)
    assert "\n" not in str(caught.value)


def test_fine_tuning_refuses_a_wrong_start(
    scratch_run, start_run, data_dir, tmp_path, vgg16_weights
):
    for start, message in (
        (scratch_run[0], r"--start to be a feature-extraction run.*a scratch run"),
        (tmp_path / "absent", "found nothing at"),
    ):
        with pytest.raises(InputError, match=message):
            settings = dataclasses.replace(TUNE, start=str(start))
            stages.finetune(settings, data_dir, tmp_path / "run")
    # A head that was trained on other splits may have seen test pictures.
    other = shutil.copytree(start_run, tmp_path / "other")
    metrics = json.loads((other / "metrics.json").read_text())
    (other / "metrics.json").write_text(json.dumps({**metrics, "dataset_digest": "another"}))
    with pytest.raises(InputError, match="other pictures or splits"):
        stages.finetune(dataclasses.replace(TUNE, start=str(other)), data_dir, tmp_path / "run")
    # Two epochs on a few small images are no start for a run whose figures will be believed.
    with pytest.raises(InputError, match=r"--start to be a full run.*made with --smoke"):
        settings = dataclasses.replace(TUNE, start=str(start_run), smoke=False)
        stages.finetune(settings, data_dir, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_weights_with_one_byte_changed(data_dir, vgg16_weights, tmp_path):
    content = bytearray(vgg16_weights.read_bytes())
    content[20_000_000] ^= 1
    broken = tmp_path / f"weights{vgg16_weights.suffix}"
    broken.write_bytes(content)
    config = dataclasses.replace(EXTRACT, weights=str(broken))
    with pytest.raises(InputError, match=r"Expected VGG16's block\d_conv\d kernel.*SHA-256"):
        stages.train_feature_extract(config, data_dir, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_training_stage_cannot_open_the_test_split(data_dir, tmp_path):
    opened = stage_run.StageRun("scratch", SCRATCH, "none", data_dir, tmp_path / "run", False)
    with opened as stage, pytest.raises(ValueError, match="split='test'"):
        stage.load("test", 32)


def test_a_run_goes_on_from_the_same_head_alone(tmp_path):
    for name in ("head", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.keras").write_text(name)
    run_dir = tmp_path / "run"
    keep_start(run_dir, tmp_path / "head")
    keep_start(run_dir, tmp_path / "other")  # nothing has been trained from it yet
    (run_dir / "state" / "epoch-0001.npz").touch()
    keep_start(run_dir, tmp_path / "other")
    with pytest.raises(InputError, match="received another one"):
        keep_start(run_dir, tmp_path / "head")
