"""The engines: the same numbers from both, and a converted network that is made once."""

import keras
import numpy as np
import pytest
from test_efficientnet_lite import installed
from tiny_backbone import TINY

from catsdogs.inference.predict import predict_images
from catsdogs.models.backbones import BACKBONES, build_base, build_classifier, build_head
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


@pytest.fixture
def saved(tmp_path):
    """A model that predicts in onnxruntime, loaded from its file."""
    base = build_base("tiny", 64, "average")
    model = build_classifier(base, build_head(base.output.shape[1:], 8))
    path = tmp_path / "model.keras"
    save_model(
        model, path, classes=("cat", "dog"), image_size=64, temperature=1.0, engine="onnxruntime"
    )
    return load_saved_model(path)


def test_predictions_are_those_of_keras_and_the_network_is_converted_once(saved, monkeypatch):
    expected = saved.model.predict(IMAGES.astype(np.float32), verbose=0)[:, 0]
    np.testing.assert_allclose(predict_images(saved, IMAGES)[:, 1], expected, atol=1e-5)
    (first,) = saved.path.parent.glob("model.*.onnx")
    with monkeypatch.context() as patch:
        patch.setattr(keras.Model, "export", lambda *_, **__: pytest.fail("converted again"))
        again = load_saved_model(saved.path)
        np.testing.assert_allclose(predict_images(again, IMAGES)[:, 1], expected, atol=1e-5)
    # Another model of the same name does not meet the converted one.
    saved.model.get_layer("conv2").set_weights(
        [2 * tensor for tensor in saved.model.get_layer("conv2").get_weights()]
    )
    save_model(saved.model, saved.path, **{k: v for k, v in saved.card.items() if k != "resize"})
    other = load_saved_model(saved.path)
    expected = other.model.predict(IMAGES.astype(np.float32), verbose=0)[:, 0]
    np.testing.assert_allclose(predict_images(other, IMAGES)[:, 1], expected, atol=1e-5)
    assert len(list(first.parent.glob("model.*.onnx"))) == 2
