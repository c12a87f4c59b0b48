"""The model file: it holds all that predicting needs, and a stranger's does no harm."""

import io
import resource

import h5py
import keras
import numpy as np
import pytest
from hostile_files import edit_model, raw_zip
from keras import layers

from catsdogs.errors import InputError
from catsdogs.models import model_file
from catsdogs.models.convnets import (
    build_residual_convnet,
    build_textbook_convnet,
    in_float32,
)
from catsdogs.models.model_file import load_model, load_saved_model, read_card, save_model

CARD = {"classes": ("cat", "dog"), "image_size": 48, "temperature": 1.5}
IMAGES = np.random.default_rng(0).integers(0, 256, (4, 48, 48, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    """The bytes of an untrained model of cats and dogs at 48 pixels."""
    path = tmp_path_factory.mktemp("honest") / "model.keras"
    save_model(build_textbook_convnet(48), path, **CARD)
    return path.read_bytes()


def build_stranger():
    """A model of Keras layers that this project's own models do not use."""
    inputs = keras.Input((48, 48, 3))
    x = layers.ZeroPadding2D(1)(inputs)
    x = layers.Conv2D(8, 3, strides=2, kernel_initializer="he_uniform")(x)
    x = layers.ReLU(6.0)(layers.BatchNormalization()(x))
    x = layers.DepthwiseConv2D(3, padding="same")(x)
    x = layers.Concatenate()([x, layers.SpatialDropout2D(0.1)(x)])
    x = layers.GlobalMaxPooling2D()(layers.AveragePooling2D(2)(x))
    x = layers.Dense(3, dtype="float32", name="logit")(x)
    return keras.Model(inputs, layers.Activation("softmax", dtype="float32")(x))


@pytest.mark.parametrize(
    "build, classes",
    [(lambda: build_residual_convnet(widths=(8,), blocks=1), ("cat", "dog")),
     (build_stranger, ("cat", "dog", "owl"))],
    ids=["own", "a stranger's"],
)  # fmt: skip
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_good_models_come_back_as_they_were(build, classes, policy, tmp_path, monkeypatch):
    monkeypatch.setattr(model_file, "has_bfloat16", lambda: True)
    keras.config.set_dtype_policy(policy)
    model = build()
    save_model(model, tmp_path / "model.keras", **{**CARD, "classes": classes})
    expected = model.predict(IMAGES, verbose=0)
    for path in (tmp_path, tmp_path / "model.keras"):
        saved = load_saved_model(path)
        assert (saved.classes, saved.image_size, saved.temperature) == (classes, 48, 1.5)
        assert read_card(path) == {**CARD, "classes": classes, "engine": "tensorflow"}
        np.testing.assert_array_equal(saved.model.predict(IMAGES, verbose=0), expected)
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    np.testing.assert_array_equal(loaded.predict(IMAGES, verbose=0), expected)


def test_a_model_trained_in_bfloat16_serves_processors_without_it(tmp_path, monkeypatch):
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = build_textbook_convnet(48)
    save_model(model, tmp_path / "model.keras", **CARD)
    monkeypatch.setattr(model_file, "has_bfloat16", lambda: False)
    predicted = load_saved_model(tmp_path).predict(IMAGES)
    np.testing.assert_array_equal(predicted, in_float32(model).predict_on_batch(IMAGES))


def layer(module, class_name, config, registered=None):
    """A change of a model's config: its rescaling becomes another object."""

    def change(content):
        for one in content["config"]["layers"]:
            if one["class_name"] == "Rescaling":
                one.update(module=module, class_name=class_name, registered_name=registered)
                one["config"] = {"name": one["config"]["name"], **config}
        return content

    return {"config": change}


def setting(kind, **changes):
    """A change of a model's config: settings of all layers of a class or a name."""

    def change(content):
        for one in content["config"]["layers"]:
            if kind in (one["class_name"], one["name"]):
                one["config"].update(changes)
        return content

    return {"config": change}


def weights(replace):
    """A change of a model's weights: its first array is replaced."""

    def change(data):
        buffer = io.BytesIO(data)
        with h5py.File(buffer, "r+") as file:
            name = "layers/conv2d/vars/0"
            shape = file[name].shape
            del file[name]
            replace(file, name, shape)
        return buffer.getvalue()

    return {"weights": change}


def link(file, name, shape):
    file[name] = h5py.ExternalLink("/other.h5", "a")


def external(file, name, shape):
    file.create_dataset(name, shape, "f4", external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)])


def huge(file, name, shape):
    file.create_dataset(name, (10**6, 10**6), "f4", chunks=(1000, 1000))


LAMBDA = {"function": {"class_name": "__lambda__", "config": {"code": "4wAA", "defaults": None}}}
SYSTEM = {"class_name": "function", "module": "os", "config": "system", "registered_name": "system"}

HARMFUL = {
    "a Lambda": (layer("keras.layers", "Lambda", LAMBDA), r"layers\.Lambda"),
    "a function": (layer("os", "system", {"command": "touch harmed"}), r"os\.system"),
    "a known name": (layer("subprocess", "Rescaling", {}), r"subprocess\.Rescaling"),
    "another registered name": (
        layer("keras.layers", "Dropout", {"rate": 0.5}, "Custom>Dropout"), r"layers\.Dropout",
    ),
    "an activation": (setting("Conv2D", activation=SYSTEM), r"os\.function"),
    "a file": (layer("keras.layers", "StringLookup", {"vocabulary": "/a"}), "StringLookup"),
    "a deep config": ({"config": lambda content: b"[" * 10**6}, "recursion"),
    "another end": (setting("Activation", name="end", activation="relu"), "sigmoid or softmax"),
    "a terabyte to initialize": (setting("logit", units=10**10), "would be larger"),
    "a terabyte to read": (weights(huge), "would be larger"),
    "an external link": (weights(link), "ExternalLink"),
    "an external array": (weights(external), "external Dataset"),
    "pickled weights": ({"weights": lambda data: b"cos\nsystem\n(S'x'\ntR."}, "signature"),
    "a bomb": ({"extra": [("assets/a", bytes(2**26))]}, "unpack to more than twice"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Skipping nested container")  # Keras, before it raises
@pytest.mark.parametrize("case", HARMFUL)
def test_harmful_models_are_refused(case, honest, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    changes, reason = HARMFUL[case]
    path = edit_model(honest, tmp_path / "model.keras", **changes)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match=f"at {path}, .*{reason}") as caught:
        load_saved_model(path)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 600
    assert [path.name for path in tmp_path.iterdir()] == ["model.keras"]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # KB


@pytest.mark.parametrize(
    "card",
    [
        {"classes": ["cat"]},
        {"classes": ["cat\n", "dog"]},
        {"classes": ["../cat", "dog"]},
        {"classes": ["cat", "dog", "owl"]},  # the model has one output, for two
        {"image_size": 10**400},
        {"image_size": 64},  # the model takes 48
        {"temperature": float("nan")},
        b"",
        b"null",
        b"[" * 10**6,
    ],
    ids=lambda card: str(card)[:40],
)
def test_wrong_cards_are_refused(card, honest, tmp_path):
    def change(content):
        return card if isinstance(card, bytes) else {**content, **card}

    path = edit_model(honest, tmp_path / "model.keras", card=change)
    with pytest.raises(InputError, match=f"at {path}, .*catsdogs.json") as caught:
        load_saved_model(path)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 600


def test_a_model_without_a_card_is_only_a_keras_model(tmp_path):
    build_textbook_convnet(48).save(tmp_path / "model.keras")
    assert load_model(tmp_path).output_shape == (None, 1)
    with pytest.raises(InputError, match=r"catsdogs\.json"):
        load_saved_model(tmp_path)


def test_broken_archives_are_refused(honest, tmp_path):
    encrypted = {"name": b"catsdogs.json", "data": b"x" * 30, "flags": 1}
    path = tmp_path / "model.keras"
    for content in (b"", b"text", honest[:5000], honest[5000:], raw_zip([]), raw_zip([encrypted])):
        path.write_bytes(content)
        with pytest.raises(InputError, match="cannot be used") as caught:
            load_saved_model(path)
        assert str(caught.value).isprintable()


def test_missing_models_are_named(tmp_path):
    (tmp_path / "notes.txt").touch()
    (tmp_path / "run").mkdir()
    with pytest.raises(InputError, match=r"\.keras file\. Received: .*notes\.txt"):
        load_model(tmp_path / "notes.txt")
    with pytest.raises(InputError, match=r"run/model\.keras, found none\. Correct the path"):
        load_model(tmp_path / "run")
    (tmp_path / "run" / "config.json").touch()
    with pytest.raises(InputError, match=r"interrupted.*--resume"):
        load_saved_model(tmp_path / "run")
