"""What a classifier sees: activations, filters, and where in an image the evidence lies.

First the functions that compute arrays, then those that draw them, then `explain_pictures`, which
writes the figures to files. All take any classifier of this package, from scratch or on a
pretrained backbone, and images as it expects them: RGB, uint8 or float32 in [0, 255].
"""

import pathlib

import keras
import matplotlib
import numpy as np
import tensorflow as tf
from keras import layers, ops
from matplotlib.figure import Figure
from PIL import Image

from catsdogs.console import Progress
from catsdogs.data.images import decode_image
from catsdogs.errors import InputError
from catsdogs.evaluation.plots import STYLE, save_figure
from catsdogs.inference.predict import list_pictures, predict_images
from catsdogs.models.convnets import build_logits

__all__ = [
    "activations",
    "explain_pictures",
    "grad_cam",
    "maximize_filters",
    "occlusion_sensitivity",
    "overlay",
    "plot_activations",
    "plot_filters",
    "plot_heatmaps",
    "rectified_layers",
    "strongest_channels",
]

_RECTIFIERS = (
    keras.activations.relu,
    keras.activations.relu6,
    keras.activations.silu,
    keras.activations.gelu,
    keras.activations.hard_silu,
)

# Gradient ascent to the images that filters respond to most.
_OCTAVES = 3
_OCTAVE_SCALE = 1.4
_STEPS = 20  # an octave
_STEP_SIZE = 5.0  # grey levels, root mean square over an image
_JITTER = 8  # pixels

_CELL = 1.15  # inches, of a feature map or filter in a figure
_HEAT = "inferno"  # rises in brightness, so that it reads without colour too


def rectified_layers(model, image_size):
    """The deepest layer with a ReLU, or one of its relatives, of every resolution.

    Args:
        model: A classifier.
        image_size: Side of the images it gets, in pixels.

    Returns:
        Names of layers, from the finest to the coarsest feature map.

    Raises:
        InputError: If there is none.
    """
    found = [layer for layer in model.layers if len(layer.output.shape) == 4 and _rectifies(layer)]
    if not found:
        raise InputError("Expected a model with convolutions and ReLU, received one without.")
    # A convnet that takes any size knows the sizes of its feature maps only for a given one.
    inside = keras.Model(model.input, {layer.name: layer.output for layer in found})
    maps = inside.compute_output_spec(keras.KerasTensor((1, image_size, image_size, 3)))
    deepest = {maps[layer.name].shape[1]: layer.name for layer in found}
    if len(deepest) > 1:
        deepest.pop(1, None)  # squeeze-and-excitation, for one, has maps without positions
    return [deepest[side] for side in sorted(deepest, reverse=True)]


def _rectifies(layer):
    return isinstance(layer, layers.ReLU) or getattr(layer, "activation", None) in _RECTIFIERS


def activations(model, images, layer_names):
    """Computes the feature maps of some layers.

    Args:
        model: A classifier.
        images: uint8 or float32 (n, size, size, 3) in [0, 255].
        layer_names: Names of layers with a feature map.

    Returns:
        `{name: float32 (n, height, width, channels)}`.
    """
    inside = keras.Model(model.input, {name: model.get_layer(name).output for name in layer_names})
    # Called instead of `predict`: compiling a model that is used once takes longer than it saves.
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
    """Finds images that make filters respond as strongly as possible, by gradient ascent.

    The ascent starts from noise at a small size and continues at larger ones. Shifting the image by
    a few pixels before each step keeps out high-frequency noise, which no photograph has.

    Args:
        model: A classifier.
        layer_name: Name of a layer with a feature map.
        channels: Which of its channels.
        size: Side of the images, in pixels, 48 at least.
        seed: Seed of the noise and the shifts.

    Returns:
        uint8 (len(channels), size, size, 3), RGB.

    Reference:
        Erhan et al., "Visualizing higher-layer features of a deep network" (2009); Olah et al.,
        "Feature visualization" (2017) for jitter and growing size.
    """
    to_layer = keras.Model(model.input, model.get_layer(layer_name).output)

    def copy(layer):
        # Without the last ReLU, or a filter that is silent on noise would have no gradient.
        if layer.name == layer_name and _rectifies(layer):
            if isinstance(layer, layers.ReLU):
                return layers.Activation("linear", name=layer.name)
            return type(layer).from_config({**layer.get_config(), "activation": "linear"})
        return type(layer).from_config(layer.get_config())

    any_size = keras.models.clone_model(
        to_layer, input_tensors=keras.Input((None, None, 3)), clone_function=copy
    )
    any_size.set_weights(to_layer.get_weights())
    wanted = tf.one_hot(channels, any_size.output.shape[-1])

    @tf.function(reduce_retracing=True)
    def ascend(images):
        with tf.GradientTape() as tape:
            tape.watch(images)
            maps = tf.cast(any_size(images), tf.float32)
            response = tf.reduce_sum(tf.reduce_mean(maps, axis=(1, 2)) * wanted)
        gradient = tape.gradient(response, images)
        rms = tf.sqrt(tf.reduce_mean(tf.square(gradient), axis=(1, 2, 3), keepdims=True))
        return tf.clip_by_value(images + _STEP_SIZE * tf.math.divide_no_nan(gradient, rms), 0, 255)

    rng = np.random.default_rng(seed)
    sides = [max(48, round(size / _OCTAVE_SCALE**octave)) for octave in reversed(range(_OCTAVES))]
    images = 127.5 + rng.normal(0, 8, (len(channels), sides[0], sides[0], 3))
    for side in (*sides[:-1], size):
        images = tf.image.resize(images, (side, side), "bicubic")
        for _ in range(_STEPS):
            shift = rng.integers(-_JITTER, _JITTER + 1, 2)
            images = tf.roll(ascend(tf.roll(images, shift, axis=(1, 2))), -shift, axis=(1, 2))
    return np.clip(np.rint(images), 0, 255).astype(np.uint8)


def grad_cam(model, images, target=None):
    """Gradient-weighted class activation maps: where the evidence for a class lies.

    Taken at the deepest ReLU, whose feature map is the most abstract that still has positions.

    Args:
        model: A classifier.
        images: uint8 or float32 (n, size, size, 3) in [0, 255].
        target: Index of the class, or `None` for the one predicted for each image.

    Returns:
        float32 (n, height, width) in [0, 1], of the feature map's size. The maximum of each image
        is 1; an image without any evidence for the class is all 0.

    Reference:
        Selvaraju et al., "Grad-CAM" (2017).
    """
    deepest = model.get_layer(rectified_layers(model, images.shape[1])[-1]).output
    # One model for both, since the layer may lie on one of several paths, as in a residual block.
    to_both = keras.Model(model.input, [deepest, build_logits(model)])
    heatmaps = []
    for batch in map(tf.constant, _batches(images, 4)):  # the tape keeps all activations
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(batch)
            maps, logits = to_both(batch, training=False)
            evidence = _log_odds(logits, _targets(logits, target))
        gradients = tf.cast(tape.gradient(evidence, maps), tf.float32)
        weights = tf.reduce_mean(gradients, axis=(1, 2), keepdims=True)
        heat = tf.nn.relu(tf.reduce_sum(weights * tf.cast(maps, tf.float32), axis=-1))
        highest = tf.reduce_max(heat, axis=(1, 2), keepdims=True)
        heatmaps.append(tf.math.divide_no_nan(heat, highest).numpy())
    return np.concatenate(heatmaps)


def occlusion_sensitivity(model, image, target=None, *, positions=14, patch=0.2):
    """How much the evidence for a class falls when a part of the image is hidden.

    A square of the image's mean colour covers one position after the other.

    Args:
        model: A classifier.
        image: uint8 or float32 (size, size, 3) in [0, 255].
        target: Index of the class, or `None` for the predicted one.
        positions: Positions along each side; their square is the number of forward passes.
        patch: Side of the square, as a fraction of the image's.

    Returns:
        float32 (positions, positions): fall of the class's log-odds, in nats, with the square
        centred at each position. Negative where hiding helps.

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


def _batches(images, size=32):
    for start in range(0, len(images), size):
        yield np.asarray(images[start : start + size], np.float32)


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


def overlay(image, heatmap, strength=0.6):
    """Lays a heat map over an image.

    Args:
        image: uint8 (height, width, 3), RGB.
        heatmap: float32 of any height and width, in [0, 1].
        strength: Opacity of the heat map where it is 1; where it is 0 the image shows.

    Returns:
        uint8 (height, width, 3).
    """
    height, width = image.shape[:2]
    smooth = Image.fromarray(np.asarray(heatmap, np.float32)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    heat = np.clip(np.asarray(smooth), 0, 1)[..., None]
    colour = 255 * matplotlib.colormaps[_HEAT](heat[..., 0])[..., :3]
    # The image is paler where there is no heat, so that the colours stand out on any image.
    pale = image.mean(axis=-1, keepdims=True) * 0.5 + image * 0.5
    mixed = pale * (1 - strength * heat) + colour * strength * heat
    return np.rint(mixed).astype(np.uint8)


@matplotlib.rc_context(STYLE)
def plot_activations(image, maps, channels):
    """Draws one row of feature maps per layer, beside the image that they belong to.

    Args:
        image: uint8 (height, width, 3).
        maps: `{layer name: float32 (height, width, channels)}`.
        channels: `{layer name: channels to show}`, int.

    Returns:
        `matplotlib.figure.Figure`. Every feature map has its own scale, from 0 to its maximum.
    """
    columns = max(len(shown) for shown in channels.values())
    titles = [
        "{}: {} by {}, {} channels".format(name, *values.shape) for name, values in maps.items()
    ]
    figure, rows = _rows(titles, columns, image)
    for axes, (name, values) in zip(rows, maps.items(), strict=True):
        for each, channel in zip(axes, channels[name], strict=False):
            each.imshow(values[..., channel], cmap="viridis", vmin=0, interpolation="nearest")
            each.set_title(f"{channel}", fontsize=7, weight="normal", loc="right", pad=2)
    return figure


@matplotlib.rc_context(STYLE)
def plot_filters(filters, channels):
    """Draws one row of filters per layer: the images that they respond to most.

    Args:
        filters: `{layer name: uint8 (n, size, size, 3)}`.
        channels: `{layer name: n ints}`, the numbers above the images.

    Returns:
        `matplotlib.figure.Figure`.
    """
    columns = max(len(images) for images in filters.values())
    figure, rows = _rows(list(filters), columns)
    for axes, (name, images) in zip(rows, filters.items(), strict=True):
        for each, image, channel in zip(axes, images, channels[name], strict=False):
            each.imshow(image)
            each.set_title(f"{channel}", fontsize=7, weight="normal", loc="right", pad=2)
    return figure


def _rows(titles, columns, image=None):
    """A figure with one titled row of axes per layer; an image, if given, stands to their left."""
    left = 0 if image is None else 1.9  # inches
    figure = Figure(
        figsize=(left + _CELL * columns, (_CELL + 0.42) * len(titles)), layout="constrained"
    )
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0.02, hspace=0.02)
    grid = figure
    if image is not None:
        beside, grid = figure.subfigures(1, 2, width_ratios=(left, _CELL * columns))
        axes = beside.subplots()
        axes.imshow(image)
        axes.axis("off")
        axes.set_anchor("N")
    rows = []
    for part, title in zip(
        grid.subfigures(len(titles), 1, squeeze=False).flat, titles, strict=True
    ):
        part.suptitle(title, x=0.005, ha="left", fontsize=9)
        rows.append(part.subplots(1, columns, squeeze=False)[0])
        for axes in rows[-1]:
            axes.axis("off")
    return figure, rows


@matplotlib.rc_context(STYLE)
def plot_heatmaps(image, gradients, falls, title):
    """Draws an image, its Grad-CAM and its occlusion map side by side.

    Args:
        image: uint8 (height, width, 3).
        gradients: float32 in [0, 1], from `grad_cam`.
        falls: float32, in nats, from `occlusion_sensitivity`.
        title: The prediction, in short.

    Returns:
        `matplotlib.figure.Figure`.
    """
    height, width = image.shape[:2]
    side = 3.2  # inches
    figure = Figure(figsize=(3 * side, side * height / width + 0.45), layout="constrained")
    most = max(float(falls.max()), 1e-6)
    occlusion = overlay(image, np.clip(falls / most, 0, 1))
    panels = (
        (image, title),
        (overlay(image, gradients), "Grad-CAM: evidence for it"),
        (occlusion, f"Occlusion: log-odds fall by up to {most:.1f}"),
    )
    for axes, (pixels, name) in zip(figure.subplots(1, 3), panels, strict=True):
        axes.imshow(pixels)
        axes.set_title(name, fontsize=10)
        axes.axis("off")
    return figure


def explain_pictures(saved, paths, folder, *, layer_names=(), target=None, num_channels=10):
    """Writes `filters.png`, and for each picture `NAME-heatmaps.jpg` and `NAME-activations.png`.

    Args:
        saved: A `SavedModel`.
        paths: Pictures, as `list_pictures` takes them.
        folder: Folder to write to.
        layer_names: Layers to show, or none for those of `rectified_layers`.
        target: Name of the class whose evidence is shown, or `None` for each picture's prediction.
        num_channels: Channels to show of each layer: those that respond most to the pictures.

    Returns:
        The files that were written, a list of `Path`.

    Raises:
        InputError: If there is no picture, one cannot be read, or there is no such layer or class.
    """
    files = list(list_pictures(paths))
    if not files:
        raise InputError("Expected pictures: files, folders or patterns. Received none.")
    if target not in (None, *saved.classes):
        raise InputError(
            f"Expected --target to be one of {', '.join(saved.classes)}. Received: {target}."
        )
    model = saved.model
    layer_names = layer_names or rectified_layers(model, saved.image_size)
    usable = [layer.name for layer in model.layers if len(layer.output.shape) == 4]
    for name in layer_names:
        if name not in usable:
            raise InputError(f"Expected --layers out of {', '.join(usable)}. Received: {name}.")

    # The same channels for all pictures, so that their rows can be compared. One picture at a time
    # is kept in memory, here and below: feature maps are large.
    responses = dict.fromkeys(layer_names, 0)
    with Progress("Choosing channels", len(files)) as progress:
        for done, file in enumerate(files, start=1):
            image = decode_image(pathlib.Path(file), saved.image_size)
            for name, maps in activations(model, image[None], layer_names).items():
                responses[name] += maps.mean(axis=(1, 2), keepdims=True)
            progress.update(done)
    channels = {
        name: strongest_channels(response, num_channels) for name, response in responses.items()
    }
    filters = {}
    with Progress("Maximizing filters", len(layer_names)) as progress:
        for done, name in enumerate(layer_names, start=1):
            filters[name] = maximize_filters(model, name, channels[name])
            progress.update(done)

    folder = pathlib.Path(folder)
    written = [folder / "filters.png"]
    save_figure(plot_filters(filters, channels), written[0])
    with Progress("Explaining pictures", len(files)) as progress:
        for done, (file, name) in enumerate(zip(files, _short_names(files), strict=True), start=1):
            image = decode_image(pathlib.Path(file), saved.image_size)
            (row,) = predict_images(saved, image[None])
            index = saved.classes.index(target) if target else int(row.argmax())
            title = f"{saved.classes[index]}: {row[index]:.1%}"
            gradients = grad_cam(model, image[None], index)[0]
            falls = occlusion_sensitivity(model, image, index)
            maps = activations(model, image[None], layer_names)
            maps = {layer: values[0] for layer, values in maps.items()}
            written += [folder / f"{name}-heatmaps.jpg", folder / f"{name}-activations.png"]
            save_figure(plot_heatmaps(image, gradients, falls, title), written[-2])
            save_figure(plot_activations(image, maps, channels), written[-1])
            progress.update(done)
    return written


def _short_names(files):
    """Yields each file's name without folder and suffix, numbered where two would be the same."""
    used = set()
    for file in files:
        stem = name = pathlib.PurePath(file).stem
        number = 1
        while name in used:
            number += 1
            name = f"{stem}-{number}"
        used.add(name)
        yield name
