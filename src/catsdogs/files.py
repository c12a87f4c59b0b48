"""Writing files so that a reader never meets half of one, and the error a user can act on."""

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import json
import os
import pathlib
import re
import shutil
import sys
import tempfile

__all__ = [
    "InputError",
    "atomic_folder",
    "atomic_path",
    "hold",
    "is_temporary",
    "read_json",
    "sha256_of",
    "write_json",
]

# What `tempfile` makes of the prefixes below, and nobody else's hidden files.
_TEMPORARY = re.compile(r"\..+-[a-z0-9_]{8}(\.[a-z0-9]+)?")
_MAX_ATTEMPTS = 1000
_held = set()  # the folders that this process holds, each by its device and inode


class InputError(ValueError):
    """Something the user gave, or that lies on their disk, cannot be used.

    The message is one line that says what was expected, what was received and the remedy. Scripts
    print it and exit with code 2; it is never shown as a traceback.
    """


@contextlib.contextmanager
def atomic_path(path):
    """Yields a temporary path beside `path`, renamed to it only if the block succeeds.

    The content is on the disk before the rename is, so a power cut leaves the old file or the new.

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
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        # mkstemp makes files private; give the result the permissions any other file would have.
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path):
    """Yields a temporary folder beside `path`, renamed to it only if the block succeeds.

    An older folder at `path` is replaced in that moment and not before, where the system can swap
    two folders (as Linux can) so that there is one at any moment.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = pathlib.Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        try:
            os.replace(temporary, path)  # over an empty folder too
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            if not _swap(temporary, path):
                old = pathlib.Path(tempfile.mkdtemp(prefix=f".{path.name}-old-", dir=path.parent))
                os.replace(path, old)
                os.replace(temporary, path)
                shutil.rmtree(old)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _swap(first, second):
    """Lets two paths change places in one step; returns whether the system can."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    here, exchange = -100, 2  # AT_FDCWD and RENAME_EXCHANGE in Linux's headers
    paths = map(os.fsencode, (first, second))
    return rename is not None and rename(here, next(paths), here, next(paths), exchange) == 0


def is_temporary(path):
    """Whether a path is named like what `atomic_path` and `atomic_folder` leave if killed."""
    return _TEMPORARY.fullmatch(pathlib.Path(path).name) is not None


@contextlib.contextmanager
def hold(folder, *, shared=False, wait=False):
    """Keeps other processes out of a folder while the block runs.

    The lock lies on the folder itself: there is no file to be left behind, and it ends with the
    process, however that ends. It binds those that ask for it, on one machine. What this process
    holds already it may hold again; what it replaces in the block it holds until then.

    Args:
        folder: `str` or `Path`. If missing it is made, and taken away again if it stays empty.
        shared: Whether others may be there that share it too: they only read. A missing folder is
            then not made.
        wait: Whether to wait for the others, and say so, rather than give up.

    Raises:
        InputError: If another process holds the folder and `wait` is false.
    """
    folder = pathlib.Path(folder)
    if shared and not folder.is_dir():
        yield
        return
    made, handle, attempts = [], None, 0
    try:
        while handle is None:
            made += [place for place in (folder, *folder.parents) if not place.exists()]
            try:
                folder.mkdir(parents=True, exist_ok=True)
                handle, identity = _lock(folder, fcntl.LOCK_SH if shared else fcntl.LOCK_EX, wait)
            except FileNotFoundError:  # another process has just taken a folder away
                attempts += 1
                if attempts > _MAX_ATTEMPTS:
                    raise
        outermost = identity not in _held
        _held.add(identity)
        try:
            yield
        finally:
            if outermost:
                _held.remove(identity)
    finally:
        if handle is not None:
            # Before the lock ends, or another process might just have begun to use the folder.
            for place in made:
                with contextlib.suppress(OSError):
                    place.rmdir()
            os.close(handle)


def _lock(folder, kind, wait):
    """Locks a folder and returns (file descriptor, identity); (`None`, `None`) if it was replaced
    or taken away meanwhile."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        found = os.fstat(handle)
        identity = found.st_dev, found.st_ino
        if identity in _held:
            return handle, identity
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                raise InputError(
                    f"Expected {folder} to be free, received a folder that another process uses. "
                    "Wait until that one has ended, or choose another folder."
                ) from None
            print(f"Waiting for another process that uses {folder}.", file=sys.stderr, flush=True)
            fcntl.flock(handle, kind)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(found, os.stat(folder)):
                return handle, identity
    except BaseException:
        os.close(handle)
        raise
    os.close(handle)
    return None, None


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
