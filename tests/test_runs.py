"""The run folder: never overwritten, resumed only with the same settings, readable or said why."""

import importlib.metadata
import json
import os

import pytest
from conftest import METRICS

from catsdogs.errors import InputError
from catsdogs.files import write_json
from catsdogs.stages import environment
from catsdogs.stages import run as runs

SETTINGS = {
    "stage": "scratch", "data_dir": "data/x", "smoke": False, "epochs": 10,
    "learning_rate": 0.001, "seed": 0, "start": None,
}  # fmt: skip
HEADER = "epoch,loss,accuracy,val_loss,val_accuracy"
HISTORY = {
    "loss": [0.7, 1 / 3, 1e-7],
    "accuracy": [0.5, 0.75, 1.0],
    "val_loss": [0.8, 12345.678, 2.0],
    "val_accuracy": [0.5, 0.5, 0.25],
}


def open_run(*arguments, **options):
    """Opens a run and leaves it at once."""
    with runs.open_run(*arguments, **options) as folder:
        return folder


def finish(run_dir):
    write_json(run_dir / "metrics.json", METRICS)


@pytest.fixture
def stopped(tmp_path):
    """A run that was stopped after three epochs."""
    run_dir = open_run(SETTINGS, tmp_path / "run")
    runs.write_history(run_dir, HISTORY)
    return run_dir


def test_new_run_says_what_it_is(tmp_path):
    run_dir = open_run(SETTINGS, tmp_path / "deep" / "run")
    assert run_dir == tmp_path / "deep" / "run"
    assert json.loads((run_dir / "config.json").read_text()) == SETTINGS
    assert json.loads((run_dir / "environment.json").read_text())["python"]
    assert not runs.is_complete(run_dir)


def test_finished_runs_are_left_alone(tmp_path):
    first = open_run(SETTINGS, tmp_path / "run")
    finish(first)
    before = {path: path.read_bytes() for path in first.iterdir()}
    second = open_run({**SETTINGS, "seed": 1}, tmp_path / "run")
    finish(second)
    assert open_run({**SETTINGS, "seed": 1}, tmp_path / "run", resume=True) == second
    with pytest.raises(InputError, match=r"run-2 was started with: seed=1 \(not 0\)"):
        open_run(SETTINGS, tmp_path / "run", resume=True)
    third = open_run(SETTINGS, tmp_path / "run")
    assert [second.name, third.name] == ["run-2", "run-3"]
    assert {path: path.read_bytes() for path in first.iterdir()} == before


def test_a_resumed_run_says_where_it_began_and_where_it_went_on(stopped, monkeypatch):
    path = stopped / "environment.json"
    begun = json.loads(path.read_text())
    open_run(SETTINGS, stopped, resume=True)
    assert json.loads(path.read_text()) == begun
    monkeypatch.setattr(runs, "describe_environment", lambda: {**begun, "commit": "later"})
    open_run(SETTINGS, stopped, resume=True)
    assert json.loads(path.read_text()) == {**begun, "resumed": [{"commit": "later"}]}
    path.write_text(json.dumps({**begun, "resumed": 3}))
    with pytest.raises(InputError, match="Start another run"):
        open_run(SETTINGS, stopped, resume=True)


def test_stopped_run_needs_resume(stopped):
    before = {path: path.read_bytes() for path in stopped.iterdir()}
    with pytest.raises(InputError, match=r"stopped run.*--resume.*--run-dir"):
        open_run(SETTINGS, stopped)
    assert {path: path.read_bytes() for path in stopped.iterdir()} == before
    assert open_run(SETTINGS, stopped, resume=True) == stopped
    assert runs.read_history(stopped)["loss"][0] == 0.7


def test_resume_starts_what_was_stopped_before_it_began(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".part-config.json").touch()  # killed while it was written
    for resume in (True, False):
        assert open_run(SETTINGS, tmp_path / "run", resume=resume) == tmp_path / "run"
    assert open_run(SETTINGS, tmp_path / "new", resume=True) == tmp_path / "new"


def test_unfinished_runs_are_left_out_among_several(tmp_path, stopped):
    done = open_run(SETTINGS, tmp_path / "done")
    finish(done)
    assert runs.finished_runs([done, stopped]) == ([done], [stopped])
    assert runs.finished_runs([stopped]) == ([stopped], [])  # alone, it is worth an error


def test_changed_settings_are_named(stopped):
    changed = {**SETTINGS, "epochs": 20, "start": "elsewhere"}
    with pytest.raises(InputError) as caught:
        open_run(changed, stopped, resume=True)
    message = str(caught.value)
    assert "epochs=10 (not 20)" in message and "start=None (not 'elsewhere')" in message
    assert "learning_rate" not in message and "\n" not in message
    assert json.loads((stopped / "config.json").read_text()) == SETTINGS


def test_run_that_never_finished_an_epoch_is_begun_anew(tmp_path):
    run_dir = open_run({**SETTINGS, "start": "a wrong path"}, tmp_path / "run")
    (run_dir / "state").mkdir()
    (run_dir / "tensorboard").mkdir()  # is there before the first epoch ends
    assert open_run(SETTINGS, run_dir) == run_dir
    assert open_run(SETTINGS, run_dir, resume=True) == run_dir
    assert json.loads((run_dir / "config.json").read_text()) == SETTINGS


def test_a_refused_run_leaves_no_folder(tmp_path, stopped):
    with pytest.raises(InputError), runs.open_run(SETTINGS, tmp_path / "deep" / "new") as run_dir:
        (run_dir / "tensorboard").mkdir()
        raise InputError
    assert not (tmp_path / "deep").exists()
    # A run that has something to lose keeps it, whatever becomes of it.
    before = {path: path.read_bytes() for path in stopped.iterdir()}
    with pytest.raises(InputError), runs.open_run(SETTINGS, stopped, resume=True):
        raise InputError
    assert {path: path.read_bytes() for path in stopped.iterdir()}.keys() == before.keys()
    with pytest.raises(KeyboardInterrupt), runs.open_run(SETTINGS, tmp_path / "other"):
        raise KeyboardInterrupt
    assert open_run(SETTINGS, tmp_path / "other", resume=True)


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_is_not_a_run_is_left_alone(tmp_path, kind):
    place = tmp_path / "thesis"
    if kind == "folder":
        place.mkdir()
        (place / "chapter1.txt").write_text("words")
    else:
        place.write_text("words")
    with pytest.raises(InputError, match="Choose another --run-dir"):
        open_run(SETTINGS, place)
    assert len(list(tmp_path.rglob("*"))) == (2 if kind == "folder" else 1)


def test_missing_unfinished_and_corrupt_runs(tmp_path, stopped):
    with pytest.raises(InputError, match=r"found nothing at .*nowhere.*train_scratch"):
        runs.load_run(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"no metrics\.json.*--resume"):
        runs.load_run(stopped)
    finish(stopped)
    assert runs.load_run(stopped) == (SETTINGS, METRICS)
    for broken in ("[1]", "{}"):  # JSON, but nothing that a run of this version leaves
        (stopped / "metrics.json").write_text(broken)
        with pytest.raises(InputError, match=r"metrics\.json as this version.*Train the run again"):
            runs.load_run(stopped)
    (stopped / "metrics.json").write_text('{"stage": ')
    with pytest.raises(InputError, match=r"Expected JSON in .*metrics\.json"):
        runs.load_run(stopped)
    (stopped / "config.json").write_text("")
    with pytest.raises(InputError, match=r"config\.json"):
        runs.load_run(stopped)


def test_history_round_trip(stopped):
    lines = (stopped / "history.csv").read_text().splitlines()
    assert lines[0] == "epoch,loss,accuracy,val_loss,val_accuracy"
    assert lines[1:3] == ["1,0.7,0.5,0.8,0.5", "2,0.333333,0.75,12345.7,0.5"]
    found = runs.read_history(stopped)
    assert list(found) == list(HISTORY)
    for name, values in HISTORY.items():
        assert found[name] == pytest.approx(values, rel=1e-5)
    runs.write_history(stopped, found)  # what has been rounded once stays as it is
    assert runs.read_history(stopped) == found


@pytest.mark.parametrize(
    "content",
    ["", "epoch,loss\n", "epoch,loss\n1,0.5\n", f"{HEADER}\n1,many,1,1,1\n", f"{HEADER}\n1,0.5\n"],
)
def test_broken_history_is_an_error(tmp_path, content):
    with pytest.raises(InputError, match="Is this a run folder"):
        runs.read_history(tmp_path)
    (tmp_path / "history.csv").write_text(content)
    with pytest.raises(InputError, match=r"history\.csv, received something else"):
        runs.read_history(tmp_path)


def test_environment(monkeypatch):
    found = environment.describe_environment()
    assert set(found) == {
        "commit", "python", "packages", "backend", "system", "processor", "cores", "started",
    }  # fmt: skip
    assert found["packages"]["tensorflow"] == importlib.metadata.version("tensorflow")
    assert found["processor"] and found["cores"] >= 1
    assert found["started"].endswith("+00:00")
    json.dumps(found)
    monkeypatch.setenv("PATH", "")  # no git: the commit is unknown, the run goes on
    assert environment.describe_environment()["commit"] is None


def test_peak_memory_is_in_megabytes():
    assert 10 < environment.peak_memory_mb() < 100_000


@pytest.mark.parametrize("place", [".", "..", "../run"])
def test_a_finished_run_where_one_stands_gets_a_number(place, tmp_path, monkeypatch):
    finished = tmp_path / "run"
    write_json(finished / "metrics.json", {})
    (finished / "inside").mkdir()
    monkeypatch.chdir(finished / "inside" if place == ".." else finished)
    with runs.open_run(SETTINGS, place) as folder:
        assert folder.resolve() == tmp_path / "run-2"


def test_pipes_are_not_waited_for(tmp_path):
    for name in ("metrics.json", "config.json", "history.csv"):
        os.mkfifo(tmp_path / name)
    for read in (runs.load_run, runs.read_history):
        with pytest.raises(InputError, match="found no"):
            read(tmp_path)
