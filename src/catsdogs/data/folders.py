"""Folders of pictures: what lies in them and below, each folder once, links followed."""

import functools
import os
import pathlib

__all__ = ["MAX_PICTURE_BYTES", "files_in_folder", "is_passed_over"]

MAX_PICTURE_BYTES = 256 * 2**20  # a larger file is no picture, and is never read into memory
_IGNORED = {"__macosx", "thumbs.db", "desktop.ini"}  # what file managers leave behind


def files_in_folder(folder):
    """Lists the files in a folder and below, as `catsdogs.data.archives.files_in_archive` does.

    Args:
        folder: `Path`.

    Yields:
        A triple for each file: the parts of its path below the folder; its size in bytes; a
        function that returns its content. For each folder: the parts and an empty one; 0; `None`.

    Raises:
        OSError: If a folder cannot be read.
    """
    for place, names in _folders_once(folder):
        parts = place.relative_to(folder).parts
        yield (*parts, ""), 0, None
        for name in sorted(names):
            file = place / name
            if file.is_file():  # not a socket, nor a link to nothing
                size = file.stat().st_size
                yield (*parts, name), size, functools.partial(_read_file, file, size)


def _folders_once(folder):
    """Yields (path, names of files) of a folder and all below, links last: they may lead back."""
    left, seen = [folder], set()
    while left:
        for place, folders, names in os.walk(left.pop(0), onerror=_refuse):
            # Of two links to one folder, the first gives the class. What is hidden may be locked.
            folders[:] = sorted(name for name in folders if not is_passed_over(name))
            place = pathlib.Path(place)
            status = place.stat()
            if (status.st_dev, status.st_ino) in seen:
                folders.clear()
                continue
            seen.add((status.st_dev, status.st_ino))
            left += [place / name for name in sorted(folders) if (place / name).is_symlink()]
            yield place, names


def _refuse(error):
    raise error  # a folder that cannot be read: its pictures, or a whole class, would be missing


def _read_file(path, size):
    with path.open("rb") as file:  # no more than announced: some of a system's own never end
        return file.read(size)


def is_passed_over(name):
    """Whether a file or folder of this name is hidden, or what a file manager leaves behind."""
    return name.startswith(".") or name.lower() in _IGNORED
