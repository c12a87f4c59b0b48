"""Runs a command in attempts that are interrupted, until one ends by itself.

This file is also a program. It loads TensorFlow once; each attempt is a fork, so it takes seconds
less than a new process and is interrupted at work rather than at imports.
"""

import hashlib
import json
import os
import pathlib
import random
import re
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import zipfile

from catsdogs.files import PART

__all__ = ["ROOT", "finish", "interrupted", "killed_before_renames", "left_in", "start", "straight"]

ROOT = pathlib.Path(__file__).parents[1]


def straight(place, command):
    """Runs a command in `place` without a fault; returns its seconds."""
    return _program(place, "_straight", command, "0")


def interrupted(place, command, signals, seconds, seed):
    """Runs a command in copies of `place/fresh`, interrupted at random moments.

    Args:
        command: Script and flags.
        signals: Names of the signals that it is to be sent. Up to five interrupt the same run.
        seconds: How long it takes without an interruption.
        seed: Decides the moments.

    Returns:
        A dictionary from the name of each copy, where the command has ended by itself at last, to
        a list of (signal, exit code, what was printed) of the interrupted attempts.
    """
    return _program(place, "_interrupted", command, "1", signals, seconds, seed)


def killed_before_renames(place, command, pattern):
    """Runs a command in `place`, killed once before each rename to a name that fits a pattern.

    Renames are told apart by what is renamed to what and by the files that are there.

    Returns:
        The names that it was killed at.
    """
    return _program(place, "_killed_before_renames", command, "1", pattern)


def _program(place, task, command, hash_seed, *arguments):
    done = subprocess.run(
        [sys.executable, __file__, task, json.dumps([command, *arguments])],
        cwd=place, capture_output=True, text=True, env={**os.environ, "PYTHONHASHSEED": hash_seed},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def start(command, before_rename=None):
    """Forks; the new process runs a script in the working folder.

    Returns:
        A pair for `finish`: the id of the process, which leads a process group of its own, and the
        file that it prints to.
    """
    output = tempfile.TemporaryFile("w+")  # noqa: SIM115
    process = os.fork()
    if process:
        return process, output
    code = 1
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs ignore it
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
        if before_rename:
            rename = os.replace
            os.replace = lambda *names: (before_rename(*map(str, names)), rename(*names))
        sys.argv = [str(ROOT / "scripts" / command[0]), *command[1:]]
        runpy.run_path(sys.argv[0], run_name="__main__")
        code = 0
    except SystemExit as stop:
        code = stop.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def finish(process, output):
    """Waits for a process; returns its exit code, negative if killed, and what it printed."""
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    with output:
        output.seek(0)
        return code, output.read()


def _straight(command):
    began = time.monotonic()
    code, said = finish(*start(command))
    assert code == 0, said
    return time.monotonic() - began


def _interrupted(command, signals, seconds, seed):
    moments, found = random.Random(seed), {}
    while signals:
        place = pathlib.Path(f"interrupted-{len(found)}")
        shutil.copytree("fresh", place, symlinks=True)
        os.chdir(place)
        faults = found[place.name] = []
        for name in signals[:5]:
            process, output = start(command)
            _send(process, signal.Signals[name], moments.uniform(0, seconds))
            code, said = finish(process, output)
            if code == 0:
                break
            faults.append((name, code, said))
        del signals[: len(faults)]
        if not faults:  # other work may have slowed the first run down
            seconds *= 0.8
        _straight(command)
        os.chdir("..")
    return found


def _send(process, number, moment):
    """Sends a signal after so many seconds, if the process has not ended by then."""
    end = time.monotonic() + moment
    # Nobody can answer until the command has begun.
    while time.monotonic() < end or (number != signal.SIGKILL and not _answers(process)):
        if os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return
        time.sleep(0.01)
    # Ctrl-C reaches all processes of the group, `kill` one.
    (os.killpg if number == signal.SIGINT else os.kill)(process, number)


def _answers(process):
    """Whether a process has a handler of its own for SIGTERM, as commands do."""
    status = pathlib.Path(f"/proc/{process}/status").read_text()
    return bool(int(re.search(r"SigCgt:\s*(\w+)", status)[1], 16) >> (signal.SIGTERM - 1) & 1)


def _killed_before_renames(command, pattern):
    seen, (reading, writing) = [], os.pipe()

    def kill_once(source, target):
        there = sorted(str(path) for path in pathlib.Path().rglob("*") if PART not in path.name)
        rename = "\n".join([pathlib.Path(target).name, source, *there])
        if re.fullmatch(pattern, pathlib.Path(target).name) and rename not in seen:
            os.write(writing, rename.encode())
            os.kill(os.getpid(), signal.SIGKILL)

    while True:
        code, said = finish(*start(command, kill_once))
        if code != -signal.SIGKILL:
            assert code == 0, said
            return [rename.partition("\n")[0] for rename in seen]
        seen.append(os.read(reading, 1 << 16).decode())


def left_in(place):
    """What is in a folder and does not tell the time, `{name: content or digest}`.

    Lock files may stay, unfinished files may not.
    """
    found = {}
    for path in sorted(place.rglob("*")):
        name = str(path.relative_to(place))
        assert PART not in name, f"left behind: {name}"
        if path.is_dir() or path.name == "environment.json":
            found[name] = None
        elif path.suffix == ".keras":
            with zipfile.ZipFile(path) as archive:
                members = set(archive.namelist()) - {"metadata.json"}  # holds the date
                content = {member: archive.read(member) for member in members}
            # Addresses in memory, by which Keras tells which layers share a dtype policy.
            address = rb'"shared_object_id": \d+'
            content["config.json"] = re.sub(address, b"", content["config.json"])
            found[name] = {member: _digest(data) for member, data in content.items()}
        elif path.name == "metrics.json":
            times = {"cold", "warm", "wall_seconds", "peak_rss_mb", "environment", "start"}
            metrics = json.loads(path.read_text())
            found[name] = {key: value for key, value in metrics.items() if key not in times}
        elif path.suffix != ".lock":
            found[name] = _digest(path.read_bytes())
    return found


def _digest(content):
    return hashlib.sha256(content).hexdigest()


if __name__ == "__main__":
    task, (command, *arguments) = sys.argv[1], json.loads(sys.argv[2])
    if command[0] != "prepare_data.py":
        import catsdogs.stages.finetune
    import catsdogs.cli  # noqa: F401

    print(json.dumps(globals()[task](command, *arguments)))
