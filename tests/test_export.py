"""Exported models predict as Keras does and say what they need; otherwise nothing is written."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest
from pictures import contents, encode, noise_picture, write_files
from PIL import Image
from pixel_model import SIZE, save_pixel_model
from tiny_backbone import TINY

from catsdogs import cli
from catsdogs.data.images import decode_image
from catsdogs.errors import InputError
from catsdogs.inference import export
from catsdogs.inference.export import FORMATS, export_model, load_exported
from catsdogs.inference.predict import predict_pictures
from catsdogs.models.backbones import BACKBONES, build_base, build_classifier, build_head
from catsdogs.models.convnets import build_residual_convnet, in_float32
from catsdogs.models.model_file import SavedModel


def build_convnet():
    """Of three classes, computing in bfloat16."""
    keras.config.set_dtype_policy("mixed_bfloat16")
    return build_residual_convnet(num_classes=3, widths=(8,), blocks=1)


def build_pretrained(backbone):
    base = build_base(backbone, 32, "average")
    return build_classifier(base, build_head(base.output.shape[1:]))


MODELS = {
    "convnet": (build_convnet, ("apple", "leaf", "sky")),
    "tiny": (lambda: build_pretrained("tiny"), ("cat", "dog")),
    "vgg16": (lambda: build_pretrained("vgg16"), ("cat", "dog")),
}
SLOW = [("convnet", "savedmodel"), ("convnet", "litert"), ("vgg16", "onnx")]
CASES = [
    *(("tiny", form) for form in FORMATS),
    ("convnet", "onnx"),
    *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW),
]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Forty pictures of different colours, as paths."""
    folder = tmp_path_factory.mktemp("pictures")
    write_files(folder, {f"{seed:02}.png": encode(noise_picture(seed)) for seed in range(40)})
    return sorted(map(str, folder.iterdir()))


@pytest.fixture
def pixels(tmp_path):
    """A model of two classes whose prediction depends on every pixel."""
    return save_pixel_model(tmp_path / "model" / "model.keras")


@pytest.mark.parametrize(("name", "form"), CASES)
def test_exported_models_predict_as_keras(name, form, files, tmp_path, monkeypatch, request):
    if name == "vgg16":
        request.getfixturevalue("vgg16_weights")
    monkeypatch.setitem(BACKBONES, "tiny", TINY)
    keras.utils.set_random_seed(1)
    build, classes = MODELS[name]
    saved = SavedModel(tmp_path / "model.keras", build(), classes, 32, 1.2)
    number, difference, own_difference = export_model(saved, form, tmp_path / "out", files)
    assert number == 32 and difference <= 1e-5
    assert (own_difference > 1e-4) == (name == "convnet")  # that one computes in bfloat16

    # Any number of images, though it was compared on 32.
    images = np.stack([decode_image(file, 32) for file in files]).astype(np.float32)
    exported = load_exported(form, tmp_path / "out")
    expected = in_float32(saved.model).predict_on_batch(images)
    np.testing.assert_allclose(exported(images), expected, atol=1e-5)
    np.testing.assert_allclose(exported(images[:1]), expected[:1], atol=1e-5)

    card = json.loads((tmp_path / "out" / "model.json").read_text())
    assert (card["classes"], card["image_size"]) == (list(classes), 32)
    assert card["temperature"] == 1.2 and card["format"] == form
    assert card["largest_difference"] == difference
    assert card["largest_difference_in_own_precision"] == own_difference
    assert (tmp_path / "out" / card["file"]).exists()


def test_the_onnx_example_needs_neither_keras_nor_this_project(pixels, files, tmp_path):
    export_model(pixels, "onnx", tmp_path / "out", files)
    (tmp_path / "out" / "text.jpg").write_text("no picture")
    code = (
        "import runpy, sys; sys.modules.update(keras=None, tensorflow=None, catsdogs=None); "
        "sys.path.insert(0, '.'); runpy.run_path('predict_onnx.py', run_name='__main__')"
    )
    finished = subprocess.run(
        [sys.executable, "-c", code, "text.jpg", "absent.jpg", *files[:2]],
        cwd=tmp_path / "out", capture_output=True, text=True,
    )  # fmt: skip
    lines = finished.stdout.splitlines()
    assert len(lines) == 2, finished.stderr
    for line, expected in zip(lines, predict_pictures(pixels, files[:2]), strict=True):
        assert line == f"{expected.file}: {expected.label} {expected.probability:.1%}"
    skipped = [line.partition(":")[0] for line in finished.stderr.splitlines()]
    assert skipped == ["text.jpg", "absent.jpg"]


def test_an_export_that_predicts_otherwise_is_not_written(pixels, tmp_path, monkeypatch):
    """Nor one that is right for a single class: the pictures compared are spread over all."""
    black, white = (encode(Image.new("L", (SIZE, SIZE), value)) for value in (0, 255))
    write_files(tmp_path / "photos", {f"a/{index}.png": black for index in range(40)})
    write_files(tmp_path / "photos", {f"b/{index}.png": white for index in range(40)})
    right = pixels.model.predict_on_batch(np.zeros((1, SIZE, SIZE, 3), np.float32))
    monkeypatch.setattr(
        export, "load_exported", lambda form, folder: lambda images: right.repeat(len(images), 0)
    )
    number, difference, _ = export_model(
        pixels, "savedmodel", tmp_path / "out", [str(tmp_path / "photos" / "a")]
    )
    assert number == 32 and difference < 1e-5
    before = contents(tmp_path)
    with pytest.raises(InputError, match=r"0\.001 in probability; it differs by 0\.\d+"):
        export_model(pixels, "savedmodel", tmp_path / "out", [str(tmp_path / "photos")])
    assert contents(tmp_path) == before


def test_only_an_earlier_export_is_replaced(pixels, files, tmp_path):
    export_model(pixels, "savedmodel", tmp_path / "out", files)
    export_model(pixels, "onnx", tmp_path / "out", files)
    found = {path.name for path in (tmp_path / "out").iterdir()}
    assert found == {"model.onnx", "model.json", "predict_onnx.py", "decode.py"}
    for name, others in {
        "a card alone": {"model.json": b"{}"},
        "a letter beside an export": {"model.json": b"{}", "model.onnx": b"", "letter.txt": b""},
        "a model without a card": {"model.onnx": b""},
    }.items():
        write_files(tmp_path / name, others)
        before = contents(tmp_path / name)
        with pytest.raises(InputError, match="received something else"):
            export_model(pixels, "onnx", tmp_path / name, files)
        assert contents(tmp_path / name) == before


def test_the_command_compares_on_validation_pictures(pixels, tmp_path, monkeypatch, capsys):
    run_dir = pixels.path.parent
    settings = {"stage": "scratch", "data_dir": str(tmp_path / "data"), "smoke": False}
    (run_dir / "config.json").write_text(json.dumps(settings))
    for label, seeds in (("cat", range(10)), ("dog", range(10, 15))):
        pictures = {f"{label}.{seed}.png": encode(noise_picture(seed)) for seed in seeds}
        write_files(tmp_path / "data" / "validation" / label, pictures)
    monkeypatch.setattr(sys, "argv", ["export.py", str(run_dir), "--format", "savedmodel"])
    with pytest.raises(SystemExit) as stop:
        cli.export()
    assert stop.value.code == 0 and "on 15 pictures" in capsys.readouterr().out
    assert (run_dir / "export-savedmodel" / "model.json").exists()
