"""Batches: every image once an epoch, labels beside their images, and nothing left to chance."""

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from catsdogs.data import batches
from catsdogs.data.augment import augment, view_random
from catsdogs.data.batches import (
    encode_labels,
    evaluation_batches,
    feature_batches,
    image_batches,
    image_view,
)

NUM, SIDE = 22, 8
# Image i is filled with 10 i, so a pixel tells the index; the label of image i is i % 2.
IMAGES = np.broadcast_to(
    10 * np.arange(NUM, dtype=np.uint8)[:, None, None, None], (NUM, SIDE, SIDE, 3)
)
LABELS = np.arange(NUM, dtype=np.int32) % 2
TARGETS = encode_labels(LABELS, 2)
NOISE = np.random.default_rng(0).integers(0, 256, (NUM, SIDE, SIDE, 3), dtype=np.uint8)


def collect(dataset):
    """All batches as a list of pairs of arrays."""
    return [(images.numpy(), targets.numpy()) for images, targets in dataset]


def join(dataset):
    """All batches as one pair of arrays."""
    return [np.concatenate(parts) for parts in zip(*collect(dataset), strict=True)]


def assert_equal(found, expected):
    for pair, expected_pair in zip(found, expected, strict=True):
        for array, expected_array in zip(pair, expected_pair, strict=True):
            np.testing.assert_array_equal(array, expected_array)


def test_targets():
    two, three = encode_labels([0, 1, 1], 2), encode_labels([2, 0, 1], 3)
    assert two.dtype == three.dtype == np.float32
    np.testing.assert_array_equal(two, [[0], [1], [1]])
    np.testing.assert_array_equal(three, [[0, 0, 1], [1, 0, 0], [0, 1, 0]])


# ---- Images ----


def test_every_image_once_an_epoch_in_a_new_order():
    dataset = image_batches(IMAGES, TARGETS, batch_size=5, epochs=3, seed=0)
    assert dataset.element_spec[0].shape.as_list() == [None, SIDE, SIDE, 3]
    assert [len(images) for images, _ in dataset] == [5, 5, 5, 5, 2] * 3
    images, targets = join(dataset)
    assert images.dtype == targets.dtype == np.float32
    index = (images[:, 0, 0, 0] / 10).astype(int)
    np.testing.assert_array_equal(targets[:, 0], LABELS[index])
    epochs = [tuple(epoch) for epoch in index.reshape(3, NUM)]
    assert all(sorted(epoch) == list(range(NUM)) for epoch in epochs)
    assert len({*epochs, tuple(range(NUM))}) == 4


@pytest.mark.parametrize("augmentation", ["none", "basic", "strong"])
def test_seed_and_epoch_decide_everything(augmentation):
    def run(seed=7, first=0):
        return image_batches(
            NOISE, TARGETS, batch_size=6, epochs=4, seed=seed, initial_epoch=first,
            augmentation=augmentation, crop_sizes=[6, 6, 7, 7], mixup=0.5,
        )  # fmt: skip

    complete = collect(run())
    for first in (0, 3):  # an interrupted run resumes with the very batches that it lacks
        assert_equal(collect(run(first=first)), complete[4 * first :])
    assert collect(run(first=4)) == []
    assert np.abs(collect(run(seed=8))[0][0] - complete[0][0]).max() > 1
    one_thread = tf.data.Options()
    one_thread.threading.private_threadpool_size = 1
    assert_equal(collect(run().with_options(one_thread)), complete)


@pytest.mark.parametrize("augmentation", ["basic", "strong"])
def test_augmented_images_do_not_depend_on_the_batch_size(augmentation):
    def images_of(batch_size):
        return join(
            image_batches(
                NOISE, TARGETS, batch_size=batch_size, epochs=2, seed=1,
                augmentation=augmentation, crop_sizes=[6, 6], mixup=0.5,
            )
        )[0]  # fmt: skip

    small, large = images_of(3), images_of(22)
    side = SIDE if augmentation == "basic" else 6
    assert small.shape == (2 * NUM, side, side, 3)
    # Up to rounding: processors add a batch's odd end in another way.
    np.testing.assert_allclose(small, large, atol=2e-3)
    # Another epoch is another view of every image: no two of the 44 images are equal.
    assert len(np.unique(small.reshape(2 * NUM, -1), axis=0)) == 2 * NUM


def test_crops_grow_from_epoch_to_epoch():
    dataset = image_batches(
        NOISE, TARGETS, batch_size=11, epochs=3, seed=0, augmentation="strong", crop_sizes=[5, 5, 7]
    )
    assert [images.shape for images, _ in dataset] == [(11, 5, 5, 3)] * 4 + [(11, 7, 7, 3)] * 2


@pytest.mark.parametrize("batch_size", [4, NUM])
def test_images_and_targets_are_mixed_with_the_next_ones_of_the_epoch(batch_size):
    def batches(**arguments):
        return join(image_batches(IMAGES, TARGETS, epochs=1, seed=5, **arguments))

    plain, labels = batches(batch_size=NUM)
    images, targets = batches(batch_size=batch_size, mixup=0.4, cutmix=0.4)
    plain, values = plain[..., 0], images[..., 0]
    share = (values - plain) / (np.roll(plain, -1, axis=0) - plain)  # of the next image
    is_mixed = share.max(axis=(1, 2)) > 0
    is_pasted = share.max(axis=(1, 2)) == 1
    assert 0.5 < is_mixed.mean() < 1 and 0.2 < is_pasted.mean() < 0.7
    # Blended alike all over, or one square pasted in.
    blended = share[is_mixed & ~is_pasted]
    np.testing.assert_allclose(np.ptp(blended, axis=(1, 2)), 0, atol=1e-5)
    assert blended.max() <= 0.5
    for square in share[is_pasted]:
        row, column = square.max(axis=1), square.max(axis=0)
        assert set(square.ravel()) == {0, 1}
        np.testing.assert_array_equal(square, row[:, None] * column)
    # The target is mixed by as much.
    share = share.mean(axis=(1, 2))
    expected = (1 - share) * labels[:, 0] + share * np.roll(labels[:, 0], -1)
    np.testing.assert_allclose(targets[:, 0], expected, atol=1e-6)


@st.composite
def plans(draw):
    num_classes = draw(st.integers(2, 3))
    labels = draw(st.lists(st.integers(0, num_classes - 1), min_size=1, max_size=24))
    epochs = draw(st.integers(1, 3))
    arguments = {
        "batch_size": draw(st.integers(1, 30)), "epochs": epochs,
        "initial_epoch": draw(st.integers(0, epochs - 1)), "seed": draw(st.integers(0, 2**31 - 1)),
    }  # fmt: skip
    return np.array(labels), num_classes, arguments


FEW = hypothesis.settings(max_examples=max(5, hypothesis.settings.default.max_examples // 8))


@FEW
@hypothesis.given(
    plan=plans(),
    augmentation=st.sampled_from(["none", "basic", "strong"]),
    mixup=st.sampled_from([0.0, 0.5, 1.0]),
    cutmix=st.sampled_from([0.0, 0.5]),
    crop_size=st.integers(4, 8),
)
def test_labels_stay_with_their_images(plan, augmentation, mixup, cutmix, crop_size):
    """Class c fills channel c, so whatever an image shows must be its target."""
    labels, num_classes, arguments = plan
    images = np.zeros((len(labels), 8, 8, 3), np.uint8)
    images[np.arange(len(labels)), :, :, labels] = 255
    dataset = image_batches(
        images, encode_labels(labels, num_classes), augmentation=augmentation,
        mixup=mixup, cutmix=cutmix, crop_sizes=[crop_size] * arguments["epochs"], **arguments,
    )  # fmt: skip
    found, targets = join(dataset)
    num_epochs = arguments["epochs"] - arguments["initial_epoch"]
    assert len(found) == len(labels) * num_epochs
    shown = found.mean(axis=(1, 2))[:, :num_classes]
    wanted = np.concatenate([1 - targets, targets], axis=1) if num_classes == 2 else targets
    if augmentation == "strong":  # colours change a little: compare those that are not blended
        sure = wanted.max(axis=1) == 1
        np.testing.assert_array_equal(shown[sure].argmax(axis=1), wanted[sure].argmax(axis=1))
    else:
        np.testing.assert_allclose(shown / 255, wanted, atol=1e-3)
    if not mixup and not cutmix:  # every image once an epoch
        for epoch in np.split(wanted, num_epochs):
            counts = np.bincount(labels, minlength=num_classes)
            np.testing.assert_array_equal(epoch.sum(axis=0), counts)


@pytest.mark.parametrize("flip", [False, True])
def test_evaluation_is_in_order_and_not_augmented(tmp_path, flip):
    np.save(tmp_path / "images.npy", NOISE)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    expected = NOISE[:, :, ::-1] if flip else NOISE
    for arrays in (NOISE, mapped):
        dataset = evaluation_batches(arrays, TARGETS, batch_size=8, flip=flip)
        assert [len(images) for images, _ in dataset] == [8, 8, 6]
        images, targets = join(dataset)
        assert images.dtype == targets.dtype == np.float32
        np.testing.assert_array_equal(images, expected)
        np.testing.assert_array_equal(targets[:, 0], LABELS)


# ---- Cached features ----


@pytest.mark.parametrize("max_in_memory", [0, 2**20])
@pytest.mark.parametrize("num_views", [1, 3])
def test_every_view_of_every_image_equally_often(num_views, max_in_memory, monkeypatch):
    monkeypatch.setattr(batches, "MAX_IN_MEMORY", max_in_memory)
    # A row holds the image's index and the view's number.
    views = [
        np.stack([np.arange(NUM), np.full(NUM, view)], axis=1).astype(np.float16)
        for view in range(num_views)
    ]
    epochs = 2 * num_views

    def run(first):
        return join(
            feature_batches(
                views, TARGETS, batch_size=5, epochs=epochs, seed=0, initial_epoch=first
            )
        )

    rows, targets = run(0)
    assert rows.dtype == np.float32 and rows.shape == (epochs * NUM, 2)
    np.testing.assert_array_equal(targets[:, 0], rows[:, 0] % 2)
    for epoch in rows.reshape(epochs, NUM, 2):
        assert sorted(epoch[:, 0]) == list(range(NUM))
        assert set(epoch[:, 1]) == set(range(num_views))  # mixed, not view by view
    counts = np.unique(rows, axis=0, return_counts=True)[1]
    assert counts.tolist() == [2] * (NUM * num_views)
    assert_equal([run(1)], [(rows[NUM:], targets[NUM:])])


@FEW
@hypothesis.given(plan=plans(), num_views=st.integers(1, 4))
def test_labels_stay_with_their_features(plan, num_views):
    labels, num_classes, arguments = plan
    rows = np.arange(len(labels), dtype=np.float16)[:, None]
    targets = encode_labels(labels, num_classes)
    found, given_targets = join(feature_batches([rows] * num_views, targets, **arguments))
    index = found[:, 0].astype(int)
    np.testing.assert_array_equal(given_targets, targets[index])
    for epoch in np.split(index, arguments["epochs"] - arguments["initial_epoch"]):
        np.testing.assert_array_equal(np.sort(epoch), rows[:, 0])


def test_numbered_views():
    rows = slice(4, 9)
    original = image_view(NOISE, rows, 0)
    assert original.dtype == np.float32
    np.testing.assert_array_equal(original, NOISE[rows])
    np.testing.assert_array_equal(image_view(NOISE, rows, 1), NOISE[rows, :, ::-1])
    warped = image_view(NOISE, rows, 2)
    expected = augment(NOISE, view_random(0, 2, NUM), "basic", SIDE).numpy()[rows]
    np.testing.assert_allclose(warped, expected, atol=2e-3)
    # The same whichever rows it is asked for with; another view with another number.
    np.testing.assert_allclose(image_view(NOISE, slice(6, 7), 2), warped[2:3], atol=2e-3)
    assert np.abs(image_view(NOISE, rows, 3) - warped).max() > 1
