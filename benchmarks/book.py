"""The second edition's own way to train, timed: what this project's seconds are compared with."""

import functools
import math
import pathlib
import statistics
import timeit

import keras

from catsdogs.data.manifest import load_manifest
from catsdogs.models import backbones

__all__ = ["time_book"]

_BATCH = 32
_seconds = functools.partial(timeit.timeit, number=1)
# Convnet with augmentation; frozen base with augmentation, run in every epoch; last block thawed.
_EPOCHS = {"scratch": 100, "feature_extract": 50, "finetune": 30}


def time_book(stage, data_dir, image_size, steps):
    """A few steps of the second edition's own way, scaled to its epochs.

    Files are decoded anew in every epoch, the random layers stand in the model, the frozen base
    runs in every epoch, all in float32.

    Args:
        stage: `"scratch"`, `"feature_extract"` or `"finetune"`.
        data_dir: A prepared data set.
        image_size: Side of the images, 180 in the book.
        steps: Training steps to time, in three turns; half as many validation steps.

    Returns:
        Seconds a training step, all turns and their median; seconds an epoch, and of all epochs.

    Reference:
        Chollet, *Deep Learning with Python*, 2nd edition (2021), chapter 8.
    """
    keras.utils.set_random_seed(0)
    sizes = load_manifest(data_dir).sizes
    train, validation = (
        keras.utils.image_dataset_from_directory(
            pathlib.Path(data_dir) / split, image_size=(image_size, image_size),
            batch_size=_BATCH, verbose=False,
        ) for split in ("train", "validation")
    )  # fmt: skip
    layers = keras.layers
    inputs = keras.Input((image_size, image_size, 3))
    x = layers.RandomFlip("horizontal")(inputs)
    x = layers.RandomRotation(0.1)(x)
    x = layers.RandomZoom(0.2)(x)
    if stage == "scratch":
        x = layers.Rescaling(1 / 255)(x)
        for filters in (32, 64, 128, 256):
            x = layers.Conv2D(filters, 3, activation="relu")(x)
            x = layers.MaxPooling2D(2)(x)
        x = layers.Conv2D(256, 3, activation="relu")(x)
        x = layers.Dropout(0.5)(layers.Flatten()(x))
    else:
        conv_base = backbones.build_base("vgg16", image_size)
        backbones.freeze(conv_base)
        if stage == "finetune":
            backbones.unfreeze_after(conv_base, "block4_pool")
        x = layers.Dense(256)(layers.Flatten()(conv_base(x)))
        x = layers.Dropout(0.5)(x)
    model = keras.Model(inputs, layers.Dense(1, activation="sigmoid")(x))
    model.compile("rmsprop", "binary_crossentropy", metrics=["accuracy"])

    def fit(number):
        model.fit(train.repeat(), steps_per_epoch=number, shuffle=False, verbose=0)

    def validate(number):
        model.evaluate(validation.repeat(), steps=number, verbose=0)

    fit(2), validate(2)
    half = max(1, steps // 2)
    turns = [
        (_seconds(lambda: fit(steps)) / steps, _seconds(lambda: validate(half)) / half)
        for _ in range(3)
    ]
    step, validation_step = (statistics.median(column) for column in zip(*turns, strict=True))
    epoch = step * math.ceil(sizes["train"] / _BATCH)
    epoch += validation_step * math.ceil(sizes["validation"] / _BATCH)
    return {
        "image_size": image_size,
        "timed_steps": steps,
        "seconds_a_step": round(step, 3),
        "seconds_a_step_turns": [round(seconds, 3) for seconds, _ in turns],
        "seconds_an_epoch": round(epoch, 1),
        "epochs": _EPOCHS[stage],
        "seconds_scaled": round(epoch * _EPOCHS[stage]),
    }
