"""Writing files so that a reader never meets half of one, and the error a user can act on."""

import contextlib
import hashlib
import json
import os
import pathlib
import shutil
import tempfile

__all__ = ["InputError", "atomic_folder", "atomic_path", "read_json", "sha256_of", "write_json"]


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


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask
