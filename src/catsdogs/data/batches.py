"""Batches for training and evaluation, from arrays that lie on disk or in memory.

Images are float32 in [0, 255]: every model owns its own scaling.
"""

import functools
import mmap

import numpy as np
import tensorflow as tf

from catsdogs.data.augment import NUM_RANDOM, augment, mix, view_random

__all__ = [
    "encode_labels",
    "evaluation_batches",
    "feature_batches",
    "image_batches",
    "image_view",
    "read_rows",
]

MAX_IN_MEMORY = 256 * 2**20
"""Bytes of cached features up to which they are read into memory once."""


def encode_labels(labels, num_classes):
    """Targets of the classifiers of `models`.

    Args:
        labels: int (n,) in [0, num_classes).
        num_classes: Two or more.

    Returns:
        float32 (n, 1) in {0, 1} for two classes, else one-hot (n, num_classes).
    """
    labels = np.asarray(labels)
    if num_classes == 2:
        return labels[:, None].astype(np.float32)
    return np.eye(num_classes, dtype=np.float32)[labels]


def image_batches(
    images, targets, *, batch_size, epochs, seed, initial_epoch=0, augmentation="none",
    crop_sizes=None, mixup=0.0, cutmix=0.0,
):  # fmt: skip
    """Shuffled, augmented batches for training: one dataset that runs through all epochs.

    What a batch holds depends on (seed, epoch) and nothing else, so a run that was interrupted
    resumes with exactly the batches it would have had.

    Args:
        images: uint8 (n, side, side, 3), typically a memory map.
        targets: float32 (n, ...), from `encode_labels`.
        batch_size: Images a batch; the last of an epoch may be smaller.
        epochs: The epoch to end with, exclusive.
        seed: Integer.
        initial_epoch: The epoch to start with.
        augmentation: `"none"`, `"basic"` or `"strong"` (see `augment`).
        crop_sizes: Side of the images of each epoch, in pixels, for `"strong"`; by default, and
            for the others, that of the images given.
        mixup, cutmix: Fractions of the images that are mixed with the next one of the epoch (see
            `mix`).

    Returns:
        A `tf.data.Dataset` of pairs: float32 (batch, size, size, 3) in [0, 255] and targets,
        float32 (batch, ...) in [0, 1]; `ceil(n / batch_size)` batches an epoch.
    """
    sizes = crop_sizes if crop_sizes and augmentation == "strong" else [images.shape[1]] * epochs

    def load(index, epoch, random, size):
        del epoch
        return augment(_rows(images, index), random, augmentation, size)

    # A dataset for each size, one after the other, since code is compiled for one size.
    parts = [
        _batches(
            functools.partial(load, size=size), targets, batch_size,
            [epoch for epoch in range(initial_epoch, epochs) if sizes[epoch] == size],
            seed, mixup, cutmix,
        ) for size in dict.fromkeys(sizes)  # in order, since sizes never shrink
    ]  # fmt: skip
    return functools.reduce(tf.data.Dataset.concatenate, parts)


def feature_batches(features, targets, *, batch_size, epochs, seed, initial_epoch=0):
    """Shuffled batches of cached features, one view of every image in each epoch.

    Args:
        features: A list of float16 arrays (n, ...), one a view.
        targets: float32 (n, ...), from `encode_labels`.
        batch_size, epochs, seed, initial_epoch: As for `image_batches`.

    Returns:
        A `tf.data.Dataset` of pairs, rows and targets: float32 (batch, ...) each.
    """
    # Image i shows its views in turn, starting with a random one, so all are used equally often.
    first = np.random.default_rng(seed).integers(len(features), size=len(targets))

    def pick(index, view):
        batch = np.empty((len(index), *features[0].shape[1:]), np.float16)
        for number in set(view):
            chosen = view == number
            batch[chosen] = read_rows(features[number], index[chosen])
        return batch

    is_small = sum(array.nbytes for array in features) <= MAX_IN_MEMORY
    table = tf.constant(np.stack(features)) if is_small else None

    def load(index, epoch, random):
        del random
        view = (tf.gather(first, index) + epoch) % len(features)
        if table is None:
            batch = tf.numpy_function(pick, (index, view), tf.float16, stateful=False)
            batch = tf.ensure_shape(batch, (None, *features[0].shape[1:]))
        else:  # no Python in the loop
            batch = tf.gather_nd(table, tf.stack([view, tf.cast(index, tf.int64)], axis=1))
        return tf.cast(batch, tf.float32)

    return _batches(load, targets, batch_size, range(initial_epoch, epochs), seed)


def evaluation_batches(arrays, targets, *, batch_size=64, flip=False):
    """Batches in the order of the arrays, never shuffled: predictions stay beside their labels.

    Args:
        arrays: uint8 images (n, side, side, 3) or float16 features (n, ...).
        targets: float32 (n, ...), from `encode_labels`.
        batch_size: Rows a batch.
        flip: Whether to flip the images horizontally.

    Returns:
        A `tf.data.Dataset` of pairs, rows and targets: float32 (batch, ...) each.
    """
    known = tf.constant(targets, tf.float32)

    def load(index):
        rows = tf.cast(_rows(arrays, index), tf.float32)
        rows = rows[:, :, ::-1] if flip else rows
        return rows, tf.gather(known, index)

    dataset = tf.data.Dataset.range(len(targets)).batch(batch_size)
    return dataset.map(load, num_parallel_calls=2).prefetch(2)


def image_view(images, rows, view):
    """One numbered view of some images: 0 as they are, 1 flipped, from 2 on augmented (`basic`).

    A view depends on its number and the image's place alone, so cached views serve every seed.

    Args:
        images: uint8 (n, side, side, 3).
        rows: Slice of the images to return.
        view: Integer, 0 or more.

    Returns:
        float32 (rows, side, side, 3) in [0, 255].
    """
    batch = read_rows(images, rows).astype(np.float32)
    if view == 0:
        return batch
    if view == 1:
        return batch[:, :, ::-1]
    random = view_random(0, view, len(images))[rows]
    return augment(batch, random, "basic", images.shape[1]).numpy()


def _batches(load, targets, batch_size, epochs, seed, mixup=0.0, cutmix=0.0):
    num_images, epochs, known = len(targets), list(epochs), tf.constant(targets, tf.float32)
    following = 1 if mixup or cutmix else 0  # the row that a batch's last one is mixed with

    def one_epoch(epoch):
        # The first column decides the order, the others the augmentation.
        random = tf.random.stateless_uniform((num_images, 1 + NUM_RANDOM), seed=(seed, epoch))
        order = tf.argsort(random[:, 0], stable=True)
        random = tf.gather(random[:, 1:], order)
        order, random = (tf.concat([rows, rows[:following]], axis=0) for rows in (order, random))

        def batch(start):
            rows = slice(start, start + batch_size + following)
            return order[rows], epoch, random[rows]

        return tf.data.Dataset.range(0, num_images, batch_size).map(batch)

    def finish(index, epoch, random):
        batch, wanted = load(index, epoch, random), tf.gather(known, index)
        if following:
            batch, wanted = mix(batch, wanted, random, mixup, cutmix)
        return batch, wanted

    dataset = tf.data.Dataset.from_tensor_slices(tf.constant(epochs, tf.int64)).flat_map(one_epoch)
    return dataset.map(finish, num_parallel_calls=2, deterministic=True).prefetch(2)


def _rows(arrays, index):
    """Rows of an array on disk as a tensor; only these rows are read."""
    rows = tf.numpy_function(lambda i: read_rows(arrays, i), (index,), arrays.dtype, stateful=False)
    return tf.ensure_shape(rows, (None, *arrays.shape[1:]))


def read_rows(array, rows):
    """A copy of some rows of a memory map, whose pages are released at once.

    The file stays in the system's cache, so nothing is slower, but the memory of the process does
    not grow with the number of images.

    Args:
        array: Any array; only the pages of a `np.memmap` of a whole file are released.
        rows: Slice or int (batch,).

    Returns:
        An array (batch, ...) of the same dtype.
    """
    copy = np.array(array[rows])
    if isinstance(getattr(array, "base", None), mmap.mmap):
        array.base.madvise(mmap.MADV_DONTNEED)
    return copy
