"""What a classifier sees: activations, filters, and where in a picture its answer comes from.

Every function takes a classifier of `models`, from scratch or VGG16, and images as it expects them:
uint8 or float32 (n, size, size, 3) in [0, 255], RGB. They return numpy arrays; `explain_plot` draws
them.
"""

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from catsdogs.errors import InputError
from catsdogs.models.convnets import build_logits

__all__ = [
    "activations",
    "grad_cam",
    "maximize_filters",
    "occlusion_sensitivity",
    "rectified_layers",
    "strongest_channels",
]

_BATCH = 32  # images a forward pass
_OCTAVES = 3
_OCTAVE_SCALE = 1.4
_STEPS = 20  # of gradient ascent, an octave
_STEP_SIZE = 5.0  # grey levels, root mean square over an image
_JITTER = 8  # pixels


def rectified_layers(model, image_size):
    """The deepest layer with a ReLU of every resolution: one row of a look inside.

    Args:
        model: A classifier.
        image_size: Side of the images it gets, in pixels.

    Returns:
        Names of layers, from the finest to the coarsest feature map.

    Raises:
        InputError: If there is none.
    """
    layers = [
        layer
        for layer in model.layers
        if getattr(layer, "activation", None) is keras.activations.relu
        and len(layer.output.shape) == 4
    ]
    if not layers:
        raise InputError("Expected a model with convolutions and ReLU, received one without.")
    # A convnet that takes any size knows its feature maps' sizes only for a given one.
    inside = keras.Model(model.input, {layer.name: layer.output for layer in layers})
    maps = inside.compute_output_spec(keras.KerasTensor((1, image_size, image_size, 3)))
    deepest = {maps[layer.name].shape[1]: layer.name for layer in layers}
    return [deepest[side] for side in sorted(deepest, reverse=True)]


def activations(model, images, layer_names):
    """Feature maps of some layers.

    Args:
        model: A classifier.
        images: uint8 or float32 (n, size, size, 3) in [0, 255].
        layer_names: Names of layers with a feature map.

    Returns:
        `{name: float32 (n, height, width, channels)}`.
    """
    inside = keras.Model(model.input, {name: model.get_layer(name).output for name in layer_names})
    # Called, not predicted with: a graph traced for a model that is used once pays nothing back.
    batches = [inside(batch, training=False) for batch in _batches(images)]
    return {
        name: np.concatenate([tf.cast(maps[name], tf.float32).numpy() for maps in batches])
        for name in layer_names
    }


def strongest_channels(maps, number):
    """The channels that respond most on average, strongest first.

    Args:
        maps: float32 (n, height, width, channels), from `activations`.
        number: How many, at most.

    Returns:
        A list of int.
    """
    return np.argsort(-maps.mean(axis=(0, 1, 2)), kind="stable")[:number].tolist()


def maximize_filters(model, layer_name, channels, *, size=128, seed=0):
    """Images that make filters respond as strongly as can be, by gradient ascent.

    Starts from noise at a small size, climbs, enlarges the image and climbs on; shifting it by a
    few pixels before each step keeps out the fine noise that no photograph has.

    Args:
        model: A classifier.
        layer_name: Name of a layer with a feature map.
        channels: Which of its channels.
        size: Side of the images, in pixels, 48 at least.
        seed: Decides the noise and the shifts.

    Returns:
        uint8 (len(channels), size, size, 3), RGB.

    Reference:
        Erhan et al., "Visualizing higher-layer features of a deep network" (2009); Olah et al.,
        "Feature visualization" (2017) for jitter and growing size.
    """
    to_layer = keras.Model(model.input, model.get_layer(layer_name).output)

    def copy(layer):
        # Without the last ReLU, or a filter that noise leaves silent would have no slope to climb.
        config = layer.get_config()
        if layer.name == layer_name and "activation" in config:
            config["activation"] = "linear"
        return type(layer).from_config(config)

    any_size = keras.models.clone_model(
        to_layer, input_tensors=keras.Input((None, None, 3)), clone_function=copy
    )
    any_size.set_weights(to_layer.get_weights())
    wanted = tf.one_hot(channels, any_size.output.shape[-1])

    @tf.function(reduce_retracing=True)
    def climb(images):
        with tf.GradientTape() as tape:
            tape.watch(images)
            maps = tf.cast(any_size(images), tf.float32)
            response = tf.reduce_sum(tf.reduce_mean(maps, axis=(1, 2)) * wanted)
        slope = tape.gradient(response, images)
        rms = tf.sqrt(tf.reduce_mean(tf.square(slope), axis=(1, 2, 3), keepdims=True))
        return tf.clip_by_value(images + _STEP_SIZE * tf.math.divide_no_nan(slope, rms), 0, 255)

    rng = np.random.default_rng(seed)
    sides = [max(48, round(size / _OCTAVE_SCALE**octave)) for octave in reversed(range(_OCTAVES))]
    images = 127.5 + rng.normal(0, 8, (len(channels), sides[0], sides[0], 3))
    for side in (*sides[:-1], size):
        images = tf.image.resize(images, (side, side), "bicubic")
        for _ in range(_STEPS):
            shift = rng.integers(-_JITTER, _JITTER + 1, 2)
            images = tf.roll(climb(tf.roll(images, shift, axis=(1, 2))), -shift, axis=(1, 2))
    return np.clip(np.rint(images), 0, 255).astype(np.uint8)


def grad_cam(model, images, target=None):
    """Where the evidence for a class lies: gradient-weighted class activation maps.

    Taken at the deepest ReLU, which has seen the most and still knows where.

    Args:
        model: A classifier.
        images: uint8 or float32 (n, size, size, 3) in [0, 255].
        target: Index of the class, or `None` for the one that each image is predicted as.

    Returns:
        float32 (n, height, width) in [0, 1], as fine as the feature map; the strongest place of
        each image is 1, and an image without any evidence for the class is all 0.

    Reference:
        Selvaraju et al., "Grad-CAM" (2017).
    """
    deepest = model.get_layer(rectified_layers(model, images.shape[1])[-1]).output
    # Two models, so that no slope is computed for the convolutions.
    to_maps = keras.Model(model.input, deepest)
    to_logits = keras.Model(deepest, build_logits(model))
    found = []
    for batch in _batches(images):
        maps = to_maps(batch, training=False)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(maps)
            logits = to_logits(maps, training=False)
            evidence = _log_odds(logits, _targets(logits, target))
        slopes = tf.cast(tape.gradient(evidence, maps), tf.float32)
        weights = tf.reduce_mean(slopes, axis=(1, 2), keepdims=True)
        heat = tf.nn.relu(tf.reduce_sum(weights * tf.cast(maps, tf.float32), axis=-1))
        highest = tf.reduce_max(heat, axis=(1, 2), keepdims=True)
        found.append(tf.math.divide_no_nan(heat, highest).numpy())
    return np.concatenate(found)


def occlusion_sensitivity(model, image, target=None, *, positions=14, patch=0.2):
    """How much the evidence for a class falls when a part of the picture is hidden.

    A square of the picture's mean colour is laid over one place after the other.

    Args:
        model: A classifier.
        image: uint8 or float32 (size, size, 3) in [0, 255].
        target: Index of the class, or `None` for the one that it is predicted as.
        positions: Places along each side; their square is the number of forward passes.
        patch: Side of the square, as a share of the image's.

    Returns:
        float32 (positions, positions): fall of the class's log-odds, in nats, with the square
        centred at each place. Negative where hiding helps.

    Reference:
        Zeiler and Fergus, "Visualizing and understanding convolutional networks" (2014).
    """
    image = np.asarray(image, np.float32)
    size, mean = len(image), image.mean(axis=(0, 1))
    centres = (np.arange(positions) + 0.5) * size / positions
    low = np.maximum(0, np.rint(centres - patch * size / 2)).astype(int)
    high = np.rint(centres + patch * size / 2).astype(int)
    to_logits = keras.Model(model.input, build_logits(model))
    plain = to_logits(image[None], training=False)
    target = _targets(plain, target)
    falls = np.empty((positions, positions), np.float32)
    for row in range(positions):
        copies = np.repeat(image[None], positions, axis=0)
        for column, copy in enumerate(copies):
            copy[low[row] : high[row], low[column] : high[column]] = mean
        evidence = _log_odds(to_logits(copies, training=False), np.repeat(target, positions))
        falls[row] = _log_odds(plain, target) - evidence
    return falls


def _batches(images):
    for start in range(0, len(images), _BATCH):
        yield np.asarray(images[start : start + _BATCH], np.float32)


def _targets(logits, target):
    """Index of a class for each image, int (n,)."""
    if target is not None:
        return np.full(len(logits), target)
    if logits.shape[-1] == 1:
        return (np.asarray(logits)[:, 0] > 0).astype(int)
    return np.asarray(logits).argmax(axis=-1)


def _log_odds(logits, targets):
    """Log-odds of each image's class, (n,): unlike the probability it does not saturate."""
    logits = ops.cast(logits, "float32")
    if logits.shape[-1] == 1:
        return logits[:, 0] * ops.convert_to_tensor(2 * targets - 1, "float32")
    own = ops.one_hot(targets, logits.shape[-1])
    others = ops.logsumexp(ops.where(own > 0, -np.inf, logits), axis=-1)
    return ops.sum(own * logits, axis=-1) - others
