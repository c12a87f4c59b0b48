"""A second backbone of three layers, in one record, to take through every stage."""

import keras
import numpy as np
from keras import layers

from catsdogs.models.backbones import Backbone

__all__ = ["TINY", "build_tiny"]


def build_tiny(image_size, weights=None):
    inputs = keras.Input((image_size, image_size, 3), name="image")
    x = layers.Rescaling(1 / 127.5, offset=-1, name="rescaling")(inputs)
    x = layers.Conv2D(4, 8, strides=8, activation="relu", name="conv1")(x)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.Conv2D(8, 3, padding="same", activation="relu", name="conv2")(x)
    network = keras.Model(inputs, x)
    rng = np.random.default_rng(0)

    def normal(*shape):
        return rng.normal(0, 0.3, shape).astype(np.float32)

    statistics = [1 + abs(normal(4)), normal(4), normal(4), 1 + abs(normal(4))]
    if weights != "none":
        network.get_layer("conv1").set_weights([normal(8, 8, 3, 4), normal(4)])
        network.get_layer("norm").set_weights(statistics)
        network.get_layer("conv2").set_weights([normal(3, 3, 4, 8), normal(8)])
    return network


TINY = Backbone(
    build_tiny,
    cut="norm",
    image_size=32,
    engine="tensorflow",
    num_parameters=1084,
    gflop=0.0,
    weights="drawn at random",
)
