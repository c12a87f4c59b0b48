"""The training copy computes what Keras's own layers do, and is never what is saved."""

import keras
import numpy as np
import pytest

from catsdogs.models.convnets import build_residual_convnet
from catsdogs.models.fused_norm import training_copy

RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(0, 255, (8, 32, 32, 3)).astype(np.float32)
LABELS = (np.arange(8) % 2)[:, None].astype(np.float32)


def build():
    keras.utils.set_random_seed(3)
    return build_residual_convnet(dropout=0.0, widths=(8, 16), blocks=1)


def fit(model, epochs=3):
    model.compile(keras.optimizers.SGD(0.05), "binary_crossentropy")
    model.fit(IMAGES, LABELS, batch_size=8, epochs=epochs, shuffle=False, verbose=0)


def test_training_the_copy_equals_training_the_model(tmp_path):
    plain, original = build(), build()
    before = original.get_weights()
    copy = training_copy(original)
    assert {id(v) for v in copy.variables} == {id(v) for v in original.variables}
    fit(plain)
    fit(copy)
    for old, ours, kerass in zip(before, original.weights, plain.get_weights(), strict=True):
        tolerance = 2e-3 * np.abs(kerass).max()
        np.testing.assert_allclose(ours.numpy(), kerass, atol=tolerance, err_msg=ours.path)
        assert np.abs(ours.numpy() - old).max() > 0, f"{ours.path} has not been trained"

    original.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    expected = copy.predict(IMAGES, verbose=0)
    np.testing.assert_allclose(loaded.predict(IMAGES, verbose=0), expected, atol=1e-5)


def test_in_bfloat16():
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = build()
    copy = training_copy(model)
    fit(copy, epochs=1)
    assert all(v.dtype == "float32" for v in model.trainable_variables)
    expected = model.predict(IMAGES, verbose=0)
    np.testing.assert_allclose(copy.predict(IMAGES, verbose=0), expected, atol=0.02)


@pytest.mark.parametrize(
    "shape, settings, fused",
    [((8, 8, 3), {}, True), ((8, 8, 3), {"trainable": False}, False),
     ((8, 8, 3), {"center": False}, False), ((3,), {}, False)],
)  # fmt: skip
def test_what_cannot_be_fused_stays_as_it_is(shape, settings, fused):
    inputs = keras.Input(shape)
    norm = keras.layers.BatchNormalization(**settings)
    model = keras.Model(inputs, norm(inputs))
    assert (norm not in training_copy(model).layers) == fused
