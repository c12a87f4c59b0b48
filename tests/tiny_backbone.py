"""A second backbone of three layers, in one record, to take through every stage."""

import keras
import numpy as np
from keras import layers

from catsdogs.models.backbones import Backbone
from catsdogs.models.weights import digest_tensors

__all__ = ["TINY"]


def build_tiny(image_size):
    inputs = keras.Input((image_size, image_size, 3), name="image")
    x = layers.Rescaling(1 / 127.5, offset=-1)(inputs)
    x = layers.Conv2D(4, 8, strides=8, activation="relu", name="conv1")(x)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.Conv2D(8, 3, padding="same", activation="relu", name="conv2")(x)
    return keras.Model(inputs, x)


def load_tiny(path=None):
    rng = np.random.default_rng(0)

    def normal(*shape):
        return rng.normal(0, 0.3, shape).astype(np.float32)

    statistics = [1 + abs(normal(4)), normal(4), normal(4), 1 + abs(normal(4))]
    return {
        "conv1": [normal(8, 8, 3, 4), normal(4)],
        "norm": statistics,
        "conv2": [normal(3, 3, 4, 8), normal(8)],
    }


_TENSORS = [tensor for tensors in load_tiny().values() for tensor in tensors]

TINY = Backbone(
    build=build_tiny,
    load_weights=load_tiny,
    cut="norm",
    weights_digest=digest_tensors(_TENSORS),
    frozen_digest=digest_tensors(_TENSORS[:6]),
)
