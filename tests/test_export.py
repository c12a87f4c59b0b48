"""Exported models answer as Keras does, say what they need, and nothing half-made is left."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest
from conftest import ROOT

from catsdogs import export, models
from catsdogs.data.images import decode_image
from catsdogs.export import FORMATS, export_model, load_exported
from catsdogs.files import InputError
from catsdogs.prediction import predict_images
from catsdogs.saved_model import load_saved_model, save_model


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
    number, difference = export_model(saved, form, tmp_path / "out", files)
    assert number == 32 and difference <= 1e-5
    card = json.loads((tmp_path / "out" / "model.json").read_text())
    assert (card["classes"], card["image_size"]) == (list(saved.classes), saved.image_size)
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
    for line, file in zip(lines, files, strict=False):
        image = decode_image(file, saved.image_size)[None]
        rows = predict_images(saved, image)[0]
        assert line.startswith(f"{file}: ") and line.endswith("%")
        assert float(line.split()[-1][:-1]) == pytest.approx(100 * max(rows), abs=2)


def test_another_answer_is_refused_and_leaves_nothing(saved, files, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "load_exported", lambda form, folder: lambda images: 0.5)
    with pytest.raises(InputError, match=r"within 0\.001, received a difference of"):
        export_model(saved, "savedmodel", tmp_path / "out", files)
    assert list(tmp_path.iterdir()) == []


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
    assert "on 32 pictures" in done.stdout and (run / "export-savedmodel" / "model.json").exists()
