"""The stage that looks inside a trained model and writes what it finds as pictures."""

import collections
import pathlib

from catsdogs import explain
from catsdogs.data.images import decode_image
from catsdogs.data.progress import Progress
from catsdogs.explain_plot import plot_activations, plot_filters, plot_heatmaps
from catsdogs.figures import save_figure
from catsdogs.files import InputError
from catsdogs.prediction import list_pictures, predict_images

__all__ = ["explain_pictures"]


def explain_pictures(saved, words, folder, *, layer_names=(), target=None, num_channels=10):
    """Writes `filters.png`, and for each picture `NAME-heatmaps.jpg` and `NAME-activations.png`.

    Args:
        saved: A `SavedModel`.
        words: Pictures, as `catsdogs.prediction.list_pictures` takes them.
        folder: Folder to write to.
        layer_names: Layers to show, or none for the deepest of each resolution.
        target: Name of the class whose evidence is shown, or `None` for each picture's answer.
        num_channels: Channels to show of each layer: those that respond most to the pictures.

    Returns:
        The files that were written, a list of `Path`.

    Raises:
        InputError: If there is no picture, one cannot be read, or a layer or class has no such
            name; then nothing is written.
    """
    files = list(list_pictures(words))
    if not files:
        raise InputError("Expected pictures: files, folders or patterns. Received none.")
    if target not in (None, *saved.classes):
        raise InputError(
            f"Expected --target to be one of {_listed(saved.classes)}. Received: {target}."
        )
    model = saved.model
    shown = layer_names or explain.rectified_layers(model, saved.image_size)
    usable = [layer.name for layer in model.layers if len(layer.output.shape) == 4]
    for name in shown:
        if name not in usable:
            raise InputError(f"Expected --layers out of {_listed(usable)}. Received: {name}.")
    images = [decode_image(pathlib.Path(file), saved.image_size) for file in files]

    folder, written = pathlib.Path(folder), []

    def write(figure, name):
        save_figure(figure, folder / name)
        written.append(folder / name)

    maps = [explain.activations(model, image[None], shown) for image in images]
    # The same channels for all pictures, so that their rows can be compared.
    channels = {
        name: explain.strongest_channels(sum(one[name] for one in maps), num_channels)
        for name in shown
    }
    index = None if target is None else saved.classes.index(target)
    answers = predict_images(saved, images)
    with Progress("Looking at pictures", len(files)) as progress:
        for done, (name, image, found, row) in enumerate(
            zip(_short_names(files), images, maps, answers, strict=True), start=1
        ):
            likeliest = max(range(len(row)), key=row.__getitem__)
            shown_class = likeliest if index is None else index
            title = f"{saved.classes[shown_class]}: {row[shown_class]:.1%}"
            gradients = explain.grad_cam(model, image[None], shown_class)[0]
            falls = explain.occlusion_sensitivity(model, image, shown_class)
            write(plot_heatmaps(image, gradients, falls, title), f"{name}-heatmaps.jpg")
            one = {layer: values[0] for layer, values in found.items()}
            write(plot_activations(image, one, channels), f"{name}-activations.png")
            progress.update(done)
    with Progress("Climbing to filters", len(shown)) as progress:
        filters = {}
        for done, layer in enumerate(shown, start=1):
            filters[layer] = explain.maximize_filters(model, layer, channels[layer])
            progress.update(done)
    write(plot_filters(filters, channels), "filters.png")
    return written


def _short_names(files):
    """A name for each file, without folder and suffix; numbered where two would be alike."""
    seen = collections.Counter()
    for file in files:
        name = pathlib.PurePath(file).stem
        seen[name] += 1
        yield name if seen[name] == 1 else f"{name}-{seen[name]}"


def _listed(names):
    return ", ".join(names)
