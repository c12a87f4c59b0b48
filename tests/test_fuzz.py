"""Random damage to everything that is read: the right content, or one line that says why not.

What is accepted is checked against something that does not depend on this package's code: the
undamaged content, or what Pillow makes of it. `make torture` tries some thousand cases, `make test`
some hundred.
"""

import contextlib
import dataclasses
import functools
import io
import json
import shutil
import sys
import zipfile

import h5py
import keras
import numpy as np
import onnx
import pytest
from conftest import METRICS
from hostile_files import edit_model, raw_zip
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers
from pictures import contents, encode, noise_picture
from PIL import Image

from catsdogs import cli
from catsdogs.config import SCRATCH, ScratchConfig
from catsdogs.data.decode import FORMATS
from catsdogs.data.images import decode_image
from catsdogs.data.manifest import load_manifest
from catsdogs.data.sources import open_source
from catsdogs.data.splits import prepare
from catsdogs.errors import InputError
from catsdogs.files import write_json
from catsdogs.models import weights as weights_module
from catsdogs.models.model_file import load_saved_model, save_model
from catsdogs.models.weights import digest_tensors, load_vgg16_weights
from catsdogs.stages import scratch
from catsdogs.stages.run import load_run

FEW = settings.default.max_examples


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


def accepted(function, *arguments):
    """What a function returns, or `None` if it raises an `InputError` of one printable line."""
    try:
        return function(*arguments)
    except InputError as error:
        assert str(error).isprintable() and 0 < len(str(error)) < 1500, repr(str(error))
        return None


# Damage to bytes and to JSON


def _damage(content, edits):
    content = bytearray(content)
    for position, kind, data in edits:
        position = int(position * len(content))
        end = position + len(data)
        if kind == "set":
            content[position:end] = data
        elif kind == "flip":
            content[position:end] = bytes(a ^ 255 for a in content[position:end])
        elif kind == "insert":
            content[position:position] = data
        elif kind == "remove":
            del content[position:end]
        elif kind == "cut":
            del content[position:]
        else:
            content += content[position:]
    return bytes(content)


def damaged(content):
    """A strategy of `bytes` that differ from these in one to six places."""
    kinds = st.sampled_from(["set", "set", "flip", "insert", "remove", "cut", "double"])
    data = st.binary(min_size=1, max_size=6) | st.sampled_from(
        [b"\xff" * 4, b"\0" * 4, b"\xff\xff\xff\x7f", b"\x7f\xff\xff\xff", b"\0\0\0\x80"]
    )
    edit = st.tuples(st.floats(0, 1, exclude_max=True), kinds, data)
    return st.lists(edit, min_size=1, max_size=6).map(lambda edits: _damage(content, edits))


ODD_VALUES = [0, -1, 2**63, 10**400, "", "..", "../x", "x" * 5000, "\ud800", "a\nb", "\0"]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
    | st.sampled_from(ODD_VALUES),
    lambda inside: st.lists(inside, max_size=3)
    | st.dictionaries(st.text(max_size=5), inside, max_size=3),
    max_leaves=4,
)  # fmt: skip


def _paths(content, before=()):
    yield before
    if isinstance(content, (dict, list)):
        items = content.items() if isinstance(content, dict) else enumerate(content)
        for key, value in items:
            yield from _paths(value, (*before, key))


def _replace(content, path, value):
    if not path:
        return value
    copy = content.copy()
    copy[path[0]] = _replace(copy[path[0]], path[1:], value)
    return copy


def changed(content):
    """A strategy of JSON content in which one value is another."""
    paths = st.sampled_from(list(_paths(content)))
    return st.builds(functools.partial(_replace, content), paths, VALUES)


# Archives

PICTURES = [encode(noise_picture(seed, (36, 36))) for seed in range(6)]
HONEST = [
    {"name": f"{label}/{index}.png".encode(), "data": PICTURES[3 * number + index]}
    for number, label in enumerate(("cat", "dog"))
    for index in range(3)
]
NAMES = st.sampled_from(
    [b"cat/1.png", b"dog/1.png", b"CAT/1.png", b"cat.1.jpg", b"cat", b"", b"/", b"..", b"train.zip"]
) | st.binary(max_size=20).map(lambda name: b"cat/" + name)  # fmt: skip
SMALL, SHORT = st.integers(0, 2**32 - 1), st.integers(0, 2**16 - 1)
ENTRIES = st.fixed_dictionaries(
    {"name": NAMES, "data": st.sampled_from(PICTURES) | st.binary(max_size=40)},
    optional={
        "method": st.sampled_from([0, 8, 9, 12, 14, 93, 99]), "flags": SHORT, "version": SHORT,
        "crc": SMALL, "packed_size": SMALL, "size": SMALL, "offset": SMALL, "mode": SHORT,
    },
)  # fmt: skip


def check_archive(place, content):
    """Prepares what is in an archive; returns the manifest, if it could be used."""
    folder = place / "archives"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "a.zip").write_bytes(content)

    def read():
        with open_source(folder / "a.zip") as source:
            return prepare(source, folder / "data", train=2, validation=2, test=2)

    manifest = accepted(read)
    found = {str(path): data for path, data in contents(folder).items() if path.name[0] != "."}
    del found["a.zip"]
    if manifest:
        assert found.pop("data/manifest.json")
        assert found.keys() == {f"data/{file.name}" for file in manifest.files}
        assert sorted(file.split for file in manifest.files) == sorted(
            ["train", "validation", "test"] * 2
        )
    # Not one bit of a picture is another, and none is outside its folder.
    assert set(found.values()) <= set(PICTURES) and len(found) == (6 if manifest else 0)
    return manifest


@settings(max_examples=2 * FEW)
@given(st.lists(ENTRIES, max_size=4), st.sets(st.integers(0, 5), max_size=2))
def test_archives_with_false_headers(campaign, place, entries, removed):
    honest = [entry for index, entry in enumerate(HONEST) if index not in removed]
    with campaign.fault("random archives: right pictures or one line"):
        found = check_archive(place, raw_zip([*entries, *honest]))
        assert found or entries or removed


@settings(max_examples=2 * FEW)
@given(damaged(raw_zip(HONEST)))
def test_damaged_archives(campaign, place, content):
    with campaign.fault("random archives: right pictures or one line"):
        check_archive(place, content)


# Pictures

EXIF = Image.Exif()
EXIF[0x0112], EXIF[0x010E] = 6, "a description"  # the orientation, lying on its side
OPTIONS = {
    "JPEG": {"exif": EXIF}, "PNG": {"exif": EXIF}, "GIF": {}, "WEBP": {"exif": EXIF}, "BMP": {},
    "TIFF": {"compression": "tiff_lzw"},
}  # fmt: skip
FRAMES = {"save_all": True, "append_images": [Image.new("RGB", (60, 48), "red")]}
FILES = [encode(noise_picture(1), form, **options) for form, options in OPTIONS.items()]
FILES += [encode(noise_picture(2), form, **FRAMES) for form in ("GIF", "WEBP", "TIFF", "PNG")]
FILES += [encode(noise_picture(3), "TIFF", compression=kind) for kind in (None, "packbits", "jpeg")]
MAX_PIXELS = 10**6


def pillow(content):
    """What Pillow makes of a picture, or `None` if it is too large or cannot be read."""
    with contextlib.suppress(Exception), Image.open(io.BytesIO(content), formats=FORMATS) as image:
        if image.width * image.height <= MAX_PIXELS:
            image.load()
            return image


def is_turned(image):
    """Whether EXIF data that can be read ask for it."""
    with contextlib.suppress(Exception):
        return image.getexif().get(0x0112) in range(2, 9)
    return False


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@settings(max_examples=4 * FEW)
@given(st.sampled_from(FILES).flatmap(damaged))
def test_damaged_pictures(campaign, content):
    fault = campaign.fault("random pictures: what Pillow sees or one line")
    with pytest.MonkeyPatch.context() as patch, fault:
        patch.setattr(Image, "MAX_IMAGE_PIXELS", MAX_PIXELS)
        found, expected = accepted(decode_image, content), pillow(content)
        assert (found is None) == (expected is None)
        if found is not None:
            small = decode_image(content, 16)
            assert found.dtype == small.dtype == np.uint8 and small.shape == (16, 16, 3)
            assert found.shape in [(*expected.size, 3), (*expected.size[::-1], 3)]
            if expected.mode == "RGB" and not expected.has_transparency_data:
                assert is_turned(expected) or np.array_equal(found, np.asarray(expected))


# JSON

CONFIG = {"stage": "scratch", "data_dir": "data/x", "smoke": False}
RUN = {"metrics": {**METRICS, "test": METRICS["validation"]}, "config": CONFIG}
ENTRY = {
    "name": "train/cat/1.png", "sha256": "0" * 64, "width": 40, "height": 40,
    "class": "cat", "split": "train",
}  # fmt: skip
MANIFEST = {
    "format": 1, "dataset": "pets", "kind": "photographs", "classes": ["cat", "dog"],
    "source": "0" * 64, "files": [ENTRY], "look_alikes": [["train/cat/1.png"]],
    "dropped": [{"name": "cat/2.png", "reason": "tiny"}],
}  # fmt: skip


def check_manifest(place):
    manifest = accepted(load_manifest, place)
    if manifest:
        given = json.loads((place / "manifest.json").read_bytes())
        assert [file["name"] for file in given["files"]] == [file.name for file in manifest.files]
        for file in manifest.files:
            path = (place / file.name).resolve()
            assert path.parents[1] == place / file.split and path.parents[0].name == file.label
        assert list(manifest.classes) == given["classes"] and len({*manifest.classes}) > 1
        assert sum(manifest.sizes.values()) == len(given["files"])
    return manifest


def check_run(place):
    found = accepted(load_run, place)
    if found:
        config, metrics = found
        assert config.keys() == json.loads((place / "config.json").read_bytes()).keys()
        assert metrics.keys() == json.loads((place / "metrics.json").read_bytes()).keys()
        assert len(metrics["classes"]) > 1 and all(isinstance(n, str) for n in metrics["classes"])
        for split in metrics.keys() & {"validation", "test"}:
            low, high = metrics[split]["accuracy_interval95"]
            assert 0 <= metrics[split]["accuracy"] <= 1 and low >= 0 and high <= 1
            assert 0 <= metrics[split]["loss"] < float("inf")
    return found


@settings(max_examples=2 * FEW)
@given(changed(MANIFEST))
def test_changed_manifests(campaign, place, manifest):
    with campaign.fault("random JSON: as it is or one line"):
        write_json(place / "manifest.json", manifest)
        assert check_manifest(place) or manifest != MANIFEST


@settings(max_examples=2 * FEW)
@given(changed(RUN))
def test_changed_runs(campaign, place, content):
    with campaign.fault("random JSON: as it is or one line"):
        for name in RUN:
            part = content.get(name) if isinstance(content, dict) else content
            write_json(place / f"{name}.json", part)
        assert check_run(place) or content != RUN


@settings(max_examples=FEW)
@given(*(damaged(json.dumps(content).encode()) for content in (MANIFEST, METRICS, CONFIG)))
def test_damaged_json(campaign, place, manifest, metrics, config):
    (place / "manifest.json").write_bytes(manifest)
    (place / "metrics.json").write_bytes(metrics)
    (place / "config.json").write_bytes(config)
    with campaign.fault("random JSON: as it is or one line"):
        check_manifest(place)
        check_run(place)


# Models and weights

CARD = {"classes": ("cat", "dog"), "image_size": 32, "temperature": 1.5}
IMAGES = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def model(place):
    """The bytes of a small honest model, and what it predicts."""
    inputs = keras.Input((32, 32, 3), name="image")
    x = layers.Rescaling(1 / 255)(inputs)
    x = layers.Conv2D(2, 3, activation="relu")(x)
    x = layers.GlobalAveragePooling2D()(x)
    outputs = layers.Activation("sigmoid")(layers.Dense(1, name="logit")(x))
    save_model(keras.Model(inputs, outputs), place / "honest.keras", **CARD)
    content = (place / "honest.keras").read_bytes()
    return content, predict(load_saved_model(place / "honest.keras"))


def predict(saved):
    # Not `predict`: its generated modules would change what Hypothesis draws.
    return np.asarray(saved.model(IMAGES, training=False))


def check_model(path):
    saved = accepted(load_saved_model, path)
    if saved:
        assert predict(saved).shape == (2, 1) and predict(saved).dtype == np.float32
        assert all(name.isprintable() and "/" not in name for name in saved.classes)
        # All code in it is Keras's.
        assert all(type(one).__module__.startswith("keras.src.") for one in saved.model.layers)
    return saved


@settings(max_examples=FEW)
@given(data=st.data())
def test_damaged_models(campaign, place, model, data):
    """What is not noticed has changed nothing."""
    content, expected = model
    (place / "damaged.keras").write_bytes(data.draw(damaged(content)))
    with campaign.fault("random models: what was saved or one line"):
        saved = check_model(place / "damaged.keras")
        if saved:
            np.testing.assert_array_equal(predict(saved), expected)
            assert saved.card == load_saved_model(place / "honest.keras").card


@settings(max_examples=FEW)
@given(data=st.data(), part=st.sampled_from(["config.json", "catsdogs.json", "model.weights.h5"]))
def test_changed_models(campaign, place, model, data, part):
    """The archive is right, a member of it is not."""
    with zipfile.ZipFile(io.BytesIO(model[0])) as archive:
        member = archive.read(part)
    if part == "model.weights.h5":
        content = data.draw(damaged(member))
    else:
        content = data.draw(changed(json.loads(member)))
    change = {"config.json": "config", "catsdogs.json": "card", "model.weights.h5": "weights"}
    path = edit_model(model[0], place / "changed.keras", **{change[part]: lambda _: content})
    with campaign.fault("random models: what was saved or one line"):
        saved = check_model(path)
        if saved and part == "catsdogs.json":
            assert list(saved.classes) == content["classes"]
            assert saved.image_size == content["image_size"]


def small_weights(suffix):
    """Tensors of VGG16's layers, of another size, and a file of them."""
    rng = np.random.default_rng(0)
    sizes = zip(range(1, 6), (2, 2, 3, 3, 3), strict=True)
    names = [f"block{block}_conv{n}" for block, number in sizes for n in range(1, number + 1)]
    tensors = {
        name: [rng.normal(size=(1, 1, 2, 2)).astype("<f4"), rng.normal(size=2).astype("<f4")]
        for name in names
    }
    buffer = io.BytesIO()
    if suffix == ".h5":
        with h5py.File(buffer, "w") as file:
            for name, (kernel, bias) in tensors.items():
                file[f"{name}/kernel"], file[f"{name}/bias"] = kernel, bias
        return tensors, buffer.getvalue()
    graph = onnx.GraphProto(name="weights")
    for name, (kernel, bias) in tensors.items():
        for kind, array in (("k", kernel.transpose(3, 2, 0, 1)), ("b", bias)):
            graph.initializer.append(onnx.numpy_helper.from_array(array, f"{name}-{kind}"))
        inputs = ["image", f"{name}-k", f"{name}-b"]
        graph.node.append(onnx.helper.make_node("Conv", inputs, [name]))
    return tensors, onnx.helper.make_model(graph).SerializeToString()


@pytest.mark.parametrize("suffix", [".h5", ".onnx"])
@settings(max_examples=FEW)
@given(data=st.data())
def test_damaged_weights(campaign, place, suffix, data):
    tensors, content = small_weights(suffix)
    path = place / f"weights{suffix}"
    path.write_bytes(data.draw(damaged(content)))
    digest = digest_tensors(tensor for pair in tensors.values() for tensor in pair)
    fault = campaign.fault("random weights: the right tensors or one line")
    with pytest.MonkeyPatch.context() as patch, fault:
        patch.setattr(weights_module, "VGG16_DIGEST", digest)
        found = accepted(load_vgg16_weights, path)
        if found:
            assert found.keys() == tensors.keys()
            for name, pair in tensors.items():
                assert all(map(np.array_equal, found[name], pair))
        path.write_bytes(content)  # the undamaged file is accepted
        assert load_vgg16_weights(path)


# Command lines

GOOD = [
    ["--epochs", "3"], ["--learning-rate=1e-2"], ["--augmentation", "none"], ["--resume"],
    ["--preset", "textbook"], ["--run-dir", "a \x1b b"], ["--seed", "7"], ["--mixup", ".5"],
]  # fmt: skip
FLAGS = [
    f"--{field.name.replace('_', '-')}"
    for one in (ScratchConfig, cli.PredictArguments, cli.ExplainArguments)
    for field in dataclasses.fields(one)
]
# Whatever bytes an argument may hold: any but zero.
TEXT = st.text(st.characters(min_codepoint=1, exclude_categories=["Cs"]), max_size=8)
WORDS = (
    st.sampled_from([*FLAGS, "--help", "-h", "-", "--", "-1", "1e400", "nan", "9" * 400, "\udcff"])
    | st.sampled_from(["", "a\nb", "\x1b[2J", "best"])
    | TEXT | st.integers().map(str) | st.floats().map(str)
    | st.tuples(st.sampled_from(FLAGS), TEXT).map("=".join)
)  # fmt: skip


def run_command(command, words):
    """Exit code of a command, and the lines on standard error."""
    said = io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO(), "utf-8", "replace")),
        contextlib.redirect_stderr(said),
        pytest.raises(SystemExit) as stop,
    ):
        patch.setattr(sys, "argv", ["script.py", *words])
        command()
    return stop.value.code, said.getvalue().splitlines()


@settings(max_examples=FEW)
@given(st.lists(st.sampled_from(GOOD), max_size=3), st.lists(WORDS, max_size=3))
def test_random_flags(campaign, good, others):
    words, trained = [*(word for flag in good for word in flag), *others], []

    def train(config, **paths):
        trained.append(config)
        raise InputError("the end")

    fault = campaign.fault("random command lines: what was meant or one line")
    with pytest.MonkeyPatch.context() as patch, fault:
        patch.setattr(scratch, "train_scratch", train)
        code, lines = run_command(cli.train_scratch, words)
        assert trained or others  # good flags are accepted
        if code == 0:
            assert {"--help", "-h"} & set(others) and not lines
            return
        (line,) = lines
        assert code == 2 and line.startswith("train_scratch: ") and line.isprintable()
        if trained:
            (config,) = trained
            assert ScratchConfig(**dataclasses.asdict(config)) == config  # all within its range
            default, values = SCRATCH[config.preset], " ".join(words)
            for name, value in dataclasses.asdict(config).items():
                given = name.replace("_", "-") in values or name in values
                assert given or value == getattr(default, name)


@settings(max_examples=FEW)
@given(st.sampled_from([cli.predict, cli.explain, cli.export]), st.lists(WORDS, max_size=4))
def test_random_words(campaign, command, words):
    """There is no model to be found."""
    with campaign.fault("random command lines: what was meant or one line"):
        code, lines = run_command(command, words)
        if code == 0:
            assert {"--help", "-h"} & set(words) and not lines
            return
        (line,) = lines
        assert code == 2 and line.startswith(f"{command.__name__}: ") and line.isprintable()
