"""The command line: what scripts accept, what they say of errors, and how fast they start."""

import errno
import os
import resource
import subprocess
import sys

import pytest
from conftest import ROOT, answer_all_signals

from catsdogs import cli, config
from catsdogs.errors import InputError

SCRIPTS = sorted(path.name for path in (ROOT / "scripts").glob("*.py"))


def run_script(name, *arguments, cwd=ROOT):
    """Runs a script as a person would; returns the finished process, its output as text."""
    command = [sys.executable, "-W", "error", ROOT / "scripts" / name, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True)


def cpu_seconds(command):
    """Processor time of a process: unlike the clock's, it does not depend on what else runs."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert finished.returncode == 0, finished.stderr
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, finished.stdout


def parse_stage(monkeypatch, presets, *arguments):
    monkeypatch.setattr(sys, "argv", ["script.py", *arguments])
    return cli.parse_stage(presets, "Trains.")


def test_import_is_quick_and_loads_nothing_heavy():
    heavy = "{'tensorflow', 'keras', 'numpy', 'matplotlib', 'PIL'} & set(sys.modules)"
    code = f"import sys, catsdogs; sys.exit(bool({heavy}))"
    seconds, _ = cpu_seconds([sys.executable, "-W", "error", "-c", code])
    assert seconds < 0.5


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_has_examples_and_needs_no_tensorflow(script):
    code = (
        "import atexit, runpy, sys; sys.argv = [sys.argv[1], '--help'];"
        "atexit.register(lambda: print('loaded:', {'tensorflow', 'keras'} & set(sys.modules)));"
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    seconds, output = cpu_seconds(
        [sys.executable, "-W", "error", "-c", code, ROOT / "scripts" / script]
    )
    assert f"python scripts/{script}" in output and "Examples:" in output
    assert "loaded: set()" in output
    assert seconds < 2  # 0.2 to 0.9 s, of which matplotlib takes 0.5


@pytest.mark.parametrize(
    "script, flag, hint",
    [
        ("train_scratch.py", "--learning-rat=1", "--learning-rate"),
        ("finetune.py", "--no-such-flag", ""),
        ("train_feature_extract.py", "--epochs=many", "int"),
        ("train_scratch.py", "--augmentation=heavy", "strong"),
        ("prepare_data.py", "--sketchs", "--sketches"),
        ("plot_history.py", "--smothing=1", "--smoothing"),
    ],
)
def test_bad_flag_is_one_line(script, flag, hint):
    finished = run_script(script, flag)
    assert finished.returncode == 2
    assert finished.stdout == ""
    (line,) = finished.stderr.splitlines()
    assert line.startswith(f"{script}: ") and line.endswith("See --help.")
    assert flag.split("=")[0] in line and hint in line


@pytest.mark.parametrize("script", ["evaluate.py", "plot_history.py"])
def test_missing_run_is_one_line(script, tmp_path):
    finished = run_script(script, tmp_path / "no-such-run", cwd=tmp_path)
    assert finished.returncode == 2 and "no-such-run" in finished.stderr
    assert len(finished.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
    finished = run_script(script, cwd=tmp_path)
    assert finished.returncode == 2 and "at least one finished run" in finished.stderr


def test_missing_data_is_one_line(tmp_path):
    finished = run_script("train_scratch.py", "--smoke", cwd=tmp_path)
    assert finished.returncode == 2
    (line,) = finished.stderr.splitlines()
    assert "Expected a prepared data set" in line and "--sketches" in line
    assert list(tmp_path.iterdir()) == []


def test_flags_change_the_preset_they_come_with(monkeypatch):
    settings, places = parse_stage(monkeypatch, config.SCRATCH)
    assert settings == config.SCRATCH["best"]
    assert places == cli.StagePlaces()

    for words in (["--preset", "textbook"], ["--preset=textbook"]):
        settings, places = parse_stage(
            monkeypatch, config.SCRATCH, "--epochs", "7", *words, "--resume", "--seed=3",
            "--data-dir", "somewhere",
        )  # fmt: skip
        assert settings == config.ScratchConfig(
            **{**vars(config.SCRATCH["textbook"]), "epochs": 7, "seed": 3}
        )
        assert places == cli.StagePlaces("somewhere", None, True)

    settings, _ = parse_stage(monkeypatch, config.FINETUNE, "--start", "runs/x", "--smoke")
    assert (settings.start, settings.smoke, settings.preset) == ("runs/x", True, "best")
    with pytest.raises(InputError, match="--preset"):
        parse_stage(monkeypatch, config.SCRATCH, "--preset", "worst")


@pytest.mark.parametrize(
    "error, code, words",
    [
        (InputError("Expected a cat, received a dog."), 2, "Expected a cat, received a dog."),
        (KeyboardInterrupt(), 130, "Stopped"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), 2, "No space left on device"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/full/disk"), 2, "/full/disk"),
        (PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/locked"), 2, "/locked"),
        (FileNotFoundError(errno.ENOENT, "No usable temporary directory"), 2, "No usable temp"),
        (MemoryError(), 2, "Expected enough memory"),
        (RuntimeError("can't start new thread"), 2, "Expected enough memory"),
        (ValueError("Key backend: 'x' is not a valid value for backend"), 2, "MPLBACKEND"),
        (InputError("Expected a cat, received \x1b[31m\na\x07."), 2, "received [31m a ."),
    ],
)
def test_errors_become_one_line_and_a_code(error, code, words, monkeypatch, capsys):
    def main():
        raise error

    monkeypatch.setattr(sys, "argv", ["/somewhere/script.py"])
    with pytest.raises(SystemExit) as stop:
        cli.run(main)
    assert stop.value.code == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("script.py: ") and words in line


def test_an_error_that_a_stop_became_is_a_stop(monkeypatch, capsys):
    def main():
        try:
            raise KeyboardInterrupt("after epoch 3")
        except KeyboardInterrupt as stop:
            raise ImportError("initialization failed") from stop

    monkeypatch.setattr(sys, "argv", ["/somewhere/script.py"])
    with pytest.raises(SystemExit) as stop:
        cli.run(main)
    assert stop.value.code == 130
    assert capsys.readouterr().err.startswith("script.py: Stopped after epoch 3. ")


def test_a_programming_error_is_not_hidden():
    def main():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        cli.run(main)
    with pytest.raises(ConnectionError):
        cli.run(lambda: (_ for _ in ()).throw(ConnectionError()))


STOP = """
import os, signal, sys, time
from catsdogs import cli
{after}
class Mortal:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)  # Python ignores what is raised here
def main():
    {main}
    time.sleep(60)
cli.run(main)
"""


@pytest.mark.parametrize(
    "parts",
    [
        {"after": "os.kill(os.getpid(), signal.SIGINT)"},
        {"main": "os.kill(os.getpid(), signal.SIGINT)"},
        {"main": "os.kill(os.getpid(), signal.SIGTERM)"},
        {"main": "os.kill(os.getpid(), signal.SIGHUP)"},
        {"main": "Mortal()"},
    ],
)
def test_a_stop_is_one_line(parts, tmp_path):
    script = tmp_path / "scripts" / "wait.py"
    script.parent.mkdir()
    script.write_text(STOP.format(**{"after": "", "main": "pass", **parts}))
    finished = subprocess.run(
        [sys.executable, "-W", "error", script], capture_output=True, text=True, timeout=50,
        preexec_fn=answer_all_signals,
    )  # fmt: skip
    assert finished.returncode == 130
    assert finished.stderr == "wait.py: Stopped. Give the same command again.\n"


TWICE = """
import os, signal, time
from catsdogs import cli
def main():
    try:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)
    finally:
        os.kill(os.getpid(), signal.{second})
        time.sleep(0.1)
        print("tidy")
cli.run(main)
"""


@pytest.mark.parametrize("second", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_second_stop_lets_the_first_tidy_up(second):
    finished = subprocess.run(
        [sys.executable, "-c", TWICE.format(second=second)], capture_output=True, text=True,
        timeout=50, preexec_fn=answer_all_signals,
    )  # fmt: skip
    assert (finished.returncode, finished.stdout) == (130, "tidy\n")
    assert finished.stderr.count("\n") == 1


def test_who_imports_the_module_keeps_their_own_stops():
    code = "import sys; from catsdogs import cli; print(sys.excepthook is sys.__excepthook__)"
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert finished.stdout == "True\n"


@pytest.mark.parametrize("end", ["return", "sys.exit(0)"])
def test_a_stop_that_comes_after_the_end_is_ignored(end):
    code = (
        "import atexit, os, signal, sys; from catsdogs import cli;"
        "atexit.register(os.kill, os.getpid(), signal.SIGINT);"
        f"exec('def main(): {end}'); cli.run(main)"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (finished.returncode, finished.stderr) == (0, "")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_hindrance(closed, tmp_path):
    command = f'"{sys.executable}" "{ROOT}/scripts/prepare_data.py" --help {closed}'
    assert subprocess.run(command, shell=True, cwd=tmp_path).returncode == 0
    command = command.replace("--help", "--sketches --train 4 --validation 2 --test 2")
    assert subprocess.run(command, shell=True, cwd=tmp_path).returncode == 0
    assert (tmp_path / "data" / "sketches" / "manifest.json").exists()


def test_a_backend_that_is_not_installed_is_one_line(tmp_path):
    (tmp_path / "jax.py").write_text("raise ModuleNotFoundError('No module', name='jax')")
    finished = subprocess.run(
        [sys.executable, ROOT / "scripts" / "predict.py", "run", "picture.jpg"],
        capture_output=True, text=True, cwd=tmp_path,
        env={**os.environ, "KERAS_BACKEND": "jax", "PYTHONPATH": f"{tmp_path}:{sys.path[0]}"},
    )  # fmt: skip
    assert finished.returncode == 2 and len(finished.stderr.splitlines()) == 1
    assert "Set KERAS_BACKEND=tensorflow" in finished.stderr


@pytest.mark.parametrize("name, value", [("KERAS_BACKEND", "theano"), ("MPLBACKEND", "nonsense")])
def test_a_backend_that_nobody_knows_is_one_line(name, value, tmp_path):
    finished = subprocess.run(
        [sys.executable, ROOT / "scripts" / "train_scratch.py", "--smoke"], cwd=tmp_path,
        capture_output=True, text=True, env={**os.environ, name: value},
    )  # fmt: skip
    assert finished.returncode == 2 and name in finished.stderr
    assert finished.stderr.count("\n") == 1, finished.stderr


def test_help_on_the_narrowest_terminal(tmp_path):
    command = [sys.executable, ROOT / "scripts" / "prepare_data.py", "--help"]
    environment = {**os.environ, "COLUMNS": "1"}
    finished = subprocess.run(command, capture_output=True, env=environment, timeout=50)
    assert finished.returncode == 0
