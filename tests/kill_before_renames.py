"""Runs a command in `undisturbed`, then in `killed` again and again, killed before every rename.

    python kill_before_renames.py PATTERN SCRIPT [FLAG ...]

It is killed once before each rename to a file whose name matches PATTERN. Renames are told apart by
what is renamed to what and by the files that are there below the working folder. TensorFlow, if the
script needs it, is loaded once; each attempt is a process of its own. Prints the names that it was
killed at.
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
    os.chdir("undisturbed")
    run_until_done(re.compile("(?!)"), script, flags)  # matches nothing
    os.chdir("../killed")
    run_until_done(re.compile(pattern), script, flags)


def run_until_done(pattern, script, flags):
    """Makes attempts until one is not killed."""
    seen, (reading, writing) = set(), os.pipe()
    os.set_blocking(reading, False)  # a process that something else has killed says nothing
    while True:
        process = os.fork()
        if not process:
            attempt(pattern, script, flags, seen, writing)
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        if code == 0:
            return
        if code != -signal.SIGKILL:
            sys.exit(code)
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
