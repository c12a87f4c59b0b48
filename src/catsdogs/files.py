"""Writing files so that a reader never meets half of one; reading JSON that may be anything."""

import contextlib
import ctypes
import hashlib
import json
import os
import pathlib
import shutil

from catsdogs.errors import InputError, say_briefly
from catsdogs.fields import check_fields
from catsdogs.locks import PART, hold, hold_file

__all__ = [
    "OLD", "atomic_folder", "atomic_path", "read_json", "sha256_of", "sweep", "write_json",
]  # fmt: skip

OLD = ".old-"  # after PART, what is being replaced; no data set or export begins with a dot


@contextlib.contextmanager
def atomic_path(path):
    """Yields a temporary path beside `path`, renamed to it only if the block succeeds.

    It always has the same name, so what a killed process leaves behind is used up by the next one.
    Who finds another process at work there waits for it. The content is on the disk before the
    rename is, so a power cut leaves the old file or the new.

    Args:
        path: The final file, `str` or `Path`; its folder is made if missing.

    Yields:
        A `Path` in the same folder (so the rename stays on one file system) with the same suffix.
    """
    path = pathlib.Path(os.path.realpath(path))  # a link stays one
    if path.exists() and not path.is_file():
        raise InputError(
            f"Expected a file's name, received {path}, a folder or a device. Choose another one."
        )
    part = path.with_name(PART + path.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    with hold_file(part) as handle:
        os.ftruncate(handle, 0)
        try:
            yield part
            with open(part, "rb") as written:
                os.fsync(written.fileno())
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        os.replace(part, path)


@contextlib.contextmanager
def atomic_folder(path):
    """Yields a temporary folder beside `path`, renamed to it only if the block succeeds.

    As `atomic_path`. An older folder at `path` is replaced in that moment and not before, in one
    step where the system can swap two folders, as Linux can. Elsewhere it takes two renames; if a
    process is killed between them, the next call begins by moving the older one back.
    """
    path = pathlib.Path(os.path.realpath(path))  # a link stays one
    part, old = (path.with_name(PART + name + path.name) for name in ("", OLD))
    with hold(path, wait=True):
        try:
            _settle(path, part, old)
            part.mkdir()
            yield part
            os.sync()  # one for all the files in it
            if not _swap(part, path):
                os.replace(path, old)
                os.replace(part, path)
        finally:
            _settle(path, part, old)


def _swap(first, second):
    """Lets two paths change places in one step; returns whether the system can."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    here, exchange = -100, 2  # AT_FDCWD and RENAME_EXCHANGE in Linux's headers
    return rename is not None and not rename(
        here, os.fsencode(first), here, os.fsencode(second), exchange
    )


def _settle(path, part, old):
    """Leaves one folder, the newer one if it has come so far, and nothing beside it."""
    if old.exists() and not (path.is_dir() and any(path.iterdir())):
        os.replace(old, path)
    for folder in (part, old):
        shutil.rmtree(folder, ignore_errors=True)


def sweep(part):
    """Deletes what `atomic_path` or `atomic_folder` left when it was killed.

    Args:
        part: A `Path` whose name begins with `PART`.

    Raises:
        InputError: If a process is at it.
    """
    if part.is_dir():
        with hold(part.with_name(part.name.removeprefix(PART).removeprefix(OLD))):
            shutil.rmtree(part)
    else:
        with hold_file(part, wait=False):
            part.unlink()


def write_json(path, content):
    """Writes `content` as indented JSON, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_json(path, remedy="It is damaged.", table=None):
    """Reads a JSON file.

    Args:
        path: The file.
        remedy: What to do if it is not JSON, a sentence.
        table: What it must hold, for `catsdogs.fields.check_fields`, or `None` for any object.

    Returns:
        A dictionary.

    Raises:
        InputError: If the file is missing, is not JSON or does not hold what it must.
    """
    path = pathlib.Path(path)
    if not path.is_file():  # nor is a pipe or a device, which may never end
        raise InputError(f"Expected a file at {path}, found none.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"Expected JSON in {path}, received something else ({say_briefly(error)}). {remedy}"
        ) from None
    try:
        check_fields(content, table or {})
    except ValueError as error:
        raise InputError(
            f"Expected {path} as this version writes it, received another: {error}. {remedy}"
        ) from None
    return content


def sha256_of(path):
    """SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
