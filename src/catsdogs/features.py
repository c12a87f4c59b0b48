"""Feature store: activations of a frozen part of VGG16, computed once and kept on disk.

One file for each split, view and cut. Its name holds a digest of everything that decides its
content, so a changed picture, size, precision or augmentation can never meet an old file. While a
file is being made it ends in `.partial`: rows are appended, so its length tells how many are
finished, and a stopped extraction goes on from there.
"""

import fcntl
import functools
import hashlib
import io
import json
import os
import pathlib
import time

import keras
import numpy as np

from catsdogs.data import augment
from catsdogs.data.pipeline import image_view, read_rows
from catsdogs.data.progress import Progress
from catsdogs.files import InputError, sha256_of
from catsdogs.models import split_base
from catsdogs.weights import VGG16_DIGEST

__all__ = ["CUT", "FeatureStore"]

CUT = "block4_pool"  # the last layer before the block that fine-tuning trains

_BATCH_SIZE = 32  # larger gains nothing on two cores and costs memory
_FORMAT = 1  # raised when the meaning of a file changes


class FeatureStore:
    """Cached activations of one frozen base on one data set.

    Half precision loses nothing that matters: under `mixed_bfloat16` activations have 8
    significant bits, and float16 keeps 11.

    Args:
        folder: Where the files lie, `str` or `Path`.
        conv_base: A model from `build_vgg16_base`, with the ImageNet weights.
        dataset_digest: `Manifest.digest` of the pictures.
        precision: Name of the dtype policy that `conv_base` was built under.
        since: When the run began, seconds of `time.time()`, by default now. `reused` tells whether
            anything was taken over from before, `computed` whether anything was not.
    """

    def __init__(self, folder, conv_base, *, dataset_digest, precision, since=None):
        self._folder = pathlib.Path(folder)
        self._parts = split_base(conv_base, CUT)  # once: what they are compiled to stays with them
        self._since = time.time() if since is None else since
        self.reused = self.computed = False  # for honest timings
        self._last = conv_base.layers[-1].name
        self._image_size = conv_base.input.shape[1]
        self._key = {
            "format": _FORMAT,
            "keras": keras.version(),
            "backend": keras.backend.backend(),
            "weights": VGG16_DIGEST,
            "dataset": dataset_digest,
            "precision": precision,
        }

    def features(self, images, split, view=0, cut=None):
        """Activations of every image of a split, from the disk if they are there.

        Args:
            images: uint8 (n, image_size, image_size, 3).
            split: `"train"`, `"validation"` or `"test"`.
            view: Number of the view; see `image_view`.
            cut: Name of the layer whose output is wanted; by default the base's last.

        Returns:
            A read-only float16 memory map (n, ...).
        """
        cut = cut or self._last
        path = self._path(images, split, view, cut)
        if path.exists():
            self.reused |= path.stat().st_mtime < self._since
        else:
            self.computed = True
            self.reused |= _partial(path).exists()
            earlier = self._path(images, split, view, CUT)
            models = list(self._parts[:1] if cut == CUT else self._parts)
            if cut != CUT and earlier.exists():  # then the first four blocks have been run already
                self.reused |= earlier.stat().st_mtime < self._since
                activations, models = np.load(earlier, mmap_mode="r"), models[1:]
                load = functools.partial(read_rows, activations)
            else:
                load = functools.partial(image_view, images, view=view)
            label = f"{cut} features, {split} view {view}"
            _extract(path, models, load, len(images), label)
        return np.load(path, mmap_mode="r")

    def _path(self, images, split, view, cut):
        content = {
            **self._key,
            "split": split,
            "num_images": len(images),
            "image_size": self._image_size,
            "view": view,
            "cut": cut,
        }
        if view > 1:  # the first two are the image and its mirror image, whatever the warps are
            content["augmentation"] = sha256_of(augment.__file__)
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
        return self._folder / f"{split}-view{view}-{cut}-{self._image_size}-{digest}.npy"


def _partial(path):
    return path.with_suffix(".npy.partial")


def _extract(path, models, load, num_rows, label):
    """Runs models over `load(slice)` for all rows and leaves float16 rows in the file `path`.

    What passes from one model to the next is float16 as well: so the last one's result is the same
    whether the first one's was stored in between or not.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial(path)
    row_shape = models[-1].output.shape[1:]
    row_bytes = 2 * int(np.prod(row_shape))
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f2", "fortran_order": False, "shape": (num_rows, *row_shape)}
    )
    start_of_data = header.tell()

    # Appending, not a writable memory map: on a full disk that would end in SIGBUS.
    with open(partial, "ab") as file:
        try:
            # The lock ends with the process, however it ends.
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"Expected to be alone in computing {partial.name}, found another process at it. "
                "Wait until it has finished, then give the same command again."
            ) from None
        if file.tell() < start_of_data:
            file.truncate(0)
            file.write(header.getvalue())
        # Whole batches only, so that every row is computed in the batch it always is in.
        finished = (file.tell() - start_of_data) // row_bytes // _BATCH_SIZE * _BATCH_SIZE
        file.truncate(start_of_data + finished * row_bytes)

        with Progress(f"Computing {label}", num_rows) as progress:
            for start in range(finished, num_rows, _BATCH_SIZE):
                rows = slice(start, min(start + _BATCH_SIZE, num_rows))
                activations = load(rows)
                for model in models:
                    activations = model.predict_on_batch(np.asarray(activations, np.float32))
                    activations = activations.astype("<f2")
                file.write(activations.tobytes())
                progress.update(rows.stop)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
