"""Figures of what a convnet sees, from plain arrays."""

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from catsdogs.evaluation.plots import STYLE

__all__ = ["overlay", "plot_activations", "plot_filters", "plot_heatmaps"]

_CELL = 1.15  # inches, of a feature map or filter
_HEAT = "inferno"  # rises in brightness, so that it reads without colour too


def overlay(image, heatmap, strength=0.6):
    """A picture with a heat map laid over it.

    Args:
        image: uint8 (height, width, 3), RGB.
        heatmap: float32 of any height and width, in [0, 1].
        strength: Share of the heat map's colour where it is 1; where it is 0 the picture shows.

    Returns:
        uint8 (height, width, 3).
    """
    height, width = image.shape[:2]
    smooth = Image.fromarray(np.asarray(heatmap, np.float32)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    heat = np.clip(np.asarray(smooth), 0, 1)[..., None]
    colour = 255 * matplotlib.colormaps[_HEAT](heat[..., 0])[..., :3]
    # The picture pales where there is no heat, so that the colours stand out on any picture.
    pale = image.mean(axis=-1, keepdims=True) * 0.5 + image * 0.5
    mixed = pale * (1 - strength * heat) + colour * strength * heat
    return np.rint(mixed).astype(np.uint8)


@matplotlib.rc_context(STYLE)
def plot_activations(image, maps, channels):
    """One row of feature maps a layer, beside the picture that they belong to.

    Args:
        image: uint8 (height, width, 3).
        maps: `{layer name: float32 (height, width, channels)}`.
        channels: `{layer name: channels to show}`, int.

    Returns:
        `matplotlib.figure.Figure`. Every feature map has its own scale, from 0 to its maximum.
    """
    columns = max(len(shown) for shown in channels.values())
    names = [
        "{}: {} by {}, {} channels".format(name, *values.shape) for name, values in maps.items()
    ]
    figure, rows = _rows(names, columns, picture=image)
    for axes, (name, values) in zip(rows, maps.items(), strict=True):
        for each, channel in zip(axes, channels[name], strict=False):
            each.imshow(values[..., channel], cmap="viridis", vmin=0, interpolation="nearest")
            each.set_title(f"{channel}", fontsize=7, weight="normal", loc="right", pad=2)
    return figure


@matplotlib.rc_context(STYLE)
def plot_filters(filters, channels):
    """One row of filters a layer: the pictures that they respond to most.

    Args:
        filters: `{layer name: uint8 (n, size, size, 3)}`.
        channels: `{layer name: n ints}`, the numbers above the pictures.

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


@matplotlib.rc_context(STYLE)
def plot_heatmaps(image, gradients, falls, title):
    """A picture, its Grad-CAM and its occlusion map side by side.

    Args:
        image: uint8 (height, width, 3).
        gradients: float32 in [0, 1], from `catsdogs.inference.explain.grad_cam`.
        falls: float32, in nats, from `catsdogs.inference.explain.occlusion_sensitivity`.
        title: What the model says.

    Returns:
        `matplotlib.figure.Figure`.
    """
    height, width = image.shape[:2]
    side = 3.2
    figure = Figure(figsize=(3 * side, side * height / width + 0.45), layout="constrained")
    most = max(float(falls.max()), 1e-6)
    panels = (
        (image, title),
        (overlay(image, gradients), "Grad-CAM: evidence for it"),
        (
            overlay(image, np.clip(falls / most, 0, 1)),
            f"Occlusion: hiding it costs up to {most:.1f} nats",
        ),
    )
    for axes, (picture, name) in zip(figure.subplots(1, 3), panels, strict=True):
        axes.imshow(picture)
        axes.set_title(name, fontsize=10)
        axes.axis("off")
    return figure


def _rows(names, columns, picture=None):
    """A figure with a named row of bare axes a layer; a picture, if given, stands left of all."""
    left = 0 if picture is None else 1.9
    figure = Figure(
        figsize=(left + _CELL * columns, (_CELL + 0.42) * len(names)), layout="constrained"
    )
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0.02, hspace=0.02)
    grid = figure
    if picture is not None:
        beside, grid = figure.subfigures(1, 2, width_ratios=(left, _CELL * columns))
        axes = beside.subplots()
        axes.imshow(picture)
        axes.axis("off")
        axes.set_anchor("N")
    rows = []
    for part, name in zip(grid.subfigures(len(names), 1, squeeze=False).flat, names, strict=True):
        part.suptitle(name, x=0.005, ha="left", fontsize=9)
        rows.append(part.subplots(1, columns, squeeze=False)[0])
        for axes in rows[-1]:
            axes.axis("off")
    return figure, rows
