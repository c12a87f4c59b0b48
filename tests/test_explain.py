"""Looking inside: models whose evidence is known by construction, and real ones."""

import subprocess
import sys

import keras
import numpy as np
import pytest
from conftest import ROOT
from keras import layers
from PIL import Image

from catsdogs.errors import InputError
from catsdogs.inference import explain, explain_run
from catsdogs.inference.explain_plot import overlay
from catsdogs.inference.explain_run import explain_pictures
from catsdogs.models import networks as models
from catsdogs.models.model_file import load_saved_model, save_model

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


def test_filters_climb():
    filters = explain.maximize_filters(redness(), "red", [0, 0], size=SIZE)
    assert filters.shape == (2, SIZE, SIZE, 3) and filters.dtype == np.uint8
    assert filters[..., 0].min() > 250  # all red,
    assert 100 < filters[..., 1:].mean() < 155  # and nothing pulls the other colours
    again = explain.maximize_filters(redness(), "red", [0, 0], size=SIZE)
    np.testing.assert_array_equal(again, filters)
    assert (explain.maximize_filters(redness(), "red", [0], size=SIZE, seed=1) != filters[0]).any()


def test_filters_of_a_deep_layer_respond_more_than_to_noise():
    keras.utils.set_random_seed(0)
    model = models.build_textbook_convnet(64)
    channels = list(range(8))  # some of them are silent on noise
    filters = explain.maximize_filters(model, "conv4", channels, size=64)
    noise = np.random.default_rng(0).normal(127.5, 8, filters.shape)
    found, before = (
        explain.activations(model, images, ["conv4"])["conv4"].mean(axis=(1, 2))
        for images in (filters, noise)
    )
    assert np.diag(before).min() == 0
    assert all(np.diag(found) > 2 * np.diag(before)) and np.diag(found).min() > 0


def test_the_deepest_layer_of_every_resolution(vgg16_weights):
    residual = models.build_residual_convnet(widths=(8, 16), blocks=1)
    assert explain.rectified_layers(residual, SIZE) == [
        "stem_relu", "group2_block1_1_relu", "last_relu",
    ]  # fmt: skip
    base = models.build_vgg16_base(64, "average", vgg16_weights)
    classifier = models.build_vgg16_classifier(base, models.build_head((512,), 8))
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
    mixed, plain = overlay(red_corner, heat), overlay(red_corner, np.zeros((2, 2)))
    assert mixed.shape == red_corner.shape and mixed.dtype == np.uint8
    assert (mixed[40:, :8] != plain[40:, :8]).any() and (mixed[:12] == plain[:12]).all()


@pytest.fixture(scope="module")
def run_and_pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    keras.utils.set_random_seed(2)
    model = models.build_textbook_convnet(SIZE, num_classes=3)
    save_model(
        model, folder / "model.keras", classes=("ant", "bee", "cow"), image_size=SIZE, temperature=1
    )
    rng = np.random.default_rng(0)
    for name in ("one.png", "sub/one.png", "sub/one-2.png"):
        (folder / "pictures" / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "pictures" / name)
    return folder, folder / "pictures"


def test_the_script_writes_pictures(run_and_pictures, tmp_path):
    run_dir, pictures = run_and_pictures
    command = [sys.executable, ROOT / "scripts" / "explain.py", run_dir, pictures]
    command += ["--output", tmp_path / "out", "--layers", "pool1", "conv3", "--channels", "3"]
    finished = subprocess.run(command, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    # Three pictures that are called one, one-2 and, in another folder, one again.
    kinds = ("heatmaps.jpg", "activations.png")
    names = [f"{name}-{kind}" for name in ("one", "one-2", "one-3") for kind in kinds]
    names = ["filters.png", *names]
    assert finished.stdout.splitlines() == [str(tmp_path / "out" / name) for name in names]
    for name in names:
        with Image.open(tmp_path / "out" / name) as picture:
            assert min(picture.size) > 200


@pytest.mark.parametrize(
    "changed, words",
    [
        ({"words": []}, "Expected pictures"),
        ({"words": ["absent.png"]}, "absent.png"),
        ({"layer_names": ["dense"]}, "conv1.*Received: dense"),
        ({"target": "dog"}, "ant, bee, cow.*dog"),
        ({"num_channels": 0}, "--channels of 1 or more"),
    ],
)
def test_wrong_words_write_nothing(changed, words, run_and_pictures, tmp_path):
    run_dir, pictures = run_and_pictures
    arguments = {"words": [str(pictures)], **changed}
    saved = load_saved_model(run_dir)
    with pytest.raises(InputError, match=words):
        explain_pictures(saved, arguments.pop("words"), tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


def test_names_stay_short_enough_for_a_file_system():
    names = ["x" * 251 + ".png", "x" * 251 + ".jpg", "\u65e5" * 80 + ".png", "a.png"]
    found = list(explain_run._short_names(names))
    assert len(set(found)) == 4 and found[3] == "a"
    assert all(len(f".part-{name}-activations.png".encode()) <= 255 for name in found)
