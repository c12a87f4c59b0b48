"""Predictions for files: the right numbers, in order, and files that cannot be read are named."""

import csv
import errno
import io
import itertools
import json
import os
import pathlib
import sys
import types

import numpy as np
import pytest
from pictures import encode, noise_picture, write_files
from pixel_model import SIZE, save_pixel_model

from catsdogs import cli
from catsdogs.data.images import decode_image
from catsdogs.inference.predict import (
    Prediction,
    list_pictures,
    predict_images,
    predict_pictures,
    print_predictions,
)

CLASSES = ("apple", "leaf", "sky")
IMAGES = np.random.default_rng(0).integers(0, 256, (21, SIZE, SIZE, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model of three classes, from its file."""
    return save_pixel_model(tmp_path_factory.mktemp("model") / "model.keras", CLASSES)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder with 21 pictures, some of them below it, and three files that are none."""
    files = {f"{seed:02}.png": encode(noise_picture(seed)) for seed in range(18)}
    files |= {f"more/{seed}.jpg": encode(noise_picture(seed), "JPEG") for seed in range(18, 21)}
    files |= {"03-cut.png": files["00.png"][:500], "empty.jpg": b"", "notes.txt": b"no picture"}
    return write_files(tmp_path_factory.mktemp("photos"), files | {".hidden": b""})


def test_every_file_is_predicted_in_order(saved, photos):
    found = list(predict_pictures(saved, list_pictures([str(photos)])))
    names = [prediction.file.removeprefix(f"{photos}/") for prediction in found]
    assert len(names) == 24 and ".hidden" not in names
    assert names == sorted(names, key=lambda name: (name.startswith("more"), name))
    errors = {pathlib.Path(one.file).name: one.error for one in found if one.error}
    assert set(errors) == {"03-cut.png", "empty.jpg", "notes.txt"}
    assert all(error.startswith(f"Expected a picture at {photos}") for error in errors.values())
    for prediction in found:
        if not prediction.error:
            image = decode_image(prediction.file, SIZE)[None].astype(np.float32)
            (expected,) = saved.model.predict_on_batch(image)
            assert list(prediction.probabilities) == list(CLASSES)
            assert list(prediction.probabilities.values()) == pytest.approx(expected, abs=1e-5)
            assert prediction.label == CLASSES[expected.argmax()]
            assert prediction.probability == max(prediction.probabilities.values())


def test_tta_is_the_mean_with_the_horizontal_flip(saved):
    expected = (predict_images(saved, IMAGES) + predict_images(saved, IMAGES[:, :, ::-1])) / 2
    np.testing.assert_allclose(predict_images(saved, IMAGES, tta=True), expected, atol=1e-6)


def test_large_images_are_predicted_fewer_at_a_time():
    """And all batches have one shape, since TensorFlow compiles for every new one."""
    shapes, num_pixels = [], {}

    def record(batch):
        shapes.append(batch.shape)
        return np.full((len(batch), 3), 1 / 3)

    for side in (64, 300, 1000):
        saved = types.SimpleNamespace(predict=record, classes=CLASSES, image_size=side)
        predict_images(saved, np.zeros((7, side, side, 3), np.uint8))
        (shape,) = set(shapes)
        num_pixels[side] = shape[0] * side**2
        shapes.clear()
    assert num_pixels[64] < num_pixels[1000] <= 1.1 * num_pixels[300]


def memory_mb():
    """What this process has in memory, in MiB."""
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs Linux")
def test_any_number_of_files_is_predicted_in_constant_memory(saved, photos):
    """They are listed, decoded and predicted as the predictions are asked for."""
    files, listed = (str(photos / "00.png"), str(photos / "empty.jpg")), itertools.count()
    predictions = predict_pictures(saved, (files[index % 2] for index in listed))
    assert sum(1 for _ in itertools.islice(predictions, 300)) == 300
    before = memory_mb()
    assert sum(1 for _ in itertools.islice(predictions, 3000)) == 3000
    assert memory_mb() - before < 20
    assert next(listed) < 3300 + 16 + 8 * os.cpu_count()
    predictions.close()


def write_tree(folder):
    names = ("top/1.png", "top/a/2.png", "top/a/deep/3.png", "top/b/.hidden/9.png", "top/b/.4.png")
    return write_files(folder, dict.fromkeys(names, b""))


EVERY = ["top/1.png", "top/a/2.png", "top/a/deep/3.png"]


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        *((pattern, EVERY) for pattern in ("top", "top/*", "top/**", "t*", "**", "to?/")),
        ("**/deep*", EVERY[2:]),
        ("top/*.png top/a", EVERY),
        # What is not there is listed too, so that it is reported.
        ("top/*.gif absent.png", ["top/*.gif", "absent.png"]),
        ("- top/1.png", ["not-utf8-\udcff.png", "with a space.png", "top/1.png"]),
    ],
)
def test_files_folders_patterns_and_standard_input(paths, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(write_tree(tmp_path))
    stdin = types.SimpleNamespace(buffer=io.BytesIO(b"not-utf8-\xff.png\n\nwith a space.png\r\n"))
    monkeypatch.setattr(sys, "stdin", stdin)
    found = list(list_pictures(paths.split()))
    assert sorted(found) == sorted(expected)
    if "**" not in paths:
        assert found == expected


def test_a_folder_that_cannot_be_read_is_listed(tmp_path, monkeypatch):
    write_tree(tmp_path)
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("/deep"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = [os.path.relpath(path, tmp_path) for path in list_pictures([str(tmp_path)])]
    assert found == [*EVERY[:2], "top/a/deep"]


PREDICTIONS = [
    Prediction('a,"b"\r\n.png', {"a": 0.25, "b": 0.75}, None),
    Prediction("broken.png", None, "Expected a picture at broken.png."),
    Prediction("plain.png", {"a": 0.95, "b": 0.05}, None),
]


@pytest.mark.parametrize("form", ["table", "json", "csv"])
def test_predictions_are_printed(form, capsys):
    code = print_predictions(iter(PREDICTIONS), ("a", "b"), 0.8, form, 3)
    output, errors = capsys.readouterr()
    assert code == 1
    assert "predict: Expected a picture at broken.png.\n" in errors
    assert errors.endswith("predict: 1 of 3 files skipped.\n")
    if form == "table":
        rows = [line.split() for line in output.splitlines()]
        assert rows == [
            ["label", "probability", "file"],
            ["b", "75.0%", "unsure", 'a,"b"', ".png"],
            ["a", "95.0%", "plain.png"],
        ]
        return
    if form == "json":
        rows = json.loads(output)
        assert [row["unsure"] for row in rows] == [True, False]
        assert [row["probabilities"] for row in rows] == [
            one.probabilities for one in PREDICTIONS if one.probabilities
        ]
    else:
        rows = list(csv.DictReader(io.StringIO(output, newline="")))
        assert [row["unsure"] for row in rows] == ["true", "false"]
        assert [float(row["probability_of_b"]) for row in rows] == [0.75, 0.05]
    assert [row["file"] for row in rows] == ['a,"b"\r\n.png', "plain.png"]
    assert [row["label"] for row in rows] == ["b", "a"]
    assert [float(row["probability"]) for row in rows] == [0.75, 0.95]


@pytest.mark.parametrize("form", ["table", "json", "csv"])
def test_names_that_are_not_utf8(form, capsysbinary):
    names = [b"1.png", b"2\xff.png", "3é.png".encode()]
    row = {"a": 0.25, "b": 0.75}
    predictions = [Prediction(os.fsdecode(name), row, None) for name in names]
    assert print_predictions(predictions, ("a", "b"), 0.5, form) == 0
    output = capsysbinary.readouterr().out
    if form == "json":
        assert [os.fsencode(one["file"]) for one in json.loads(output)] == names
    else:
        # What a terminal cannot show is a blank in the table.
        shown = [name.replace(b"\xff", b" ") for name in names] if form == "table" else names
        assert all(name in output for name in shown) and output.count(b"\n") == 4


def test_the_command(saved, photos, monkeypatch, capsys):
    def run(*words):
        monkeypatch.setattr(sys, "argv", ["predict.py", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            cli.predict()
        return stop.value.code, capsys.readouterr().out

    code, table = run(saved.path, photos, "--threshold", "1")
    assert code == 1 and table.count("\n") == 22 and table.count(" unsure ") == 21
    code, output = run(saved.path, photos / "more", "--format", "json", "--tta")
    assert code == 0
    images = np.stack([decode_image(photos / "more" / f"{i}.jpg", SIZE) for i in (18, 19, 20)])
    expected = predict_images(saved, images, tta=True)
    found = [list(row["probabilities"].values()) for row in json.loads(output)]
    np.testing.assert_allclose(found, expected, atol=1e-6)
