"""The sketches: decided by the seed alone, and nothing but the animal tells the classes apart."""

import io
import itertools

import numpy as np
import pytest
from PIL import Image

from catsdogs.data.sketches import ANIMALS, CATS_AND_DOGS, draw_sketch, write_sketches

NUM_SKETCHES = 50  # of each class


@pytest.fixture(scope="module")
def sketches():
    """Sketches by class."""
    return {name: [draw_sketch(name, 0, i) for i in range(NUM_SKETCHES)] for name in ANIMALS}


def test_the_same_arguments_draw_the_same_sketch():
    first = np.asarray(draw_sketch("cat", 7, 3))
    draw_sketch("dog", 0, 0)  # what is drawn in between does not matter
    np.testing.assert_array_equal(draw_sketch("cat", 7, 3), first)


@pytest.mark.parametrize("other", [("dog", 0, 0), ("cat", 1, 0), ("cat", 0, 1)])
def test_class_seed_and_index_each_change_the_sketch(other):
    first, second = draw_sketch("cat", 0, 0), draw_sketch(*other)
    first = np.asarray(first.resize((64, 64)), np.float32)
    assert np.abs(first - np.asarray(second.resize((64, 64)), np.float32)).mean() > 10


def test_the_number_of_processes_changes_no_byte(tmp_path):
    for folder, workers in (("one", 1), ("two", 2)):
        write_sketches(tmp_path / folder, per_class=3, seed=5, workers=workers)
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.*"))
    names = [f"{name}/{name}.{index}.jpg" for name in CATS_AND_DOGS for index in range(3)]
    assert [file.as_posix() for file in files] == names
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
        with Image.open(tmp_path / "one" / file) as image:
            assert image.info["comment"] == b"A sketch, not a photograph."


def test_sizes_vary_like_those_of_photographs(sketches):
    sizes = np.array([image.size for images in sketches.values() for image in images])
    assert sizes.min() >= 150 and sizes.max() <= 230
    aspects = sizes[:, 0] / sizes[:, 1]
    assert aspects.min() < 0.85 and aspects.max() > 1.2
    assert len(np.unique(sizes, axis=0)) > NUM_SKETCHES


def test_neither_colour_nor_size_reveals_the_class(sketches):
    """No single number of a sketch separates two classes better than chance."""

    def measure(image):
        pixels, file = np.asarray(image, dtype=np.float64), io.BytesIO()
        image.save(file, "JPEG", quality=90)
        num_bytes = file.tell()
        shape = num_bytes, num_bytes / pixels.size, *image.size, image.width / image.height
        return *pixels.mean(axis=(0, 1)), pixels.std(), *shape

    measured = [np.array([measure(image) for image in images]) for images in sketches.values()]
    for first, second in itertools.combinations(measured, 2):
        # Area under the ROC curve, whose standard error is 0.058 with 50 sketches of each class:
        # the bound is three and a half of them.
        difference = np.sign(first[:, None] - second)
        assert np.abs(difference.mean(axis=(0, 1)) / 2).max() < 0.2
