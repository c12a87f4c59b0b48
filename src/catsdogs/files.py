"""Writing files so that a reader never meets half of one, and the error a user can act on."""

import contextlib
import hashlib
import json
import os
import pathlib
import shutil
import tempfile

from catsdogs.fields import check_fields

__all__ = [
    "MAX_PICTURE_BYTES", "InputError", "atomic_folder", "atomic_path", "read_json", "say_briefly",
    "sha256_of", "write_json",
]  # fmt: skip

MAX_PICTURE_BYTES = 256 * 2**20  # a larger file is no picture, and is never read into memory


class InputError(ValueError):
    """Something the user gave, or that lies on their disk, cannot be used.

    The message is one line that says what was expected, what was received and the remedy. Scripts
    print it and exit with code 2; it is never shown as a traceback.
    """


@contextlib.contextmanager
def atomic_path(path):
    """Yields a temporary path beside `path`, renamed to it only if the block succeeds.

    Args:
        path: The final file, `str` or `Path`; its folder is made if missing.

    Yields:
        A `Path` in the same folder (so the rename stays on one file system) with the same suffix.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = pathlib.Path(name)
    try:
        yield temporary
        # mkstemp makes files private; give the result the permissions any other file would have.
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path):
    """Yields a temporary folder beside `path`, renamed to it only if the block succeeds.

    An older folder at `path` is replaced in that moment and not before.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = pathlib.Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        if path.exists():
            old = pathlib.Path(tempfile.mkdtemp(prefix=f".{path.name}-old-", dir=path.parent))
            os.replace(path, old)
            os.replace(temporary, path)
            shutil.rmtree(old)
        else:
            os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


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
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"Expected a file at {path}, found none.") from None
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


def say_briefly(text, length=200):
    """What a library or a stranger's file says, as part of a line: printable, and not too long."""
    text = "".join(c if c.isprintable() else " " for c in str(text))
    text = " ".join(text.split())
    return text if len(text) <= length else f"{text[: length - 1]}…"


def sha256_of(path):
    """SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask
