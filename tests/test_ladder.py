"""The ladder: what is run, in which order, and what is not run twice."""

import json
import pathlib
import types

import ladder
import pytest
from conftest import MEASURED, METRICS

from catsdogs import cli, config

STEPS = tuple(ladder.Step("train_scratch", f"run-{i}", ("--seed", str(i))) for i in range(2))
PRESETS = {
    "train_scratch": config.SCRATCH,
    "train_feature_extract": config.FEATURE_EXTRACT,
    "finetune": config.FINETUNE,
}


@pytest.fixture
def commands(monkeypatch):
    """Stands in for the scripts: notes each command and leaves what a run would leave."""
    seen = []

    def run(command):
        script, *flags = command[1:]
        seen.append((pathlib.Path(script).stem, flags))
        if "--run-dir" in flags:
            run_dir, metrics = pathlib.Path(flags[flags.index("--run-dir") + 1]), METRICS
            run_dir.mkdir(parents=True, exist_ok=True)
        else:
            run_dir, metrics = pathlib.Path(flags[-1]), {**METRICS, "test": MEASURED}
        if not (run_dir / "metrics.json").exists() or "test" in metrics:
            (run_dir / "metrics.json").write_text(json.dumps(metrics))
        return types.SimpleNamespace(returncode=0)

    monkeypatch.setattr(ladder.subprocess, "run", run)
    return seen


def test_the_ladder_trains_and_evaluates_once(commands, tmp_path):
    run_dirs = ladder.climb(STEPS, "data", tmp_path)
    assert [path.name for path in run_dirs] == ["run-0", "run-1"]
    assert [script for script, _ in commands] == ["train_scratch", "evaluate"] * 2
    assert all("--resume" in flags for script, flags in commands if script == "train_scratch")
    commands.clear()
    ladder.climb(STEPS, "data", tmp_path)
    assert [script for script, _ in commands] == ["train_scratch"] * 2


def test_a_sweep_never_opens_the_test_split(commands, tmp_path):
    ladder.climb(STEPS, "data", tmp_path, evaluate=False)
    assert [script for script, _ in commands] == ["train_scratch"] * 2


def test_a_failed_step_ends_the_ladder_with_its_exit_code(tmp_path):
    with pytest.raises(SystemExit) as caught:
        ladder.climb([ladder.Step("train_scratch", "run", ("--no-such-flag",))], "data", tmp_path)
    assert caught.value.code == 2


@pytest.mark.parametrize("steps", [ladder.SMALL, ladder.FULL, ladder.SWEEP])
def test_the_scripts_know_every_flag_and_no_run_starts_from_a_later_one(steps, monkeypatch):
    seen = set()
    for step in steps:
        monkeypatch.setattr("sys.argv", [step.script, *step.flags])
        cli.parse_training(PRESETS[step.script], "")
        assert step.name not in seen and (step.start is None or step.start in seen)
        seen.add(step.name)
