"""The ladder and the sweep: what is run, in which order, and when they stop."""

import json
import pathlib
import types

import ladder
import pytest
from conftest import METRICS

from catsdogs import config
from catsdogs.errors import InputError

STEPS = tuple(ladder.Step("train_scratch", f"run-{i}", ("--seed", str(i))) for i in range(3))


def write_run(run_dir, **metrics):
    """Writes what a finished run says of itself."""
    run_dir.mkdir()
    metrics = {**METRICS, **metrics}
    config = {"stage": metrics["stage"], "data_dir": "data", "smoke": metrics["config"]["smoke"]}
    (run_dir / "config.json").write_text(json.dumps(config))
    (run_dir / "metrics.json").write_text(json.dumps(metrics))


@pytest.fixture
def commands(monkeypatch):
    """Stands in for the processes: notes each command and leaves what a run would leave."""
    seen = []

    def run(command, name):
        words = list(map(str, command))
        seen.append((pathlib.Path(words[0]).stem, name, words))
        if "--run-dir" in words:
            run_dir = pathlib.Path(words[words.index("--run-dir") + 1])
            run_dir.mkdir(parents=True)
            (run_dir / "metrics.json").write_text(json.dumps({"validation": {}}))
        else:
            path = pathlib.Path(words[-1]) / "metrics.json"
            path.write_text(json.dumps({"test": {}, **json.loads(path.read_text())}))

    monkeypatch.setattr(ladder, "_run", run)
    monkeypatch.setattr(ladder, "_check_run", lambda *_: None)
    return seen


def test_the_ladder_trains_and_evaluates_and_goes_on(commands, tmp_path):
    run_dirs = ladder.climb(STEPS[:2], "data", tmp_path)
    assert [path.name for path in run_dirs] == ["run-0", "run-1"]
    assert [script for script, *_ in commands] == ["train_scratch", "evaluate"] * 2
    assert "--flip" in commands[1][2]
    commands.clear()
    assert len(ladder.climb(STEPS, "data", tmp_path)) == 3
    assert [name for _, name, _ in commands] == ["run-2", "evaluation of run-2"]


def test_a_sweep_never_opens_the_test_split_and_ends_in_time(commands, tmp_path, monkeypatch):
    clock = iter((0, 1, 119, 121))
    monkeypatch.setattr(ladder.time, "monotonic", lambda: next(clock))
    run_dirs = ladder.climb(STEPS, "data", tmp_path, evaluate=False, minutes=2)
    assert [path.name for path in run_dirs] == ["run-0", "run-1"]
    assert [script for script, *_ in commands] == ["train_scratch"] * 2


def test_a_sweep_is_told_best_first(tmp_path, monkeypatch, capsys):
    losses = {"good": 0.1, "bad": 0.5}
    monkeypatch.setattr(
        ladder.runs, "load_run",
        lambda path: (
            {}, {"validation": {"loss": losses[path.name], "accuracy": 0.9}, "wall_seconds": 90},
        ),
    )  # fmt: skip
    ladder.print_sweep([tmp_path / "bad", tmp_path / "good"], tmp_path)
    printed = capsys.readouterr().out
    assert printed.index("good") < printed.index("bad") and "1.5" in printed
    assert (tmp_path / "sweep.csv").read_text() == (
        "loss,accuracy,seconds,run\n0.1,0.9,90,good\n0.5,0.9,90,bad\n"
    )


@pytest.mark.parametrize(
    "changed, told",
    [
        ({}, None),
        ({"weights": "elsewhere", "pooled_only": True, "views": 5}, None),  # without effect here
        ({"image_size": 256}, "image_size=256"),
        ({"smoke": True}, "smoke=True"),
        ({"seed": 4}, "seed=4"),
    ],
)
def test_a_finished_run_of_other_settings_is_not_taken(tmp_path, monkeypatch, changed, told):
    monkeypatch.setattr(ladder, "load_manifest", lambda _: types.SimpleNamespace(digest="d1"))
    step = ladder.Step("train_feature_extract", "head", ("--seed", "3"))
    settings = {**vars(config.FEATURE_EXTRACT["best"]), "seed": 3, **changed}
    write_run(tmp_path / "head", stage="feature_extract", config=settings)
    if told is None:
        ladder.climb([step], "data", tmp_path, evaluate=False)
        return
    with pytest.raises(InputError, match=told) as caught:
        ladder.climb([step], "data", tmp_path, evaluate=False)
    assert "train_feature_extract --seed 3" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_finished_fine_tuning_of_another_start_is_not_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(ladder, "load_manifest", lambda _: types.SimpleNamespace(digest="d1"))
    settings = {**vars(config.FINETUNE["best"]), "start": "runs/other/head"}
    write_run(tmp_path / "tuned", stage="finetune", config=settings)
    step = ladder.Step("finetune", "tuned", start="head")  # wherever the folder of runs is now
    assert ladder.climb([step], "data", tmp_path, evaluate=False) == [tmp_path / "tuned"]
    for start in (None, "another"):
        with pytest.raises(InputError, match="start='runs/other/head'"):
            step = ladder.Step("finetune", "tuned", start=start)
            ladder.climb([step], "data", tmp_path, evaluate=False)


def test_a_failed_step_is_one_line():
    with pytest.raises(InputError, match="Expected it to end well, received exit code 3"):
        ladder._run(["-c", "raise SystemExit(3)"], "it")


def test_settings_to_compare_have_names_of_their_own():
    for steps in (ladder.SMALL, ladder.FULL, ladder.SWEEP):
        names = [step.name for step in steps]
        assert len(set(names)) == len(names)
        places = {name: number for number, name in enumerate(names)}
        for step in steps:  # what another one starts from comes first
            assert step.start is None or places[step.start] < places[step.name]
