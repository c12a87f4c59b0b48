"""The drawings: decided by the seed alone, and nothing but the animal tells the classes apart."""

import io
import itertools

import numpy as np
import pytest
from PIL import Image

from catsdogs.data.sketches import write_sketches
from catsdogs.data.sketches import ANIMALS, CATS_AND_DOGS, draw_sketch
from catsdogs.errors import InputError

NUM_DRAWINGS = 50  # of each class


def pixels_of(*arguments):
    return np.asarray(draw_sketch(*arguments), dtype=np.int16)


@pytest.fixture(scope="module")
def drawings():
    """Drawings by class."""
    return {name: [draw_sketch(name, 0, i) for i in range(NUM_DRAWINGS)] for name in ANIMALS}


def test_the_same_arguments_draw_the_same_picture():
    first = pixels_of("cat", 7, 3)
    pixels_of("dog", 0, 0)  # what is drawn in between does not matter
    np.testing.assert_array_equal(pixels_of("cat", 7, 3), first)


def test_a_known_picture():
    # Coarse on purpose: another Pillow or C library may shade an edge differently, but the same
    # seed must never start to mean another picture.
    image = draw_sketch("dog", 0, 1)
    assert image.mode == "RGB"
    assert image.size == (177, 198)
    coarse = np.asarray(image.resize((3, 3), Image.Resampling.BOX).convert("L"), dtype=np.int16)
    np.testing.assert_allclose(coarse, [[191, 132, 167], [225, 101, 127], [206, 128, 88]], atol=3)


@pytest.mark.parametrize("other", [("dog", 0, 0), ("cat", 1, 0), ("cat", 0, 1)])
def test_class_seed_and_index_each_change_the_picture(other):
    first, second = draw_sketch("cat", 0, 0), draw_sketch(*other)
    difference = np.abs(
        np.asarray(first, dtype=np.int16) - np.asarray(second.resize(first.size), dtype=np.int16)
    )
    assert difference.mean() > 10


def test_the_number_of_processes_changes_no_byte(tmp_path, capsys):
    write_sketches(tmp_path / "one", per_class=3, seed=5, workers=1)
    write_sketches(tmp_path / "two", per_class=3, seed=5, workers=2)
    files = [f"{name}/{name}.{index}.jpg" for name in CATS_AND_DOGS for index in range(3)]
    for folder in (tmp_path / "one", tmp_path / "two"):
        found = [path.relative_to(folder).as_posix() for path in folder.rglob("*.*")]
        assert sorted(found) == files
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all("drawings, not photographs" in line and line.endswith("6/6") for line in lines)


def test_files_are_jpeg_and_say_what_they_are(tmp_path):
    write_sketches(tmp_path, per_class=1, seed=2, workers=1, animals=ANIMALS)
    for name in ANIMALS:
        with Image.open(tmp_path / name / f"{name}.0.jpg") as image:
            assert image.format == "JPEG"
            assert image.info["comment"] == b"A drawing, no photograph."
            drawn = pixels_of(name, 2, 0)
            assert np.abs(np.asarray(image, dtype=np.int16) - drawn).mean() < 8


def test_sizes_vary_like_those_of_photographs(drawings):
    sizes = np.array([image.size for images in drawings.values() for image in images])
    assert sizes.min() >= 150 and sizes.max() <= 230
    aspects = sizes[:, 0] / sizes[:, 1]
    assert aspects.min() < 0.85 and aspects.max() > 1.2
    assert len(np.unique(sizes, axis=0)) > NUM_DRAWINGS


def test_neither_colour_nor_size_gives_the_class_away(drawings):
    """No single number of a picture tells the animals apart better than chance would."""
    measured = {name: [] for name in ANIMALS}
    for name, images in drawings.items():
        for image in images:
            pixels, file = np.asarray(image, dtype=np.float64), io.BytesIO()
            image.save(file, "JPEG", quality=90)
            num_bytes = file.tell()
            measured[name].append(
                [
                    *pixels.mean(axis=(0, 1)),
                    pixels.std(),
                    num_bytes,
                    num_bytes / pixels.size,
                    *image.size,
                    image.width / image.height,
                ]
            )
    measured = [np.array(numbers)[:, None] for numbers in measured.values()]
    for first, second in itertools.combinations(measured, 2):
        # Area under the ROC curve: how often a cat's number is above a dog's. With 50 of each its
        # standard error is 0.058, so this bound is three and a half of them.
        areas = (first > second.swapaxes(0, 1)).mean(axis=(0, 1)) / 2
        areas += (first >= second.swapaxes(0, 1)).mean(axis=(0, 1)) / 2
        assert np.abs(areas - 0.5).max() < 0.2, areas


@pytest.mark.parametrize(
    "arguments", [("bird", 0, 0), ("Cat", 0, 0), ("cat", -1, 0), ("dog", 0, -1)]
)
def test_what_cannot_be_drawn_is_an_input_error(arguments):
    with pytest.raises(InputError, match=r"Expected.*'cat', 'dog', 'rabbit'.*Received"):
        draw_sketch(*arguments)


@pytest.mark.parametrize("wrong", [{"per_class": 0}, {"workers": 0}, {"seed": -1}])
def test_bad_numbers_are_an_input_error_before_anything_is_written(wrong, tmp_path):
    with pytest.raises(InputError, match=r"Expected.*Received"):
        write_sketches(tmp_path / "new", **{"per_class": 1, "workers": 1, **wrong})
    assert not (tmp_path / "new").exists()
