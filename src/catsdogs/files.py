"""Writing files so that a reader never meets half of one, and the error a user can act on."""

import contextlib
import ctypes
import fcntl
import hashlib
import json
import os
import pathlib
import shutil
import sys

from catsdogs.fields import check_fields

__all__ = [
    "MAX_PICTURE_BYTES", "OLD", "PART", "InputError", "atomic_folder", "atomic_path", "hold",
    "read_json", "say_briefly", "sha256_of", "sweep", "write_json",
]  # fmt: skip

MAX_PICTURE_BYTES = 256 * 2**20  # a larger file is no picture, and is never read into memory
PART = ".part-"
"""How the names of what is being written begin; a killed process leaves some behind."""
OLD = ".old-"  # after it, what is being replaced; no data set or export begins with a dot
_held = set()  # the folders that this process holds, each by its device and inode


class InputError(ValueError):
    """Something the user gave, or that lies on their disk, cannot be used.

    The message is one line that says what was expected, what was received and the remedy. Scripts
    print it and exit with code 2; it is never shown as a traceback.
    """


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
    with _locked(part) as handle:
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


@contextlib.contextmanager
def hold(folder, *, shared=False, wait=False):
    """Keeps other processes out of a folder while the block runs.

    The lock lies on the folder itself: there is no file to be left behind, and it ends with the
    process, however that ends. It binds those that ask for it, on a local disk. What this process
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
    if folder.name.startswith(PART):
        raise InputError(
            f"Expected a folder whose name does not begin with {PART}, as those of half-written "
            f"ones do, received {folder}. Choose another one."
        )
    if shared and not folder.is_dir():
        yield
        return

    def answer_others():
        if not wait:
            raise _in_use(folder)
        print(f"Waiting for another process that uses {folder}.", file=sys.stderr, flush=True)

    made, handle = [], None
    try:
        while handle is None:
            made += [place for place in (folder, *folder.parents) if not place.exists()]
            folder.mkdir(parents=True, exist_ok=True)
            if _identity(folder) in _held:
                yield
                return
            kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
            handle = _lock(folder, os.O_RDONLY, kind, answer_others)
        identity = _identity(handle)
        _held.add(identity)
        try:
            yield
        finally:
            _held.remove(identity)
    finally:
        if handle is not None:
            # Before the lock ends, or another process might just have begun to use the folder.
            for place in made:
                with contextlib.suppress(OSError):
                    place.rmdir()
            os.close(handle)


def sweep(part):
    """Deletes what `atomic_path` or `atomic_folder` left when it was killed.

    Args:
        part: A `Path` whose name begins with `PART`.

    Raises:
        InputError: If a process is at it.
    """

    def refuse():
        raise _in_use(part)

    if part.is_dir():
        with hold(part.with_name(part.name.removeprefix(PART).removeprefix(OLD))):
            shutil.rmtree(part)
    else:
        with _locked(part, refuse):
            part.unlink()


def _in_use(path):
    return InputError(
        f"Expected {path} to be free, received one that another process uses. "
        "Wait until that one has ended, or choose another place."
    )


@contextlib.contextmanager
def _locked(path, answer_others=None):
    """Yields a handle of a file, made if missing, that nobody else holds in this way."""
    handle = None
    while handle is None:
        # No link that another user has put there is written through.
        handle = _lock(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, fcntl.LOCK_EX, answer_others)
    try:
        yield handle
    finally:
        os.close(handle)


def _lock(path, flags, kind, answer_others=None):
    """Opens and locks a file or folder; the lock ends with the process, however that ends.

    Args:
        answer_others: Called before waiting for another process.

    Returns:
        A file descriptor, or `None` if who held it until now has renamed or removed it.
    """
    try:
        handle = os.open(path, flags, 0o666)
    except FileNotFoundError:
        if flags & os.O_CREAT:
            raise
        return None
    try:
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if answer_others:
                answer_others()
            fcntl.flock(handle, kind)
        except OSError:
            pass  # some network file systems know no locks
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), os.stat(path)):
                return handle
    except BaseException:
        os.close(handle)
        raise
    os.close(handle)
    return None


def _identity(place):
    """What tells a path or a file descriptor apart; `None` if nothing is there."""
    with contextlib.suppress(FileNotFoundError):
        status = os.stat(place)
        return status.st_dev, status.st_ino


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


def say_briefly(text, length=200):
    """What a library or a stranger's file says, as part of a line: printable, and not too long."""
    text = "".join(c if c.isprintable() else " " for c in str(text))
    text = " ".join(text.split())
    return text if len(text) <= length else f"{text[: length - 1]}…"


def sha256_of(path):
    """SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
