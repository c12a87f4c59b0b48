"""The run folder: never overwritten, and resumed with the same settings only."""

import dataclasses
import importlib.metadata
import importlib.util
import json
import pathlib

import keras
import numpy as np
import pytest
from conftest import METRICS

from catsdogs.config import ScratchConfig
from catsdogs.data.manifest import load_manifest
from catsdogs.errors import InputError
from catsdogs.files import read_history, write_history, write_json
from catsdogs.stages.checkpoint import Checkpoint
from catsdogs.stages.run import (
    describe_environment,
    is_complete,
    load_run,
    open_run,
    peak_memory_mb,
    subset,
    validation_folder,
)

CONFIG = ScratchConfig(epochs=10, precision="float32")
HISTORY = {
    "loss": [0.7, 1 / 3, 1e-7],
    "accuracy": [0.5, 0.75, 1.0],
    "val_loss": [0.8, 12345.678, 2.0],
    "val_accuracy": [0.5, 0.5, 0.25],
}


@pytest.fixture
def open_at(data_dir):
    """A function that opens a run, leaves it at once and returns its folder."""

    def open_at(run_dir, config=CONFIG, **options):
        with open_run("scratch", "strong", config, data_dir, run_dir, **options) as run:
            return run.dir

    return open_at


def finish(run_dir):
    write_json(run_dir / "metrics.json", METRICS)
    return run_dir


@pytest.fixture
def interrupted(open_at, tmp_path):
    """A run that was interrupted after its first epoch."""
    run_dir = open_at(tmp_path / "run")
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    checkpoint = Checkpoint(run_dir, "", 0)
    checkpoint.set_model(model)
    logs = ("loss", "cross_entropy", "accuracy", "val_loss", "val_cross_entropy", "val_accuracy")
    checkpoint.on_epoch_end(0, dict.fromkeys(logs, 0.5))
    return run_dir


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ---- Opening ----


def test_a_new_run_records_its_settings_and_environment(data_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with open_run("scratch", "strong", CONFIG, data_dir) as run:
        assert run.dir == pathlib.Path("runs/dark-and-bright/scratch-best-strong-seed0")
        assert (run.epoch, run.resumed, run.is_complete, run.num_classes) == (0, False, False, 2)
        assert json.loads((run.dir / "config.json").read_text()) == {
            "stage": "scratch", "variant": "strong", "data_dir": str(data_dir),
            "dataset_digest": load_manifest(data_dir).digest, **dataclasses.asdict(CONFIG),
        }  # fmt: skip
        assert json.loads((run.dir / "environment.json").read_text())["python"]
    with open_run("scratch", "basic", dataclasses.replace(CONFIG, smoke=True), data_dir) as run:
        assert run.dir.parent == pathlib.Path("runs/dark-and-bright-smoke")
        assert (run.config.epochs, run.config.image_size) == (2, 64)


def test_precision_and_seed_are_set(data_dir, tmp_path):
    drawn = []
    for number, seed in enumerate((3, 3, 4)):
        config = ScratchConfig(precision="mixed_bfloat16", seed=seed)
        with open_run("scratch", "strong", config, data_dir, tmp_path / f"{number}") as run:
            assert run.precision == "mixed_bfloat16" == keras.config.dtype_policy().name
            drawn.append(np.array(keras.random.normal((3,))).tolist())
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_finished_run_is_never_overwritten(open_at, tmp_path):
    first = finish(open_at(tmp_path / "run"))
    before = contents(first)
    second = finish(open_at(tmp_path / "run"))
    third = open_at(tmp_path / "run")
    assert [second.name, third.name] == ["run-2", "run-3"]
    finish(third)
    assert open_at(tmp_path / "run", resume=True) == third  # the newest is returned as it is
    assert contents(first) == before


@pytest.mark.parametrize("place", [".", ".."])
def test_a_relative_path_to_a_finished_run_gets_a_number(place, tmp_path, open_at, monkeypatch):
    finished = tmp_path / "run"
    finished.mkdir()
    finish(finished)
    (finished / "inside").mkdir()
    monkeypatch.chdir(finished / "inside" if place == ".." else finished)
    assert open_at(place).resolve() == tmp_path / "run-2"


def test_an_interrupted_run_needs_resume(interrupted, open_at):
    before = contents(interrupted)
    with pytest.raises(InputError, match=r"interrupted run.*--resume.*--run-dir"):
        open_at(interrupted)
    assert contents(interrupted) == before
    assert open_at(interrupted, resume=True) == interrupted
    assert contents(interrupted) == before
    assert open_at(interrupted.with_name("new"), resume=True).name == "new"


def test_other_settings_are_refused_by_name(interrupted, open_at, three_classes):
    before = contents(interrupted)
    with pytest.raises(InputError) as caught:
        open_at(interrupted, dataclasses.replace(CONFIG, epochs=20, dropout=0.5), resume=True)
    message = str(caught.value)
    assert "epochs=10 (not 20)" in message and "dropout=0.3 (not 0.5)" in message
    assert "learning_rate" not in message and "\n" not in message
    with (
        pytest.raises(InputError, match="dataset_digest="),
        open_run("scratch", "strong", CONFIG, three_classes, interrupted, resume=True),
    ):
        pass
    assert contents(interrupted) == before


def test_a_run_that_never_finished_an_epoch_starts_anew(tmp_path, open_at):
    run_dir = open_at(tmp_path / "run")
    (run_dir / "tensorboard").mkdir()  # is there before the first epoch ends
    changed = dataclasses.replace(CONFIG, epochs=20)
    for resume in (False, True):
        assert open_at(run_dir, changed, resume=resume) == run_dir
    assert json.loads((run_dir / "config.json").read_text())["epochs"] == 20


@pytest.mark.parametrize("name", ["", "folder", "file.txt"])
def test_what_is_not_a_run_is_left_alone(tmp_path, open_at, name):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file.txt").write_text("words")
    (tmp_path / "folder" / "chapter.txt").write_text("words")
    with pytest.raises((InputError, NotADirectoryError)):
        open_at(tmp_path / name)
    assert contents(tmp_path).keys() - {f".{tmp_path.name}.lock"} - {
        ".folder.lock", ".file.txt.lock"
    } == {"file.txt", "chapter.txt"}  # fmt: skip


def test_an_interruption_says_where(data_dir, interrupted):
    with (
        pytest.raises(KeyboardInterrupt, match=f"after 1 of 10 epochs of {interrupted}"),
        open_run("scratch", "strong", CONFIG, data_dir, interrupted, resume=True) as run,
    ):
        assert (run.epoch, run.resumed) == (1, True)
        raise KeyboardInterrupt


def test_tensorboard_is_a_callback_if_it_is_installed(data_dir, tmp_path, monkeypatch):
    found = importlib.util.find_spec
    with (
        monkeypatch.context() as patch,
        pytest.raises(InputError, match="pip install tensorboard"),
    ):
        patch.setattr(
            importlib.util, "find_spec", lambda n: (n != "tensorboard" and found(n)) or None
        )
        with open_run("scratch", "x", CONFIG, data_dir, tmp_path / "run", tensorboard=True):
            pass
    assert not (tmp_path / "run").exists()
    pytest.importorskip("tensorboard")
    with open_run("scratch", "x", CONFIG, data_dir, tmp_path / "run", tensorboard=True) as run:
        assert any(isinstance(one, keras.callbacks.TensorBoard) for one in run.callbacks)
        assert run.checkpoint is run.callbacks[0]


# ---- Data ----


def test_a_run_opens_no_test_split(data_dir, tmp_path):
    with (
        open_run("scratch", "strong", CONFIG, data_dir, tmp_path / "run") as run,
        pytest.raises(ValueError, match="Received: split='test'"),
    ):
        run.load_split("test", 32)


@pytest.mark.parametrize("split", ["train", "validation", "test"])
@pytest.mark.parametrize("num_classes", [2, 5])
def test_a_smoke_run_has_images_of_every_class(split, num_classes):
    labels = np.repeat(np.arange(num_classes), 1000)
    counts = np.bincount(subset(labels, split), minlength=num_classes)
    assert counts.min() >= 5 and counts.sum() <= 100
    np.testing.assert_array_equal(subset(labels[::1000], split), np.arange(num_classes))


# ---- Files ----


def test_a_resumed_run_records_what_changed_in_between(interrupted, open_at, monkeypatch):
    path = interrupted / "environment.json"
    begun = json.loads(path.read_text())
    later = {**begun, "commit": "later"}
    monkeypatch.setattr("catsdogs.stages.run.describe_environment", lambda: later)
    open_at(interrupted, resume=True)
    assert json.loads(path.read_text()) == {**begun, "resumed": [{"commit": "later"}]}


def test_missing_unfinished_and_damaged_runs(open_at, tmp_path):
    with pytest.raises(InputError, match=r"finished run at .*nowhere, found nothing.*ls runs"):
        load_run(tmp_path / "nowhere")
    run_dir = open_at(tmp_path / "run")
    with pytest.raises(InputError, match=r"no metrics\.json.*--resume"):
        load_run(run_dir)
    assert not is_complete(run_dir)
    config, metrics = load_run(finish(run_dir))
    assert config == json.loads((run_dir / "config.json").read_text()) and metrics == METRICS
    for damaged in ("[1]", "{}", '{"stage": ', json.dumps(METRICS | {"temperature": -1})):
        (run_dir / "metrics.json").write_text(damaged)
        with pytest.raises(InputError, match=r"metrics\.json: .*Train the run again"):
            load_run(run_dir)
    finish(run_dir)
    (run_dir / "config.json").write_text("")
    with pytest.raises(InputError, match=r"config\.json"):
        load_run(run_dir)


def test_the_validation_pictures_of_a_run(open_at, data_dir, tmp_path):
    run_dir = open_at(tmp_path / "run")
    assert validation_folder(run_dir) == str(data_dir / "validation")
    write_json(run_dir / "config.json", {"stage": "scratch", "data_dir": "gone", "smoke": False})
    with pytest.raises(InputError, match=r"gone/validation, found none\. .*--pictures"):
        validation_folder(run_dir)


def test_history_is_read_as_it_was_written(tmp_path):
    write_history(tmp_path, HISTORY)
    lines = (tmp_path / "history.csv").read_text().splitlines()
    assert lines[0] == "epoch,loss,accuracy,val_loss,val_accuracy"
    assert lines[1:3] == ["1,0.7,0.5,0.8,0.5", "2,0.333333,0.75,12345.7,0.5"]
    found = read_history(tmp_path)
    assert found.keys() == HISTORY.keys()
    for name, values in HISTORY.items():
        assert found[name] == pytest.approx(values, rel=1e-5)
    write_history(tmp_path, found)  # what has been rounded once stays as it is
    assert read_history(tmp_path) == found
    with pytest.raises(InputError, match="Is this a run folder"):
        read_history(tmp_path / "nowhere")


def test_the_environment_is_described_without_git_too(monkeypatch):
    found = describe_environment()
    assert found["packages"]["tensorflow"] == importlib.metadata.version("tensorflow")
    assert found["processor"] and found["cores"] >= 1 and found["started"].endswith("+00:00")
    assert json.loads(json.dumps(found)) == found
    assert 10 < peak_memory_mb() < 100_000
    monkeypatch.setenv("PATH", "")
    assert describe_environment()["commit"] is None
