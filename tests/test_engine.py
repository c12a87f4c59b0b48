"""The engines: the same numbers from both."""

import keras
import numpy as np
import pytest
from test_efficientnet_lite import installed
from tiny_backbone import TINY

from catsdogs.errors import InputError
from catsdogs.inference.predict import predict_images
from catsdogs.models.backbones import BACKBONES, build_base, build_classifier, build_head
from catsdogs.models.engine import inference_function
from catsdogs.models.model_file import load_saved_model, save_model
from catsdogs.stages.features import FeatureStore

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(BACKBONES, "tiny", TINY)
    keras.utils.set_random_seed(0)


@pytest.mark.parametrize("backbone", ["tiny", pytest.param("efficientnet-lite0", marks=installed)])
def test_both_engines_compute_the_same_features(backbone, tmp_path):
    base, cut, found = build_base(backbone, 64, "average"), BACKBONES[backbone].cut, {}
    for engine in ("tensorflow", "onnxruntime"):
        key = {"dataset_digest": "d", "precision": "float32", "engine": engine}
        store = FeatureStore(tmp_path, base, cut, **key)
        at_cut = np.asarray(store.features(IMAGES, "train", cut=cut))
        assert not store.reused  # one engine's features are not the other's
        from_cut = store.features(IMAGES, "train")
        both = store.features(IMAGES, "validation", keep_cut=True)
        found[engine] = at_cut, from_cut, both
    for one, other in zip(*found.values(), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-3, atol=2e-3)  # float16 has 11 bits


def test_predictions_are_those_of_keras(tmp_path):
    base = build_base("tiny", 64, "average")
    model = build_classifier(base, build_head(base.output.shape[1:], 8))
    card = {"classes": ("cat", "dog"), "image_size": 64, "temperature": 1.0}
    save_model(model, tmp_path / "model.keras", **card, engine="onnxruntime")
    saved = load_saved_model(tmp_path)
    assert saved.engine == "onnxruntime"
    expected = model.predict(IMAGES.astype(np.float32), verbose=0)[:, 0]
    np.testing.assert_allclose(predict_images(saved, IMAGES)[:, 1], expected, atol=1e-5)
    assert [path.name for path in tmp_path.iterdir()] == ["model.keras"]


@pytest.mark.slow
def test_a_network_that_onnxruntime_cannot_run_is_one_line():
    with pytest.raises(InputError, match=r"cannot run this network: .*--engine tensorflow"):
        inference_function(BACKBONES["ConvNeXtTiny"].build(64, "none"), "onnxruntime")
