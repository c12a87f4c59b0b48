"""A second process for the tests of what two do in one place: this file, run as a program."""

import contextlib
import hashlib
import os
import pathlib
import subprocess
import sys
import time

from catsdogs.files import atomic_folder
from catsdogs.files import lock

CONTENT = bytes(range(256)) * 800  # of the archive that is downloaded


@contextlib.contextmanager
def start(task, *arguments):
    """A process at one of the tasks at the end of this file, which goes on when it is told to.

    Yields:
        The process, once it is at it. `process.stdin.close()` lets it go on to its end.
    """
    process = subprocess.Popen(
        [sys.executable, __file__, task, *map(str, arguments)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.stdin.close()
        process.stdout.close()
        process.wait()


def _hold(folder, kind="exclusive", *move):
    with hold(folder, shared=kind == "shared"):
        print("ready", flush=True)
        sys.stdin.read()
        if move:
            os.rename(*move)


def _write(folder):
    with atomic_folder(folder):
        print("ready", flush=True)
        sys.stdin.read()


def _count(folder, number):
    """Counts in a file that only who holds the folder may touch."""
    file = pathlib.Path(folder) / "number"
    held = pathlib.Path(folder) / "a" / "b"
    for turn in range(int(number)):
        with hold(held, wait=True):
            value = int(file.read_text()) if file.exists() else 0
            time.sleep(0.0005)
            file.write_text(str(value + 1))
            if turn % 3 == 0:  # the last of it, as in prepare and export
                with atomic_folder(held) as new:
                    (new / "file").touch()
            elif turn % 3 == 1:
                for path in held.iterdir():
                    path.unlink()


def _download(folder, url):
    from catsdogs.data.download import download  # only here: the others start at once

    path = pathlib.Path(folder) / "cats.zip"
    download(url, path, size=len(CONTENT), digest=hashlib.sha256(CONTENT).hexdigest())


if __name__ == "__main__":
    tasks = {"hold": _hold, "write": _write, "count": _count, "download": _download}
    tasks[sys.argv[1]](*sys.argv[2:])
