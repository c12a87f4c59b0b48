"""Files with pretrained weights: where they lie, and proof that they are the right ones."""

import hashlib
import importlib.util
import pathlib

import numpy as np

from catsdogs.errors import InputError

__all__ = ["digest_tensors", "file_in_package", "wrong_weights"]


def digest_tensors(tensors):
    """One SHA-256 for a sequence of arrays: that of their own SHA-256s, as hexadecimal text.

    Args:
        tensors: Arrays, hashed as little-endian float32 in C order.

    Returns:
        64 hexadecimal digits.
    """
    content = (np.ascontiguousarray(tensor, "<f4") for tensor in tensors)
    digests = "".join(hashlib.sha256(tensor).hexdigest() for tensor in content)
    return hashlib.sha256(digests.encode()).hexdigest()


def file_in_package(package, name):
    """Path of a file in an installed package, `None` if the package is not installed.

    The package is not imported, so none of its code runs.
    """
    spec = importlib.util.find_spec(package)
    return pathlib.Path(spec.origin).parent / name if spec else None


def wrong_weights(network, path, reason):
    """The error for a file that has other weights than those expected."""
    return InputError(
        f"Expected {network}'s ImageNet weights in {path}, which {reason}. Replace that file, or "
        "pass another one as --backbone-weights PATH."
    )
