"""One backbone of each kind through every stage, with random weights, since there is no network."""

import keras
import numpy as np
import pydantic
import pytest
from keras import layers
from tiny_backbone import TINY, build_tiny

from catsdogs.config import FeatureExtractConfig, FinetuneConfig
from catsdogs.data.images import load_split
from catsdogs.data.manifest import load_manifest
from catsdogs.errors import InputError
from catsdogs.inference.explain import grad_cam
from catsdogs.inference.export import export_model
from catsdogs.inference.predict import predict_images
from catsdogs.models import keras_applications
from catsdogs.models.backbones import BACKBONES, build_base
from catsdogs.models.model_file import load_model, load_saved_model
from catsdogs.stages.evaluate import evaluate
from catsdogs.stages.feature_extract import train_feature_extract
from catsdogs.stages.finetune import finetune

COMMON = {"epochs": 1, "precision": "float32"}
# Squeeze-and-excitation; layer scale and dense layers; batch normalisation after every convolution;
# without any, in onnxruntime.
KINDS = ["MobileNetV3Small", "ConvNeXtTiny", "DenseNet121", "efficientnet-lite0"]


@pytest.mark.slow
@pytest.mark.parametrize("backbone", KINDS)
def test_a_backbone_goes_through_every_stage(backbone, data_dir, tmp_path, capsys):
    go_through_every_stage(
        {"backbone": backbone, "backbone_weights": "none"}, BACKBONES[backbone], data_dir, tmp_path
    )
    assert f"{backbone} with random weights" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("image_size", "precision", "dtype"),
    [(None, "float32", "float32"), (32, "mixed_bfloat16", "bfloat16")],
)
def test_a_keras_file_goes_through_every_stage(image_size, precision, dtype, data_dir, tmp_path):
    path = tmp_path / "own.keras"
    build_tiny(image_size).save(path)
    own = {"backbone": str(path), "cut": "norm", "precision": precision}
    go_through_every_stage(own, TINY, data_dir, tmp_path)
    saved = load_model(tmp_path / "run")
    assert saved.get_layer("conv1").compute_dtype == dtype
    assert saved.get_layer("rescaling").compute_dtype == "float32"


def test_a_head_of_an_older_keras_file_is_not_reused(data_dir, tmp_path):
    path = tmp_path / "own.keras"
    config = FinetuneConfig(backbone=str(path), cut="norm", variant="cached", **COMMON)
    starts = []
    for weights in (None, None, "none"):  # the last one is another network of the same name
        if not starts or weights:
            build_tiny(32, weights).save(path)
        run_dir = tmp_path / "runs" / str(len(starts))
        _, metrics = finetune(config, data_dir, run_dir)
        starts.append((metrics["start"]["run"], metrics["start"]["made"]))
    name = "feature_extract-best-own-cached-seed0"
    assert starts == [(name, True), (name, False), (f"{name}-2", True)]


def go_through_every_stage(settings, record, data_dir, tmp_path):
    settings = {**COMMON, **settings}
    head = FeatureExtractConfig(image_size=64, **settings)
    head_dir, _ = train_feature_extract(head, data_dir, tmp_path / "head")
    config = FinetuneConfig(variant="cached", start=str(head_dir), learning_rate=1e-3, **settings)
    run_dir, metrics = finetune(config, data_dir, tmp_path / "run")
    assert metrics["engine"] == record.engine

    # Nothing up to the cut has changed, and of what follows all but batch normalisation.
    before, after = load_model(head_dir), load_model(run_dir)
    cut = [layer.name for layer in after.layers].index(record.cut)
    for number, (old, new) in enumerate(zip(before.layers, after.layers, strict=True)):
        pairs = list(zip(old.get_weights(), new.get_weights(), strict=True))
        same = all(np.array_equal(*pair) for pair in pairs)
        frozen = number <= cut or type(new).__name__ == "BatchNormalization"
        assert same == (frozen or not pairs), new.name

    evaluate(run_dir, tta=True)
    saved = load_saved_model(run_dir)
    images, _ = load_split(data_dir, load_manifest(data_dir), "test", 64)
    expected = saved.model.predict(images[:4].astype(np.float32), verbose=0)[:, 0]
    np.testing.assert_allclose(predict_images(saved, images[:4])[:, 1], expected, atol=1e-4)
    pictures = [str(data_dir / "validation")]
    if settings["backbone"] == "ConvNeXtTiny":  # its grouped convolutions
        with pytest.raises(InputError, match=r"onnx can express.*another --format"):
            export_model(saved, "onnx", tmp_path / "onnx", pictures)
        assert not (tmp_path / "onnx").exists()
    else:
        export_model(saved, "onnx", tmp_path / "onnx", pictures)
    assert np.isfinite(grad_cam(saved.model, images[:2])).all()


def test_weights_that_cannot_be_had_are_one_line(monkeypatch, tmp_path):
    def fail(*_, **__):
        raise Exception("URL fetch failure on somewhere: None -- [Errno -2] Name not known")

    monkeypatch.setattr(keras_applications.keras.applications, "MobileNetV3Small", fail)
    with pytest.raises(InputError, match=r"MobileNetV3Small for images of 64².*URL fetch.*--list"):
        build_base("MobileNetV3Small", 64)


def test_a_keras_file_that_cannot_be_a_backbone_is_one_line(data_dir, tmp_path):
    path = str(tmp_path / "own.keras")
    with pytest.raises(InputError, match=r"own\.keras.*No such file"):
        build_base(path, 64)
    inputs = keras.Input((64, 64, 3))
    x = layers.Conv2D(3, 3, padding="same", name="past")(inputs)
    keras.Model(inputs, layers.GlobalAveragePooling2D()(x)).save(path)
    with pytest.raises(InputError, match=r"feature map, without a head.*\(None, 3\)"):
        build_base(path, 64)
    keras.Model(inputs, layers.Add(name="both")([inputs, x])).save(path)
    with pytest.raises(InputError, match="no --backbone-weights"):
        build_base(path, 64, weights="other.h5")
    for cut in ("past", "nowhere"):
        config = FeatureExtractConfig(backbone=path, image_size=64, cut=cut, **COMMON)
        with pytest.raises(InputError, match=f"all paths .* pass. Received: {cut}"):
            train_feature_extract(config, data_dir, tmp_path / cut)
    for config in (FeatureExtractConfig, FinetuneConfig):
        with pytest.raises(pydantic.ValidationError, match="name a layer of your --backbone"):
            config(backbone=path)
