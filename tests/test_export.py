"""Exported models answer as Keras does, say what they need, and nothing half-made is left."""

import dataclasses
import json
import os
import runpy
import subprocess
import sys
import zlib

import keras
import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from catsdogs.data.images import decode_image
from catsdogs.errors import InputError
from catsdogs.inference import export
from catsdogs.inference.export import FORMATS, export_model, load_exported
from catsdogs.inference.predict import predict_images, predict_pictures
from catsdogs.models import networks as models
from catsdogs.models.model_file import load_saved_model, save_model


@pytest.fixture(scope="module", params=["convnet", "vgg16"])
def saved(request, tmp_path_factory):
    """Untrained models: a small convnet of three classes in bfloat16, VGG16 of two in float32."""
    keras.utils.set_random_seed(1)
    if request.param == "convnet":
        keras.config.set_dtype_policy("mixed_bfloat16")
        model = models.build_residual_convnet(num_classes=3, widths=(8, 16), blocks=1)
        classes, size = ("apple", "leaf", "sky"), 40
    else:
        weights = request.getfixturevalue("vgg16_weights")
        conv_base = models.build_vgg16_base(32, "average", weights)
        model = models.build_vgg16_classifier(conv_base, models.build_head((512,)))
        classes, size = ("cat", "dog"), 32
    path = tmp_path_factory.mktemp("model") / "model.keras"
    save_model(model, path, classes=classes, image_size=size, temperature=1.2)
    keras.config.set_dtype_policy("float32")
    return load_saved_model(path)


@pytest.fixture(scope="module")
def files(data_dir):
    return sorted(map(str, (data_dir / "validation").rglob("*.png")))


@pytest.mark.parametrize("form", FORMATS)
def test_answers_as_keras(form, saved, files, tmp_path):
    number, difference, here = export_model(saved, form, tmp_path / "out", files)
    assert number == 32 and difference <= 1e-5
    images = np.stack([decode_image(file, saved.image_size) for file in files])
    answers = load_exported(form, tmp_path / "out")(images.astype(np.float32))
    own = saved.model.predict_on_batch(images.astype(np.float32))
    assert here == pytest.approx(np.abs(answers - own).max(), abs=1e-6)
    assert (here > 1e-4) == (len(saved.classes) == 3)  # that one computes in bfloat16
    card = json.loads((tmp_path / "out" / "model.json").read_text())
    assert (card["classes"], card["image_size"]) == (list(saved.classes), saved.image_size)
    assert card["compared_with"] == "Keras in float32"
    assert card["largest_difference"] == difference
    assert card["largest_difference_in_own_precision"] == here
    assert card["format"] == form and (tmp_path / "out" / card["file"]).exists()
    # Any number of images, though it was checked on 32.
    image = decode_image(files[0], saved.image_size)[None].astype(np.float32)
    (found,) = load_exported(form, tmp_path / "out")(image).tolist()
    found = [1 - found[0], found[0]] if len(found) == 1 else found
    assert found == pytest.approx(predict_images(saved, image)[0], abs=0.02)  # bfloat16
    # A second time replaces the first.
    export_model(saved, form, tmp_path / "out", files)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_example_needs_neither_keras_nor_this_project(saved, files, tmp_path):
    export_model(saved, "onnx", tmp_path, files)
    code = (
        "import runpy, sys; sys.modules.update(keras=None, tensorflow=None, catsdogs=None); "
        "sys.argv[0] = 'predict_onnx.py'; runpy.run_path('predict_onnx.py', run_name='__main__')"
    )
    finished = subprocess.run(
        [sys.executable, "-c", code, *files[:3]], cwd=tmp_path, capture_output=True, text=True
    )
    lines = finished.stdout.splitlines()
    assert len(lines) == 3, finished.stderr
    for line, answer in zip(
        lines, predict_pictures(in_keras_float32(saved), files[:3]), strict=True
    ):
        name, label, percent = line.split()
        assert (name, label) == (f"{answer.file}:", answer.label)
        assert float(percent.rstrip("%")) == pytest.approx(100 * answer.probability, abs=0.1)


def in_keras_float32(saved):
    return dataclasses.replace(saved, model=models.in_float32(saved.model))


@pytest.fixture(scope="module")
def odd_pictures(tmp_path_factory):
    """Files that are decoded wrongly where only the usual ones were thought of, by what is odd."""
    folder = tmp_path_factory.mktemp("odd")
    rng = np.random.default_rng(3)
    colours = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    colours = colours.resize((90, 60), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    colours.save(folder / "rotated.jpg", exif=exif)
    clear = colours.convert("RGBA")
    clear.putalpha(Image.fromarray(np.linspace(0, 255, 90, dtype=np.uint8)[None].repeat(60, 0)))
    clear.save(folder / "transparent.png")
    colours.quantize(8).save(folder / "palette.gif", transparency=2)
    deep = np.linspace(0, 65535, 90).astype(np.uint16)[None].repeat(60, 0)
    Image.fromarray(deep).save(folder / "deep-grey.png")
    Image.fromarray(deep.astype(np.int32)).save(folder / "integers.tif")
    Image.fromarray((deep / 65535).astype(np.float32)).save(folder / "floats.tif")
    noise = Image.fromarray(rng.integers(0, 256, (1800, 2400, 3), dtype=np.uint8))
    noise.save(folder / "large.jpg", quality=95)
    colours.convert("CMYK").save(folder / "cmyk.jpg")
    return sorted(map(str, folder.iterdir()))


@pytest.fixture(scope="module")
def by_pixel(tmp_path_factory):
    """A model of two classes whose answer depends on every single pixel."""
    inputs = keras.Input((40, 40, 3), name="image")
    x = keras.layers.Flatten()(keras.layers.Rescaling(1 / 128, -1)(inputs))
    outputs = keras.layers.Activation("sigmoid")(keras.layers.Dense(1, name="logit")(x))
    path = tmp_path_factory.mktemp("model") / "model.keras"
    model = keras.Model(inputs, outputs)
    kernel = np.random.default_rng(5).normal(0, 0.1, (4800, 1))
    model.get_layer("logit").set_weights([kernel, np.zeros(1)])
    save_model(model, path, classes=("cat", "dog"), image_size=40, temperature=1)
    return load_saved_model(path)


def test_example_decodes_as_this_project(by_pixel, odd_pictures, files, tmp_path):
    export_model(by_pixel, "onnx", tmp_path / "out", files)
    predict = runpy.run_path(str(tmp_path / "out" / "predict_onnx.py"))["predict"]
    expected = list(predict_pictures(by_pixel, odd_pictures))
    assert len(expected) == 8 and {answer.label for answer in expected} == {"cat", "dog"}
    for answer, found in zip(expected, predict(odd_pictures), strict=True):
        assert found == pytest.approx(answer.probabilities, abs=1e-3), answer.file


def test_example_passes_over_what_is_no_picture(by_pixel, files, tmp_path):
    export_model(by_pixel, "onnx", tmp_path / "out", files)
    predict = runpy.run_path(str(tmp_path / "out" / "predict_onnx.py"))["predict"]
    header = b"IHDR" + (60_000).to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    bomb = b"\x89PNG\r\n\x1a\n" + (13).to_bytes(4, "big") + header
    bomb += zlib.crc32(header).to_bytes(4, "big") + bytes(4) + b"IDAT"
    (tmp_path / "bomb.png").write_bytes(bomb + zlib.crc32(b"IDAT").to_bytes(4, "big"))
    (tmp_path / "text.jpg").write_text("no picture")
    os.mkfifo(tmp_path / "pipe.jpg")
    broken = [str(tmp_path / name) for name in ("bomb.png", "text.jpg", "pipe.jpg", "absent.jpg")]
    with pytest.raises(Image.DecompressionBombError):
        Image.open(broken[0])
    assert [answer is None for answer in predict([*broken, files[0]])] == [True] * 4 + [False]


def test_another_answer_is_refused_and_leaves_nothing(saved, files, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "load_exported", lambda form, folder: lambda images: 0.5)
    with pytest.raises(InputError, match=r"in float32 within 0\.001, received a diff"):
        export_model(saved, "savedmodel", tmp_path / "out", files)
    assert list(tmp_path.iterdir()) == []


def test_answers_are_compared_on_every_class(by_pixel, tmp_path, monkeypatch):
    for label, value in (("a", 0), ("b", 255)):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for index in range(40):
            picture = Image.new("L", (40, 40), value)
            picture.save(tmp_path / "photos" / label / f"{index}.png")
    black = by_pixel.model.predict_on_batch(np.zeros((1, 40, 40, 3), np.float32))
    monkeypatch.setattr(
        export, "load_exported", lambda form, folder: lambda images: black.repeat(len(images), 0)
    )
    with pytest.raises(InputError, match=r"received a difference of"):
        export_model(by_pixel, "savedmodel", tmp_path / "out", [str(tmp_path / "photos")])
    assert not (tmp_path / "out").exists()


OURS = '{"format": "onnx", "largest_difference": 0}'


@pytest.mark.parametrize(
    "names, card",
    [
        (["model.json"], '{"format": "onnx"}'),
        (["model.json"], "[1]"),
        (["model.json"], "no JSON"),
        (["model.json", "letter.txt"], OURS),
        (["model.onnx", "predict_onnx.py"], OURS),
    ],
)
def test_only_an_earlier_export_is_replaced(names, card, by_pixel, files, tmp_path):
    for name in names:
        (tmp_path / name).write_text(card)
    with pytest.raises(InputError, match="received something else"):
        export_model(by_pixel, "savedmodel", tmp_path, files)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(
        names, card
    )
    with pytest.raises(InputError, match="received something else"):
        export_model(by_pixel, "savedmodel", tmp_path / names[0], files)


def test_what_is_missing_or_in_the_way_is_told(saved, files, tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").touch()
    with pytest.raises(InputError, match="received something else"):
        export_model(saved, "onnx", tmp_path / "mine", files)
    with pytest.raises(InputError, match="none that can be read"):
        export_model(saved, "onnx", tmp_path / "out", [str(tmp_path / "mine")])
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"catsdogs\[export\]"):
        export_model(saved, "onnx", tmp_path / "out", files)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_script_takes_the_runs_validation_pictures(saved, data_dir, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "model.keras").write_bytes(saved.path.read_bytes())
    command = [sys.executable, str(ROOT / "scripts" / "export.py"), str(run)]
    command += ["--format", "savedmodel"]
    failed = subprocess.run(command, capture_output=True, text=True)
    assert failed.returncode == 2 and "Name some pictures with --pictures" in failed.stderr
    (run / "config.json").write_text(json.dumps({"data_dir": str(data_dir)}))
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "as Keras in float32 on 32 pictures" in done.stdout
    assert "in its own precision, it is" in done.stdout
    assert (run / "export-savedmodel" / "model.json").exists()
