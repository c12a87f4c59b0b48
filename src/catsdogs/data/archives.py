"""What lies in a zip, from whoever made it.

Nothing is ever unpacked by the paths in an archive: its names are only read, to learn each
picture's class and file name. What an archive claims of itself bounds what is read of it.
"""

import functools
import os
import shutil
import struct
import tempfile
import zipfile
import zlib

from catsdogs.errors import InputError, shorten

__all__ = ["files_in_archive"]

_MAX_UNPACKED = 2**30, 100  # bytes; how many times its own size an archive may exceed them by
# What a zip is read with, and what is wrong with it: a flag, a version, an offset, a name.
_ZIP_ERRORS = (
    zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError, OverflowError, IndexError,
    struct.error,
)  # fmt: skip


def files_in_archive(path, stack):
    """Lists a zip; of Kaggle's `dogs-vs-cats.zip`, the `train.zip` within.

    Args:
        path: The archive, `Path`.
        stack: A `contextlib.ExitStack` that keeps it open for as long as its files are read.

    Yields:
        Triples of the parts of a path, of which a folder's last is '', the bytes that the file is
        said to have, and a function that reads them.

    Raises:
        InputError: If it is no zip, is damaged, or claims to hold more than it can.
    """
    try:
        archive = _open_zip(stack.enter_context(path.open("rb")), stack)
        nested = [entry for entry in archive.infolist() if entry.filename.endswith("train.zip")]
        if nested:  # Kaggle's dogs-vs-cats.zip: on disk, since memory may not hold it
            # It has no name, so that a killed process leaves nothing.
            inner = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
            with _open_entry(archive, nested[0]) as packed:
                shutil.copyfileobj(packed, inner, 1 << 20)
            archive = _open_zip(inner, stack)
    except InputError as error:
        raise InputError(
            f"Expected pictures in {path}. Received: {error}. Nothing was unpacked."
        ) from None
    except _ZIP_ERRORS as error:
        raise InputError(
            f"Expected a whole zip archive at {path}. Received: a truncated or other file "
            f"({shorten(error)}). Download it again."
        ) from None
    for entry in archive.infolist():
        parts = tuple(entry.filename.replace("\\", "/").split("/"))
        yield parts, entry.file_size, functools.partial(_read_entry, archive, entry)


def _open_zip(file, stack):
    """Opens an archive that does not claim to hold far more than its size can explain."""
    archive = stack.enter_context(zipfile.ZipFile(file))
    size = file.seek(0, os.SEEK_END)
    floor, ratio = _MAX_UNPACKED
    unpacked = sum(entry.file_size for entry in archive.infolist())
    if unpacked > floor + ratio * size:
        raise InputError(f"a zip bomb, {size:,} bytes that would unpack to {unpacked:,}")
    if sum(entry.compress_size for entry in archive.infolist()) > size:
        raise InputError("a zip bomb, whose entries lie over each other")
    return archive


def _open_entry(archive, entry):
    # The others unpack as much at once as they like, whatever size was asked for.
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise zipfile.BadZipFile(f"compression method {entry.compress_type}, expected deflate")
    return archive.open(entry)


def _read_entry(archive, entry):
    try:
        with _open_entry(archive, entry) as file:
            # Never -1: that unpacks everything and cuts it to the size in the entry afterwards.
            return file.read(entry.file_size + 1)
    except _ZIP_ERRORS as error:
        raise InputError(f"cannot be read from the archive ({shorten(error)})") from None
