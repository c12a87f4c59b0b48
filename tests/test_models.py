"""The networks: their size, what every classifier has in common, and what training may change."""

import keras
import numpy as np
import pytest
from benchmark import count_flops
from tiny_backbone import TINY

from catsdogs.models.backbones import (
    BACKBONES,
    build_base,
    build_classifier,
    build_head,
    freeze,
    split_model,
    unfreeze_after,
)
from catsdogs.models.convnets import (
    build_logits,
    build_residual_convnet,
    build_textbook_convnet,
    divide_logits,
    in_float32,
)
from catsdogs.models.vgg16 import load_vgg16_weights

SIZE = 32
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (8, SIZE, SIZE, 3)).astype(np.float32)
LABELS = (np.arange(8) % 2).astype(np.float32)[:, None]


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(BACKBONES, "tiny", TINY)
    # Of some random heads on features that are not normalised all sigmoids are 0 or 1, and nothing
    # is trained.
    keras.utils.set_random_seed(0)


def build_frozen(backbone="tiny", pooling="average", normalize=True, num_classes=2):
    base = build_base(backbone, SIZE, pooling)
    freeze(base)
    head = build_head(base.output.shape[1:], 16, normalize=normalize, num_classes=num_classes)
    return build_classifier(base, head)


slow_vgg16 = pytest.param("vgg16", marks=pytest.mark.slow)
CLASSIFIERS = {
    "textbook": lambda num_classes: build_textbook_convnet(48, num_classes=num_classes),
    "residual": lambda num_classes: build_residual_convnet(0.3, num_classes, (8, 16), 1),
    "tiny": lambda num_classes: build_frozen(num_classes=num_classes),
    "vgg16": lambda num_classes: build_frozen("vgg16", "none", False, num_classes),
}


def train(model, images=IMAGES):
    """Trains for one epoch; returns the paths of the weights that have changed."""
    before = [weight.numpy().tobytes() for weight in model.weights]
    model.compile(keras.optimizers.SGD(0.01), "binary_crossentropy")
    history = model.fit(images, LABELS, batch_size=4, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    pairs = zip(before, model.weights, strict=True)
    return {weight.path for old, weight in pairs if old != weight.numpy().tobytes()}


def test_exact_parameter_counts(vgg16_weights):
    assert build_textbook_convnet().count_params() == 3_453_121
    assert build_textbook_convnet(dropout=0).count_params() == 3_453_121
    assert build_residual_convnet().count_params() == 2_802_545
    assert build_base("vgg16", SIZE).count_params() == 14_714_688
    head = build_head((4, 4, 512), normalize=False)  # the textbook's, at 150 pixels
    assert head.count_params() == (4 * 4 * 512 + 1) * 256 + 257


@pytest.mark.slow
@pytest.mark.parametrize("name", BACKBONES)
def test_a_record_says_how_large_its_network_is(name):
    record = BACKBONES[name]
    network = record.build(record.image_size, "none")
    assert network.count_params() == record.num_parameters
    prefix, _ = split_model(network, record.cut)
    assert 0 < prefix.count_params() < record.num_parameters
    if name != "ConvNeXtTiny":  # most of whose work is in dense layers
        gflop = count_flops(network, record.image_size) / 1e9
        assert gflop == pytest.approx(record.gflop, rel=0.05)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("name", ["textbook", "residual", "tiny", slow_vgg16])
def test_contract_of_every_classifier(name, policy, tmp_path, vgg16_weights):
    keras.config.set_dtype_policy(policy)
    for num_classes, shape in ((2, (8, 1)), (3, (8, 3))):
        model = CLASSIFIERS[name](num_classes)
        side = model.input.shape[1] or SIZE
        images = RNG.integers(0, 256, (8, side, side, 3)).astype(np.float32)

        probabilities = model.predict(images, verbose=0)
        assert probabilities.dtype == np.float32 and probabilities.shape == shape
        assert probabilities.min() >= 0 and probabilities.max() <= 1
        if num_classes == 3:
            np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
        # An image's probability does not depend on the others: no dropout, no batch statistics.
        alone = model.predict(images[2:5], verbose=0)
        tolerance = 1e-3 if policy == "float32" else 0.1
        np.testing.assert_allclose(alone, probabilities[2:5], atol=tolerance)

        model.save(tmp_path / "model.keras")
        reloaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
        np.testing.assert_array_equal(reloaded.predict(images, verbose=0), probabilities)


@pytest.mark.parametrize("name", ["textbook", "residual", "tiny", slow_vgg16])
def test_logits_and_temperature(name, vgg16_weights):
    model = CLASSIFIERS[name](2)
    side = model.input.shape[1] or SIZE
    images = RNG.integers(0, 256, (4, side, side, 3)).astype(np.float32)
    logits = keras.Model(model.input, build_logits(model))
    before = logits.predict(images, verbose=0)
    probabilities = model.predict(images, verbose=0)
    np.testing.assert_allclose(probabilities, 1 / (1 + np.exp(-before)), atol=1e-4)
    divide_logits(model, 2.5)
    found, tolerance = logits.predict(images, verbose=0), 1e-4 * np.abs(before).max()
    np.testing.assert_allclose(found, before / 2.5, atol=tolerance)


def test_a_copy_in_float32_computes_in_float32():
    keras.utils.set_random_seed(0)
    expected = build_frozen().predict(IMAGES, verbose=0)
    keras.config.set_dtype_policy("mixed_bfloat16")
    keras.utils.set_random_seed(0)
    model = build_frozen()
    assert np.abs(model.predict(IMAGES, verbose=0) - expected).max() > 1e-5
    np.testing.assert_array_equal(in_float32(model).predict(IMAGES, verbose=0), expected)


def test_the_residual_net_takes_any_size():
    model = build_residual_convnet()
    for height, width in ((32, 32), (47, 47), (48, 80)):
        assert model(np.zeros((1, height, width, 3), np.float32)).shape == (1, 1)


@pytest.mark.parametrize(
    ("backbone", "num_frozen"), [pytest.param("vgg16", 20, marks=pytest.mark.slow), ("tiny", 6)]
)
def test_what_each_stage_trains(backbone, num_frozen, vgg16_weights, tmp_path):
    model = build_frozen(backbone, "none", normalize=False)
    num_base = len(model.weights) - 4
    head = {weight.path for weight in model.get_layer("head").weights}
    assert len(head) == 4 and train(model) == head

    # Fine-tuning loads a model whose base was frozen when it was saved.
    model.save(tmp_path / "start.keras")
    model = keras.models.load_model(tmp_path / "start.keras", safe_mode=True)
    assert len(model.trainable_weights) == 4
    unfreeze_after(model, BACKBONES[backbone].cut)
    trained = {weight.path for weight in model.weights[num_frozen:]}
    assert len(model.trainable_weights) == len(trained) == num_base - num_frozen + 4
    assert train(model) == trained


@pytest.mark.parametrize("backbone", [slow_vgg16, "tiny"])
def test_training_the_suffix_trains_the_classifier(backbone, vgg16_weights):
    model = build_frozen(backbone)
    unfreeze_after(model, BACKBONES[backbone].cut)
    prefix, suffix = split_model(model, BACKBONES[backbone].cut)
    assert not prefix.trainable_weights
    assert len(suffix.trainable_weights) == len(model.trainable_weights)
    before = model.predict(IMAGES, verbose=0)
    middle = prefix.predict(IMAGES, verbose=0)
    np.testing.assert_allclose(suffix.predict(middle, verbose=0), before, atol=1e-5)
    train(suffix, middle)
    after = model.predict(IMAGES, verbose=0)
    assert np.abs(after - before).max() > 1e-4
    np.testing.assert_allclose(suffix.predict(middle, verbose=0), after, atol=1e-5)


def test_the_base_equals_keras_with_its_own_preprocessing(vgg16_weights):
    reference = keras.applications.VGG16(
        include_top=False, weights=None, input_shape=(SIZE, SIZE, 3)
    )
    for name, tensors in load_vgg16_weights(vgg16_weights).items():
        reference.get_layer(name).set_weights(tensors)
    images = np.concatenate([IMAGES, np.zeros_like(IMAGES[:1])])
    prepared = keras.applications.vgg16.preprocess_input(images.copy())
    expected = reference.predict(prepared, verbose=0)
    assert expected.shape == (9, 1, 1, 512)
    found = build_base("vgg16", SIZE).predict(images, verbose=0)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)


def test_average_pooling_is_the_mean_over_positions():
    positions = build_base("tiny", SIZE, "none").predict(IMAGES, verbose=0)
    averaged = build_base("tiny", SIZE, "average").predict(IMAGES, verbose=0)
    assert positions.shape == (8, 4, 4, 8)
    np.testing.assert_allclose(averaged, positions.mean(axis=(1, 2)), rtol=1e-4, atol=1e-5)
