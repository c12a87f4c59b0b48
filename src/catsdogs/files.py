"""Writing files so that a reader never meets half of one, and the error a user can act on."""

import contextlib
import fcntl
import hashlib
import json
import os
import pathlib
import shutil

__all__ = [
    "PART", "InputError", "atomic_folder", "atomic_path", "read_json", "sha256_of", "write_json",
]  # fmt: skip

PART = ".part-"
"""How the names of what is being written begin; a killed process leaves some behind."""


class InputError(ValueError):
    """Something the user gave, or that lies on their disk, cannot be used.

    The message is one line that says what was expected, what was received and the remedy. Scripts
    print it and exit with code 2; it is never shown as a traceback.
    """


@contextlib.contextmanager
def atomic_path(path):
    """Yields a temporary path beside `path`, renamed to it only if the block succeeds.

    It always has the same name, so what a killed process leaves behind is used up by the next one.
    Who finds another process at work there waits for it.

    Args:
        path: The final file, `str` or `Path`; its folder is made if missing.

    Yields:
        A `Path` in the same folder (so the rename stays on one file system) with the same suffix.
    """
    path = pathlib.Path(path)
    part = path.with_name(PART + path.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(part) as handle:
        os.ftruncate(handle, 0)
        try:
            yield part
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        os.replace(part, path)


@contextlib.contextmanager
def atomic_folder(path):
    """Yields a temporary folder beside `path`, renamed to it only if the block succeeds.

    As `atomic_path`. An older folder at `path` is replaced in that moment and not before. That
    takes two renames; if a process is killed between them, the next call begins by moving the older
    one back.
    """
    path = pathlib.Path(path)
    part, old, lock = (path.with_name(PART + name + path.name) for name in ("", "old-", "lock-"))
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(lock):
        try:
            _settle(path, part, old)
            part.mkdir()
            yield part
            if path.exists():
                os.replace(path, old)
            os.replace(part, path)
        finally:
            _settle(path, part, old)
            lock.unlink(missing_ok=True)


def _settle(path, part, old):
    """Leaves one folder, the newer one if it has come so far, and nothing beside it."""
    if old.exists() and not path.exists():
        os.replace(old, path)
    for folder in (part, old):
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _locked(path):
    """Yields a handle of a file, made if missing, that no other process holds in this way."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        with contextlib.suppress(OSError):  # some network file systems know no locks
            # It ends with the process, however that ends.
            fcntl.flock(handle, fcntl.LOCK_EX)
        # Who held it until now may have renamed or removed it.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), os.stat(path)):
                break
        os.close(handle)
    try:
        yield handle
    finally:
        os.close(handle)


def write_json(path, content):
    """Writes `content` as indented JSON, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_json(path, remedy="It is damaged."):
    """Reads a JSON file.

    Args:
        path: The file.
        remedy: What to do if it is not JSON, a sentence.

    Raises:
        InputError: If the file is missing or is not JSON.
    """
    path = pathlib.Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"Expected a file at {path}, found none.") from None
    except ValueError as error:
        raise InputError(
            f"Expected JSON in {path}, received something else ({error}). {remedy}"
        ) from None


def sha256_of(path):
    """SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
