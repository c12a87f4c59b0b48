"""Augmentation: every warp against scipy's, and what must never happen to a picture."""

import math

import numpy as np
import pytest
import scipy.ndimage

from catsdogs.data.augment import (
    NUM_RANDOM,
    augment,
    crop_sizes,
    preview_augmentation,
    view_random,
)

SIZE = 32
FLIP, ROTATION, SHIFT_X, SHIFT_Y, SHEAR, ZOOM_X, ZOOM_Y, AREA, ASPECT, CROP_X, CROP_Y = range(11)
BRIGHTNESS, ERASE = 11, slice(17, 21)


def smooth_image(size=SIZE):
    """Low waves, no two channels or orientations alike; float32 (1, size, size, 3)."""
    y, x = np.mgrid[:size, :size] / size
    waves = [np.sin(2.5 * x + k) + np.cos(3.5 * y - k) + x * y for k in range(3)]
    image = np.stack(waves, axis=-1)
    image = 20 + 215 * (image - image.min()) / np.ptp(image)
    return image[None].astype(np.float32)


def noise(number, size=SIZE):
    return np.random.default_rng(0).integers(0, 256, (number, size, size, 3), dtype=np.uint8)


def numbers(chosen=(), count=1):
    """Random numbers that change nothing under `basic`, but for `{column: value}`."""
    random = np.full((count, NUM_RANDOM), 0.5, np.float32)
    random[:, FLIP] = 0.75  # not flipped
    for column, value in dict(chosen).items():
        random[:, column] = value
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


def rotation(angle):
    return np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


BASIC_ROTATION = math.radians(40)


@pytest.mark.parametrize("name", ["none", "basic"])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_identity_is_exact(name, dtype):
    images = noise(3).astype(dtype)
    result = augment(images, numbers(count=3), name, SIZE)
    assert result.dtype == "float32"
    np.testing.assert_array_equal(result, images)


@pytest.mark.parametrize("size", [31, SIZE])
def test_flip_is_exact(size):
    images = noise(1, size)
    flipped = augment(images, numbers({FLIP: 0.25}), "basic", size)
    np.testing.assert_allclose(flipped, images[:, :, ::-1], atol=1e-3)


@pytest.mark.parametrize(
    ("chosen", "linear", "shift"),
    [
        ({ROTATION: 0.9}, rotation(0.8 * BASIC_ROTATION), (0, 0)),
        ({ROTATION: 0.0}, rotation(-BASIC_ROTATION), (0, 0)),
        ({SHIFT_X: 1.0}, np.eye(2), (0.2 * SIZE, 0)),
        ({SHIFT_Y: 0.2}, np.eye(2), (0, -0.12 * SIZE)),
        ({SHEAR: 0.9}, [[1, 0.16], [0, 1]], (0, 0)),
        ({ZOOM_X: 0.1}, np.diag([0.84, 1]), (0, 0)),
        ({ZOOM_Y: 0.9}, np.diag([1, 1.16]), (0, 0)),
        # All at once: one interpolation, the product of the parts.
        (
            {FLIP: 0.1, ROTATION: 0.8, SHEAR: 0.3, ZOOM_X: 0.7, ZOOM_Y: 0.2, SHIFT_X: 0.6,
             SHIFT_Y: 0.9},
            rotation(0.6 * BASIC_ROTATION) @ [[1, -0.08], [0, 1]] @ np.diag([-1.08, 0.88]),
            (0.2 * 0.2 * SIZE, 0.2 * 0.8 * SIZE),
        ),
    ],
    ids=["rotation", "rotation back", "shift x", "shift y", "shear", "zoom x", "zoom y", "all"],
)  # fmt: skip
def test_each_warp_is_scipys(chosen, linear, shift):
    image = smooth_image()
    result = augment(image, numbers(chosen), "basic", SIZE).numpy()[0]
    np.testing.assert_allclose(result, reference_warp(image[0], linear, shift), atol=0.05)
    assert np.abs(result - image[0]).max() > 5  # something did happen


def test_strong_crops_and_tilts():
    image = smooth_image()
    chosen = numbers({ROTATION: 0.9, AREA: 0.6, CROP_X: 0.3, CROP_Y: 0.8})
    result = augment(image, chosen, "strong", SIZE).numpy()[0]
    side = math.sqrt(0.3 + 0.7 * 0.6)
    tilt = rotation(math.radians(15) * 0.8)
    shift = (1 - side) * SIZE / 2 * np.array([-0.4, 0.6])
    np.testing.assert_allclose(result, reference_warp(image[0], side * tilt, shift), atol=0.05)


def test_random_crops_lie_inside_the_picture():
    # Two ramps tell where in the picture every pixel comes from.
    ramp = np.broadcast_to(np.arange(100, dtype=np.float32) * 2, (100, 100))
    image = np.stack([ramp, ramp.T, 0 * ramp], axis=-1)
    random = view_random(1, 2, 500).numpy()
    random[:, ROTATION] = 0.5  # upright
    random[:, BRIGHTNESS:] = 0.5  # colours as they are
    random[0, AREA : CROP_Y + 1], random[1, AREA : CROP_Y + 1] = 0, 1 - 1e-7  # the extremes
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
    flipped = crops[:, 10, 0, 0] > crops[:, 10, -1, 0]
    np.testing.assert_array_equal(flipped, random[:, FLIP] < 0.5)


@pytest.mark.parametrize("name", ["basic", "strong"])
@pytest.mark.parametrize("filled", [0, 128, 255])
def test_values_stay_in_range_and_flat_stays_flat(name, filled):
    random = view_random(0, 2, 64)
    flat = np.full((64, SIZE, SIZE, 3), filled, np.uint8)
    size = 24 if name == "strong" else SIZE
    result = augment(flat, random, name, size).numpy()
    # Nothing from outside the picture gets in, and colour changes an image evenly.
    np.testing.assert_allclose(np.ptp(result, axis=(1, 2)), 0, atol=1e-3)
    for pixels in (result, augment(noise(64), random, name, size).numpy()):
        assert pixels.min() >= 0 and pixels.max() <= 255 + 1e-4  # the rounding of a weighted mean


def test_colour_changes_by_the_stated_factors():
    grey = np.full((1, 8, 8, 3), 100, np.uint8)
    np.testing.assert_allclose(augment(grey, numbers({BRIGHTNESS: 1}), "strong", 8), 130, rtol=1e-5)
    warm = augment(grey, numbers({14: 1, 16: 0}), "strong", 8)  # the gains of red and blue
    np.testing.assert_allclose(warm.numpy()[0, 0, 0], (110, 100, 90), rtol=1e-5)


def test_erased_squares():
    random = numbers({AREA: 1}, count=400)
    random[:, ERASE] = np.random.default_rng(1).random((400, 4))
    result = augment(noise(400, 40), random, "strong", 40).numpy()
    random[:, ERASE] = 1
    complete = augment(noise(400, 40), random, "strong", 40).numpy()
    hidden = np.abs(result - complete).max(axis=3) > 0.01
    fractions = hidden.mean(axis=(1, 2))
    assert 0.18 < (fractions > 0).mean() < 0.32
    assert fractions[fractions > 0].min() > 0.15**2 / 4 and fractions.max() < 0.5**2
    for image, before, mask in zip(result, complete, hidden, strict=True):
        if mask.any():
            rows, columns = mask.any(axis=1), mask.any(axis=0)
            assert mask.sum() >= 0.98 * rows.sum() * columns.sum()  # a rectangle without holes
            np.testing.assert_allclose(
                image[mask], before.mean(axis=(0, 1)) + 0 * image[mask], atol=0.1
            )


@pytest.mark.parametrize("name", ["basic", "strong"])
def test_an_image_does_not_depend_on_its_batch(name):
    images, random = noise(6), view_random(0, 3, 6)
    together = augment(images, random, name, SIZE).numpy()
    alone = [augment(images[i : i + 1], random[i : i + 1], name, SIZE).numpy() for i in range(6)]
    # Up to rounding: processors add a batch's odd end in another way.
    np.testing.assert_allclose(np.concatenate(alone), together, atol=2e-3)


def test_views_are_numbered():
    first = view_random(0, 2, 10).numpy()
    assert first.shape == (10, NUM_RANDOM) and first.min() >= 0 and first.max() < 1
    np.testing.assert_array_equal(first, view_random(0, 2, 10))
    for other in (view_random(1, 2, 10), view_random(0, 3, 10)):
        assert not (first == other.numpy()).any()


def test_crop_sizes_grow_in_three_quarters_of_the_epochs():
    sizes = crop_sizes(96, 160, 100)
    assert len(sizes) == 100 and sizes == sorted(sizes)
    assert sizes[:15] == [96] * 15 and sizes[59] == 144 and sizes[60:] == [160] * 40
    assert crop_sizes(100, 120, 8) == [100, 100, 116, 116, 120, 120, 120, 120]
    assert crop_sizes(64, 64, 3) == crop_sizes(96, 64, 3) == [64] * 3
    assert crop_sizes(96, 160, 1) == [96]


def test_preview():
    (image,) = noise(1)
    images, titles = preview_augmentation(image, columns=4)
    assert images.shape == (8, SIZE, SIZE, 3) and images.dtype == np.uint8
    assert titles == ["original", *["basic"] * 3, *["strong"] * 4]
    np.testing.assert_array_equal(images[0], image)
    assert len(np.unique(images.reshape(8, -1), axis=0)) == 8


def test_unknown_policy():
    with pytest.raises(ValueError, match="name='heavy'"):
        augment(smooth_image(), numbers(), "heavy", SIZE)
