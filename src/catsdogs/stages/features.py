"""Feature store: activations of a frozen part of VGG16, computed once and kept on disk.

One file for each split, view and cut. Its name holds a digest of everything that decides its
content, so a changed picture, size, precision or augmentation can never meet an old file. While a
file is being made it ends in `.partial`: rows are appended, so its length tells how many are
finished, and a stopped extraction goes on from there. One process at a time computes for a data
set; others wait and then find what they need.
"""

import concurrent.futures
import contextlib
import functools
import hashlib
import io
import itertools
import json
import math
import os
import pathlib
import time

import keras
import numpy as np

from catsdogs.data import augment
from catsdogs.data.batches import image_view, read_rows
from catsdogs.data.progress import Progress
from catsdogs.files import sha256_of
from catsdogs.locks import hold
from catsdogs.models.backbones import BACKBONES, split_model

__all__ = ["CUT", "FeatureStore"]

CUT = BACKBONES["vgg16"].cut  # the last layer before the block that fine-tuning trains

_BATCH_SIZE = 32  # at most: larger gains nothing on two cores and costs memory
_BATCH_PIXELS = 2.5e6  # at most, so that large images take no more memory than middling ones
_FORMAT = 1  # raised when the meaning of a file changes


class FeatureStore:
    """Cached activations of one frozen base on one data set.

    Half precision loses nothing that matters: under `mixed_bfloat16` activations have 8
    significant bits, and float16 keeps 11.

    Args:
        folder: Where the files lie, `str` or `Path`.
        conv_base: A model from `build_base`, with the ImageNet weights.
        dataset_digest: `Manifest.digest` of the pictures.
        precision: Name of the dtype policy that `conv_base` was built under.
        since: When the run began, seconds of `time.time()`, by default now. `reused` tells whether
            anything was taken over from before, `computed` whether anything was not.
    """

    def __init__(self, folder, conv_base, *, dataset_digest, precision, since=None):
        self._folder = pathlib.Path(folder)
        self._since = time.time() if since is None else since
        self.reused = self.computed = False  # for honest timings
        self._last = conv_base.layers[-1].name
        self._image_size = conv_base.input.shape[1]
        # Once: what they are compiled to stays with them.
        prefix, suffix = split_model(conv_base, CUT)
        # What passes the cut is float16, so that the result is the same whether it is stored there
        # or not.
        middle = keras.ops.cast(prefix.output, "float16")
        stored = keras.Input(suffix.input.shape[1:], dtype="float16")
        last = keras.ops.cast(suffix(middle), "float16")
        self._models = {
            (CUT,): keras.Model(prefix.input, [middle]),
            (self._last,): keras.Model(prefix.input, [last]),
            (CUT, self._last): keras.Model(prefix.input, [middle, last]),
        }
        self._from_cut = keras.Model(stored, [keras.ops.cast(suffix(stored), "float16")])
        self._networks = {CUT: _describe(prefix), self._last: _describe(prefix, suffix)}
        self._key = {
            "format": _FORMAT,
            "keras": keras.version(),
            "backend": keras.backend.backend(),
            "weights": BACKBONES["vgg16"].weights_digest,
            "dataset": dataset_digest,
            "precision": precision,
        }

    def features(self, images, split, view=0, cut=None, *, keep_cut=False):
        """Activations of every image of a split, from the disk if they are there.

        Args:
            images: uint8 (n, image_size, image_size, 3).
            split: `"train"`, `"validation"` or `"test"`.
            view: Number of the view; see `image_view`.
            cut: Name of the layer whose output is wanted, `CUT` or by default the base's last.
            keep_cut: Whether to store also what passes `CUT` on the way, for fine-tuning, so that
                no image passes a block twice.

        Returns:
            A read-only float16 memory map (n, ...).
        """
        wanted = cut or self._last
        places = {
            name: self._path(images, split, view, name) for name in (CUT, self._last)
            if name == wanted or (keep_cut and name == CUT)
        }  # fmt: skip
        self.reused |= _is_older(places[wanted], self._since)
        if before := _missing(places):
            self.computed = True
            with hold(self._folder, wait=True):
                names = _missing(places)
                # What another process has made while this one waited took no time of its own.
                self.reused |= names != before
                if names:
                    self._compute(names, images, split, view)
        return _load(places[wanted])

    def _compute(self, names, images, split, view):
        """Makes the files of the layers `names` for one view of a split."""
        paths = [self._path(images, split, view, name) for name in names]
        self.reused |= any(_partial(one).exists() for one in paths)
        at_cut = self._path(images, split, view, CUT)
        activations = _load(at_cut)
        if activations is not None:  # then the first four blocks have been run already
            self.reused |= _is_older(at_cut, self._since)
            load = functools.partial(read_rows, activations)
            model = self._from_cut
        else:
            load = functools.partial(image_view, images, view=view)
            model = self._models[names]
        label = f"{' and '.join(names)} features, {split} view {view}"
        # The same batches whatever is fed, since the last bits might depend on them.
        size = max(1, min(_BATCH_SIZE, int(_BATCH_PIXELS / self._image_size**2)))
        _extract(paths, model, load, len(images), size, label)

    def _path(self, images, split, view, cut):
        content = {
            **self._key,
            "split": split,
            "num_images": len(images),
            "image_size": self._image_size,
            "view": view,
            "cut": cut,
            "network": self._networks[cut],
        }
        if view > 1:  # the first two are the image and its mirror image, whatever the warps are
            content["augmentation"] = sha256_of(augment.__file__)
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
        return self._folder / f"{split}-view{view}-{cut}-{self._image_size}-{digest}.npy"


def _describe(*models):
    """What models compute, their weights apart: operations and settings, JSON-ready."""
    # Names may be numbered anew, and no activation depends on what is going to be trained.
    passed_over = {"name", "trainable"}
    return [
        [
            type(operation).__name__,
            {k: v for k, v in operation.get_config().items() if k not in passed_over},
        ]
        for model in models
        for operation in model.operations
        if not isinstance(operation, keras.layers.InputLayer)
    ]


def _load(path):
    """The activations in a finished file, or `None` if there is none or it has been cut short."""
    with contextlib.suppress(OSError, ValueError, EOFError):
        return np.load(path, mmap_mode="r")


def _missing(places):
    """The layers among `{layer: path}` whose activations are still to be computed."""
    return tuple(name for name, path in places.items() if _load(path) is None)


def _is_older(path, since):
    return path.exists() and path.stat().st_mtime < since


def _partial(path):
    return path.with_suffix(".npy.partial")


def _extract(paths, model, load, num_rows, size, label):
    """Runs a model over `load(slice)` for all rows; each of its outputs becomes one of `paths`.

    Args:
        size: Rows a batch.
    """
    with contextlib.ExitStack() as stack:
        files = [
            stack.enter_context(_PartialFile(path, (num_rows, *output.shape[1:])))
            for path, output in zip(paths, model.outputs, strict=True)
        ]
        # Whole batches alone, so that every row is computed in the batch it always is in.
        finished = min(file.num_rows() for file in files) // size * size
        for file in files:
            file.truncate(finished)
        starts = range(finished, num_rows, size)
        batches = [slice(start, min(start + size, num_rows)) for start in starts]
        progress = stack.enter_context(Progress(f"Computing {label}", num_rows))
        # What comes next is read while the processors compute.
        thread = stack.enter_context(concurrent.futures.ThreadPoolExecutor(1))
        following = None
        for rows, next_rows in itertools.zip_longest(batches, batches[1:]):
            current = following or thread.submit(load, rows)
            following = next_rows and thread.submit(load, next_rows)
            activations = model.predict_on_batch(current.result())
            # A list for two outputs, a bare array for one.
            for file, rows_of_one in zip(files, keras.tree.flatten(activations), strict=True):
                file.append(rows_of_one)
            progress.update(rows.stop)
        for file in files:
            file.finish()


class _PartialFile:
    """A `.npy` file of float16 while it is being made.

    Appending, not a writable memory map: on a full disk that would end in SIGBUS.

    Args:
        path: Where the finished file belongs.
        shape: Of the finished array.
    """

    def __init__(self, path, shape):
        self._path, self._partial = path, _partial(path)
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            header, {"descr": "<f2", "fortran_order": False, "shape": shape}
        )
        self._header = header.getvalue()
        self._row_bytes = 2 * math.prod(shape[1:])

    def __enter__(self):
        self._file = open(self._partial, "ab")
        if self._file.tell() < len(self._header):
            self._file.truncate(0)
            self._file.write(self._header)
        return self

    def __exit__(self, *error):
        self._file.close()

    def num_rows(self):
        """Whole rows there."""
        return (self._file.tell() - len(self._header)) // self._row_bytes

    def truncate(self, num_rows):
        self._file.truncate(len(self._header) + num_rows * self._row_bytes)

    def append(self, rows):
        self._file.write(rows.astype("<f2", copy=False).tobytes())

    def finish(self):
        self._file.flush()
        os.fsync(self._file.fileno())
        os.replace(self._partial, self._path)
