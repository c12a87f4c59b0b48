"""Predictions for picture files: the class of each, its probability, and which cannot be read."""

import csv
import dataclasses
import glob
import itertools
import json
import os
import pathlib
import sys

import numpy as np

from catsdogs.console import Progress
from catsdogs.data.images import decode_image, map_pictures
from catsdogs.errors import InputError, printable
from catsdogs.evaluation.metrics import class_probabilities

__all__ = [
    "Prediction",
    "count_pictures",
    "list_pictures",
    "predict_images",
    "predict_pictures",
    "print_predictions",
]

_BATCH_SIZE = 16  # enough to keep two processors busy
_MAX_PIXELS = 1_000_000  # of a batch: smaller batches above 250 pixels, to bound memory


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The prediction for one file; either `probabilities` or `error` is `None`."""

    file: str
    probabilities: dict[str, float] | None
    """By class name."""
    error: str | None
    """Why the file cannot be read, a sentence."""

    @property
    def label(self):
        """The most probable class."""
        return max(self.probabilities, key=self.probabilities.get)

    @property
    def probability(self):
        """Probability of `label`, in [0, 1]."""
        return self.probabilities[self.label]


def list_pictures(paths):
    """Lists the files that a command line names.

    Args:
        paths: Files; folders, for all files in them and below, by name; patterns such as `"*.jpg"`
            that the shell has not expanded, for the files and folders that match; `"-"` for one
            file a line from standard input.

    Yields:
        Paths, `str`. A path that does not exist is yielded as it is, so that it is reported like
        any other file that cannot be read.
    """
    for path in paths:
        if path == "-":
            # Linux allows any bytes in a file's name, not only UTF-8.
            lines = (line.rstrip(b"\r\n") for line in sys.stdin.buffer)
            yield from (os.fsdecode(line) for line in lines if line)
        elif os.path.exists(path) or not glob.has_magic(path):
            yield from _files_in(path)
        else:
            matches = sorted(glob.iglob(path, recursive=True)) or [path]
            # Each file once: `**` matches a folder and also what is in it.
            yield from dict.fromkeys(file for match in matches for file in _files_in(match))


def _files_in(path):
    """Yields the file itself, or all files in a folder and below that are not hidden."""
    if not os.path.isdir(path):
        yield path
        return
    unreadable = []
    for folder, folders, names in os.walk(path, onerror=unreadable.append):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (os.path.join(folder, name) for name in sorted(names) if name[0] != ".")
    yield from (error.filename for error in unreadable)


def count_pictures(paths):
    """Counts the files that `list_pictures` yields; `None` if standard input is among the paths.

    Raises:
        InputError: If there are none.
    """
    if "-" in paths:
        return None
    count = sum(1 for _ in list_pictures(paths))
    if not count:
        raise InputError(
            "Expected pictures: files, folders with files, patterns or -. "
            f"Received: {' '.join(paths) or 'none'}."
        )
    return count


def predict_pictures(saved, files, *, tta=False):
    """Predicts any number of files in constant memory; unreadable ones are reported and skipped.

    Args:
        saved: A `SavedModel`.
        files: Iterable of paths.
        tta: As for `predict_images`.

    Yields:
        A `Prediction` for every file, in order.
    """

    def decode(file):
        try:
            return file, decode_image(pathlib.Path(file), saved.image_size), None
        except InputError as error:
            return file, None, str(error)

    decoded = iter(map_pictures(decode, files))
    while batch := list(itertools.islice(decoded, _BATCH_SIZE)):
        images = [image for _, image, _ in batch if image is not None]
        rows = iter(predict_images(saved, np.stack(images), tta=tta).tolist() if images else [])
        for file, image, error in batch:
            row = None if image is None else dict(zip(saved.classes, next(rows), strict=True))
            yield Prediction(file, row, error)


def predict_images(saved, images, *, tta=False):
    """Predicts images that are decoded already.

    Args:
        saved: A `SavedModel`.
        images: uint8 or float32 (n, image_size, image_size, 3) in [0, 255].
        tta: Test-time augmentation: the mean prediction for each image and its horizontal flip.

    Returns:
        Probabilities, float64 (n, num_classes) in [0, 1].
    """
    largest = max(1, _MAX_PIXELS // saved.image_size**2)
    # Batches are filled up to this size, because TensorFlow compiles for every new shape.
    size = 1 if len(images) == 1 else min(_BATCH_SIZE, largest)
    probabilities = np.empty((len(images), len(saved.classes)))
    for start in range(0, len(images), size):
        part = np.asarray(images[start : start + size], np.float32)
        batch = np.zeros((size, *part.shape[1:]), np.float32)
        batch[: len(part)] = part
        rows = class_probabilities(saved.predict(batch))
        if tta:
            flipped = class_probabilities(saved.predict(batch[:, :, ::-1]))
            rows = (rows + flipped) / 2
        probabilities[start : start + size] = rows[: len(part)]
    return probabilities


def print_predictions(predictions, classes, threshold, form="table", total=None):
    """Prints predictions as they come, on standard output, and errors on standard error.

    Args:
        predictions: Iterable of `Prediction`.
        classes: Class names.
        threshold: Predictions of a lower probability are marked as unsure.
        form: `"table"`; `"json"`, a list of objects; or `"csv"`.
        total: Number of files, for the progress line, or `None` if it is unknown.

    Returns:
        The exit code: 1 if a file could not be read, else 0.
    """
    sys.stdout.reconfigure(errors="surrogateescape")  # file names that are not UTF-8
    unreadable = done = 0

    def readable():
        nonlocal unreadable, done
        # On a terminal the predictions themselves show the progress.
        with Progress("Predicting", total, hidden=sys.stdout.isatty()) as progress:
            for done, prediction in enumerate(predictions, start=1):
                if prediction.error:
                    unreadable += 1
                    print(f"predict: {printable(prediction.error)}", file=sys.stderr)
                else:
                    yield prediction
                    sys.stdout.flush()
                progress.update(done)

    print_rows = {"table": _print_table, "json": _print_json, "csv": _print_csv}[form]
    print_rows(readable(), classes, threshold)
    if unreadable:
        print(f"predict: {unreadable:,} of {done:,} files skipped.", file=sys.stderr)
    return 1 if unreadable else 0


def _print_table(predictions, classes, threshold):
    width = max(map(len, ("label", *classes)))
    print(f"{'label':<{width}}  probability          file")
    for prediction in predictions:
        mark = "unsure" if prediction.probability < threshold else ""
        print(
            f"{prediction.label:<{width}}  {prediction.probability:>11.1%}  {mark:<6}  "
            f"{printable(prediction.file)}"
        )


def _print_json(predictions, classes, threshold):
    separator = "[\n"
    for prediction in predictions:
        row = {
            "file": prediction.file,
            "label": prediction.label,
            "probability": prediction.probability,
            "unsure": prediction.probability < threshold,
            "probabilities": prediction.probabilities,
        }
        print(separator + json.dumps(row), end="")
        separator = ",\n"
    print("[]" if separator == "[\n" else "\n]")


def _print_csv(predictions, classes, threshold):
    writer = csv.writer(sys.stdout, lineterminator="\n")
    names = (f"probability_of_{name}" for name in classes)
    writer.writerow(["file", "label", "probability", "unsure", *names])
    for prediction in predictions:
        unsure = str(prediction.probability < threshold).lower()
        numbers = [f"{value:.6f}" for value in prediction.probabilities.values()]
        writer.writerow(
            [prediction.file, prediction.label, f"{prediction.probability:.6f}", unsure, *numbers]
        )
