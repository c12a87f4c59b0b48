"""The stage that looks inside a trained model and writes what it finds as pictures."""

import os
import pathlib

from catsdogs.console import Progress
from catsdogs.data.images import decode_image
from catsdogs.errors import InputError
from catsdogs.evaluation.figures import save_figure
from catsdogs.inference import explain
from catsdogs.inference.explain_plot import plot_activations, plot_filters, plot_heatmaps
from catsdogs.inference.predict import list_pictures, predict_images

__all__ = ["explain_pictures"]


def explain_pictures(saved, words, folder, *, layer_names=(), target=None, num_channels=10):
    """Writes `filters.png`, and for each picture `NAME-heatmaps.jpg` and `NAME-activations.png`.

    Args:
        saved: A `SavedModel`.
        words: Pictures, as `catsdogs.inference.predict.list_pictures` takes them.
        folder: Folder to write to.
        layer_names: Layers to show, or none for the deepest of each resolution.
        target: Name of the class whose evidence is shown, or `None` for each picture's answer.
        num_channels: Channels to show of each layer: those that respond most to the pictures.

    Returns:
        The files that were written, a list of `Path`.

    Raises:
        InputError: If there is no picture, one cannot be read, or a layer, class or number of
            channels cannot be; then nothing is written.
    """
    files = list(list_pictures(words))
    if not files:
        raise InputError("Expected pictures: files, folders or patterns. Received none.")
    if target not in (None, *saved.classes):
        raise InputError(
            f"Expected --target to be one of {', '.join(saved.classes)}. Received: {target}."
        )
    if num_channels < 1:
        raise InputError(f"Expected --channels of 1 or more. Received: {num_channels}.")
    model = saved.model
    shown = layer_names or explain.rectified_layers(model, saved.image_size)
    usable = [layer.name for layer in model.layers if len(layer.output.shape) == 4]
    for name in shown:
        if name not in usable:
            raise InputError(f"Expected --layers out of {', '.join(usable)}. Received: {name}.")

    # The same channels for all pictures, so that their rows can be compared. One picture at a time
    # is held in memory, here and below: feature maps are large.
    responses = dict.fromkeys(shown, 0)
    with Progress("Reading pictures", len(files)) as progress:
        for done, file in enumerate(files, start=1):
            image = decode_image(pathlib.Path(file), saved.image_size)
            for name, maps in explain.activations(model, image[None], shown).items():
                responses[name] += maps.mean(axis=(1, 2), keepdims=True)
            progress.update(done)
    channels = {
        name: explain.strongest_channels(found, num_channels) for name, found in responses.items()
    }
    filters = {}
    with Progress("Climbing to filters", len(shown)) as progress:
        for done, name in enumerate(shown, start=1):
            filters[name] = explain.maximize_filters(model, name, channels[name])
            progress.update(done)

    folder, written = pathlib.Path(folder), []

    def write(figure, name):
        save_figure(figure, folder / name)
        written.append(folder / name)

    write(plot_filters(filters, channels), "filters.png")
    with Progress("Looking at pictures", len(files)) as progress:
        for done, (file, name) in enumerate(zip(files, _short_names(files), strict=True), start=1):
            image = decode_image(pathlib.Path(file), saved.image_size)
            (row,) = predict_images(saved, image[None])
            index = saved.classes.index(target) if target else row.index(max(row))
            title = f"{saved.classes[index]}: {row[index]:.1%}"
            gradients = explain.grad_cam(model, image[None], index)[0]
            falls = explain.occlusion_sensitivity(model, image, index)
            write(plot_heatmaps(image, gradients, falls, title), f"{name}-heatmaps.jpg")
            maps = explain.activations(model, image[None], shown)
            one = {layer: found[0] for layer, found in maps.items()}
            write(plot_activations(image, one, channels), f"{name}-activations.png")
            progress.update(done)
    return written


def _short_names(files):
    """A name for each file, without folder and suffix, short enough for what is put behind it;
    numbered where two would be alike."""
    used = set()
    for file in files:
        stem = os.fsencode(pathlib.PurePath(file).stem)[:200].decode(errors="ignore") or "picture"
        name = stem
        number = 1
        while name in used:
            number += 1
            name = f"{stem}-{number}"
        used.add(name)
        yield name
