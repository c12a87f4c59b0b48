"""A linear classifier whose prediction depends on every pixel, as a saved model."""

import keras
import numpy as np
from keras import layers

from catsdogs.models.model_file import load_saved_model, save_model

__all__ = ["SIZE", "save_pixel_model"]

SIZE = 16


def save_pixel_model(path, classes=("cat", "dog"), seed=0):
    """Saves the model; returns it as a `SavedModel`. With two classes it ends in a sigmoid."""
    units, activation = (1, "sigmoid") if len(classes) == 2 else (len(classes), "softmax")
    inputs = keras.Input((SIZE, SIZE, 3), name="image")
    x = layers.Flatten()(layers.Rescaling(1 / 128, offset=-1)(inputs))
    x = layers.Dense(units, name="logit")(x)
    model = keras.Model(inputs, layers.Activation(activation)(x))
    kernel = np.random.default_rng(seed).normal(0, 0.1, (SIZE * SIZE * 3, units))
    model.get_layer("logit").set_weights([kernel, np.zeros(units)])
    path.parent.mkdir(parents=True, exist_ok=True)
    save_model(model, path, classes=classes, image_size=SIZE, temperature=1.0)
    return load_saved_model(path)
