"""What the demo's page offers: models to choose among, and pictures to try them on."""

import contextlib
import dataclasses
import functools
import itertools
import os
import pathlib

import numpy as np
from PIL import Image

from catsdogs.data.images import decode_image
from catsdogs.errors import InputError
from catsdogs.inference.predict import list_pictures
from catsdogs.models.model_file import read_card
from catsdogs.stages import run as runs

__all__ = ["Choice", "example_pictures", "find_choices", "name_choices", "shrink"]

_THUMBNAIL_SIDE = 240  # pixels
_NUM_EXAMPLES = 8


@dataclasses.dataclass(frozen=True, eq=False)
class Choice:
    """A model that the page offers."""

    path: pathlib.Path
    """Run folder or .keras file."""
    classes: tuple[str, ...]
    validation: dict | None
    """`metrics["validation"]` of its run, if it is one."""


def find_choices(words=(), root="runs"):
    """The models to offer.

    Args:
        words: Run folders and `.keras` files, in the order to offer them.
        root: Folder of runs, of which all finished ones that have a model are offered if there
            are no words: those of photographs before those of drawings, whole ones before
            smoke runs, and of these the one first that is surely right most often.

    Returns:
        A list of `Choice`, at least one.

    Raises:
        InputError: If a model that was named cannot be used, or none was found.
    """
    if words:
        return [_choice(pathlib.Path(word)) for word in words]
    found = []
    for path in sorted(pathlib.Path(root).glob("*/*/")):
        if runs.is_complete(path):
            with contextlib.suppress(InputError):  # a run of an earlier version, say
                found.append(_choice(path))
    if not found:
        raise InputError(
            f"Expected a finished run in {root}/*/*/, found none that has a model. Train one with "
            "scripts/train_scratch.py, or name a run or a .keras file."
        )
    return sorted(found, key=_rank)


def name_choices(choices):
    """What tells models apart: how often each is right, and the end of its path.

    Returns:
        A list of `str`.
    """
    paths = [choice.path.absolute() for choice in choices]
    root = os.path.commonpath([path.parent for path in paths])
    return [
        (f"{choice.validation['accuracy']:.1%}  " if choice.validation else "")
        + os.path.relpath(path, root)
        for choice, path in zip(choices, paths, strict=True)
    ]


@functools.cache
def example_pictures(choice):
    """A few validation pictures of a run, of every class in turn, if they are on this machine.

    Args:
        choice: A `Choice`.

    Returns:
        A list of pairs: the file, and a thumbnail, uint8 (height, width, 3).
    """
    try:
        folder = pathlib.Path(runs.validation_folder(choice.path))
    except InputError:
        return []
    classes = [list_pictures([str(path)]) for path in sorted(folder.iterdir())]
    files = itertools.chain.from_iterable(itertools.zip_longest(*classes))
    found = []
    for file in filter(None, files):
        with contextlib.suppress(InputError):
            found.append((file, shrink(decode_image(file), _THUMBNAIL_SIDE)))
        if len(found) == _NUM_EXAMPLES:
            break
    return found


def shrink(pixels, side):
    """The same picture, uint8 (height, width, 3), with a longer side of `side` pixels at most."""
    image = Image.fromarray(pixels)
    image.thumbnail((side, side))
    return np.asarray(image)


def _choice(path):
    card = read_card(path)
    metrics = runs.load_run(path)[1] if runs.is_complete(path) else {}
    return Choice(path, card["classes"], metrics.get("validation"))


def _rank(choice):
    """Few pictures tell little, drawings nothing of photographs: a high accuracy is not enough."""
    metrics = runs.load_run(choice.path)[1]
    low, _ = metrics["validation"]["accuracy_interval95"]
    return metrics["drawings"], metrics["config"]["smoke"], -low
