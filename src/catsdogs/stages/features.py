"""Feature store: activations of a frozen base, computed once and kept on disk in shards.

Each split, view and layer has a folder whose name holds a digest of everything that decides its
content, so a changed picture, size, precision or augmentation never meets old activations. In it
are shards of some hundred images, each complete or absent: an interrupted extraction resumes at
the first missing shard. One process at a time computes for a dataset; others wait and then find
what they need.
"""

import concurrent.futures
import functools
import hashlib
import json
import math
import pathlib
import time

import keras
import numpy as np

from catsdogs.console import Progress
from catsdogs.data import augment
from catsdogs.data.batches import image_view, read_rows
from catsdogs.files import atomic_path, lock, sha256_of
from catsdogs.models.backbones import split_model
from catsdogs.models.engine import inference_function
from catsdogs.models.weights import digest_tensors

__all__ = ["FeatureStore", "ShardedArray"]

# At most: larger batches gain nothing on two cores and cost memory.
_BATCH_SIZE = {"tensorflow": 32, "onnxruntime": 8}
_BATCH_PIXELS = 6e5  # at most: activations of VGG16 at 320² take 100 MB an image
_SHARD_SIZE = 256  # images, rounded up to complete batches
# Above both, a light backbone is suggested: seconds per image, seconds per view of a split.
_SLOW, _LONG = 0.1, 300
_FORMAT = 2  # raised when the meaning of the files changes


class FeatureStore:
    """Cached activations of one frozen base on one dataset.

    Half precision loses nothing that matters: under `mixed_bfloat16` activations have 8
    significant bits, and float16 keeps 11.

    Args:
        folder: Where the activations are kept, `str` or `Path`.
        conv_base: A base, or a classifier that has its layers.
        cut: Name of the last layer that no stage trains; see `Backbone`.
        dataset_digest: `Manifest.digest` of the pictures.
        precision: Name of the dtype policy that `conv_base` was built under.
        engine: What computes, see `inference_function`.

    Attributes:
        engine: What computes.
        reused: Whether anything was found on disk.
        computed: Whether anything was computed. These two are for honest timings.
    """

    def __init__(self, folder, conv_base, cut, *, dataset_digest, precision, engine="tensorflow"):
        self._folder, self.engine = pathlib.Path(folder), engine
        self.reused = self.computed = False
        self._cut, self._last = cut, conv_base.layers[-1].name
        self._image_size = conv_base.input.shape[1]
        prefix, suffix = split_model(conv_base, self._cut)
        # What passes the cut is float16, so that the result is the same whether it comes from the
        # disk or not.
        at_cut = keras.ops.cast(prefix.output, "float16")
        stored = keras.Input(suffix.input.shape[1:], dtype="float16")
        last = keras.ops.cast(suffix(at_cut), "float16")
        # By the layers whose output is wanted; from the cut on, only the last one's is.
        self._models = {
            (self._cut,): keras.Model(prefix.input, [at_cut]),
            (self._last,): keras.Model(prefix.input, [last]),
            (self._cut, self._last): keras.Model(prefix.input, [at_cut, last]),
            "from cut": keras.Model(stored, [keras.ops.cast(suffix(stored), "float16")]),
        }
        self._functions, self._is_suggested = {}, False
        self._networks = {self._cut: _describe(prefix), self._last: _describe(prefix, suffix)}
        self._key = {
            "format": _FORMAT,
            "keras": keras.version(),
            "backend": keras.backend.backend(),
            "dataset": dataset_digest,
            "precision": precision,
            "engine": engine,
        }
        # The same batches whatever is computed, since the last bits may depend on them.
        self._batch_size = max(
            1, min(_BATCH_SIZE[engine], int(_BATCH_PIXELS / self._image_size**2))
        )
        self._shard_size = math.ceil(_SHARD_SIZE / self._batch_size) * self._batch_size

    def features(self, images, split, view=0, cut=None, *, keep_cut=False):
        """Activations of every image of a split, from the disk if they are there.

        Args:
            images: uint8 (n, image_size, image_size, 3).
            split: `"train"`, `"validation"` or `"test"`.
            view: Number of the view; see `image_view`.
            cut: Name of the layer whose output is wanted: the cut, or by default the last layer.
            keep_cut: Whether to store also what passes the cut on the way, for fine-tuning, so
                that no image passes a block twice.

        Returns:
            float16 (n, ...), read-only: a `ShardedArray`, or an array if it is pooled.
        """
        wanted = cut or self._last
        names = [self._cut, wanted] if keep_cut else [wanted]
        shards = {name: self._shards(images, split, view, name) for name in names}
        self.reused |= any(path.exists() for path in shards[wanted])
        if before := _missing(shards):
            self.computed = True
            with lock(self._folder, wait=True):
                # What another process has computed meanwhile took no time of this run.
                self.reused |= _missing(shards) != before
                self._compute(shards, images, split, view)
        arrays = [np.load(path, mmap_mode="r") for path in shards[wanted]]
        return np.concatenate(arrays) if arrays[0].ndim == 2 else ShardedArray(arrays)

    def _compute(self, shards, images, split, view):
        """Computes the missing shards of one view of a split.

        Args:
            shards: `{layer name: paths}`.
        """
        label = f"Computing {' and '.join(shards)} features, {split} view {view}"
        at_cut = self._shards(images, split, view, self._cut)
        # What comes next is read while the processors compute.
        with (
            Progress(label, len(images)) as progress,
            concurrent.futures.ThreadPoolExecutor(1) as thread,
        ):
            for number, start in enumerate(range(0, len(images), self._shard_size)):
                stop = min(start + self._shard_size, len(images))
                missing = {n: paths[number] for n, paths in shards.items()
                           if not paths[number].exists()}  # fmt: skip
                if missing:
                    began = time.perf_counter()
                    if at_cut[number].exists():  # then the frozen blocks have run already
                        self.reused = True
                        activations = np.load(at_cut[number], mmap_mode="r")
                        compute = self._function("from cut")
                        load = functools.partial(_read, activations, start)
                    else:
                        compute = self._function(tuple(missing))
                        load = functools.partial(image_view, images, view=view)
                    batches = [
                        slice(row, min(row + self._batch_size, stop))
                        for row in range(start, stop, self._batch_size)
                    ]
                    outputs = _predict(compute, load, batches, thread)
                    for path, rows in zip(missing.values(), outputs, strict=True):
                        with atomic_path(path) as temporary, open(temporary, "wb") as file:
                            _write_array(file, rows)
                    per_image = (time.perf_counter() - began) / (stop - start)
                    if number and per_image > _SLOW and per_image * len(images) > _LONG:
                        self._suggest_light(progress, per_image * len(images))
                progress.update(stop)

    def _suggest_light(self, progress, seconds):
        if not self._is_suggested:
            self._is_suggested = True
            progress.note(
                f"About {seconds / 60:.0f} minutes for these images on this processor. A light "
                "backbone is many times as fast: --preset light."
            )

    def _function(self, wanted):
        """What computes the outputs of one of the models, made when it is first needed."""
        if wanted not in self._functions:
            self._functions[wanted] = inference_function(self._models[wanted], self.engine)
        return self._functions[wanted]

    def _shards(self, images, split, view, layer):
        content = {
            **self._key,
            "split": split,
            "num_images": len(images),
            "image_size": self._image_size,
            "view": view,
            "layer": layer,
            "network": self._networks[layer],
            "shard_size": self._shard_size,
        }
        if view > 1:  # the first two do not depend on the augmentation's code
            content["augmentation"] = sha256_of(augment.__file__)
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
        folder = self._folder / f"{split}-view{view}-{layer}-{self._image_size}-{digest}"
        number = math.ceil(len(images) / self._shard_size)
        return [folder / f"{index:06d}.npy" for index in range(number)]


class ShardedArray:
    """Arrays on disk, one after the other, indexed like a single array along the first axis.

    Args:
        arrays: Memory maps (n, ...) of one dtype; all but the last have the same length.
    """

    def __init__(self, arrays):
        self._arrays, self._size = arrays, len(arrays[0])
        self.dtype = arrays[0].dtype
        self.shape = (sum(map(len, arrays)), *arrays[0].shape[1:])
        self.ndim = len(self.shape)
        self.nbytes = sum(array.nbytes for array in arrays)

    def __len__(self):
        return self.shape[0]

    def __array__(self, dtype=None, copy=None):
        return self[:]

    def __getitem__(self, rows):
        """A copy of some rows.

        Args:
            rows: Slice, or int (batch,).
        """
        index = np.arange(len(self))[rows]
        copy = np.empty((len(index), *self.shape[1:]), self.dtype)
        for number in np.unique(index // self._size):
            chosen = index // self._size == number
            copy[chosen] = read_rows(self._arrays[number], index[chosen] % self._size)
        return copy


def _describe(*models):
    """What models compute: operations, settings and a digest of the weights, JSON-ready."""
    ignored = {"name", "trainable"}  # no activation depends on these
    weights = digest_tensors(tensor for model in models for tensor in model.get_weights())
    return weights, [
        [
            type(operation).__name__,
            {k: v for k, v in operation.get_config().items() if k not in ignored},
        ]
        for model in models
        for operation in model.operations
        if not isinstance(operation, keras.layers.InputLayer)
    ]


def _write_array(file, array):
    """As `np.save`, whose error does not say when it is the disk that is full."""
    header = np.lib.format.header_data_from_array_1_0(array)
    np.lib.format.write_array_header_1_0(file, header)
    file.write(array.data)


def _missing(shards):
    return [path for paths in shards.values() for path in paths if not path.exists()]


def _read(activations, start, rows):
    return read_rows(activations, slice(rows.start - start, rows.stop - start))


def _predict(compute, load, batches, thread):
    """What `compute` makes of `load(rows)` of all batches, a list of arrays."""
    found, loading = [], thread.submit(load, batches[0])
    for next_rows in (*batches[1:], None):
        inputs = loading.result()
        if next_rows:
            loading = thread.submit(load, next_rows)
        found.append(compute(inputs))
    return [np.concatenate(parts).astype(np.float16) for parts in zip(*found, strict=True)]
