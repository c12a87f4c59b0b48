"""Following runs: every epoch is drawn, the last one too, and then it ends."""

import subprocess
import sys
import threading
import time

import pytest
from conftest import ROOT

from catsdogs.errors import InputError
from catsdogs.files import write_json
from catsdogs.follow import follow_histories, read_histories
from catsdogs.stages import run as runs


def history(epochs):
    values = [0.5 + 0.01 * epoch for epoch in range(epochs)]
    return {"loss": values, "accuracy": values, "val_loss": values, "val_accuracy": values}


def begin(run_dir):
    run_dir.mkdir(parents=True)
    write_json(run_dir / "config.json", {})


def test_yields_every_new_epoch_until_all_are_finished(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    begin(first), begin(second)
    seen = follow_histories([first, second], seconds=0.01)
    runs.write_history(first, history(1))
    assert next(seen) == {"first": history(1)}
    runs.write_history(second, history(2))
    assert next(seen) == {"first": history(1), "second": history(2)}
    write_json(first / "metrics.json", {})
    threading.Timer(0.3, runs.write_history, (second, history(3))).start()
    start = time.monotonic()
    assert next(seen)["second"] == history(3)
    assert time.monotonic() - start > 0.2  # it has waited
    runs.write_history(second, history(4))
    write_json(second / "metrics.json", {})
    assert next(seen)["second"] == history(4)  # the last epoch is not missed
    assert list(seen) == []


def test_names_that_are_alike_become_paths(tmp_path):
    for parent in ("a", "b"):
        begin(tmp_path / parent / "run")
        runs.write_history(tmp_path / parent / "run", history(1))
    found = read_histories([tmp_path / "a" / "run", tmp_path / "b" / "run"])
    assert list(found) == [str(tmp_path / "a" / "run"), str(tmp_path / "b" / "run")]


def test_no_run_is_an_error(tmp_path):
    with pytest.raises(InputError, match="run that goes on"):
        next(follow_histories([tmp_path]))


def test_the_script_redraws_and_ends(tmp_path):
    begin(tmp_path / "run")
    command = [sys.executable, ROOT / "scripts" / "plot_history.py", "--follow", tmp_path / "run"]
    command += ["--output", tmp_path / "picture.png"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for epoch in (1, 2):
            runs.write_history(tmp_path / "run", history(epoch))
            assert process.stdout.readline() == f"{tmp_path / 'picture.png'}: {epoch} epochs\n"
        write_json(tmp_path / "run" / "metrics.json", {})
        assert process.wait(timeout=30) == 0
        assert process.stdout.read() == ""
