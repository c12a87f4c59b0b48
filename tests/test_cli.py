"""The command line: flags, help, exit codes, interruption, and every command at work."""

import csv
import dataclasses
import errno
import io
import itertools
import json
import os
import pathlib
import re
import signal
import subprocess
import sys

import pytest
from conftest import ROOT

from catsdogs import cli, config
from catsdogs.errors import InputError


def start_python(code):
    """Starts a process that runs code, in which Ctrl-C is not ignored."""
    code = f"import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n{code}"
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


# ---- Flags and help ----


@pytest.fixture
def parse_training(monkeypatch):
    """Returns a function that parses words as a training command does."""

    def parse(presets, *words):
        monkeypatch.setattr(sys, "argv", ["script.py", *words])
        return cli.parse_training(presets, "Trains.")

    return parse


def test_flags_change_the_preset_they_come_with(parse_training):
    settings, paths = parse_training(config.SCRATCH)
    assert (settings, paths) == (config.SCRATCH["best"], cli.TrainingPaths())
    for preset in (["--preset", "textbook"], ["--preset=textbook"]):
        settings, paths = parse_training(
            config.SCRATCH, "--epochs", "7", *preset, "--resume", "--seed=3", "--data-dir", "here"
        )
        assert settings == dataclasses.replace(config.SCRATCH["textbook"], epochs=7, seed=3)
        assert paths == cli.TrainingPaths(data_dir="here", resume=True)
    settings, _ = parse_training(config.FEATURE_EXTRACT, "--no-normalize", "--dropout=0")
    expected = dataclasses.replace(config.FEATURE_EXTRACT["best"], normalize=False, dropout=0.0)
    assert settings == expected
    settings, _ = parse_training(config.FINETUNE, "--start", "runs/x", "--smoke")
    assert settings == dataclasses.replace(config.FINETUNE["best"], start="runs/x", smoke=True)


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_an_unknown_flag_is_one_line_in_any_encoding(encoding, parse_training, monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    with pytest.raises(InputError) as caught:
        parse_training(config.SCRATCH, "--learning-rat=1")
    problem, hint = "Unrecognized options: --learning-rat=1.", "Perhaps you meant --learning-rate"
    assert str(caught.value) == f"{problem} {hint} FLOAT. See --help."


HELP = """
import sys
from catsdogs import cli
for name in cli.__all__:
    sys.argv = [f"scripts/{name}.py", "--help"]
    try:
        getattr(cli, name)()
    except SystemExit as stop:
        assert not stop.code
print(sys.modules.keys() & {"tensorflow", "keras", "matplotlib", "sklearn"})
"""


def test_help_has_examples_and_loads_nothing_heavy():
    output, errors = start_python(HELP).communicate()
    assert output.endswith("set()\n") and errors == ""
    for name in cli.__all__:
        assert f"python scripts/{name}.py" in output
    assert "Pictures to train on, all classes together" in output  # a help text


# ---- Exit codes ----


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("Expected a cat, received a dog."), 2, r"Expected a cat, received a dog\."),
        (InputError("Received \x1b[31m\na\x07."), 2, r"Received \[31m a \."),
        (OSError(errno.ENOSPC, "Full", "/full"), 2, r"Full: /full\. Free some space"),
        (PermissionError(errno.EACCES, "Denied", "/x"), 2, r"Denied: /x\. .* another path"),
        (RuntimeError(f"HDF5: {os.strerror(errno.ENOSPC)}"), 2, "No space left on device"),
        (MemoryError(), 2, "Out of memory.*--batch-size"),
        (KeyboardInterrupt("after 2 of 9 epochs"), 130, r"Interrupted after 2 of 9 epochs\."),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_what_a_user_can_act_on_is_one_line(error, code, line, capsys):
    def predict():
        raise error

    with pytest.raises(SystemExit) as stop:
        cli.command(predict)()
    assert stop.value.code == code
    (shown,) = capsys.readouterr().err.splitlines()
    assert re.match(f"predict: {line}", shown)


@pytest.mark.parametrize("returned", [None, 0, 1])
def test_a_command_exits_with_what_its_function_returns(returned):
    with pytest.raises(SystemExit) as stop:
        cli.command(lambda: returned)()
    assert stop.value.code == (returned or 0)


@pytest.mark.parametrize("error", [ZeroDivisionError(), ConnectionError(), OSError(errno.EIO, "")])
def test_a_bug_is_a_traceback(error):
    def predict():
        raise error

    with pytest.raises(type(error)):
        cli.command(predict)()


COMMAND = """
import itertools, time
from catsdogs import cli

@cli.command
def {name}():
    print("started")
    {body}

{name}()
"""


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("evaluate", "evaluate: Interrupted.\n"),
        ("finetune", "finetune: Interrupted. Resume with the same command and --resume.\n"),
    ],
)
def test_ctrl_c_and_kill_end_a_command_in_one_line(name, line, signal_number):
    with start_python(COMMAND.format(name=name, body="time.sleep(60)")) as process:
        assert process.stdout.readline() == "started\n"
        process.send_signal(signal_number)
        assert process.wait(timeout=30) == 130
        assert process.stderr.read() == line


def test_output_that_nobody_reads_any_more_ends_a_command_quietly():
    """As with `| head`."""
    body = "for number in itertools.count(): print(number)"
    with start_python(COMMAND.format(name="predict", body=body)) as process:
        assert process.stdout.readline() == "started\n"
        process.stdout.close()
        assert process.wait(timeout=30) == 141
        assert process.stderr.read() == ""


def test_what_tensorflow_logs_is_shown_only_if_it_fails_to_load(capfd):
    with cli.quiet_tensorflow():
        os.write(2, b"a missing GPU\n")
    assert capfd.readouterr().err == ""
    with pytest.raises(ImportError), cli.quiet_tensorflow():
        os.write(2, b"a broken library\n")
        raise ImportError
    assert capfd.readouterr().err == "a broken library\n"


# ---- Every command ----


@pytest.mark.slow
def test_from_sketches_to_an_exported_model(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def run(name, *words):
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            getattr(cli, name)()
        assert stop.value.code == 0
        return capsys.readouterr()

    sizes = ("--train", 20, "--validation", 10, "--test", 10)
    output = run("prepare_data", "--sketches", *sizes, "--preview").out
    data_dir = pathlib.Path("data/sketches")
    assert "20  cat 10, dog 10" in output and f"Prepared in {data_dir}" in output
    assert (data_dir / "augmentation.jpg").is_file()

    runs = []
    for augmentation in ("none", "basic"):
        words = ("--smoke", "--preset", "textbook", "--augmentation", augmentation)
        output = run("train_scratch", *words).out
        runs.append(f"runs/sketches-smoke/scratch-textbook-{augmentation}-seed0")
        assert f"Next: python scripts/evaluate.py {runs[-1]}" in output
    # The same command with --resume finds that there is nothing left to do.
    assert f"Run folder: {runs[-1]}\n" in run("train_scratch", *words, "--resume").out
    assert len(list(pathlib.Path("runs/sketches-smoke").glob("*/"))) == 2

    assert run("plot_history", *runs, "--output", "curves.png").out == "curves.png\n"
    output = run("evaluate", *runs, "--tta", "--json")
    found = json.loads(output.out)
    assert found["runs"].keys() == {*runs} and len(found["comparisons"]) == 1
    assert found["runs"][runs[0]]["test"]["num_images"] == 10
    assert "test_tta" in found["runs"][runs[0]] and "comparison.html" in output.err
    output = run("evaluate", *runs).out
    assert "exact McNemar test" in output and f"{runs[0]}/report.html" in output

    pictures = sorted((data_dir / "test").glob("*/*"))
    rows = list(csv.DictReader(io.StringIO(
        run("predict", runs[0], data_dir / "test", "--format", "csv").out
    )))  # fmt: skip
    assert [row["file"] for row in rows] == [str(path) for path in pictures]
    written = run("explain", runs[0], pictures[0], "--channels", 2, "--layers", "conv1").out.split()
    assert len(written) == 3 and all(path.startswith(f"{runs[0]}/explain/") for path in written)
    assert all(os.path.getsize(path) for path in itertools.chain(written, ["curves.png"]))
    output = run("export", runs[0], "--format", "litert").out
    assert f"{runs[0]}/export-litert: same predictions as Keras in float32 on 10 pictures" in output
