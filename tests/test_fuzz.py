"""Random damage to whatever is read: it is understood, or `InputError` says why not in one line.

`make torture` tries more than ten thousand cases, `make test` a few hundred. What was found stays
as an example, or as a test of its own beside the others of its kind.
"""

import contextlib
import functools
import importlib.util
import io
import json
import shutil
import sys

import numpy as np
import pytest
from conftest import METRICS, ROOT
from hostile_files import raw_zip
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from catsdogs import cli, config
from catsdogs.data import images
from catsdogs.data.manifest import load_manifest
from catsdogs.data.sources import open_source
from catsdogs.data.splits import prepare
from catsdogs.errors import InputError
from catsdogs.files import write_json
from catsdogs.stages import run as runs

MOST = settings.default.max_examples


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


@contextlib.contextmanager
def one_line():
    """Lets an `InputError` of one printable line pass, and nothing else."""
    try:
        yield
    except InputError as error:
        assert str(error).isprintable(), repr(str(error))
        assert len(str(error)) < 1500


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
    edits = st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), kinds, data), min_size=1, max_size=6
    )
    return edits.map(lambda found: _damage(content, found))


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
    try:
        copy = content.copy()
        copy[path[0]] = _replace(copy[path[0]], path[1:], value)
    except (AttributeError, KeyError, IndexError, TypeError):
        return content  # an earlier change took this place away
    return copy


def changed(content):
    """A strategy of JSON content in which one to three values are others."""

    def apply(changes):
        found = content
        for path, value in changes:
            found = _replace(found, path, value)
        return found

    paths = st.sampled_from(list(_paths(content)))
    return st.lists(st.tuples(paths, VALUES), min_size=1, max_size=3).map(apply)


def picture(seed, form="PNG", side=36, **options):
    noise = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((side, side), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


# Archives

PICTURES = [picture(seed) for seed in range(6)]
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
HONEST = [
    {"name": f"{label}/{index}.png".encode(), "data": PICTURES[3 * number + index]}
    for number, label in enumerate(("cat", "dog"))
    for index in range(3)
]


def try_archive(content, place):
    (place / "a.zip").write_bytes(content)
    shutil.rmtree(place / "data", ignore_errors=True)
    with one_line(), open_source(place / "a.zip") as source:
        prepare(source, place / "data", train=2, validation=2, test=2)
        assert load_manifest(place / "data").sizes == {"train": 2, "validation": 2, "test": 2}
    assert {path.name for path in place.iterdir()} <= {"a.zip", "data"}


@settings(max_examples=2 * MOST)
@given(st.lists(ENTRIES, max_size=4), st.sets(st.integers(0, 5), max_size=2))
def test_archives_with_false_headers(campaign, tmp_path_factory, entries, removed):
    place = tmp_path_factory.getbasetemp() / "fuzz-archives"
    place.mkdir(exist_ok=True)
    honest = [entry for index, entry in enumerate(HONEST) if index not in removed]
    with campaign.fault("random archives: read or refused in one line"):
        try_archive(raw_zip([*entries, *honest]), place)


@settings(max_examples=2 * MOST)
@given(damaged(raw_zip(HONEST)))
def test_damaged_archives(campaign, tmp_path_factory, content):
    place = tmp_path_factory.getbasetemp() / "fuzz-archives"
    place.mkdir(exist_ok=True)
    with campaign.fault("random archives: read or refused in one line"):
        try_archive(content, place)


# Pictures

EXIF = Image.Exif()
EXIF[0x0112], EXIF[0x010E] = 6, "a description"
FORMATS = {
    "JPEG": {"exif": EXIF}, "PNG": {"exif": EXIF}, "GIF": {}, "WEBP": {"exif": EXIF}, "BMP": {},
    "TIFF": {"compression": "tiff_lzw"},
}  # fmt: skip
FRAMES = {"save_all": True, "append_images": [Image.new("RGB", (36, 36), "red")]}
FILES = [picture(1, form, **options) for form, options in FORMATS.items()]
FILES += [picture(2, form, **FRAMES) for form in ("GIF", "WEBP", "TIFF", "PNG")]
FILES += [picture(3, "TIFF", compression=kind) for kind in (None, "packbits", "jpeg")]


@settings(max_examples=4 * MOST)
@given(st.sampled_from(FILES).flatmap(damaged), st.sampled_from([None, 16]))
def test_damaged_pictures(campaign, content, image_size):
    with (
        pytest.MonkeyPatch.context() as patch,
        campaign.fault("random pictures: decoded or refused"),
    ):
        patch.setattr(Image, "MAX_IMAGE_PIXELS", 10**6)  # the limit itself is tested elsewhere
        with one_line():
            pixels = images.decode_image(content, image_size)
            assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
            assert image_size is None or pixels.shape == (16, 16, 3)


# JSON and CSV

CONFIG = {"stage": "scratch", "data_dir": "data/x", "smoke": False}
HISTORY = b"epoch,loss,accuracy,val_loss,val_accuracy\n1,0.7,0.5,0.8,0.5\n2,0.6,0.6,0.7,0.5\n"
ENTRY = {
    "name": "train/cat/1.png", "sha256": "0" * 64, "bytes": 9, "width": 40, "height": 40,
    "class": "cat", "split": "train",
}  # fmt: skip
MANIFEST = {
    "format": 1, "dataset": "pets", "kind": "photographs", "classes": ["cat", "dog"],
    "splits": {"train": 1, "validation": 0, "test": 0}, "source": "0" * 64, "files": [ENTRY],
    "look_alikes": [["train/cat/1.png"]], "dropped": [{"name": "cat/2.png", "reason": "tiny"}],
}  # fmt: skip


def try_run(place):
    with one_line():
        settings_of_run, metrics = runs.load_run(place)
        assert isinstance(settings_of_run["data_dir"], str)
        print(*metrics["classes"], file=io.TextIOWrapper(io.BytesIO(), encoding="utf-8"))


def try_manifest(place):
    with one_line():
        manifest = load_manifest(place)
        assert len(manifest.digest) == 64 and len(manifest.describe().encode()) > 10


@settings(max_examples=MOST)
@given(changed({**METRICS, "test": METRICS["validation"]}), changed(CONFIG), st.booleans())
def test_changed_runs(campaign, place, metrics, changed_config, both):
    with campaign.fault("random JSON and CSV: read or refused in one line"):
        write_json(place / "metrics.json", metrics)
        write_json(place / "config.json", changed_config if both else CONFIG)
        try_run(place)


@settings(max_examples=2 * MOST)
@given(changed(MANIFEST))
def test_changed_manifests(campaign, place, manifest):
    with campaign.fault("random JSON and CSV: read or refused in one line"):
        write_json(place / "manifest.json", manifest)
        try_manifest(place)


@settings(max_examples=MOST)
@given(
    damaged(json.dumps(MANIFEST).encode()), damaged(json.dumps(METRICS).encode()), damaged(HISTORY)
)
def test_damaged_text(campaign, place, manifest, metrics, history):
    (place / "manifest.json").write_bytes(manifest)
    (place / "metrics.json").write_bytes(metrics)
    (place / "history.csv").write_bytes(history)
    write_json(place / "config.json", CONFIG)
    with campaign.fault("random JSON and CSV: read or refused in one line"):
        try_manifest(place)
        try_run(place)
        with one_line():
            found = runs.read_history(place)
            assert all(np.isfinite(values).all() for values in found.values())


# Command lines


def _flags(arguments):
    return [f"--{name.replace('_', '-')}" for name in arguments]


STAGES = {"scratch": config.SCRATCH, "features": config.FEATURE_EXTRACT, "tune": config.FINETUNE}
SCRIPTS = ("predict", "explain", "export", "evaluate", "plot_history", "demo", "sweep")
FLAGS = _flags({name for presets in STAGES.values() for name in vars(presets["best"])})
FLAGS += [
    "--help",
    "--preset",
    "--data-dir",
    "--resume",
    "--json",
    "--threshold",
    "--archive",
    "-",
    "--",
]
WORDS = (
    st.sampled_from(FLAGS)
    | st.sampled_from(
        ["0", "-1", "1e400", "nan", "inf", "9" * 400, "best", "", "\0", "\ud800", "a\nb"]
    )
    | st.text(max_size=8)
    | st.integers().map(str)
    | st.floats().map(str)
    | st.tuples(st.sampled_from(FLAGS), st.text(max_size=4)).map("=".join)
)


@functools.cache
def arguments_of(script):
    """The dataclass that a script's command line is parsed into."""
    path = ROOT / "scripts" / f"{script}.py"
    spec = importlib.util.spec_from_file_location(f"script_{script}", path)
    sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)  # tyro looks there
    spec.loader.exec_module(module)
    return module.Arguments


@settings(max_examples=MOST)
@example("scratch", ["\x1b"])  # reached the terminal as it was
@given(st.sampled_from([*STAGES, *SCRIPTS]), st.lists(WORDS, max_size=5))
def test_random_command_lines(campaign, name, words):
    with pytest.MonkeyPatch.context() as patch, campaign.fault("random command lines: one line"):
        patch.setattr(sys, "argv", ["script.py", *words])
        patch.setattr(sys, "stdout", io.StringIO())
        try:
            with one_line():
                if name in STAGES:
                    config.check(cli.parse_stage(STAGES[name], "Trains.")[0])
                else:
                    cli.parse(arguments_of(name), "Does something.")
        except SystemExit as stop:
            assert not stop.code and {"--help", "-h"} & set(words)
