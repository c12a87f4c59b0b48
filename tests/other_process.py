"""A second process for the tests of what two do in one place; this file is also its program."""

import contextlib
import os
import pathlib
import subprocess
import sys
import threading

from catsdogs.files import lock

__all__ = ["holding", "release_soon"]


@contextlib.contextmanager
def holding(folder, create=None, source=None):
    """Another process locks a folder while the block runs, or until its standard input is closed.

    Args:
        folder: The folder.
        create: A path that it makes before it releases the lock, or `None`.
        source: What it renames to `create`, `None` for an empty file.

    Yields:
        The process.
    """
    command = [sys.executable, __file__, folder, *filter(None, [create, source])]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "locked\n", process.stderr.read()
        yield process
    finally:
        process.stdin.close()
        process.wait()
        process.stdout.close()
        process.stderr.close()


def release_soon(process):
    """Lets a process that is holding something go on in half a second."""
    threading.Timer(0.5, process.stdin.close).start()


def _hold(folder, create=None, source=None):
    with lock(folder):
        print("locked", flush=True)
        sys.stdin.read()
        if source:
            os.rename(source, create)
        elif create:
            pathlib.Path(create).touch()


if __name__ == "__main__":
    _hold(*sys.argv[1:])
