"""Augmentation: every warp against scipy's, and what must never happen to a picture."""

import math

import numpy as np
import pytest
import scipy.ndimage
import tensorflow as tf

from catsdogs.data import augment as module
from catsdogs.data.augment import NUM_RANDOM, augment, crop_sizes, view_random

SIZE = 32
FLIP, ROTATION, SHIFT_X, SHIFT_Y, SHEAR, ZOOM_X, ZOOM_Y, AREA, ASPECT, CROP_X, CROP_Y = range(11)
KEEP = 0.75  # not flipped


def smooth_image(size=SIZE):
    """Low waves, no two channels or orientations alike; float32 (1, size, size, 3)."""
    y, x = np.mgrid[:size, :size] / size
    waves = [np.sin(2.5 * x + k) + np.cos(3.5 * y - k) + x * y for k in range(3)]
    image = np.stack(waves, axis=-1)
    image = 20 + 215 * (image - image.min()) / np.ptp(image)
    return image[None].astype(np.float32)


def numbers(**chosen):
    """Random numbers that change nothing under `book`, but for the chosen ones."""
    random = np.full((1, NUM_RANDOM), 0.5, np.float32)
    random[0, FLIP] = KEEP
    for name, value in chosen.items():
        random[0, globals()[name.upper()]] = value
    return random


def reference_warp(image, linear, shift):
    """scipy's warp. Output to input about the centre, in (x, y); shift in pixels."""
    swap = np.array([[0, 1], [1, 0]])
    matrix, shift = swap @ np.asarray(linear) @ swap, np.asarray(shift)[::-1]
    centre = np.full(2, (image.shape[0] - 1) / 2)
    offset = centre + shift - matrix @ centre
    channels = [
        scipy.ndimage.affine_transform(image[..., c], matrix, offset, order=1, mode="nearest")
        for c in range(3)
    ]
    return np.stack(channels, axis=-1)


def rotation(u):
    angle = math.radians(40) * (2 * u - 1)
    return [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]


def slope(u):
    return [[1, 0.2 * (2 * u - 1)], [0, 1]]


def zoom(x, y):
    return np.diag([1 + 0.2 * (2 * x - 1), 1 + 0.2 * (2 * y - 1)])


@pytest.mark.parametrize("name", ["none", "book"])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_identity_is_exact(name, dtype):
    images = np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE, 3)).astype(dtype)
    result = augment(images, np.repeat(numbers(), 3, axis=0), name, SIZE)
    assert result.dtype == "float32"
    np.testing.assert_array_equal(result, images)


@pytest.mark.parametrize("size", [31, SIZE])
def test_flip_is_exact(size):
    images = np.random.default_rng(0).integers(0, 256, (1, size, size, 3), dtype=np.uint8)
    flipped = augment(images, numbers(flip=0.25), "book", size)
    np.testing.assert_allclose(flipped, images[:, :, ::-1], atol=1e-3)


@pytest.mark.parametrize(
    "chosen, linear, shift",
    [
        ({"rotation": 0.9}, rotation(0.9), (0, 0)),
        ({"rotation": 0.0}, rotation(0.0), (0, 0)),
        ({"shift_x": 1.0}, np.eye(2), (0.2 * SIZE, 0)),
        ({"shift_y": 0.2}, np.eye(2), (0, -0.12 * SIZE)),
        ({"shear": 0.9}, slope(0.9), (0, 0)),
        ({"zoom_x": 0.1}, zoom(0.1, 0.5), (0, 0)),
        ({"zoom_y": 0.9}, zoom(0.5, 0.9), (0, 0)),
        # All at once: one interpolation, the product of the parts.
        (
            {"flip": 0.1, "rotation": 0.8, "shear": 0.3, "zoom_x": 0.7, "zoom_y": 0.2,
             "shift_x": 0.6, "shift_y": 0.9},
            np.array(rotation(0.8)) @ slope(0.3) @ zoom(0.7, 0.2) @ np.diag([-1, 1]),
            (0.2 * 0.2 * SIZE, 0.2 * 0.8 * SIZE),
        ),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else "",
)  # fmt: skip
def test_each_warp_is_scipys(chosen, linear, shift):
    image = smooth_image()
    result = augment(image, numbers(**chosen), "book", SIZE).numpy()[0]
    np.testing.assert_allclose(result, reference_warp(image[0], linear, shift), atol=0.05)
    assert np.abs(result - image[0]).max() > 5  # something did happen


def test_one_warp_equals_the_sequence():
    image = smooth_image(64)
    fused = augment(image, numbers(rotation=0.7, zoom_x=0.3, zoom_y=0.3, flip=0.2), "book", 64)
    steps = image
    # Output to input composes from the left: the last one listed looks at the picture first.
    for chosen in ({"rotation": 0.7}, {"zoom_x": 0.3, "zoom_y": 0.3}, {"flip": 0.2}):
        steps = augment(steps, numbers(**chosen), "book", 64)
    middle = slice(14, -14)  # away from the edges, where the sequence stretches them twice
    difference = np.abs(fused - steps.numpy())[:, middle, middle]
    assert difference.max() < 1


@pytest.mark.parametrize("name", ["book", "strong"])
@pytest.mark.parametrize("filled", [0, 128, 255])
def test_values_stay_in_range_and_flat_stays_flat(name, filled):
    random = view_random(0, 2, 64)
    flat = np.full((64, SIZE, SIZE, 3), filled, np.uint8)
    size = 24 if name == "strong" else SIZE
    result = augment(flat, random, name, size).numpy()
    # Nothing from outside the picture gets in, and colour changes an image as a whole.
    np.testing.assert_allclose(np.ptp(result, axis=(1, 2)), 0, atol=1e-3)
    noise = np.random.default_rng(0).integers(0, 256, flat.shape, dtype=np.uint8)
    for pixels in (result, augment(noise, random, name, size).numpy()):
        assert pixels.min() >= 0 and pixels.max() <= 255 + 1e-4  # the rounding of a weighted mean


def test_random_crops_lie_inside_the_picture():
    # Two ramps tell where in the picture every pixel comes from.
    ramp = np.broadcast_to(np.arange(100, dtype=np.float32) * 2, (100, 100))
    image = np.stack([ramp, ramp.T, 0 * ramp], axis=-1)
    random = view_random(1, 2, 500).numpy()
    random[:, ROTATION] = 0.5  # upright
    random[:, 11:] = 0.5  # colours as they are
    random[0, 7:11], random[1, 7:11] = 0, 1 - 1e-7  # the extremes
    crops = augment(np.repeat(image[None], 500, axis=0), random, "strong", 20).numpy()[..., :2] / 2
    assert crops.min() >= 0 and crops.max() <= 99
    # Corner to corner in equal steps: where a crop reached outside, steps would shrink to nothing.
    for channel, axis in ((0, 2), (1, 1)):
        steps = np.abs(np.diff(crops[..., channel], axis=axis))
        assert steps.min() > 100 * math.sqrt(0.3 * 3 / 4) / 20 * 0.9
        inner = steps[:, 1:-1, 1:-1]
        np.testing.assert_allclose(inner, inner[:, :1, :1] + 0 * inner, atol=1e-2)
    steps_x = np.abs(np.diff(crops[:, 10, 5:15, 0], axis=1)).mean(axis=1)
    steps_y = np.abs(np.diff(crops[:, 5:15, 10, 1], axis=1)).mean(axis=1)
    area = steps_x * steps_y * 400 / 100**2
    assert 0.25 < area.min() < 0.35 and 0.93 < area.max() <= 1.001
    assert 0.74 < (steps_x / steps_y).min() < 0.8 and 1.25 < (steps_x / steps_y).max() < 1.35
    mirrored = crops[:, 10, 0, 0] > crops[:, 10, -1, 0]
    np.testing.assert_array_equal(mirrored, random[:, FLIP] < 0.5)


def test_strong_tilts_its_crop():
    image = smooth_image()
    chosen = numbers(rotation=0.9, area=0.6, crop_x=0.3, crop_y=0.8)
    result = augment(image, chosen, "strong", SIZE).numpy()[0]
    side, angle = math.sqrt(0.3 + 0.7 * 0.6), math.radians(15) * 0.8
    tilt = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    shift = (1 - side) * SIZE / 2 * np.array([-0.4, 0.6])
    np.testing.assert_allclose(result, reference_warp(image[0], side * tilt, shift), atol=0.05)


@pytest.mark.parametrize("name", ["book", "strong"])
def test_the_warp_is_tensorflows_own(name):
    """Gathered by hand, since compiled that takes a fifth of the time."""
    images = np.random.default_rng(0).integers(0, 256, (5, SIZE, SIZE, 3), dtype=np.uint8)
    random = view_random(0, 2, 5)
    matrices = {"book": module._book_warp, "strong": module._random_crop}[name](random).numpy()
    size = 24
    scale = SIZE / size
    offset = 0.5 * (SIZE * (1 + matrices[..., 2]) - 1)
    offset += 0.5 * matrices[..., :2].sum(axis=2) * (scale - SIZE)
    rows = np.concatenate([matrices[..., :2] * scale, offset[..., None]], axis=2).reshape(5, 6)
    expected = tf.raw_ops.ImageProjectiveTransformV3(
        images=tf.cast(images, tf.float32),
        transforms=np.concatenate([rows, np.zeros((5, 2))], axis=1).astype(np.float32),
        output_shape=[size, size], interpolation="BILINEAR", fill_mode="NEAREST", fill_value=0.0,
    )  # fmt: skip
    warped = module._warp(tf.constant(images), tf.constant(matrices), SIZE, size)
    np.testing.assert_allclose(warped, expected, atol=0.02)


def test_colour_changes_by_the_stated_factors():
    grey = np.full((1, 8, 8, 3), 100, np.uint8)
    bright = numbers()
    bright[0, 11] = 1
    np.testing.assert_allclose(augment(grey, bright, "strong", 8), 130, rtol=1e-5)
    warm = numbers()
    warm[0, 14:17] = (1, 0.5, 0)
    pixel = augment(grey, warm, "strong", 8).numpy()[0, 0, 0]
    np.testing.assert_allclose(pixel, (110, 100, 90), rtol=1e-5)


@pytest.mark.parametrize("name", ["book", "strong"])
def test_an_image_does_not_depend_on_its_batch(name):
    images = np.random.default_rng(0).integers(0, 256, (6, SIZE, SIZE, 3), dtype=np.uint8)
    random = view_random(0, 3, 6)
    together = augment(images, random, name, SIZE).numpy()
    alone = [augment(images[i : i + 1], random[i : i + 1], name, SIZE).numpy() for i in range(6)]
    # Up to rounding: processors add a batch's odd end in another way.
    np.testing.assert_allclose(np.concatenate(alone), together, atol=2e-3)


def test_view_numbers():
    first = view_random(0, 2, 10).numpy()
    assert first.shape == (10, NUM_RANDOM) and first.min() >= 0 and first.max() < 1
    np.testing.assert_array_equal(first, view_random(0, 2, 10))
    for other in (view_random(1, 2, 10), view_random(0, 3, 10)):
        assert not (first == other.numpy()).any()


def test_erased_squares():
    images = np.random.default_rng(0).integers(0, 256, (400, 40, 40, 3), dtype=np.uint8)
    random = np.repeat(numbers(area=1, aspect=0.5), 400, axis=0)
    random[:, 17:21] = np.random.default_rng(1).random((400, 4))
    result = augment(images, random, "strong", 40).numpy()
    random[:, 17] = 1
    whole = augment(images, random, "strong", 40).numpy()
    hidden = np.abs(result - whole).max(axis=3) > 0.01
    shares = hidden.mean(axis=(1, 2))
    assert 0.18 < (shares > 0).mean() < 0.32
    assert shares[shares > 0].min() > 0.15**2 / 4 and shares.max() < 0.5**2
    for image, before, mask in zip(result, whole, hidden, strict=True):
        if mask.any():
            rows, columns = mask.any(axis=1), mask.any(axis=0)
            assert mask.sum() >= 0.98 * rows.sum() * columns.sum()  # a rectangle without holes
            np.testing.assert_allclose(
                image[mask], before.mean(axis=(0, 1)) + 0 * image[mask], atol=0.1
            )


def test_crop_sizes_grow_in_three_quarters_of_the_epochs():
    sizes = crop_sizes(96, 160, 100)
    assert len(sizes) == 100 and sizes == sorted(sizes)
    assert sizes[:15] == [96] * 15 and sizes[59] == 144 and sizes[60:] == [160] * 40
    assert crop_sizes(100, 120, 8) == [100, 100, 116, 116, 120, 120, 120, 120]
    assert crop_sizes(64, 64, 3) == crop_sizes(96, 64, 3) == [64] * 3
    assert crop_sizes(96, 160, 1) == [96]


def test_unknown_name():
    with pytest.raises(ValueError, match="name='heavy'"):
        augment(smooth_image(), numbers(), "heavy", SIZE)
    assert module.NUM_RANDOM == 23
