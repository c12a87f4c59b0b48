"""Answers for files: right numbers, right order, and broken files told of without harm."""

import csv
import errno
import io
import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from catsdogs.console import print_predictions
from catsdogs.data.images import decode_image
from catsdogs.errors import InputError
from catsdogs.inference import predict as prediction
from catsdogs.inference.predict import (
    Prediction,
    count_pictures,
    list_pictures,
    predict_images,
    predict_pictures,
)
from catsdogs.models import networks as models
from catsdogs.models.model_file import load_model, load_saved_model, save_model

CLASSES = ("apple", "leaf", "sky")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """An untrained model of three classes, as its file."""
    keras.utils.set_random_seed(1)
    model = models.build_textbook_convnet(48, num_classes=3)
    path = tmp_path_factory.mktemp("model") / "model.keras"
    save_model(model, path, classes=CLASSES, image_size=48, temperature=1.5)
    return load_saved_model(path)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder with 21 pictures, some below it, three broken files and a text."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    (folder / "more").mkdir()
    for index in range(21):
        pixels = rng.integers(0, 256, (20 + index, 30, 3), dtype=np.uint8)
        image = Image.fromarray(pixels).resize((60, 50 + index))
        image.save(folder / ("more" if index > 17 else "") / f"{index:02}.png")
    whole = (folder / "00.png").read_bytes()
    (folder / "03-cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.jpg").touch()
    (folder / "notes.txt").write_text("no picture")
    (folder / ".hidden").write_text("is not looked at")
    return folder


def test_card_is_in_the_file_and_keras_passes_over_it(saved):
    assert (saved.classes, saved.image_size, saved.temperature) == (CLASSES, 48, 1.5)
    plain = keras.models.load_model(saved.path, safe_mode=True)
    batch = np.random.default_rng(0).integers(0, 256, (2, 48, 48, 3)).astype(np.float32)
    expected = plain.predict_on_batch(batch)
    np.testing.assert_allclose(predict_images(saved, batch), expected, atol=1e-6)


def test_a_model_without_a_card_is_an_error(saved, tmp_path):
    saved.model.save(tmp_path / "plain.keras")
    load_model(tmp_path / "plain.keras")
    with pytest.raises(InputError, match="tells its classes and image size"):
        load_saved_model(tmp_path / "plain.keras")
    with pytest.raises(InputError, match="found none"):
        load_saved_model(tmp_path / "absent.keras")


def test_every_file_is_answered_in_order(saved, photos):
    found = list(predict_pictures(saved, list_pictures([str(photos)])))
    names = [answer.file.removeprefix(f"{photos}/") for answer in found]
    assert names == sorted(names, key=lambda name: (name.startswith("more"), name))
    assert len(names) == 24 and ".hidden" not in names
    broken = {answer.file.rpartition("/")[2]: answer.error for answer in found if answer.error}
    assert set(broken) == {"03-cut.png", "empty.jpg", "notes.txt"}
    assert all(error.startswith("Expected a picture at") for error in broken.values())
    for answer in found:
        if not answer.error:
            image = decode_image(answer.file, 48)[None].astype(np.float32)
            expected = saved.model.predict_on_batch(image)[0]
            np.testing.assert_allclose(list(answer.probabilities.values()), expected, atol=1e-5)
            assert list(answer.probabilities) == list(CLASSES)
            assert answer.label == CLASSES[expected.argmax()]
            assert answer.probability == pytest.approx(expected.max(), abs=1e-5)


def test_tta_is_the_mean_of_both_mirror_images(saved):
    images = np.random.default_rng(2).integers(0, 256, (18, 48, 48, 3), dtype=np.uint8)
    mirrored = predict_images(saved, images[:, :, ::-1])
    expected = (np.array(predict_images(saved, images)) + mirrored) / 2
    np.testing.assert_allclose(predict_images(saved, images, tta=True), expected, atol=1e-6)


def test_files_folders_patterns_and_standard_input(photos, monkeypatch):
    first = str(photos / "00.png")
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{first}\n\nwith a space.png\r\n"))
    pattern = str(photos / "0[12].png")
    found = list(list_pictures(["-", pattern, str(photos / "more"), "absent.png", "no*match"]))
    more = [str(photos / "more" / f"{index}.png") for index in (18, 19, 20)]
    both = [str(photos / "01.png"), str(photos / "02.png")]
    assert found == [first, "with a space.png", *both, *more, "absent.png", "no*match"]


def test_patterns_that_match_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("top/a/deep/3.png", "top/a/2.png", "top/b/.hidden/9.png", "top/1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    every = {"top/1.png", "top/a/2.png", "top/a/deep/3.png"}
    for pattern in ("top/*", "top/**", "top/**/*", "t*", "**", "to?/"):
        found = list(list_pictures([pattern]))
        assert len(found) == 3 and set(found) == every, pattern
    assert list(list_pictures(["**/deep*"])) == ["top/a/deep/3.png"]
    assert list(list_pictures(["top/*.png", "top/*.gif"])) == ["top/1.png", "top/*.gif"]


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    (tmp_path / "locked").mkdir()
    (tmp_path / "1.png").touch()
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("/locked"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    expected = [str(tmp_path / "1.png"), str(tmp_path / "locked")]
    assert list(list_pictures([str(tmp_path)])) == expected


def test_a_model_of_large_layers_gets_fewer_pictures_at_a_time(saved, monkeypatch):
    side = saved.image_size
    images = np.random.default_rng(0).integers(0, 256, (5, side, side, 3), dtype=np.uint8)
    expected = predict_images(saved, images)
    sizes, predict_on_batch = [], saved.model.predict_on_batch

    def count(batch):
        sizes.append(len(batch))
        return predict_on_batch(batch)

    monkeypatch.setattr(saved.model, "predict_on_batch", count)
    assert saved.num_activations > side**2
    monkeypatch.setattr(prediction, "_MAX_NUMBERS", 2 * saved.num_activations + 1)
    np.testing.assert_allclose(predict_images(saved, images), expected, atol=1e-5)
    assert sizes == [2, 2, 2]


@pytest.mark.parametrize("name", ["cr\rret.png", "line\nend.png", 'a,"b".png', "plain.png"])
def test_csv_keeps_any_name_in_one_field(name, capsys):
    answer = Prediction(name, {"a": 0.25, "b": 0.75}, None)
    print_predictions([answer], ("a", "b"), 0.5, "csv")
    printed = capsys.readouterr().out
    assert printed.endswith("0.750000\n") and "\r\n" not in printed
    _, row = csv.reader(io.StringIO(printed, newline=""))
    assert row == [name, "b", "0.750000", "false", "0.250000", "0.750000"]


def predict(*words, **options):
    command = [sys.executable, ROOT / "scripts" / "predict.py", *words]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, **options)


def test_script(saved, photos):
    table = predict(saved.path, photos, "--threshold", "0.99")
    assert table.returncode == 1  # some could not be read
    lines = table.stdout.splitlines()
    assert lines[0].split() == ["label", "probability", "file"] and len(lines) == 22
    assert all("unsure" in line for line in lines[1:])
    errors = table.stderr.splitlines()
    assert sum(line.startswith("predict.py: Expected a picture at") for line in errors) == 3
    assert errors[-1] == "predict.py: 3 of 24 files left out."

    rows = json.loads(predict(saved.path, photos / "more", "--json").stdout)
    assert [row["file"].rpartition("/")[2] for row in rows] == ["18.png", "19.png", "20.png"]
    listed = predict(saved.path, "-", "--csv", input="\n".join(row["file"] for row in rows))
    assert listed.returncode == 0
    for row, line in zip(rows, csv.DictReader(io.StringIO(listed.stdout)), strict=True):
        assert line["label"] == row["label"]
        assert float(line["probability_of_sky"]) == pytest.approx(
            row["probabilities"]["sky"], abs=1e-5
        )
    for wrong in (predict(photos, photos), predict(saved.path)):
        assert (wrong.returncode, wrong.stdout) == (2, "") and wrong.stderr.count("\n") == 1


@pytest.mark.parametrize("form, listed", [("--csv", True), ("--json", True), ("table", False)])
def test_script_answers_names_that_are_not_utf8(form, listed, saved, photos, tmp_path):
    folder = os.fsencode(tmp_path)
    names = [folder + b"/1.png", folder + b"/2\xff.png", folder + "/3é.png".encode()]
    for name in names:
        with open(name, "wb") as file:
            file.write((photos / "00.png").read_bytes())
    command = [
        sys.executable,
        ROOT / "scripts" / "predict.py",
        saved.path,
        "-" if listed else folder,
    ]
    command += [form] if form != "table" else []
    finished = subprocess.run(
        command,
        input=b"\n".join(names) if listed else None,
        stdout=subprocess.PIPE,
        check=True,
        env={**os.environ, "PYTHONIOENCODING": "utf-8:strict"},
    )
    if form == "--json":
        assert "é" in finished.stdout.decode()  # valid UTF-8, and readable where it can be
        assert [os.fsencode(row["file"]) for row in json.loads(finished.stdout)] == names
    else:
        assert len(finished.stdout.splitlines()) == 4
        # What a terminal cannot show is a blank in the table.
        shown = names if listed else [name.replace(b"\xff", b" ") for name in names]
        assert all(name in finished.stdout for name in shown)


def test_wrong_words_get_a_fitting_sentence(saved, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"folders with files.*empty"):
        count_pictures([str(tmp_path / "empty")])
    (tmp_path / "notes.txt").write_text("no model")
    with pytest.raises(InputError, match=r"run folder or a \.keras file, received .*notes\.txt"):
        load_saved_model(tmp_path / "notes.txt")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    with pytest.raises(InputError, match=r"was stopped.*--resume"):
        load_saved_model(tmp_path / "run")
