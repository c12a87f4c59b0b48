"""The training code of *Deep Learning with Python*, timed: what this project is compared with.

As in chapter 8 of the second edition (F. Chollet, 2021): files are decoded in every epoch, the
random layers are part of the model, the frozen base runs in every epoch, all in float32. A few
steps are timed and scaled to the number of epochs in the textbook.
"""

import functools
import math
import pathlib
import statistics
import timeit

import keras
from keras import layers

from catsdogs.data.manifest import load_manifest
from catsdogs.models.backbones import BACKBONES, build_base, freeze, unfreeze_after

__all__ = ["EPOCHS", "time_textbook"]

# Convnet with augmentation; frozen base with augmentation; last block unfrozen.
EPOCHS = {"scratch": 100, "feature_extract": 50, "finetune": 30}
_BATCH_SIZE = 32


def time_textbook(stage, data_dir, image_size, steps):
    """Times one stage.

    Args:
        stage: A key of `EPOCHS`.
        data_dir: A prepared dataset.
        image_size: Side of the images, 180 in the textbook.
        steps: Training steps to time, three times over; half as many validation steps.

    Returns:
        A dictionary: median seconds of a training step, seconds of an epoch and of all epochs.
    """
    keras.utils.set_random_seed(0)
    train, validation = (
        keras.utils.image_dataset_from_directory(
            pathlib.Path(data_dir) / split,
            image_size=(image_size, image_size),
            batch_size=_BATCH_SIZE,
            verbose=False,
        )
        for split in ("train", "validation")
    )
    model = _build_model(stage, image_size)
    model.compile("rmsprop", "binary_crossentropy", metrics=["accuracy"])
    fit = functools.partial(model.fit, train.repeat(), shuffle=False, verbose=0)
    evaluate = functools.partial(model.evaluate, validation.repeat(), verbose=0)
    fit(steps_per_epoch=2)  # the first steps trace and allocate
    evaluate(steps=2)
    train_seconds, validation_seconds = [], []
    half = max(1, steps // 2)
    for _ in range(3):
        train_seconds.append(timeit.timeit(lambda: fit(steps_per_epoch=steps), number=1) / steps)
        validation_seconds.append(timeit.timeit(lambda: evaluate(steps=half), number=1) / half)
    step = statistics.median(train_seconds)
    sizes = load_manifest(data_dir).sizes
    epoch = step * math.ceil(sizes["train"] / _BATCH_SIZE)
    epoch += statistics.median(validation_seconds) * math.ceil(sizes["validation"] / _BATCH_SIZE)
    return {
        "image_size": image_size,
        "timed_steps": steps,
        "seconds_per_step": round(step, 3),
        "seconds_per_step_turns": [round(seconds, 3) for seconds in train_seconds],
        "seconds_per_epoch": round(epoch, 1),
        "epochs": EPOCHS[stage],
        "seconds": round(epoch * EPOCHS[stage]),
    }


def _build_model(stage, image_size):
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
        x = layers.Flatten()(x)
    else:
        conv_base = build_base("vgg16", image_size)
        freeze(conv_base)
        if stage == "finetune":
            unfreeze_after(conv_base, BACKBONES["vgg16"].cut)
        x = layers.Flatten()(conv_base(x))
        x = layers.Dense(256)(x)
    x = layers.Dropout(0.5)(x)
    return keras.Model(inputs, layers.Dense(1, activation="sigmoid")(x))
