"""The training copy computes what Keras's own layers do, and is never what is saved."""

import keras
import numpy as np
import pytest

from catsdogs.models.fused_norm import training_copy
from catsdogs.models.networks import build_residual_convnet

RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(0, 255, (8, 32, 32, 3)).astype(np.float32)
LABELS = (np.arange(8) % 2)[:, None].astype(np.float32)


@pytest.fixture
def small_convnet():
    """A function that builds the same small convnet at every call."""

    def build():
        keras.utils.set_random_seed(3)
        return build_residual_convnet(dropout=0.0, widths=(8, 16), blocks=1)

    return build


def compiled(model):
    model.compile(keras.optimizers.SGD(0.05), "binary_crossentropy")
    return model


def test_the_copy_shares_every_variable(small_convnet):
    model = small_convnet()
    copy = training_copy(model)
    assert {id(v) for v in copy.variables} == {id(v) for v in model.variables}
    np.testing.assert_allclose(copy.predict(IMAGES, verbose=0), model.predict(IMAGES, verbose=0),
                               atol=1e-5)  # fmt: skip


def test_training_the_copy_equals_training_the_model(small_convnet):
    plain, original = small_convnet(), small_convnet()
    before = original.get_weights()
    copy = compiled(training_copy(original))
    compiled(plain)
    for model in (plain, copy):
        model.fit(IMAGES, LABELS, batch_size=8, epochs=3, shuffle=False, verbose=0)
    paths = [weight.path for weight in plain.weights]
    rows = zip(paths, before, original.get_weights(), plain.get_weights(), strict=True)
    for path, old, ours, keras_own in rows:
        tolerance = 2e-3 * np.abs(keras_own).max()
        np.testing.assert_allclose(ours, keras_own, atol=tolerance, err_msg=path)
        assert np.abs(ours - old).max() > 0, f"{path} has not been trained"


def test_what_is_saved_holds_keras_layers_only(small_convnet, tmp_path):
    model = small_convnet()
    compiled(training_copy(model)).fit(IMAGES, LABELS, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    modules = {type(layer).__module__.partition(".")[0] for layer in loaded.layers}
    assert modules == {"keras"}
    np.testing.assert_allclose(loaded.predict(IMAGES, verbose=0), model.predict(IMAGES, verbose=0),
                               atol=1e-6)  # fmt: skip


def test_what_cannot_be_fused_stays_as_it_is():
    inputs = keras.Input((8, 8, 3))
    frozen = keras.layers.BatchNormalization(name="frozen")
    x = keras.layers.BatchNormalization(name="plain")(inputs)
    x = keras.layers.BatchNormalization(center=False, name="no_offset")(frozen(x))
    x = keras.layers.BatchNormalization(name="flat")(keras.layers.Flatten()(x))
    frozen.trainable = False
    model = keras.Model(inputs, x)
    names = {layer.name for layer in training_copy(model).layers}
    assert {"fused_plain", "frozen", "no_offset", "flat"} <= names
    assert not {"fused_frozen", "fused_no_offset", "fused_flat"} & names


def test_in_bfloat16(small_convnet):
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = small_convnet()
    copy = compiled(training_copy(model))
    copy.fit(IMAGES, LABELS, verbose=0)
    assert all(v.dtype == "float32" for v in model.trainable_variables)
    np.testing.assert_allclose(copy.predict(IMAGES, verbose=0), model.predict(IMAGES, verbose=0),
                               atol=0.02)  # fmt: skip
