"""Other Python processes, timed, each in a session of its own."""

import os
import signal
import subprocess
import sys
import tempfile
import time
import typing

from catsdogs.errors import InputError

__all__ = ["Finished", "run_python"]


class Finished(typing.NamedTuple):
    """What a process that ended well took and said."""

    seconds: float
    """Wall-clock seconds from its start to its end, starting Python included."""
    output: str


def run_python(*arguments, name=None):
    """Runs `python ARGUMENTS` and waits for it; it ends when this process does.

    Args:
        arguments: As on a command line; anything that `str` turns into a word.
        name: What to call it if it fails; by default its first argument.

    Returns:
        A `Finished`.

    Raises:
        InputError: If it fails; what it said has been printed by then.
    """
    with tempfile.TemporaryFile("w+") as output:
        start = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, *map(str, arguments)], stdout=output, start_new_session=True
        )
        try:
            code = process.wait()
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)  # what it started ends with it
            process.wait()
            raise
        seconds = time.perf_counter() - start
        output.seek(0)
        said = output.read()
    if code:
        print(said, end="", flush=True)
        raise InputError(
            f"Expected {name or arguments[0]} to end well, received exit code {code}; what it said "
            "stands above."
        )
    return Finished(round(seconds, 1), said)
