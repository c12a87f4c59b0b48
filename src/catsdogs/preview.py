"""A picture of what augmentation does: one training image, varied many ways."""

import pathlib

import numpy as np

from catsdogs.config import SCRATCH
from catsdogs.data.augment import augment, view_random
from catsdogs.data.images import load_split
from catsdogs.data.manifest import load_manifest
from catsdogs.evaluation.figures import save_figure
from catsdogs.evaluation.plots import plot_image_grid

__all__ = ["save_augmentation_preview"]

_SIZE = SCRATCH["best"].image_size  # pixels: decoded for the preview, and then for training
_COLUMNS = 8


def save_augmentation_preview(data_dir, index=0):
    """Writes `augmentation.jpg` into the data set's folder.

    Args:
        data_dir: A prepared data set.
        index: Which training image to show.

    Returns:
        The picture's `Path`. Above the image itself and seven book-style variants of it, below
        eight strong ones.
    """
    data_dir = pathlib.Path(data_dir)
    images, _ = load_split(data_dir, load_manifest(data_dir), "train", _SIZE)
    repeated = np.repeat(images[index : index + 1], _COLUMNS, axis=0)
    random = view_random(seed=0, view=index, num_images=_COLUMNS)
    book, strong = (
        augment(repeated, random, name, _SIZE).numpy().astype(np.uint8)
        for name in ("book", "strong")
    )
    titles = ["original"] + ["book"] * (_COLUMNS - 1) + ["strong"] * _COLUMNS
    grid = np.concatenate([images[index : index + 1], book[1:], strong])
    path = data_dir / "augmentation.jpg"
    save_figure(plot_image_grid(grid, titles, columns=_COLUMNS), path)
    return path
