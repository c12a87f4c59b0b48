"""Batches: every image once an epoch, labels beside their images, and nothing left to chance."""

import numpy as np
import pytest
import tensorflow as tf

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
IMAGES = (np.arange(NUM, dtype=np.uint8) * 10)[:, None, None, None] * np.ones(
    (1, SIDE, SIDE, 3), np.uint8
)
LABELS = np.arange(NUM, dtype=np.int32) % 2
TARGETS = encode_labels(LABELS, 2)
NOISE = np.random.default_rng(0).integers(0, 256, (NUM, SIDE, SIDE, 3), dtype=np.uint8)


def collect(dataset):
    """All batches as a list of pairs of arrays."""
    return [(images.numpy(), labels.numpy()) for images, labels in dataset]


def indices(batches):
    return [int(image[0, 0, 0] / 10) for images, _ in batches for image in images]


def test_targets():
    two, three = encode_labels([0, 1, 1], 2), encode_labels([2, 0, 1], 3)
    assert two.dtype == three.dtype == np.float32
    np.testing.assert_array_equal(two, [[0], [1], [1]])
    np.testing.assert_array_equal(three, [[0, 0, 1], [1, 0, 0], [0, 1, 0]])


def test_every_image_once_an_epoch_in_a_new_order():
    batches = collect(image_batches(IMAGES, TARGETS, batch_size=5, epochs=3, seed=0))
    assert [len(images) for images, _ in batches] == [5, 5, 5, 5, 2] * 3
    epochs = [indices(batches[start : start + 5]) for start in (0, 5, 10)]
    assert all(sorted(epoch) == list(range(NUM)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    assert epochs[0] != list(range(NUM))


@pytest.mark.parametrize("workers", [1, 5])
def test_the_number_of_workers_changes_nothing(workers):
    dataset = image_batches(
        NOISE, TARGETS, batch_size=3, epochs=3, seed=1, augmentation="strong", crop_sizes=[6] * 3
    )
    options = tf.data.Options()
    options.threading.private_threadpool_size = workers
    pairs = zip(collect(dataset.with_options(options)), collect(dataset), strict=True)
    for (images, labels), (expected, expected_labels) in pairs:
        np.testing.assert_array_equal(images, expected)
        np.testing.assert_array_equal(labels, expected_labels)


def test_types_shapes_and_labels():
    dataset = image_batches(IMAGES, TARGETS, batch_size=4, epochs=1, seed=3)
    assert dataset.element_spec[0].shape.as_list() == [None, SIDE, SIDE, 3]
    for images, labels in collect(dataset):
        assert images.dtype == labels.dtype == np.float32
        assert labels.shape == (len(images), 1)
        np.testing.assert_array_equal(labels[:, 0], (images[:, 0, 0, 0] / 10) % 2)


@pytest.mark.parametrize("augmentation", ["none", "strong"])
def test_seed_and_epoch_decide_everything(augmentation):
    def run(seed=7, first=0, last=4):
        return collect(
            image_batches(
                NOISE, TARGETS, batch_size=6, epochs=last, seed=seed, initial_epoch=first,
                augmentation=augmentation, crop_sizes=[6, 6, 7, 7], mixup_share=0.5,
            )
        )  # fmt: skip

    whole, steps = run(), 4
    for first in (0, 3):
        # Going on after a stop gives the very batches that were still to come.
        for (images, labels), (expected, expected_labels) in zip(
            run(first=first), whole[steps * first :], strict=True
        ):
            np.testing.assert_array_equal(images, expected)
            np.testing.assert_array_equal(labels, expected_labels)
    assert run(first=4) == []
    assert np.abs(run(seed=8)[0][0] - whole[0][0]).max() > 1


@pytest.mark.parametrize("augmentation", ["book", "strong"])
def test_augmented_images_do_not_depend_on_the_batch_size(augmentation):
    def images_of(batch_size):
        dataset = image_batches(
            NOISE, TARGETS, batch_size=batch_size, epochs=2, seed=1, augmentation=augmentation,
            crop_sizes=[6, 6], mixup_share=0.5,
        )  # fmt: skip
        return np.concatenate([images for images, _ in collect(dataset)])

    small, large = images_of(3), images_of(22)
    assert small.shape == (2 * NUM, *([SIDE] * 2 if augmentation == "book" else [6] * 2), 3)
    # Up to rounding: processors add a batch's odd end in another way.
    np.testing.assert_allclose(small, large, atol=2e-3)
    # Another epoch is another view of every image: no two images of the 44 are alike.
    assert len(np.unique(small.reshape(2 * NUM, -1), axis=0)) == 2 * NUM


def test_crops_grow_from_epoch_to_epoch():
    dataset = image_batches(
        NOISE, TARGETS, batch_size=11, epochs=3, seed=0, augmentation="strong", crop_sizes=[5, 5, 7]
    )
    assert dataset.element_spec[0].shape.as_list() == [None, None, None, 3]
    assert [images.shape for images, _ in dataset] == [(11, 5, 5, 3)] * 4 + [(11, 7, 7, 3)] * 2


@pytest.mark.parametrize("batch_size", [4, NUM])
def test_blends_with_the_next_image_of_the_epoch(batch_size):
    plain = collect(image_batches(IMAGES, TARGETS, batch_size=NUM, epochs=1, seed=5))[0]
    blended = collect(
        image_batches(IMAGES, TARGETS, batch_size=batch_size, epochs=1, seed=5, mixup_share=0.5)
    )
    images, targets = (np.concatenate(parts) for parts in zip(*blended, strict=True))
    values, expected = images[:, 0, 0, 0], plain[0][:, 0, 0, 0]
    share = (values - expected) / (np.roll(expected, -1) - expected)  # of the next one
    assert share.min() >= 0 and share.max() <= 0.5
    changed = share > 0
    assert 0.2 < changed.mean() < 0.8 and len(np.unique(share[changed])) == changed.sum()
    # The target is blended alike.
    labels = plain[1][:, 0]
    expected = (1 - share) * labels + share * np.roll(labels, -1)
    np.testing.assert_allclose(targets[:, 0], expected, atol=1e-6)


def test_evaluation_is_in_order_and_as_it_is():
    batches = collect(evaluation_batches(NOISE, TARGETS, batch_size=8))
    assert [len(images) for images, _ in batches] == [8, 8, 6]
    np.testing.assert_array_equal(np.concatenate([images for images, _ in batches]), NOISE)
    np.testing.assert_array_equal(np.concatenate([y for _, y in batches])[:, 0], LABELS)
    assert all(images.dtype == labels.dtype == np.float32 for images, labels in batches)


def test_memory_maps_are_read_row_by_row(tmp_path):
    np.save(tmp_path / "images.npy", NOISE)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    (images, _), *_ = collect(evaluation_batches(mapped, TARGETS, batch_size=5))
    np.testing.assert_array_equal(images, NOISE[:5])
    (images, _), *_ = collect(image_batches(mapped, TARGETS, batch_size=5, epochs=1, seed=0))
    assert images.shape == (5, SIDE, SIDE, 3)
    (rows, _), *_ = collect(evaluation_batches(mapped[::2], TARGETS[::2], batch_size=3))
    np.testing.assert_array_equal(rows, NOISE[[0, 2, 4]])


@pytest.mark.parametrize("num_views", [1, 3])
def test_every_view_of_every_image_equally_often(num_views):
    # A feature holds the image's index and the view's number.
    views = [
        np.stack([np.arange(NUM), np.full(NUM, view)], axis=1).astype(np.float16)
        for view in range(num_views)
    ]
    epochs = 2 * num_views
    batches = collect(feature_batches(views, TARGETS, batch_size=5, epochs=epochs, seed=0))
    rows = np.concatenate([features for features, _ in batches])
    assert rows.dtype == np.float32 and rows.shape == (epochs * NUM, 2)
    np.testing.assert_array_equal(np.concatenate([y for _, y in batches])[:, 0], rows[:, 0] % 2)
    for epoch in range(epochs):
        epoch_rows = rows[epoch * NUM : (epoch + 1) * NUM]
        assert sorted(epoch_rows[:, 0]) == list(range(NUM))
        assert set(epoch_rows[:, 1]) == set(range(num_views))  # mixed, not view by view
    counts = np.unique(rows, axis=0, return_counts=True)[1]
    assert counts.tolist() == [2] * (NUM * num_views)

    rest = collect(
        feature_batches(views, TARGETS, batch_size=5, epochs=epochs, seed=0, initial_epoch=1)
    )
    np.testing.assert_array_equal(np.concatenate([f for f, _ in rest]), rows[NUM:])


def test_numbered_views():
    rows = slice(4, 9)
    as_it_is = image_view(NOISE, rows, 0)
    assert as_it_is.dtype == np.float32
    np.testing.assert_array_equal(as_it_is, NOISE[rows])
    np.testing.assert_array_equal(image_view(NOISE, rows, 1), NOISE[rows, :, ::-1])
    warped = image_view(NOISE, rows, 2)
    assert warped.shape == NOISE[rows].shape
    expected = augment(NOISE, view_random(0, 2, NUM), "book", SIDE).numpy()[rows]
    np.testing.assert_allclose(warped, expected, atol=2e-3)
    # The same whichever rows it is asked for with; another view with another number.
    np.testing.assert_allclose(image_view(NOISE, slice(6, 7), 2), warped[2:3], atol=2e-3)
    assert np.abs(image_view(NOISE, rows, 3) - warped).max() > 1
