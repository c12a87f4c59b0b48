"""The error that a user can act on, and one line for system errors that a user can act on."""

import errno
import os

__all__ = ["InputError", "describe_invalid", "printable", "shorten", "user_message"]

# A full or read-only disk, a missing permission, a path that leads nowhere.
_ACTIONABLE = {
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT,
    errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG,
}  # fmt: skip


class InputError(ValueError):
    """Something that the user gave, or that is on their disk, cannot be used.

    The message is one line: what was expected, what was received, the remedy. Commands print it
    and exit with code 2; it is never shown as a traceback.
    """


def user_message(error):
    """One line about an error that its user can act on, `None` for any other error."""
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, MemoryError):
        return "Out of memory. Close other programs, or use a smaller --image-size or --batch-size."
    if isinstance(error, OSError) and error.errno in _ACTIONABLE:
        path = f": {error.filename}" if error.filename else ""
        return f"{error.strerror}{path}. Free some space, or choose another path."
    # HDF5 and TensorFlow raise errors of their own on a full disk.
    if os.strerror(errno.ENOSPC) in str(error):
        return f"{os.strerror(errno.ENOSPC)}. Free some space."
    return None


def describe_invalid(error):
    """The first problem that pydantic found, as `("image_size", "should be ..., received 7")`."""
    first = error.errors(include_url=False)[0]
    name = shorten(".".join(map(str, first["loc"]))) or "the content"
    problem = shorten(first["msg"].removeprefix("Value error, ").removeprefix("Input "))
    if first["type"] == "missing":
        return name, "is missing"
    return name, f"{problem}, received {shorten(repr(first['input']), 80)}"


def shorten(text, length=200):
    """Text from a library or a stranger's file as part of a line: printable, and not too long."""
    text = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
    return text if len(text) <= length else f"{text[: length - 1]}…"


def printable(text):
    """A line for the terminal, without control characters, which a file name may contain."""
    return shorten(text, 5000)
