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


import csv, json  # noqa
from catsdogs.console import Progress  # noqa
from catsdogs.errors import printable as say_line  # noqa


def accept_any_file_name():
    """Lets names that are not valid UTF-8 through standard input and output, byte for byte.

    Linux allows any bytes in a name, and one such name must not end a run over many files.
    """
    for stream in filter(None, (sys.stdin, sys.stdout)):  # None if closed
        stream.reconfigure(errors="surrogateescape")


def print_predictions(predictions, classes, threshold, form="table", total=None):
    """Prints answers as they come, on standard output, and unreadable files on standard error.

    Args:
        predictions: Iterable of `catsdogs.prediction.Prediction`.
        classes: Class names.
        threshold: Answers of a lower probability are marked as unsure.
        form: `"table"`, whose names are made printable, `"json"` (a list of objects) or `"csv"`,
            both with names as they are.
        total: Number of files for the progress line, or `None` if nobody knows.

    Returns:
        The exit code: 1 if a file could not be read, else 0.

    Raises:
        InputError: If the threshold is no probability.
    """
    if not 0 <= threshold <= 1:
        raise InputError(f"Expected --threshold from 0 to 1. Received: {threshold}.")
    write = {"table": _TableWriter, "json": _JsonWriter, "csv": _CsvWriter}[form](classes)
    unreadable = 0
    # A line that is rewritten in place would get between the answers on the same terminal.
    with Progress("Predicting", total, hidden=sys.stdout.isatty()) as progress:
        for done, answer in enumerate(predictions, start=1):
            if answer.error:
                unreadable += 1
                # Whatever stands in a file's name, it must not steer the terminal.
                error = say_line(answer.error)
                print(f"predict.py: {error}", file=sys.stderr, flush=True)
            else:
                write.answer(answer, answer.probability < threshold)
            progress.update(done)
    write.close()
    if unreadable:
        print(f"predict.py: {unreadable:,} of {done:,} files left out.", file=sys.stderr)
    return 1 if unreadable else 0


class _TableWriter:
    def __init__(self, classes):
        self._width = max(map(len, ("label", *classes)))
        print(f"{'label':<{self._width}}  probability          file")

    def answer(self, answer, unsure):
        mark = "unsure" if unsure else ""
        file = say_line(answer.file)
        print(
            f"{answer.label:<{self._width}}  {answer.probability:>11.1%}  {mark:<6}  {file}",
            flush=True,
        )

    def close(self):
        pass


class _JsonWriter:
    def __init__(self, classes):
        del classes
        self._before = "["

    def answer(self, answer, unsure):
        content = {
            "file": answer.file,
            "label": answer.label,
            "probability": answer.probability,
            "unsure": unsure,
            "probabilities": answer.probabilities,
        }
        text = json.dumps(content, ensure_ascii=False)
        # A byte that is not UTF-8 is half a character to Python, which JSON can only write escaped.
        text = text.encode(errors="backslashreplace").decode()
        print(f"{self._before}\n{text}", end="", flush=True)
        self._before = ","

    def close(self):
        print("[]" if self._before == "[" else "\n]")


class _UnixLines:
    """Lets `csv` end its lines with CR LF, so that it quotes both in a name, and writes LF."""

    def __init__(self, stream):
        self._stream = stream

    def write(self, line):
        self._stream.write(line.removesuffix("\r\n") + "\n")


class _CsvWriter:
    def __init__(self, classes):
        self._writer = csv.writer(_UnixLines(sys.stdout))
        names = (f"probability_of_{name}" for name in classes)
        self._writer.writerow(["file", "label", "probability", "unsure", *names])

    def answer(self, answer, unsure):
        numbers = (f"{value:.6f}" for value in answer.probabilities.values())
        self._writer.writerow(
            [answer.file, answer.label, f"{answer.probability:.6f}", str(unsure).lower(), *numbers]
        )

    def close(self):
        pass
