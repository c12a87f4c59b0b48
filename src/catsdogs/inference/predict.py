"""Answers for picture files: what each shows, how probable that is, and which cannot be read."""

import collections
import dataclasses
import glob
import itertools
import os
import pathlib
import sys

import numpy as np

from catsdogs.data.images import decode_image, map_pictures
from catsdogs.errors import InputError
from catsdogs.evaluation.metrics import class_probabilities

__all__ = ["Prediction", "count_pictures", "list_pictures", "predict_images", "predict_pictures"]

_BATCH = 16  # pictures: enough to keep two processors busy, and 20 MB at 320 pixels
_MAX_PIXELS = 3_300_000  # of a batch: for VGG16 4 GiB if all feature maps were kept


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a model says about one file; `probabilities` or `error` is `None`."""

    file: str
    probabilities: dict[str, float] | None
    """By class name."""
    error: str | None
    """Why the file cannot be read, a sentence."""

    @property
    def label(self):
        """The likeliest class."""
        return max(self.probabilities, key=self.probabilities.get)

    @property
    def probability(self):
        """Of that class, in [0, 1]."""
        return self.probabilities[self.label]


def list_pictures(words):
    """The files that a command line names, one after the other.

    Args:
        words: Files; folders, for all files in them and below, by name; patterns such as `"*.jpg"`,
            where the shell has left them, for the files and folders that match; `"-"` for one file
            a line from standard input.

    Yields:
        Paths, `str`. A word that names nothing is yielded as it is: it cannot be read either.
    """
    for word in words:
        if word == "-":
            yield from (line.rstrip("\r\n") for line in sys.stdin if line.strip())
        elif os.path.exists(word) or not glob.has_magic(word):
            yield from _files_at(word)
        else:
            matches = sorted(glob.iglob(word, recursive=True)) or [word]
            # Each file once: `**` matches a folder and also what is in it.
            yield from dict.fromkeys(file for match in matches for file in _files_at(match))


def _files_at(path):
    """The file itself, or all files in a folder and below."""
    if not os.path.isdir(path):
        yield path
        return
    unreadable = []
    walk = os.walk(path, onerror=lambda error: unreadable.append(error.filename))
    for folder, folders, names in walk:
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (os.path.join(folder, name) for name in sorted(names) if name[0] != ".")
    yield from unreadable  # told of like a file that cannot be read


def count_pictures(words):
    """How many files `list_pictures` will yield; `None` if standard input is among the words.

    Raises:
        InputError: If there are none.
    """
    if "-" in words:
        return None
    number = sum(1 for _ in list_pictures(words))
    if not number:
        raise InputError(
            "Expected pictures: files, folders with files, patterns or -. "
            f"Received: {' '.join(words) or 'none'}."
        )
    return number


def predict_pictures(saved, files, *, tta=False):
    """Predicts files of any number in constant memory; unreadable ones are told of and passed over.

    Args:
        saved: A `SavedModel`.
        files: Iterable of paths.
        tta: Test-time augmentation: the mean of each picture and its mirror image.

    Yields:
        A `Prediction` for every file, in order.
    """

    def decode(file):
        try:
            return file, decode_image(pathlib.Path(file), saved.image_size), None
        except InputError as error:
            return file, None, str(error)

    decoded = iter(map_pictures(decode, files))
    while chunk := list(itertools.islice(decoded, _BATCH)):
        images = [image for _, image, _ in chunk if image is not None]
        rows = iter(predict_images(saved, np.stack(images), tta=tta)) if images else iter(())
        for file, image, error in chunk:
            found = None if image is None else dict(zip(saved.classes, next(rows), strict=True))
            yield Prediction(file, found, error)


def predict_images(saved, images, *, tta=False):
    """Probabilities of images that are decoded already.

    Args:
        saved: A `SavedModel`.
        images: uint8 or float32 (n, image_size, image_size, 3) in [0, 255].
        tta: As for `predict_pictures`.

    Returns:
        A list of n lists of floats in [0, 1], one a class.
    """
    # Always whole batches: another shape would be compiled for anew.
    fitting = _MAX_PIXELS // saved.image_size**2
    size = 1 if len(images) == 1 else min(_BATCH, max(1, fitting))
    found = collections.deque()
    for start in range(0, len(images), size):
        part = np.asarray(images[start : start + size], np.float32)
        number = len(part)
        part = np.concatenate([part, np.zeros((size - number, *part.shape[1:]), np.float32)])
        rows = class_probabilities(saved.model.predict_on_batch(part))
        if tta:
            rows = (rows + class_probabilities(saved.model.predict_on_batch(part[:, :, ::-1]))) / 2
        found.extend(rows[:number].tolist())
    return list(found)
