"""Figures from plain dicts and arrays; knows nothing of models.

Every `plot_` function, here and in `history_plot` and `ladder_plot`, returns a
`matplotlib.figure.Figure` that belongs to no window, so that runs on machines without a display
make the same pictures; `catsdogs.evaluation.figures` saves and shows them.
"""

import math

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from catsdogs.evaluation.figures import COLOURS, GREY, INK, STYLE, line_colours

__all__ = ["plot_confusion_matrix", "plot_image_grid", "plot_reliability", "plot_roc"]

_CELL, _MAX_SIDE = 0.95, 12.0  # inches: a class of a confusion matrix, and the whole of it
_MAX_CLASSES_IN_NUMBERS = 20  # more are told by their shading alone


@matplotlib.rc_context(STYLE)
def plot_confusion_matrix(matrix, class_names):
    """Counts by true and predicted class; shading is the share of the true class.

    Cells and their text shrink with the number of classes; above 20 classes the shading is all.

    Args:
        matrix: int `(num_classes, num_classes)`, rows are the true classes.
        class_names: `num_classes` names.

    Returns:
        `matplotlib.figure.Figure`.

    Raises:
        ValueError: If the matrix is not square or has not one row a name.
    """
    matrix, size = np.asarray(matrix), len(class_names)
    if matrix.shape != (size, size):
        raise ValueError(
            f"Expected a matrix of shape ({size}, {size}) for {size} class names. "
            f"Received: matrix.shape={matrix.shape}"
        )
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    right, wrong = matplotlib.colormaps["Blues"], matplotlib.colormaps["Oranges"]
    side = min(2.6 + _CELL * size, _MAX_SIDE)
    cell = (side - 2.6) / size  # inches
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    # 0.8 keeps clear of the maps' darkest ends, on which no text is easy to read.
    diagonal = np.eye(size, dtype=bool)[..., None]
    axes.imshow(np.where(diagonal, right(0.8 * shares), wrong(0.8 * shares)))
    for (row, column), count in np.ndenumerate(matrix if size <= _MAX_CLASSES_IN_NUMBERS else []):
        share = shares[row, column]
        style = {"color": "white" if share > 0.75 else INK, "ha": "center"}
        axes.text(column, row, f"{count:,}", va="bottom", fontsize=17 * cell / _CELL, **style)
        percent = f"{100 * share:.1f} %"
        axes.text(column, row + 0.06, percent, va="top", fontsize=10 * cell / _CELL, **style)
    names = [name if len(name) <= 24 else f"{name[:23]}…" for name in class_names]
    font = min(10, 50 * cell)  # points: two thirds of a cell
    # Across where they fit: a letter takes some 0.6 of the font's size, an inch has 72 points.
    wide = max(map(len, names)) * 0.6 * font < 72 * (side - 1) / size
    axes.set_xticks(range(size), names, rotation=0 if wide else 90, fontsize=font)
    axes.set_yticks(range(size), names, rotation=90 if wide else 0, va="center", fontsize=font)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true", labelpad=8)
    correct, total = int(matrix.trace()), int(matrix.sum())
    axes.set_title(f"{correct:,} of {total:,} right")
    axes.tick_params(length=0)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    return figure


@matplotlib.rc_context(STYLE)
def plot_roc(curves):
    """ROC curves; where one comes near the corner that tells good models apart, it is enlarged.

    Args:
        curves: `dict` from name to `(false_positive_rate, true_positive_rate, auc)`, the rates
            float `(num_points,)` in [0, 1].

    Returns:
        `matplotlib.figure.Figure`.

    Raises:
        ValueError: If there is no curve.
    """
    if not curves:
        raise ValueError(f"Expected at least one curve. Received: curves={curves}")
    figure = Figure(figsize=(5.6, 5.5 + 0.22 * len(curves)), layout="constrained")
    axes = figure.subplots()
    panels = [axes]
    if any(np.any((np.asarray(x) < 0.05) & (np.asarray(y) > 0.95)) for x, y, _ in curves.values()):
        corner = axes.inset_axes([0.36, 0.12, 0.58, 0.58], xlim=(-0.001, 0.1), ylim=(0.9, 1.001))
        corner.spines[:].set_visible(True)
        corner.tick_params(labelsize=8)
        axes.indicate_inset_zoom(corner, edgecolor=GREY)
        panels.append(corner)
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=(0, (1, 2)), zorder=1)
    lines, labels = [], [f"{name}: area {area:.4f}" for name, (_, _, area) in curves.items()]
    for (x, y, _), colour in zip(curves.values(), line_colours(len(curves)), strict=True):
        lines += axes.plot(x, y, color=colour, linewidth=2)
        for each in panels[1:]:
            each.plot(x, y, color=colour, linewidth=2)
    for each in panels:
        each.xaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
        each.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    axes.set(xlim=(-0.01, 1), ylim=(0, 1.01), aspect="equal")
    axes.set(xlabel="false positive rate", ylabel="true positive rate")
    # Given with their lines, since Matplotlib leaves out labels of its own accord: `_name`.
    figure.legend(lines, labels, loc="outside lower center")
    return figure


@matplotlib.rc_context(STYLE)
def plot_reliability(before, after):
    """How often answers are right against the probability they were given, and how many they are.

    Args:
        before: List from `reliability`, before the temperature was applied.
        after: The same afterwards.

    Returns:
        `matplotlib.figure.Figure`.
    """
    figure = Figure(figsize=(5.6, 5.4), layout="constrained")
    axes, counts = figure.subplots(2, 1, height_ratios=(4, 1), sharex=True)
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=(0, (1, 2)), zorder=1)
    parts = ((before, "as trained", COLOURS[1], "o"), (after, "with temperature", COLOURS[0], "s"))
    for bins, name, colour, marker in parts:
        x = [part["confidence"] for part in bins]
        total = sum(part["num_images"] for part in bins)
        # Bins of a few pictures say little: small marks.
        sizes = [20 + 180 * part["num_images"] / total for part in bins]
        y = [part["accuracy"] for part in bins]
        axes.plot(x, y, color=colour, linewidth=1.2, alpha=0.6)
        axes.scatter(x, y, sizes, color=colour, marker=marker, label=name, zorder=3, alpha=0.85)
        counts.plot(x, [part["num_images"] for part in bins], marker, color=colour, markersize=4)
    percent = PercentFormatter(1, decimals=0, symbol=" %")
    least, lowest = (
        min(part[name] for part in (*before, *after)) for name in ("confidence", "accuracy")
    )
    axes.set(xlim=(max(0.0, least - 0.05), 1.01), ylabel="right")
    axes.set_ylim(max(-0.02, min(lowest, least) - 0.05), 1.03)
    axes.yaxis.set_major_formatter(percent)
    counts.set(yscale="log", ylabel="pictures", xlabel="probability of the answer")
    counts.yaxis.set_major_formatter("{x:,.0f}")
    counts.minorticks_off()
    counts.xaxis.set_major_formatter(percent)
    axes.legend(loc="lower right", markerscale=0.7)
    return figure


@matplotlib.rc_context(STYLE)
def plot_image_grid(images, titles=None, columns=None):
    """Pictures side by side.

    Args:
        images: uint8 `(num_images, height, width, 3)`, or a list of uint8 `(height, width, 3)` or
            `(height, width)` of any sizes.
        titles: `num_images` short texts to stand above the pictures, or `None`.
        columns: Pictures a row; `None` fills the last row as well as it can.

    Returns:
        `matplotlib.figure.Figure`.

    Raises:
        ValueError: If there are no images, one is not uint8, or the titles are more or fewer.
    """
    images = [np.asarray(image) for image in images]
    if not images or any(image.dtype != np.uint8 for image in images):
        raise ValueError(
            "Expected at least one image, all uint8. "
            f"Received: dtypes {sorted({str(image.dtype) for image in images})}"
        )
    if titles is not None and len(titles) != len(images):
        raise ValueError(
            f"Expected one title an image, {len(images)}. Received: {len(titles)} titles"
        )
    columns = min(columns or _fullest_columns(len(images)), len(images))
    rows = math.ceil(len(images) / columns)
    width = min(1.9, 12 / columns)
    # As high as the highest picture needs, so that none has bands beside it when all are alike.
    height = width * max(image.shape[0] / image.shape[1] for image in images)
    title_height = 0 if titles is None else 0.22 * (1 + max(t.count("\n") for t in titles))
    figure = Figure(figsize=(width * columns, (height + title_height) * rows), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03, wspace=0, hspace=0)
    for index, axes in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
        axes.axis("off")
        if index < len(images):
            axes.imshow(images[index], cmap="gray", vmin=0, vmax=255)
            if titles is not None:
                axes.set_title(titles[index], fontsize=9, weight="normal", loc="center", pad=3)
    return figure


def _fullest_columns(number):
    """Columns of a landscape grid that leave the fewest places of its last row empty."""
    ideal = math.sqrt(2 * number)
    candidates = range(math.ceil(math.sqrt(number)), math.ceil(2 * math.sqrt(number)) + 1)
    return min(candidates, key=lambda columns: (-number % columns, abs(columns - ideal)))


from catsdogs.evaluation.figures import save_figure, show_figure, render_figure  # noqa
from catsdogs.evaluation.history_plot import plot_history  # noqa
