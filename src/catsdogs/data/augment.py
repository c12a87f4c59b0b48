"""Augmentation: one fused affine warp an image, then colour; a pure function of random numbers.

Everything that varies is decided by `NUM_RANDOM` uniform numbers an image, which the batches draw
from (seed, epoch, index). So an image does not depend on batch size, threads or what came before,
and it can be given the same view again.
"""

import math

import numpy as np
import tensorflow as tf

__all__ = ["NUM_RANDOM", "augment", "crop_sizes", "mix", "preview_augmentation", "view_random"]

# flip, rotation, shift x, shift y, shear, zoom x, zoom y, area, aspect, crop x, crop y,
# brightness, contrast, saturation, channel gains (3), erase or not, its side, its centre (2), which
# CutMix uses too, mix or not, how much
NUM_RANDOM = 23

# The ranges of Deep Learning with Python, 1st ed., listing 5.11, in ImageDataGenerator's terms. Its
# shear_range is in degrees, so the 0.2 in that listing is hardly any shear. Here it is a slope.
_ROTATION = math.radians(40)
_SHIFT = 0.2  # of the side
_SHEAR = 0.2  # sideways shift a unit of height
_ZOOM = 0.2  # each axis by itself in [1 - 0.2, 1 + 0.2]

_TILT = math.radians(15)
_MIN_AREA = 0.3  # fraction of the image that a random crop keeps, at least
_LOG_ASPECT = math.log(4 / 3)
_COLOUR = 0.3  # brightness, contrast and saturation within a factor 1 ± 0.3
_CHANNEL = 0.1  # each channel within a factor 1 ± 0.1: warm and cold light
_ERASE = 0.25  # fraction of the images that lose a square
_ERASE_SIDE = (0.15, 0.45)  # of the image's side

_GROWTH = 0.75  # fraction of the epochs in which crops grow
_GROWTH_STEP = 16  # pixels


def crop_sizes(first, last, epochs):
    """Side of the random crops in each epoch: small at first, which is quick and regularises.

    Args:
        first, last: Side in the first epoch and in the last quarter of the epochs, in pixels.
        epochs: Number of epochs.

    Returns:
        A list of `epochs` integers, rising from `first` to `last` in steps of 16 or less.

    Reference:
        Tan and Le, "EfficientNetV2: smaller models and faster training" (2021).
    """
    sizes = sorted({last, *range(first, last, _GROWTH_STEP)})
    pace = len(sizes) / (_GROWTH * epochs)
    return [sizes[min(int(epoch * pace), len(sizes) - 1)] for epoch in range(epochs)]


def mix(images, targets, random, mixup, cutmix):
    """Mixes images with the ones that follow them, and their targets alike.

    Args:
        images: float32 (batch + 1, size, size, 3); the last one only goes into the one before.
        targets: float32 (batch + 1, units).
        random: float32 (batch + 1, NUM_RANDOM) in [0, 1).
        mixup: Fraction of the images that are blended with the next one, in [0, 1].
        cutmix: Fraction that get a square of the next one pasted in, in [0, 1 - mixup].

    Returns:
        A pair: images, float32 (batch, size, size, 3), and targets, float32 (batch, units); each
        keeps at least half of itself, up to whole pixels.

    Reference:
        Zhang et al., "mixup: Beyond empirical risk minimization" (2018); Yun et al., "CutMix:
        Regularization strategy to train strong classifiers with localizable features" (2019).
    """
    centre, chosen, amount = random[:-1, 19:21], random[:-1, 21], 0.5 * random[:-1, 22]
    blended = tf.where(chosen < mixup, amount, 0.0)
    side = tf.where((chosen >= mixup) & (chosen < mixup + cutmix), tf.sqrt(amount), 0.0)
    pasted = tf.cast(_square(side, centre, images.shape[1]), tf.float32)
    share = blended[:, None, None, None] + pasted  # of the next image, (batch, size, size, 1)
    images = (1 - share) * images[:-1] + share * images[1:]
    share = tf.reduce_mean(share, axis=(1, 2))  # (batch, 1)
    return images, (1 - share) * targets[:-1] + share * targets[1:]


def augment(images, random, name, size):
    """Augments a batch of images.

    Args:
        images: uint8 or float32 (batch, height, width, 3) in [0, 255], square.
        random: float32 (batch, NUM_RANDOM) in [0, 1).
        name: The policy. `"none"`: no change. `"basic"`: rotation up to 40 degrees, shifts, shear
            and zoom of 0.2, horizontal flip, new pixels taken from the nearest edge. `"strong"`:
            random resized crop, tilt up to 15 degrees, horizontal flip, brightness, contrast,
            saturation, channel gains, and in a quarter of the images a square of the mean colour.
        size: Side of the result, in pixels; the images' own for `"none"`.

    Returns:
        float32 (batch, size, size, 3) in [0, 255].

    Reference:
        Szegedy et al., "Going deeper with convolutions" (2014), for the random resized crop;
        Zhong et al., "Random erasing data augmentation" (2020).
    """
    if name not in _POLICIES:
        raise ValueError(f"Expected name 'none', 'basic' or 'strong'. Received: name={name!r}")
    return _POLICIES[name](tf.convert_to_tensor(images), tf.convert_to_tensor(random), size)


def view_random(seed, view, num_images):
    """The random numbers of one numbered view of every image.

    Args:
        seed: Integer.
        view: Integer; each number is another view.
        num_images: How many images there are.

    Returns:
        float32 (num_images, NUM_RANDOM) in [0, 1), the same at every call.
    """
    return tf.random.stateless_uniform((num_images, NUM_RANDOM), seed=(seed, view))


def preview_augmentation(image, columns=8):
    """What the policies do to one image.

    Args:
        image: uint8 (size, size, 3) in [0, 255].
        columns: Images of each policy.

    Returns:
        A pair: uint8 (2 * columns, size, size, 3), the image and its `"basic"` variants, then
        `"strong"` ones; their titles.
    """
    random = view_random(0, 0, columns)
    repeated = np.repeat(image[None], columns, axis=0)
    basic, strong = (
        augment(repeated, random, name, len(image)).numpy().astype(np.uint8)
        for name in ("basic", "strong")
    )
    titles = ["original"] + ["basic"] * (columns - 1) + ["strong"] * columns
    return np.concatenate([image[None], basic[1:], strong]), titles


def _signed(u):
    """Uniform in [0, 1) to uniform in [-1, 1)."""
    return 2.0 * u - 1.0


def _basic_warp(random):
    """Maps output to input in units of half a side from the centre: (batch, 2, 3)."""
    flip, rotation, shift_x, shift_y, shear, zoom_x, zoom_y = tf.unstack(random[:, :7], axis=1)
    angle = _ROTATION * _signed(rotation)
    cos, sin = tf.cos(angle), tf.sin(angle)
    shear = _SHEAR * _signed(shear)
    zoom_x, zoom_y = 1 + _ZOOM * _signed(zoom_x), 1 + _ZOOM * _signed(zoom_y)
    flip = tf.where(flip < 0.5, -1.0, 1.0)
    # rotation @ shear @ zoom @ flip, then the shift (a fraction of the side is twice that fraction
    # of half a side).
    return _matrix(
        cos * zoom_x * flip, (cos * shear - sin) * zoom_y, 2 * _SHIFT * _signed(shift_x),
        sin * zoom_x * flip, (sin * shear + cos) * zoom_y, 2 * _SHIFT * _signed(shift_y),
    )  # fmt: skip


def _random_crop(random):
    flip, tilt = random[:, 0], random[:, 1]
    area, aspect, x, y = tf.unstack(random[:, 7:11], axis=1)
    root = tf.sqrt(_MIN_AREA + (1 - _MIN_AREA) * area)
    stretch = tf.exp(0.5 * _LOG_ASPECT * _signed(aspect))
    width, height = tf.minimum(root * stretch, 1.0), tf.minimum(root / stretch, 1.0)
    flip = tf.where(flip < 0.5, -1.0, 1.0)
    angle = _TILT * _signed(tilt)
    cos, sin = tf.cos(angle), tf.sin(angle)
    return _matrix(
        width * cos * flip, -width * sin, (1 - width) * _signed(x),
        height * sin * flip, height * cos, (1 - height) * _signed(y),
    )  # fmt: skip


def _matrix(*entries):
    return tf.reshape(tf.stack(entries, axis=1), (-1, 2, 3))


def _warp(images, matrices, side, size):
    """Resamples once, bilinearly: all geometry in one interpolation instead of five."""
    # Pixel p of n lies at (2 p + 1) / n - 1 half sides from the centre; solved for input pixels.
    scale = tf.cast(side, tf.float32) / size
    linear, shift = matrices[:, :, :2, None, None], matrices[:, :, 2, None, None]
    offset = 0.5 * (side * (1 + shift) - 1 + tf.reduce_sum(linear, axis=2) * (scale - side))
    across = tf.range(size, dtype=tf.float32)  # (size,)
    positions = offset + scale * (linear[:, :, 0] * across + linear[:, :, 1] * across[:, None])
    # What lies outside is taken from the nearest edge.
    positions = tf.clip_by_value(positions, 0.0, side - 1.0)  # (batch, 2, size, size), x then y
    corner = tf.minimum(tf.floor(positions), side - 2.0)
    right, down = tf.unstack((positions - corner)[..., None], axis=1)  # (batch, size, size, 1)
    x, y = tf.unstack(tf.cast(corner, tf.int32), axis=1)
    first = tf.reshape(y * tf.cast(side, tf.int32) + x, (-1, size * size))
    pixels = tf.reshape(images, (-1, side * side, 3))

    def neighbour(step):
        found = tf.gather(pixels, first + step, batch_dims=1)
        return tf.cast(tf.reshape(found, (-1, size, size, 3)), tf.float32)

    above = (1 - right) * neighbour(0) + right * neighbour(1)
    below = (1 - right) * neighbour(side) + right * neighbour(side + 1)
    return (1 - down) * above + down * below


def _colour(images, random):
    factors = 1 + _COLOUR * _signed(random[:, 11:14])
    brightness, contrast, saturation = (factors[:, i, None, None, None] for i in range(3))
    gains = (1 + _CHANNEL * _signed(random[:, 14:17]))[:, None, None, :]
    images = images * (brightness * gains)
    grey = tf.reduce_mean(images, axis=3, keepdims=True)
    images = grey + saturation * (images - grey)
    mean = tf.reduce_mean(images, axis=(1, 2, 3), keepdims=True)
    images = mean + contrast * (images - mean)
    return tf.clip_by_value(images, 0.0, 255.0)


def _erase(images, random, size):
    """Hides a square, so that no single part of an animal suffices."""
    chosen, side, centre = random[:, 17], random[:, 18], random[:, 19:21]
    low, high = _ERASE_SIDE
    hidden = _square(tf.where(chosen < _ERASE, low + (high - low) * side, 0.0), centre, size)
    return tf.where(hidden, tf.reduce_mean(images, axis=(1, 2), keepdims=True), images)


def _square(side, centre, size):
    """A mask of a square in each image, bool (batch, size, size, 1); sides are in [0, 1]."""
    pixels = (tf.range(size, dtype=tf.float32) + 0.5) / tf.cast(size, tf.float32)
    is_near = tf.abs(pixels - centre[:, :, None]) < 0.5 * side[:, None, None]  # (batch, 2, size)
    column, row = tf.unstack(is_near, axis=1)
    return (row[:, :, None] & column[:, None, :])[..., None]


def _none(images, random, size):
    del random, size
    return tf.cast(images, tf.float32)


# Compiled, a warp is one loop over the pixels: five times as fast as TensorFlow's
# ImageProjectiveTransformV3, which computes the position for every channel again.
@tf.function(jit_compile=True)
def _basic(images, random, size):
    return _warp(images, _basic_warp(random), images.shape[1], size)


@tf.function(jit_compile=True)
def _strong(images, random, size):
    images = _warp(images, _random_crop(random), images.shape[1], size)
    return _erase(_colour(images, random), random, size)


_POLICIES = {"none": _none, "basic": _basic, "strong": _strong}
