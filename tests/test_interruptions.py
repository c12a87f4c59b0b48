"""Commands that are killed or interrupted leave nothing half-done and resume to the same result.

Each is run once without a fault. Then it is interrupted again and again, at random moments or
before a rename, and given again until it ends by itself: what is there must be the same, byte for
byte. Both have different hash seeds, so the tests hold that too: same seed, same result.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
from attempts import ROOT, interrupted, killed_before_renames, left_in, straight

SIZES = ["--data-dir", "data/new", "--train", "16", "--validation", "8", "--test", "8"]
PREPARE = ["prepare_data.py", "--folder", "pictures", *SIZES]
SKETCHES = ["prepare_data.py", "--sketches", *SIZES]
RUN = ["--data-dir", "data", "--run-dir", "runs/run", "--resume"]
SCRATCH = ["train_scratch.py", *RUN, "--smoke"]
TEXTBOOK = [*SCRATCH, "--architecture", "textbook"]  # trains in half the time
EXTRACT = [
    "train_feature_extract.py", *RUN,
    "--image-size", "64", "--epochs", "3", "--batch-size", "16",
]  # fmt: skip
AUGMENTED = [*EXTRACT, "--variant", "augmented"]
HEAD = [*AUGMENTED, "--epochs", "40"]  # on stored features
FINETUNE = ["finetune.py", *RUN, "--smoke"]  # makes its head first
EVALUATE = ["evaluate.py", "runs/run", "--tta"]

slow = pytest.mark.slow


@pytest.fixture
def fresh(pictures, data_dir, tmp_path):
    """A working folder with the pictures and a prepared dataset; nothing is decoded yet."""
    folder = tmp_path / "fresh"
    shutil.copytree(
        data_dir, folder / "data", ignore=shutil.ignore_patterns("decoded", "features", ".*")
    )
    (folder / "pictures").symlink_to(pictures)
    return folder


def copy(fresh, name):
    return shutil.copytree(fresh, fresh.with_name(name), symlinks=True)


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(PREPARE, id="prepare"),
        pytest.param(SKETCHES, id="sketches", marks=slow),
        pytest.param(SCRATCH, id="scratch", marks=slow),
        pytest.param(EXTRACT, id="extraction", marks=slow),
        pytest.param(HEAD, id="head", marks=slow),
        pytest.param(FINETUNE, id="finetune", marks=slow),
    ],
)
def test_interrupted_at_random_moments(command, request, campaign, vgg16_weights, fresh):
    stage = request.node.callspec.id
    if command is HEAD:  # what is interrupted is training, not the extraction
        straight(fresh, AUGMENTED)
        shutil.rmtree(fresh / "runs")
    undisturbed = copy(fresh, "undisturbed")
    seconds, expected = straight(undisturbed, command), left_in(undisturbed)
    random = campaign.random(stage)
    signals = ["SIGINT", "SIGTERM", *["SIGKILL"] * campaign.size(2, 20)]
    random.shuffle(signals)
    found = interrupted(fresh.parent, command, signals, seconds, random.random())
    for name, faults in found.items():
        left = left_in(fresh.with_name(name))
        shutil.rmtree(fresh.with_name(name))
        for kind, code, said in faults:
            with campaign.fault(f"{kind} at a random moment: {stage}"):
                assert left == expected
                check_answer(command, kind, code, said)


def check_answer(command, kind, code, said):
    """One line that says how to resume, if there was anybody to say it."""
    if kind == "SIGKILL":
        assert code == -9, said
        return
    assert code == 130, said
    resume = r"( after \d+ of \d+ epochs of runs/\S+)?\. Resume with the same command and --resume"
    resume = "" if "prepare" in command[0] else resume
    *_, line = said.splitlines()
    assert re.fullmatch(rf"{command[0].removesuffix('.py')}: Interrupted{resume}\.", line), said
    assert "Traceback" not in said and "KeyboardInterrupt" not in said


# Names that it is killed at in every test; in `make torture` at all of them.
@pytest.mark.parametrize(
    ("command", "pattern"),
    [
        pytest.param(PREPARE, ".*", id="prepare"),
        pytest.param(TEXTBOOK, "config.json|history.csv|metrics.json", id="scratch", marks=slow),
        pytest.param(FINETUNE, "model.keras", id="finetune", marks=slow),
        pytest.param(EVALUATE, "report.html|metrics.json", id="evaluate", marks=slow),
    ],
)
def test_killed_before_renames(command, pattern, request, campaign, vgg16_weights, fresh):
    """Those are the moments after which a careless order of writing would lose something."""
    if command is PREPARE:  # replaces another dataset
        straight(fresh, [*PREPARE, "--train", "32"])
        command = [*PREPARE, "--overwrite"]
    if command is EVALUATE:  # replaces an earlier evaluation
        straight(fresh, TEXTBOOK)
        straight(fresh, EVALUATE[:-1])
    undisturbed, killed = copy(fresh, "undisturbed"), copy(fresh, "killed")
    straight(undisturbed, command)
    renamed = killed_before_renames(killed, command, campaign.size(pattern, ".*"))
    left = left_in(killed)
    assert {"metrics.json", "manifest.json"} & set(renamed) or "model.keras" in renamed
    for _ in renamed:
        with campaign.fault(f"SIGKILL before a rename: {request.node.callspec.id}"):
            assert left == left_in(undisturbed)


@slow
def test_same_result_beside_other_work(campaign, fresh):
    """Threads then take turns in another order."""
    alone, beside = copy(fresh, "alone"), copy(fresh, "beside")
    straight(alone, SCRATCH)
    with contextlib.ExitStack() as others:
        for _ in range(os.cpu_count()):
            other = others.enter_context(subprocess.Popen([sys.executable, "-c", "while 1: pass"]))
            others.callback(other.kill)
        straight(beside, SCRATCH)
    with campaign.fault("other work beside it: same seed, same result"):
        assert left_in(alone) == left_in(beside)


def test_processes_that_draw_end_with_the_one_that_is_killed(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    command = [sys.executable, ROOT / "scripts" / "prepare_data.py", "--sketches"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE) as drawing:
        while drawing.poll() is None and not any(tmp_path.rglob("cat.0.jpg")):
            time.sleep(0.05)
        drawing.kill()
        drawing.communicate(timeout=30)  # returns when the last process has closed the pipe
    assert drawing.returncode == -signal.SIGKILL
