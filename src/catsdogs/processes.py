"""Other Python processes, timed: each gets its true seconds and its own peak memory."""

import os
import subprocess
import sys
import tempfile
import time
import typing

from catsdogs.files import InputError

__all__ = ["Finished", "run_python"]


class Finished(typing.NamedTuple):
    """What a process that ended well used and said."""

    seconds: float
    """Wall-clock seconds from its start to its end, starting Python included."""
    peak_rss_mb: int
    output: str


def run_python(*arguments, name=None):
    """Runs `python ARGUMENTS` and waits for it.

    Args:
        arguments: As on a command line; anything that `str` turns into a word.
        name: What to call it if it fails; by default its first argument.

    Returns:
        A `Finished`.

    Raises:
        InputError: If it fails; its own message has been printed by then.
    """
    with tempfile.TemporaryFile("w+") as output:
        start = time.perf_counter()
        process = subprocess.Popen([sys.executable, *map(str, arguments)], stdout=output)
        try:
            _, status, usage = os.wait4(process.pid, 0)  # the memory of this child alone
        except BaseException:
            process.kill()
            raise
        seconds = time.perf_counter() - start
        code = process.returncode = os.waitstatus_to_exitcode(status)
        if code:
            raise InputError(
                f"Expected {name or arguments[0]} to end well, received exit code {code}; what it "
                "said stands above."
            )
        output.seek(0)
        return Finished(round(seconds, 1), usage.ru_maxrss // 1024, output.read())
