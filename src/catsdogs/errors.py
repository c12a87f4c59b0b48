"""The error a user can act on, and from any other one to what its user can do about it."""

import errno
import os

__all__ = ["InputError", "explain", "say_briefly", "say_line"]

# What a user can mend: a full or read-only disk, a missing permission, a path that leads nowhere.
_USERS_ERRNO = (
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO,
    errno.EBUSY, errno.EXDEV, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST,
    errno.ENAMETOOLONG, errno.ELOOP, errno.EFBIG, errno.EMFILE, errno.ENFILE, errno.ENOMEM,
)  # fmt: skip


class InputError(ValueError):
    """Something the user gave, or that lies on their disk, cannot be used.

    The message is one line that says what was expected, what was received and the remedy. Scripts
    print it and exit with code 2; it is never shown as a traceback.
    """


def explain(error):
    """What a user can do about an error.

    Args:
        error: An exception.

    Returns:
        A sentence or a few: what was expected, what was received, the remedy. `None` if the
        program itself is to blame.
    """
    text = str(error)
    if isinstance(error, InputError):
        return text
    if isinstance(error, MemoryError) or "can't start new thread" in text:
        return "Expected enough memory, received too little. Free some."
    if text.startswith(("Unable to import backend", "Key backend")):
        return (
            f"Expected backends that Keras and Matplotlib know, received: {say_briefly(text)}. "
            "Correct KERAS_BACKEND or MPLBACKEND."
        )
    # HDF5 and TensorFlow raise errors of their own, which name the cause only in their text.
    full = os.strerror(errno.ENOSPC) in text
    if not full and getattr(error, "errno", None) not in _USERS_ERRNO:
        return None
    place = getattr(error, "filename", None)
    cause = os.strerror(errno.ENOSPC if full else error.errno)
    # Without a path, Python says itself what was not found: a folder for temporary files.
    cause = cause if full or place else say_briefly(error.strerror or cause)
    return (
        f"Expected a usable path, permission and free space, received: {cause}"
        + (f" ({place})" if place else "")
        + ". Mend that or choose another path."
    )


def say_briefly(text, length=200):
    """What a library or a stranger's file says, as part of a line: printable, and not too long."""
    text = "".join(c if c.isprintable() else " " for c in str(text))
    text = " ".join(text.split())
    return text if len(text) <= length else f"{text[: length - 1]}…"


def say_line(text):
    """A whole line for the terminal, printable whatever name is in it."""
    return say_briefly(text, 5000)  # characters; no path is longer
