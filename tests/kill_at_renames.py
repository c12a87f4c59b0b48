"""Runs a command again and again, killed before every rename that it has not been killed at.

    python kill_at_renames.py PATTERN SCRIPT [FLAG ...]

A rename is told from others by what is renamed to what, and by the files that are there below the
working folder. Only targets that match PATTERN are killed at. TensorFlow, if the script needs it,
is loaded once; each attempt is a process of its own. Prints the targets that it was killed at and
ends with the exit code of the attempt that came to its end.
"""

import os
import pathlib
import re
import runpy
import signal
import sys

from catsdogs.files import PART


def main():
    pattern, script, *flags = sys.argv[1:]
    if "prepare_data" not in script:
        from catsdogs import stages  # noqa: F401
    seen, (reading, writing) = set(), os.pipe()
    while True:
        process = os.fork()
        if not process:
            attempt(re.compile(pattern), script, flags, seen, writing)
        _, status = os.waitpid(process, 0)
        if not os.WIFSIGNALED(status):
            sys.exit(os.waitstatus_to_exitcode(status))
        place = os.read(reading, 1 << 16).decode()
        seen.add(place)
        print(place.partition("\n")[0], flush=True)


def attempt(pattern, script, flags, seen, writing):
    """One process: runs the script, and ends where it has not ended before."""
    rename = os.replace

    def rename_or_die(source, target):
        there = sorted(str(path) for path in pathlib.Path().rglob("*") if PART not in path.name)
        place = "\n".join([pathlib.Path(target).name, str(source), *there])
        if pattern.fullmatch(pathlib.Path(target).name) and place not in seen:
            os.write(writing, place.encode())
            os.kill(os.getpid(), signal.SIGKILL)
        rename(source, target)

    os.replace = rename_or_die
    sys.argv = [script, *flags]
    sys.stdout = sys.stderr
    runpy.run_path(script, run_name="__main__")
    sys.exit()


if __name__ == "__main__":
    main()
