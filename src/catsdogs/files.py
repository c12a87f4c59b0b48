"""Complete-or-absent files and folders, locks, and JSON that is checked when it is read."""

import contextlib
import csv
import hashlib
import json
import os
import pathlib
import shutil
import sys

import filelock
import pydantic

from catsdogs.errors import InputError, describe_invalid, shorten

__all__ = [
    "PART", "atomic_folder", "atomic_path", "lock", "read_history", "read_json", "sha256_of",
    "write_history", "write_json",
]  # fmt: skip

PART = ".part-"
"""How the names of unfinished files and folders begin."""


@contextlib.contextmanager
def atomic_path(path):
    """Yields a temporary path beside `path`, renamed to it only if the block succeeds.

    The temporary name is always the same, so the next call replaces what a killed process left.
    Where two processes may write the same file, hold a `lock`.

    Args:
        path: The final file, `str` or `Path`; its folder is made if missing.

    Yields:
        A `Path` in the same folder, with the same suffix.
    """
    path = pathlib.Path(path)
    part = path.with_name(PART + path.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield part
        with open(part, "rb") as file:
            os.fsync(file.fileno())  # on disk before it gets its name
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path):
    """Yields a temporary folder beside `path`, renamed to it only if the block succeeds.

    An existing folder at `path` is replaced at that moment. That takes two renames: if the process
    is killed between them, the next call first moves the old folder back.
    """
    path = pathlib.Path(os.path.realpath(path))  # a link stays a link
    part, old = (path.with_name(f"{PART}{name}{path.name}") for name in ("", "old-"))
    with lock(path, wait=True):
        if old.exists() and not path.exists():
            os.replace(old, path)
        for leftover in (part, old):
            shutil.rmtree(leftover, ignore_errors=True)
        part.mkdir(parents=True)
        try:
            yield part
            if path.exists():
                os.replace(path, old)
            os.replace(part, path)
        finally:
            shutil.rmtree(part, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def lock(folder, wait=False):
    """Keeps other processes that lock the same folder out of it while the block runs.

    A process may lock a folder again that it has locked already. The lock ends with the process;
    its file, a hidden one beside the folder, may stay.

    Args:
        folder: `str` or `Path`; need not exist.
        wait: Whether to wait for the other process rather than raise.

    Raises:
        InputError: If another process uses the folder and `wait` is false.
    """
    folder = pathlib.Path(os.path.realpath(folder))
    folder.parent.mkdir(parents=True, exist_ok=True)
    file_lock = filelock.FileLock(folder.with_name(f".{folder.name}.lock"), is_singleton=True)
    try:
        file_lock.acquire(timeout=0)
    except filelock.Timeout:
        if not wait:
            raise InputError(
                f"Expected {folder} to be free, but another process is using it. Wait until it "
                "has finished, or choose another folder."
            ) from None
        print(f"Waiting for another process that uses {folder}.", file=sys.stderr, flush=True)
        file_lock.acquire()
    try:
        yield
    finally:
        file_lock.release()


def read_json(path, schema=dict, remedy=""):
    """Reads a JSON file and checks it.

    Args:
        path: The file.
        schema: What it must hold: any type that `pydantic.TypeAdapter` takes.
        remedy: What to do if it holds something else, a sentence.

    Returns:
        An instance of `schema`.

    Raises:
        InputError: If the file is missing, is not JSON, or does not fit the schema.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise InputError(f"Expected a file at {path}, found none. {remedy}".rstrip())
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return pydantic.TypeAdapter(schema).validate_python(content)
    except pydantic.ValidationError as error:
        problem = " ".join(describe_invalid(error))
    except (ValueError, RecursionError) as error:
        problem = f"not JSON, {shorten(error)}"
    raise InputError(f"Cannot use {path}: {problem}. {remedy}".rstrip())


def write_json(path, content):
    """Writes `content` as indented JSON, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def write_history(run_dir, history):
    """Writes `history.csv`, one line an epoch.

    Args:
        run_dir: The run folder.
        history: `{"loss": [...], "accuracy": [...], "val_loss": [...], "val_accuracy": [...]}`.
    """
    path = pathlib.Path(run_dir) / "history.csv"
    with atomic_path(path) as temporary, open(temporary, "w") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["epoch", *history])
        for epoch, values in enumerate(zip(*history.values(), strict=True), start=1):
            writer.writerow([epoch, *(f"{value:.6g}" for value in values)])


def read_history(run_dir):
    """Reads `history.csv` as a dictionary of lists of floats, without the epoch column."""
    path = pathlib.Path(run_dir) / "history.csv"
    if not path.is_file():
        raise InputError(f"Expected a run's history at {path}, found none. Is this a run folder?")
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {name: [float(row[name]) for row in rows] for name in rows[0] if name != "epoch"}


def sha256_of(path):
    """SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
