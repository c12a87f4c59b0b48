"""The networks: their size, what they promise one another, and what training may change."""

import functools

import keras
import numpy as np
import pytest

from catsdogs.models import networks as models

SIZE = 32
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (8, SIZE, SIZE, 3)).astype(np.float32)
LABELS = (np.arange(8) % 2).astype(np.float32)[:, None]


@pytest.fixture(scope="module")
def conv_base(vgg16_weights):
    return models.build_vgg16_base(SIZE, weights=vgg16_weights)


def build_vgg16_classifier(pooling, normalize):
    base = models.build_vgg16_base(SIZE, pooling)
    models.freeze(base)
    head = models.build_head(base.output.shape[1:], units=16, normalize=normalize)
    return models.build_vgg16_classifier(base, head)


BUILDERS = {
    "textbook": functools.partial(models.build_textbook_convnet, 96),
    "textbook without dropout": functools.partial(models.build_textbook_convnet, 96, 0),
    "residual": models.build_residual_convnet,
    "vgg16 averaged": functools.partial(build_vgg16_classifier, "average", True),
    "vgg16 flat": functools.partial(build_vgg16_classifier, "none", False),
}


def layers_of(model):
    """All layers, those of models inside models included."""
    for layer in model.layers:
        yield layer
        if isinstance(layer, keras.Model):
            yield from layers_of(layer)


def train(model, images=IMAGES, epochs=1):
    model.compile(keras.optimizers.SGD(1e-3), "binary_crossentropy")
    history = model.fit(images, LABELS, batch_size=4, epochs=epochs, verbose=0)
    assert np.isfinite(history.history["loss"]).all()


def test_exact_parameter_counts(conv_base):
    assert models.build_textbook_convnet().count_params() == 3_453_121
    assert models.build_textbook_convnet(dropout=0).count_params() == 3_453_121
    assert models.build_residual_convnet().count_params() == 2_802_545
    assert conv_base.count_params() == 14_714_688
    # The book's head on 150-pixel features: 4 * 4 * 512 to 256 to 1.
    head = models.build_head((4, 4, 512), normalize=False)
    assert head.count_params() == (4 * 4 * 512 + 1) * 256 + 257


def test_dropout_is_there_only_when_asked_for():
    def dropouts(model):
        return [layer.rate for layer in model.layers if isinstance(layer, keras.layers.Dropout)]

    assert dropouts(models.build_textbook_convnet()) == [0.5]
    assert dropouts(models.build_textbook_convnet(dropout=0)) == []
    assert dropouts(models.build_residual_convnet(0.2)) == [0.2]
    assert dropouts(models.build_head((512,), dropout=0.1)) == [0.1]


@pytest.mark.parametrize(
    "name, policy",
    [*((name, "float32") for name in BUILDERS),
     ("vgg16 averaged", "mixed_bfloat16")],
)  # fmt: skip
def test_contract_of_every_builder(name, policy, tmp_path, request):
    if "vgg16" in name:
        request.getfixturevalue("vgg16_weights")
    keras.config.set_dtype_policy(policy)
    keras.utils.set_random_seed(0)
    model = BUILDERS[name]()
    side = model.input.shape[1] or SIZE
    images = RNG.integers(0, 256, (8, side, side, 3)).astype(np.float32)
    images[0], images[1] = 0, 255

    inner = [type(layer).__name__ for layer in layers_of(model)]
    assert not any(kind.startswith("Random") or kind == "Lambda" for kind in inner)
    assert model.get_layer("head" if "vgg16" in name else "logit")

    train(model, images)
    predicted = model.predict(images, verbose=0)
    assert predicted.dtype == np.float32 and predicted.shape == (8, 1)
    assert predicted.min() >= 0 and predicted.max() <= 1
    # Inference is a function of the image alone: no dropout, no batch statistics.
    np.testing.assert_allclose(model.predict(images[2:5], verbose=0), predicted[2:5], atol=0.01)

    model.save(tmp_path / "model.keras")
    reloaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    np.testing.assert_array_equal(reloaded.predict(images, verbose=0), predicted)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_logit_is_what_the_sigmoid_sees(policy):
    keras.config.set_dtype_policy(policy)
    model = models.build_residual_convnet()
    inside = keras.Model(model.input, [model.get_layer("logit").output, model.output])
    logit, probability = inside.predict(IMAGES, verbose=0)
    assert logit.dtype == np.float32
    np.testing.assert_allclose(probability, 1 / (1 + np.exp(-logit)), rtol=1e-5)


def test_the_residual_net_takes_any_size():
    model = models.build_residual_convnet()
    for height, width in ((32, 32), (47, 47), (48, 80)):
        assert model(np.zeros((1, height, width, 3), np.float32)).shape == (1, 1)


def test_frozen_base_trains_four_tensors_and_keeps_its_own(vgg16_weights):
    model = build_vgg16_classifier("none", normalize=False)
    head = model.get_layer("head")
    assert len(model.trainable_weights) == len(head.weights) == 4
    frozen = [w.numpy() for w in model.weights if "block" in w.path]
    trained = [w.numpy() for w in head.weights]
    assert len(frozen) == 26
    train(model)
    for before, weight in zip(frozen, [w for w in model.weights if "block" in w.path], strict=True):
        assert before.tobytes() == weight.numpy().tobytes(), weight.path
    for before, weight in zip(trained, head.weights, strict=True):
        assert np.abs(before - weight.numpy()).max() > 0, weight.path


def test_fine_tuning_trains_ten_tensors_and_keeps_the_rest(vgg16_weights, tmp_path):
    # As the stage does it: a model from a file, frozen when it was saved.
    build_vgg16_classifier("none", normalize=False).save(tmp_path / "start.keras")
    model = keras.models.load_model(tmp_path / "start.keras", safe_mode=True)
    assert len(model.trainable_weights) == 4
    models.unfreeze_block5(model)
    assert len(model.trainable_weights) == 10
    paths = {weight.path for weight in model.trainable_weights}
    assert sum("block5_conv" in path for path in paths) == 6
    before = {weight.path: weight.numpy() for weight in model.weights}
    train(model)
    for weight in model.weights:
        same = before[weight.path].tobytes() == weight.numpy().tobytes()
        assert same == (weight.path not in paths), weight.path


def test_the_base_is_kerass_with_kerass_preprocessing(conv_base, vgg16_weights):
    from catsdogs.models.weights import load_vgg16_weights

    reference = keras.applications.VGG16(
        include_top=False, weights=None, input_shape=(SIZE, SIZE, 3)
    )
    for name, tensors in load_vgg16_weights(vgg16_weights).items():
        reference.get_layer(name).set_weights(tensors)
    expected = reference.predict(
        keras.applications.vgg16.preprocess_input(IMAGES.copy()), verbose=0
    )
    found = conv_base.predict(IMAGES, verbose=0)
    assert found.shape == (8, 1, 1, 512)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)
    # Only the order of the channels and the ImageNet mean, so that grey is far from zero input.
    black = reference.predict(np.zeros((1, SIZE, SIZE, 3), np.float32), verbose=0)
    assert np.abs(conv_base.predict(np.zeros((1, SIZE, SIZE, 3)), verbose=0) - black).max() > 0.1


def test_average_pooling_is_the_mean_over_positions(vgg16_weights):
    keras.utils.set_random_seed(0)
    images = RNG.integers(0, 256, (2, 64, 64, 3)).astype(np.float32)
    positions = models.build_vgg16_base(64, "none").predict(images, verbose=0)
    averaged = models.build_vgg16_base(64, "average").predict(images, verbose=0)
    assert positions.shape == (2, 2, 2, 512)
    np.testing.assert_allclose(averaged, positions.mean(axis=(1, 2)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("cut", ["block4_pool", "block3_pool"])
def test_split_base_equals_the_whole_and_shares_its_weights(conv_base, cut):
    prefix, suffix = models.split_base(conv_base, cut)
    assert prefix.output.shape[-1] == {"block4_pool": 512, "block3_pool": 256}[cut]
    joined = suffix.predict(prefix.predict(IMAGES, verbose=0), verbose=0)
    np.testing.assert_allclose(joined, conv_base.predict(IMAGES, verbose=0), rtol=1e-5, atol=1e-4)
    whole = {id(weight) for weight in conv_base.weights}
    parts = [id(weight) for model in (prefix, suffix) for weight in model.weights]
    assert len(parts) == len(whole) and set(parts) == whole


def test_training_the_suffix_trains_the_classifier(vgg16_weights):
    model = build_vgg16_classifier("average", normalize=True)
    models.unfreeze_block5(model)
    prefix, suffix = models.split_base(model)
    assert not prefix.trainable_weights
    assert len(suffix.trainable_weights) == len(model.trainable_weights) == 12
    before = model.predict(IMAGES, verbose=0)
    train(suffix, prefix.predict(IMAGES, verbose=0))
    after = model.predict(IMAGES, verbose=0)
    assert np.abs(after - before).max() > 0
    joined = suffix.predict(prefix.predict(IMAGES, verbose=0), verbose=0)
    np.testing.assert_allclose(joined, after, atol=1e-5)
