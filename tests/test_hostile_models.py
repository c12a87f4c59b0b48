"""Models and JSON files from strangers: nothing of theirs runs, and one line says what is wrong."""

import errno
import io
import json
import os
import re
import runpy
import sys
import zipfile

import h5py
import keras
import numpy as np
import pytest
from conftest import METRICS, ROOT
from hostile_files import edit_model, raw_zip
from PIL import Image

import results
from catsdogs.data.manifest import load_manifest
from catsdogs.errors import InputError
from catsdogs.fields import check_fields
from catsdogs.files import write_json
from catsdogs.inference import predict as prediction
from catsdogs.models import networks as models
from catsdogs.models.model_check import check_archive
from catsdogs.models.model_file import load_model, load_saved_model, save_model
from catsdogs.stages import environment
from catsdogs.stages import run as runs


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    """The bytes of an untrained model of cats and dogs at 48 pixels."""
    path = tmp_path_factory.mktemp("honest") / "model.keras"
    model = models.build_textbook_convnet(48)
    save_model(model, path, classes=("cat", "dog"), image_size=48, temperature=1)
    return path.read_bytes()


def layer(module, class_name, config, registered=None):
    """A change of a model's config: its rescaling becomes something else."""

    def change(content):
        for one in content["config"]["layers"]:
            if one["class_name"] == "Rescaling":
                one.update(module=module, class_name=class_name, registered_name=registered)
                one["config"] = {"name": one["config"]["name"], **config}
        return content

    return change


def setting(kind, **changes):
    """A change of a model's config: settings of all layers of a kind or a name."""

    def change(content):
        for one in content["config"]["layers"]:
            if kind in (one["class_name"], one["name"]):
                one["config"].update(changes)
        return content

    return change


def function(module, name):
    return {"class_name": "function", "module": module, "config": name, "registered_name": name}


def used_twice(content):
    content["config"]["layers"][1]["inbound_nodes"] *= 2
    return content


def in_training(content):
    content["config"]["layers"][1]["inbound_nodes"][0]["kwargs"]["training"] = True
    return content


def flat(content):
    """Without convolutions: an input as large as a layer of a million filters wants it."""
    del content
    return b"[" * 10**6


def weights(change):
    """A change of a model's weights: an HDF5 file that `change` made, given its first array."""

    def changed(data):
        buffer = io.BytesIO(data)
        with h5py.File(buffer, "r+") as file:
            found = []
            file.visititems(
                lambda name, item: found.append(name) if isinstance(item, h5py.Dataset) else None
            )
            change(file, found[0])
        return buffer.getvalue()

    return changed


def link(kind):
    def change(file, name):
        del file[name]
        file[name] = kind

    return weights(change)


def shaped(file, name):
    del file[name]
    file.create_dataset(name, (10**6, 10**6), "f4", chunks=(1000, 1000))


def outside(file, name):
    shape = file[name].shape
    del file[name]
    file.create_dataset(name, shape, "f4", external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)])


def virtual(file, name):
    shape = file[name].shape
    del file[name]
    layout = h5py.VirtualLayout(shape, "f4")
    layout[:] = h5py.VirtualSource("/tmp/other.h5", "data", shape)
    file.create_virtual_dataset(name, layout)


HARMFUL = {
    "a Lambda": (
        {"config": layer("keras.layers", "Lambda", {"function": {
            "class_name": "__lambda__", "config": {"code": "4wAAAA==", "defaults": None}}})},
        "'keras.layers' 'Lambda'",
    ),
    "a Lambda of a function that exists": (
        {"config": layer("keras.layers", "Lambda", {
            "function": function("keras.config", "enable_unsafe_deserialization")})},
        "'Lambda'",
    ),
    "a class of another module": (
        {"config": layer("os", "system", {"command": "touch harmed"})}, "'os' 'system'",
    ),
    "a registered class": (
        {"config": layer("builtins", "Evil", {}, registered="Custom>Evil")}, "'builtins' 'Evil'",
    ),
    "a known name from another module": (
        {"config": layer("subprocess", "Rescaling", {})}, "'subprocess' 'Rescaling'",
    ),
    "a known name that is registered as another": (
        {"config": layer("keras.layers", "Dropout", {"rate": 0.5}, registered="Custom>Dropout")},
        "'keras.layers' 'Dropout'",
    ),
    "a function for an activation": (
        {"config": setting("Conv2D", activation=function("os", "system"))}, "'os' 'function'",
    ),
    "a function deep in a layer": (
        {"config": setting("Dense", kernel_regularizer=[{"a": [function("os", "abort")]}])},
        "'os' 'function'",
    ),
    "code pickled by torch": (
        {"config": layer("keras.layers", "TorchModuleWrapper", {"module": "gASVAAAA"})},
        "'TorchModuleWrapper'",
    ),
    "a SavedModel elsewhere": (
        {"config": layer("keras.layers", "TFSMLayer", {"filepath": "/tmp/harm"})}, "'TFSMLayer'",
    ),
    "a vocabulary elsewhere": (
        {"config": layer("keras.layers", "StringLookup", {"vocabulary": "/etc/passwd"})},
        "'StringLookup'",
    ),
    "a lambda for a class name": (
        {"config": layer(None, "__lambda__", {"value": "x"})}, "'__lambda__'",
    ),
    "a class name that is none": ({"config": layer("keras", [], {})}, "'keras' '\\[\\]'"),
    "a config that is no config": ({"config": lambda content: [content]}, "damaged|contains"),
    "a config a million levels deep": ({"config": flat}, "damaged"),
    "a config that is not JSON": ({"config": lambda content: b"\x80\4"}, "damaged"),
    "a layer that wants a terabyte": (
        {"config": setting("logit", units=10**10)}, r"wants [\d,]{10,} weights and brings",
    ),
    "a layer of 10 to the 30 numbers": ({"config": setting("Dense", units=10**30)}, "damaged"),
    "a layer of no numbers": ({"config": setting("Dense", units=0)}, "damaged"),
    "another end": ({"config": setting("Activation", name="end", activation="relu")}, "sigmoid"),
    "a shift that is no number": ({"config": setting("Rescaling", offset={"a": 1})}, "damaged"),
    "a layer that computes with texts": (
        {"config": setting("MaxPooling2D", dtype="string")}, "damaged",
    ),
    "a layer that is used twice": ({"config": used_twice}, "is used in another way"),
    "a layer that goes on training": ({"config": in_training}, "is used in another way"),
    "weights in another": ({"weights": link(h5py.ExternalLink("/x.h5", "a"))}, "lie elsewhere"),
    "weights elsewhere in the file": ({"weights": link(h5py.SoftLink("/b"))}, "lie elsewhere"),
    "weights that are another file": ({"weights": weights(outside)}, "lie elsewhere"),
    "weights composed of other files": ({"weights": weights(virtual)}, "lie elsewhere"),
    "weights that claim a terabyte": ({"weights": weights(shaped)}, "claim to be larger"),
    "weights that are cut": ({"weights": lambda data: data[: len(data) // 2]}, "damaged"),
    "weights that are text": ({"weights": lambda data: b"no weights"}, "damaged"),
    "weights that are a pickle": ({"weights": lambda data: b"cos\nsystem\n(S'x'\ntR."}, "damaged"),
    "a bomb beside": ({"extra": [("assets/a", bytes(2**26))]}, "unpack to more than twice"),
    "a bomb for a card": ({"card": lambda card: b" " * 2**25}, "catsdogs.json is larger"),
}  # fmt: skip


@pytest.mark.parametrize("case", HARMFUL)
def test_harmful_models_are_refused(case, honest, campaign, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    changes, complaint = HARMFUL[case]
    path = edit_model(honest, tmp_path / "model.keras", **changes)
    with campaign.fault("a hostile model is refused in one line"):
        before = environment.peak_memory_mb()
        with pytest.raises(InputError, match=complaint) as caught:
            load_saved_model(path)
        assert str(caught.value).isprintable() and len(str(caught.value)) < 600
        assert [path.name for path in tmp_path.iterdir()] == ["model.keras"]
        assert environment.peak_memory_mb() - before < 300


def card(**changes):
    return lambda content: {**content, **changes}


CARDS = {
    "no object": lambda content: [content],
    "not JSON": lambda content: b"{",
    "deep": lambda content: b"[" * 10**6,
    "no classes": card(classes=[]),
    "one class": card(classes=["cat"]),
    "classes that are one": card(classes=["cat", "cat"]),
    "classes that are numbers": card(classes=[1, 2]),
    "classes in a text": card(classes="ab"),
    "classes with line breaks": card(classes=["cat\n", "dog"]),
    "half a character": card(classes=["\ud800", "dog"]),
    "a class that leads elsewhere": card(classes=["../cat", "dog"]),
    "negative size": card(image_size=-48),
    "size of a million": card(image_size=10**6),
    "size 10 to the 400": card(image_size=10**400),
    "size as text": card(image_size="48"),
    "size as truth": card(image_size=True),
    "temperature zero": card(temperature=0),
    "temperature NaN": card(temperature=float("nan")),
    "temperature infinite": card(temperature=float("inf")),
    "temperature null": card(temperature=None),
    "three classes": card(classes=["cat", "dog", "owl"]),
    "another size": card(image_size=64),
}


@pytest.mark.parametrize("case", CARDS)
def test_broken_cards_are_refused(case, honest, campaign, tmp_path):
    path = edit_model(honest, tmp_path / "model.keras", card=CARDS[case])
    with campaign.fault("a hostile model is refused in one line"):
        with pytest.raises(InputError) as caught:
            load_saved_model(path)
        assert str(caught.value).isprintable() and len(str(caught.value)) < 600


def test_broken_archives_are_no_models(honest, campaign, tmp_path):
    encrypted = {"name": b"catsdogs.json", "data": b"x" * 30, "flags": 1}
    contents = [b"", b"text", honest[:5000], honest[5000:], raw_zip([]), raw_zip([encrypted])]
    for content in contents:
        path = tmp_path / "model.keras"
        path.write_bytes(content)
        with campaign.fault("a hostile model is refused in one line"):
            with pytest.raises(InputError) as caught:
                load_saved_model(path)
            assert str(caught.value).isprintable()


def test_weights_that_are_no_numbers(honest, campaign, tmp_path):
    def spoil(file, name):
        file["layers/dense_1/vars/0"][...] = np.nan

    path = edit_model(honest, tmp_path / "model.keras", weights=weights(spoil))
    Image.new("RGB", (48, 48)).save(tmp_path / "grey.png")
    with campaign.fault("a hostile model is refused in one line"):
        code, message = script("predict.py", path, tmp_path / "grey.png")
        assert code == 2 and "its weights are damaged" in message


def script(name, *words):
    """Runs a script within this process, which has TensorFlow; returns its code and last words."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as stop:
        patch.setattr(sys, "argv", [name, *map(str, words)])
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
        patch.setattr(sys, "stderr", stderr := io.StringIO())
        runpy.run_path(str(ROOT / "scripts" / name), run_name="__main__")
    return stop.value.code, stderr.getvalue()


@pytest.fixture
def stranger(honest, data_dir, tmp_path):
    """A run folder on this data set whose model holds a Lambda."""
    digest = load_manifest(data_dir).digest
    metrics = {**METRICS, "stage": "feature_extract", "dataset_digest": digest}
    write_json(tmp_path / "run" / "metrics.json", metrics)
    config = {"stage": "feature_extract", "data_dir": str(data_dir), "smoke": False}
    write_json(tmp_path / "run" / "config.json", config)
    changes, _ = HARMFUL["a Lambda"]
    edit_model(honest, tmp_path / "run" / "model.keras", **changes)
    return tmp_path / "run"


def test_every_command_refuses(stranger, data_dir, campaign, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    photo = next((data_dir / "validation").rglob("*.png"))
    commands = {
        "predict.py": (stranger, photo),
        "explain.py": (stranger, photo),
        "export.py": (stranger, "--pictures", photo),
        "evaluate.py": (stranger,),
        "finetune.py": ("--start", stranger, "--data-dir", data_dir, "--run-dir", tmp_path / "new"),
    }
    for name, words in commands.items():
        with campaign.fault("a hostile model is refused in one line"):
            code, message = script(name, *words)
            assert code == 2, message
            line = message.splitlines()[-1]  # after the progress of decoding the pictures
            assert line.startswith(f"{name}: Expected a model as this project makes them")


def test_only_one_place_loads_models():
    """The demo loads when it is asked: by the same function, as do all that come later."""
    for path in (ROOT / "src").rglob("*.py"):
        found = re.findall(r"keras\.\w*\.?load_model|deserialize_keras_object", path.read_text())
        assert not found or path.stem in ("saved_model", "model_check"), path


def test_tampered_frozen_blocks_do_not_reach_the_cache(campaign, vgg16_weights, data_dir, tmp_path):
    base = models.build_vgg16_base(48, "max", vgg16_weights)
    kernel, bias = base.get_layer("block2_conv1").get_weights()
    base.get_layer("block2_conv1").set_weights([kernel + 1e-7, bias])
    head = models.build_head(base.output.shape[1:], 4, 0.0, normalize=False, num_classes=2)
    model = models.build_vgg16_classifier(base, head)
    run_dir = tmp_path / "run"
    digest = load_manifest(data_dir).digest
    metrics = {**METRICS, "stage": "feature_extract", "dataset_digest": digest}
    write_json(run_dir / "metrics.json", metrics)
    config = {"stage": "feature_extract", "data_dir": str(data_dir), "smoke": False}
    write_json(run_dir / "config.json", config)
    path = run_dir / "model.keras"
    save_model(model, path, classes=("cat", "dog"), image_size=48, temperature=1)
    with campaign.fault("a hostile model is refused in one line"):
        code, message = script("evaluate.py", run_dir)
        assert code == 2 and "block2_conv1" in message
        assert not (data_dir / "features").exists()


# JSON


def every_change(content, path=()):
    """Yields copies of JSON content in which one value is another or missing."""
    others = (None, True, -1, 0.5, float("nan"), float("inf"), 10**400, "x\n", "../x", [], {}, [{}])
    items = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in list(items):
        for other in others:
            yield replaced(content, [*path, key], other)
        if isinstance(value, (dict, list)):
            for changed in every_change(value):
                yield replaced(content, [key], changed)
    if isinstance(content, dict):
        for key in content:
            yield {name: value for name, value in content.items() if name != key}


def replaced(content, path, value):
    copy = dict(content) if isinstance(content, dict) else list(content)
    copy[path[0]] = value if len(path) == 1 else replaced(copy[path[0]], path[1:], value)
    return copy


def test_every_change_of_a_runs_files_is_read_or_refused(campaign, tmp_path):
    config = {"stage": "scratch", "data_dir": "data/x", "smoke": False}
    metrics = {**METRICS, "test": METRICS["validation"]}
    write_json(tmp_path / "config.json", config)
    write_json(tmp_path / "metrics.json", metrics)
    assert runs.load_run(tmp_path) == (config, metrics)
    for name, content in (("config.json", config), ("metrics.json", metrics)):
        for changed in every_change(content):
            (tmp_path / name).write_text(json.dumps(changed))
            with campaign.fault("a damaged JSON file is read or refused in one line"):
                try:
                    found = runs.load_run(tmp_path)
                except InputError as error:
                    assert str(error).isprintable() and name in str(error)
                else:  # what nobody reads, or what may be so
                    assert 0 <= found[1]["validation"]["accuracy"] <= 1
                    assert len(set(found[1]["classes"])) >= 2 and found[1]["wall_seconds"] >= 0
        write_json(tmp_path / name, content)


TEXTS = (b"", b"\x80\x04\x95", b"\xff\xfe{\0}\0", b"[" * 200_000, b'{"a":' * 200_000, b"7" * 5000,
         b"NaN", b"null", b"{} {}", b'{"stage": "\\ud800"}')  # fmt: skip


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_what_is_no_json_is_refused_everywhere(text, campaign, tmp_path, monkeypatch):
    run_dir = tmp_path / "run"
    write_json(run_dir / "config.json", {"stage": "scratch", "data_dir": "x", "smoke": False})
    write_json(run_dir / "metrics.json", METRICS)
    root = tmp_path / "root"
    evidence = root / "results" / "tiny" / "run" / "metrics.json"
    write_json(evidence, {**METRICS, "test": METRICS["validation"]})
    for name in ("benchmark.json", "growth.json"):
        (root / "results" / name).write_bytes(text)
    readers = {
        run_dir / "config.json": lambda: runs.load_run(run_dir),
        run_dir / "metrics.json": lambda: runs.load_run(run_dir),
        run_dir / "manifest.json": lambda: load_manifest(run_dir),
        run_dir / "history.csv": lambda: runs.read_history(run_dir),
        root / "results" / "benchmark.json": lambda: results.update(root),
        evidence: lambda: results.summarize(root / "results"),
    }
    for path, read in readers.items():
        honest = path.read_bytes() if path.exists() else None
        path.write_bytes(text)
        with campaign.fault("a damaged JSON file is read or refused in one line"):
            with pytest.raises(InputError) as caught:
                read()
            assert str(caught.value).isprintable() and len(str(caught.value)) < 700
        if honest:
            path.write_bytes(honest)


def test_evidence_that_leads_elsewhere_is_refused(campaign, tmp_path):
    """A data set's name becomes a folder, and that folder is replaced."""
    run_dir = tmp_path / "run"
    metrics = {**METRICS, "test": METRICS["validation"], "dataset": "../../precious"}
    write_json(run_dir / "config.json", {"stage": "scratch", "data_dir": "x", "smoke": False})
    write_json(run_dir / "metrics.json", metrics)
    (tmp_path / "precious" / "run").mkdir(parents=True)
    with campaign.fault("a damaged JSON file is read or refused in one line"):
        with pytest.raises(InputError, match=r"dataset is '../../precious'"):
            results.add_runs([run_dir], tmp_path / "a" / "results")
        assert (tmp_path / "precious" / "run").exists()


@pytest.mark.parametrize("name", ["evaluate.py", "plot_history.py", "update_results.py"])
def test_commands_say_one_line_of_damaged_runs(name, campaign, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_json(tmp_path / "run" / "config.json", {"stage": 1, "data_dir": "x", "smoke": False})
    write_json(tmp_path / "run" / "metrics.json", METRICS)
    with campaign.fault("a damaged JSON file is read or refused in one line"):
        code, message = script(name, "run")
        assert code == 2 and len(message.splitlines()) == 1
        assert "config.json" in message and "stage is 1, not one of scratch" in message


def test_what_does_not_fit_is_named():
    table = {"a": [{"b?": {"c": check_fields}}]}
    with pytest.raises(ValueError, match=r"^the content lacks a$"):
        check_fields({}, table)
    with pytest.raises(ValueError, match=r"^a\[1\] is 'x', not an object$"):
        check_fields({"a": [{}, "x"]}, table)
    with pytest.raises(ValueError, match=r"^a\[0\]\.b lacks c$"):
        check_fields({"a": [{"b": {}}]}, table)


def test_keras_reads_what_is_looked_through(honest, tmp_path):
    """Of two members of one name, both take the last."""
    path = tmp_path / "model.keras"
    path.write_bytes(honest)
    evil = layer("keras.layers", "Lambda", {})
    with zipfile.ZipFile(path) as archive:
        config = evil(json.loads(archive.read("config.json")))
    with pytest.warns(UserWarning), zipfile.ZipFile(path, "a") as archive:
        archive.writestr("config.json", json.dumps(config))
    with pytest.raises(InputError, match="Lambda"):
        load_saved_model(path)


def test_a_full_disk_is_not_the_models_fault(honest, tmp_path, monkeypatch):
    (tmp_path / "model.keras").write_bytes(honest)

    def fill(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(keras.saving, "load_model", fill)
    with pytest.raises(OSError, match="No space left"):
        load_model(tmp_path)


@pytest.mark.parametrize("shape", [(1024, 1024, 3), (None, None, 3)])
@pytest.mark.parametrize("flips", [0, 20])
def test_layers_that_take_all_memory_together_are_refused(shape, flips, campaign, tmp_path):
    inputs = x = keras.Input(shape)
    for _ in range(21 - flips):
        x = keras.layers.Conv2D(64, 1)(x)
    for _ in range(flips):  # an operation, no layer
        x = keras.ops.flip(x, axis=-1)
    x = keras.layers.GlobalAveragePooling2D()(x)
    outputs = keras.layers.Activation("sigmoid")(keras.layers.Dense(1, name="logit")(x))
    path = tmp_path / "model.keras"
    model = keras.Model(inputs, outputs)
    save_model(model, path, classes=("cat", "dog"), image_size=1024, temperature=1)
    assert path.stat().st_size < 2**20
    with (
        campaign.fault("a stranger's model that takes all memory is refused"),
        pytest.raises(InputError, match="numbers, too much to hold"),
    ):
        load_saved_model(path)


def test_ones_own_models_are_not_refused_at_any_size(vgg16_weights, tmp_path):
    card = {"classes": ("cat", "dog"), "temperature": 1}
    base = models.build_vgg16_base(2048, "average", vgg16_weights)
    head = models.build_head(base.output.shape[1:])
    for model, side, most in (
        (models.build_vgg16_classifier(base, head), 2048, 2**31),
        (models.build_residual_convnet(), 2048, 2**31),
        (models.build_residual_convnet(), 224, prediction._MAX_NUMBERS // 16),
    ):
        save_model(model, tmp_path / "model.keras", **card, image_size=side)
        with zipfile.ZipFile(tmp_path / "model.keras") as archive:
            size = (tmp_path / "model.keras").stat().st_size
            assert 10**6 < check_archive(archive, size, side) < most
