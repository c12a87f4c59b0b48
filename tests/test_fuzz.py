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
import pytest
from conftest import METRICS
from hostile_files import edit_model, raw_zip
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers
from pictures import contents, encode, noise_picture
from PIL import Image

from catsdogs import cli
from catsdogs.config import SCRATCH, ScratchConfig, changed_settings
from catsdogs.data.decode import FORMATS
from catsdogs.data.images import decode_image
from catsdogs.data.manifest import load_manifest
from catsdogs.data.sources import open_source
from catsdogs.data.splits import prepare
from catsdogs.errors import InputError
from catsdogs.models import vgg16
from catsdogs.models.model_file import load_saved_model, save_model
from catsdogs.models.vgg16 import load_vgg16_weights
from catsdogs.models.weights import digest_tensors
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
    """A strategy of `bytes`: JSON in which one value is another, or damaged JSON."""
    paths = st.sampled_from(list(_paths(content)))
    other = st.builds(functools.partial(_replace, content), paths, VALUES)
    return other.map(lambda found: json.dumps(found).encode()) | damaged(
        json.dumps(content).encode()
    )


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

ENTRY = {
    "name": "train/cat/1.png", "sha256": "0" * 64, "width": 40, "height": 40,
    "class": "cat", "split": "train",
}  # fmt: skip
JSON = {
    "manifest.json": {
        "format": 1, "dataset": "pets", "kind": "photographs", "classes": ["cat", "dog"],
        "source": "0" * 64, "files": [ENTRY], "look_alikes": [["train/cat/1.png"]],
        "dropped": [{"name": "cat/2.png", "reason": "tiny"}],
    },
    "config.json": {"stage": "scratch", "data_dir": "data/x", "smoke": False},
    "metrics.json": {**METRICS, "test": METRICS["validation"]},
}  # fmt: skip


@settings(max_examples=4 * FEW)
@given(st.sampled_from([*JSON]).flatmap(lambda name: st.tuples(st.just(name), changed(JSON[name]))))
def test_json(campaign, place, change):
    name, content = change
    for other, original in JSON.items():
        (place / other).write_text(json.dumps(original))
    (place / name).write_bytes(content)
    with campaign.fault("random JSON: what it says or one line"):
        manifest, run = accepted(load_manifest, place), accepted(load_run, place)
        assert manifest if name != "manifest.json" else run  # the other one is as it was
        if manifest:
            given = json.loads((place / "manifest.json").read_bytes())
            names = [file["name"] for file in given["files"]]
            assert names == [file.name for file in manifest.files]
            assert list(manifest.classes) == given["classes"] and len({*manifest.classes}) > 1
            for file in manifest.files:  # nothing else is opened
                path = (place / file.name).resolve()
                assert path.parents[1] == place / file.split and path.parent.name == file.label
        if run:
            config, metrics = run
            assert config.keys() == json.loads((place / "config.json").read_bytes()).keys()
            assert all(isinstance(label, str) for label in metrics["classes"])
            for split in metrics.keys() & {"validation", "test"}:
                low, high = metrics[split]["accuracy_interval95"]
                assert max(low, high, metrics[split]["accuracy"]) <= 1 and low >= 0
                assert 0 <= metrics[split]["loss"] < float("inf")


# Models and weights

CARD = {"classes": ("cat", "dog"), "image_size": 32, "temperature": 1.5}
IMAGES = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype(np.float32)
PARTS = {"config.json": "config", "catsdogs.json": "card", "model.weights.h5": "weights"}


@pytest.fixture(scope="module")
def honest(place):
    """A file with a small model."""
    inputs = keras.Input((32, 32, 3), name="image")
    x = layers.Rescaling(1 / 255)(inputs)
    x = layers.Conv2D(2, 3, activation="relu")(x)
    x = layers.GlobalAveragePooling2D()(x)
    outputs = layers.Activation("sigmoid")(layers.Dense(1, name="logit")(x))
    save_model(keras.Model(inputs, outputs), place / "honest.keras", **CARD)
    return place / "honest.keras"


def predict(saved):
    # Not with `predict`: its generated modules would change what Hypothesis draws.
    return np.asarray(saved.model(IMAGES, training=False))


@settings(max_examples=2 * FEW)
@given(data=st.data(), part=st.sampled_from([None, *PARTS]))
def test_models(campaign, place, honest, data, part):
    """The archive is damaged, or a member of an archive that is right."""
    path, content = place / "other.keras", honest.read_bytes()
    if part is None:
        path.write_bytes(data.draw(damaged(content)))
    else:
        with zipfile.ZipFile(honest) as archive:
            member = archive.read(part)
        strategy = damaged(member) if part.endswith(".h5") else changed(json.loads(member))
        member = data.draw(strategy)
        edit_model(content, path, **{PARTS[part]: lambda _: member})
    with campaign.fault("random models: what was saved or one line"):
        saved = accepted(load_saved_model, path)
        if saved is None:
            return
        assert predict(saved).shape == (2, 1)
        assert all(name.isprintable() and "/" not in name for name in saved.classes)
        # All code in it is Keras's.
        assert all(type(one).__module__.startswith("keras.src.") for one in saved.model.layers)
        if part is None:
            np.testing.assert_array_equal(predict(saved), predict(load_saved_model(honest)))
        if part == "catsdogs.json":
            assert list(saved.classes) == json.loads(member)["classes"]


def small_weights():
    """Tensors of VGG16's layers, but small, and a file of them."""
    rng, buffer = np.random.default_rng(0), io.BytesIO()
    names = [f"block{b}_conv{n}" for b in range(1, 6) for n in range(1, 3 + (b > 2))]
    tensors = {name: [rng.normal(size=(1, 1, 2, 2)), rng.normal(size=2)] for name in names}
    with h5py.File(buffer, "w") as file:
        for name, (kernel, bias) in tensors.items():
            file[f"{name}/kernel"], file[f"{name}/bias"] = kernel, bias
    return tensors, buffer.getvalue()


@settings(max_examples=FEW)
@given(damaged(small_weights()[1]))
def test_damaged_weights(campaign, place, content):
    tensors, undamaged = small_weights()
    digest = digest_tensors(tensor for pair in tensors.values() for tensor in pair)
    fault = campaign.fault("random weights: the right tensors or one line")
    with pytest.MonkeyPatch.context() as patch, fault:
        patch.setattr(vgg16, "VGG16_DIGEST", digest)
        for data in (undamaged, content):
            (place / "weights.h5").write_bytes(data)
            found = accepted(load_vgg16_weights, place / "weights.h5")
            assert found or data is content
            for name, pair in (found or {}).items():
                assert all(map(np.array_equal, pair, tensors[name])) and len(found) == 13


# Command lines

GOOD = [
    ["--epochs", "3"], ["--learning-rate=1e-2"], ["--augmentation", "none"], ["--resume"],
    ["--preset", "textbook"], ["--run-dir", "a \x1b b"], ["--seed", "7"], ["--mixup", ".5"],
]  # fmt: skip
FLAGS = [f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(ScratchConfig)]
# Whatever bytes an argument may hold: any but zero.
TEXT = st.text(st.characters(min_codepoint=1, exclude_categories=["Cs"]), max_size=8)
WORDS = (
    st.sampled_from([*FLAGS, "--help", "-h", "-", "--", "-1", "1e400", "nan", "9" * 400, "\udcff"])
    | st.sampled_from(["", "a\nb", "\x1b[2J", "best"])
    | TEXT | st.integers().map(str) | st.floats().map(str)
    | st.tuples(st.sampled_from(FLAGS), TEXT).map("=".join)
)  # fmt: skip


@settings(max_examples=FEW)
@given(st.lists(st.sampled_from(GOOD), max_size=3), st.lists(WORDS, max_size=3))
def test_command_lines(campaign, good, others):
    words, trained, said = [*(word for flag in good for word in flag), *others], [], io.StringIO()

    def train(config, **paths):
        trained.append(config)
        raise InputError("the end")

    with (
        campaign.fault("random command lines: what was meant or one line"),
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO(), "utf-8")),
        contextlib.redirect_stderr(said),
    ):
        patch.setattr(scratch, "train_scratch", train)
        patch.setattr(sys, "argv", ["script.py", *words])
        with pytest.raises(SystemExit) as stop:
            cli.train_scratch()
        assert trained or others  # good flags are accepted
        if stop.value.code == 0:
            assert {"--help", "-h"} & set(others) and not said.getvalue()
            return
        (line,) = said.getvalue().splitlines()
        assert stop.value.code == 2 and line.isprintable()
        for config in trained:
            assert ScratchConfig(**dataclasses.asdict(config)) == config  # all within its range
            flags, preset = " ".join(words).replace("_", "-"), SCRATCH[config.preset]
            changed = changed_settings(dataclasses.asdict(preset), config)
            assert all(f"--{name.replace('_', '-')}" in flags for name in changed)
