"""One process at a time in a folder or file, by locks that end with the process that holds them."""

import contextlib
import fcntl
import os
import pathlib
import sys

from catsdogs.errors import InputError

__all__ = ["PART", "hold", "hold_file"]

PART = ".part-"
"""How the names of what is being written begin; a killed process leaves some behind."""
_held = set()  # the folders that this process holds, each by its device and inode


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


@contextlib.contextmanager
def hold_file(path, *, wait=True):
    """Keeps other processes that ask for it out of a file, made if missing, while the block runs.

    Args:
        path: `Path`; no link is followed.
        wait: Whether to wait for the others rather than give up.

    Yields:
        A file descriptor to read and write.

    Raises:
        InputError: If another process holds the file and `wait` is false.
    """

    def answer_others():
        if not wait:
            raise _in_use(path)

    handle = None
    while handle is None:
        # No link that another user has put there is written through.
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
        handle = _lock(path, flags, fcntl.LOCK_EX, answer_others)
    try:
        yield handle
    finally:
        os.close(handle)


def _in_use(path):
    return InputError(
        f"Expected {path} to be free, received one that another process uses. "
        "Wait until that one has ended, or choose another place."
    )


def _lock(path, flags, kind, answer_others):
    """Opens and locks a file or folder; the lock ends with the process, however that ends.

    Args:
        answer_others: Called before waiting for another process; may raise instead.

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
