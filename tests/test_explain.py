"""Looking inside models whose evidence is known by construction, and real ones."""

import keras
import numpy as np
import pytest
from keras import layers
from pictures import encode, noise_picture, write_files
from PIL import Image

from catsdogs.inference import explain
from catsdogs.models.backbones import BACKBONES, build_classifier, build_head
from catsdogs.models.convnets import build_residual_convnet, build_textbook_convnet
from catsdogs.models.model_file import SavedModel

SIZE = 48
LIKES_RED = 5.0


def redness(num_classes=2):
    """A classifier whose one filter passes the red channel, and class 1 is red."""
    inputs = keras.Input((None, None, 3))
    x = layers.Rescaling(1 / 255)(inputs)
    x = layers.Conv2D(1, 1, activation="relu", name="red")(x)
    x = layers.AveragePooling2D(4)(x)
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dense(1 if num_classes == 2 else num_classes, name="logit")(x)
    activation = "sigmoid" if num_classes == 2 else "softmax"
    model = keras.Model(inputs, layers.Activation(activation, name="probability")(x))
    model.get_layer("red").set_weights([np.eye(3, 1).reshape(1, 1, 3, 1), np.zeros(1)])
    weights = [LIKES_RED] if num_classes == 2 else [0.0, LIKES_RED, 1.0]
    model.get_layer("logit").set_weights([np.array([weights]), np.zeros(len(weights))])
    return model


@pytest.fixture
def red_corner():
    """A dark picture that is red in rows 12 to 24, columns 36 to 48."""
    image = np.full((SIZE, SIZE, 3), 20, np.uint8)
    image[12:24, 36:48, 0] = 220
    return image


@pytest.mark.parametrize("num_classes", [2, 3])
def test_grad_cam_finds_the_evidence(num_classes, red_corner):
    heat = explain.grad_cam(redness(num_classes), red_corner[None], target=1)
    assert heat.shape == (1, SIZE, SIZE) and heat.dtype == np.float32
    # One filter with one positive slope: the map is the filter's own, up to its scale.
    np.testing.assert_allclose(heat[0], red_corner[..., 0] / 220, atol=1e-5)
    # What speaks for one class of two speaks against the other.
    assert explain.grad_cam(redness(num_classes), red_corner[None], target=0).max() == 0


def test_grad_cam_takes_the_predicted_class_and_many_images(red_corner):
    images = np.concatenate([np.repeat(red_corner[None], 40, axis=0), np.zeros((1, 48, 48, 3))])
    heat = explain.grad_cam(redness(), images)
    np.testing.assert_array_equal(heat[0], explain.grad_cam(redness(), red_corner[None], 1)[0])
    np.testing.assert_array_equal(heat[39], heat[0])
    assert heat[40].max() == 0  # black: nothing of it is evidence


@pytest.mark.parametrize("num_classes", [2, 3])
def test_occlusion_is_the_fall_of_the_log_odds(num_classes, red_corner):
    model = redness(num_classes)
    falls = explain.occlusion_sensitivity(model, red_corner, 1, positions=4, patch=0.25)
    assert falls.shape == (4, 4) and falls.dtype == np.float32
    assert np.unravel_index(falls.argmax(), falls.shape) == (1, 3)  # the red square itself

    hidden = red_corner.astype(np.float32)
    hidden[12:24, 36:48] = hidden.mean(axis=(0, 1))
    rows = model.predict_on_batch(np.stack([red_corner, hidden]))
    probabilities = rows[:, 0] if num_classes == 2 else rows[:, 1]
    before, after = np.log(probabilities / (1 - probabilities))
    assert falls[1, 3] == pytest.approx(before - after, rel=1e-3)
    if num_classes == 2:
        other = explain.occlusion_sensitivity(model, red_corner, 0, positions=4, patch=0.25)
        np.testing.assert_allclose(other, -falls, atol=1e-5)


def test_a_filter_is_maximized_by_what_it_passes():
    filters = explain.maximize_filters(redness(), "red", [0, 0], size=SIZE)
    assert filters.shape == (2, SIZE, SIZE, 3) and filters.dtype == np.uint8
    assert filters[..., 0].min() > 250
    assert 100 < filters[..., 1:].mean() < 155  # the other colours have no gradient
    again = explain.maximize_filters(redness(), "red", [0, 0], size=SIZE)
    np.testing.assert_array_equal(again, filters)
    assert (explain.maximize_filters(redness(), "red", [0], size=SIZE, seed=1) != filters[0]).any()


def test_filters_of_a_deep_layer_respond_more_than_to_noise():
    keras.utils.set_random_seed(0)
    model = build_textbook_convnet(64)
    channels = list(range(8))  # some of them are silent on noise
    filters = explain.maximize_filters(model, "conv4", channels, size=64)
    noise = np.random.default_rng(0).normal(127.5, 8, filters.shape)
    found, before = (
        explain.activations(model, images, ["conv4"])["conv4"].mean(axis=(1, 2))
        for images in (filters, noise)
    )
    assert np.diag(before).min() == 0
    assert all(np.diag(found) > 2 * np.diag(before)) and np.diag(found).min() > 0


def test_the_deepest_layer_of_every_resolution():
    residual = build_residual_convnet(widths=(8, 16), blocks=1)
    names = ["stem_relu", "group2_block1_1_relu", "last_relu"]
    assert explain.rectified_layers(residual, SIZE) == names
    keras.utils.set_random_seed(0)
    base = BACKBONES["vgg16"].build(64)
    classifier = build_classifier(base, build_head(base.output.shape[1:], 8))
    names = [f"block{block}_conv{last}" for block, last in enumerate((2, 2, 3, 3, 3), start=1)]
    assert explain.rectified_layers(classifier, 64) == names

    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    maps = explain.activations(classifier, images, names)
    assert [maps[name].shape for name in names] == [
        (3, 64, 64, 64), (3, 32, 32, 128), (3, 16, 16, 256), (3, 8, 8, 512), (3, 4, 4, 512),
    ]  # fmt: skip
    expected = keras.Model(classifier.input, classifier.get_layer(names[-1]).output)(images)
    np.testing.assert_allclose(maps[names[-1]], expected, rtol=1e-4, atol=1e-3)
    # The logits within the head, which is a model inside the model, are found too.
    heat = explain.grad_cam(classifier, images)
    assert heat.shape == (3, 4, 4) and heat.max(axis=(1, 2)).tolist() == [1, 1, 1]


def test_strongest_channels():
    maps = np.zeros((2, 3, 3, 4), np.float32)
    maps[..., 2], maps[..., 0] = 1, 0.5
    assert explain.strongest_channels(maps, 2) == [2, 0]


def test_overlay_colours_the_hot_place(red_corner):
    heat = np.zeros((4, 4), np.float32)
    heat[3, 0] = 1
    mixed, plain = explain.overlay(red_corner, heat), explain.overlay(red_corner, np.zeros((2, 2)))
    assert mixed.shape == red_corner.shape and mixed.dtype == np.uint8
    assert (mixed[40:, :8] != plain[40:, :8]).any() and (mixed[:12] == plain[:12]).all()


def test_explanations_are_written_for_every_picture(tmp_path):
    saved = SavedModel(tmp_path / "model.keras", redness(3), ("ant", "bee", "cow"), SIZE, 1.0)
    # Three pictures that are called one, one-2 and, in another folder, one again.
    names = ("one.png", "sub/one.png", "sub/one-2.png")
    pictures = {name: encode(noise_picture(seed)) for seed, name in enumerate(names)}
    write_files(tmp_path / "pictures", pictures)
    out = tmp_path / "out"
    written = explain.explain_pictures(saved, [str(tmp_path / "pictures")], out, target="bee")
    kinds = ("heatmaps.jpg", "activations.png")
    names = [f"{name}-{kind}" for name in ("one", "one-2", "one-3") for kind in kinds]
    assert written == [out / name for name in ("filters.png", *names)]
    assert sorted(written) == sorted(out.iterdir())
    for path in written:
        with Image.open(path) as picture:
            assert min(picture.size) > 100
            assert np.asarray(picture.convert("L")).std() > 5  # not blank
