"""Figures from plain dictionaries and arrays; knows nothing of models.

Every `plot_` function returns a `matplotlib.figure.Figure` that belongs to no window and needs no
display. `save_figure` writes one to a file, `render_figure` shows it in a notebook.
"""

import io
import math
import pathlib
import warnings

import matplotlib
import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, PercentFormatter

from catsdogs.errors import InputError
from catsdogs.files import atomic_path

__all__ = [
    "COLOURS", "GREY", "INK", "PALE", "STYLE", "line_colours", "plot_arrays",
    "plot_confusion_matrix", "plot_history", "plot_image_grid", "plot_reliability", "plot_roc",
    "render_figure", "save_figure", "smooth",
]  # fmt: skip

# Okabe and Ito's palette, distinct with every kind of colour blindness; without its yellow, which
# is too pale for a line on white.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00"]
INK, GREY, PALE = "#222222", "#767676", "#E4E4E4"
STYLE = {
    "font.size": 10,
    "text.parse_math": False,  # names may have dollar signs
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": PALE,
    "grid.linewidth": 0.8,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
}
_CHANCE = {"color": GREY, "linewidth": 1, "linestyle": (0, (1, 2)), "zorder": 1}
_PERCENT = PercentFormatter(1, decimals=0, symbol=" %")


def line_colours(number):
    """`number` line colours, as distinct as that many can be."""
    if number <= len(COLOURS):
        return COLOURS[:number]
    return list(matplotlib.colormaps["viridis"](np.linspace(0, 0.88, number)))


# ---- Training ----

_TEXTBOOK_SMOOTHING = 0.8
_LONGEST_LAG = 0.05  # of a run; a longer average would show little but its own lag
_SHORT_NAME = 22  # characters that fit twice across the figure, with accuracy and loss beside them
_VALIDATION = {"linewidth": 2.2, "linestyle": "-"}
_TRAINING = {"linewidth": 1.6, "linestyle": (0, (3, 1.2))}
_RING = {
    "linestyle": "", "marker": "o", "markerfacecolor": "white", "markeredgewidth": 2,
    "markersize": 8,
}  # fmt: skip


def smooth(values, factor=_TEXTBOOK_SMOOTHING):
    """Exponential moving average, as a list of floats that starts with the first value.

    Args:
        values: float (num_epochs,).
        factor: Weight of the past in [0, 1); 0 changes nothing.

    Reference:
        Chollet, *Deep Learning with Python*, first edition, chapter 5.
    """
    smoothed = []
    for value in values:
        past = smoothed[-1] if smoothed else value
        smoothed.append(float(past * factor + value * (1 - factor)))
    return smoothed


@matplotlib.rc_context(STYLE)
def plot_history(histories, smoothing=None):
    """Accuracy and loss of one or several runs, epoch by epoch.

    Faint lines are the values themselves, bold ones their moving average; a ring marks the epoch
    of the lowest validation loss, whose weights are kept.

    Args:
        histories: `{run name: history}`, a history being lists of one float per epoch under
            `accuracy`, `val_accuracy` (fractions), `loss` and `val_loss` (nats).
        smoothing: Factor for `smooth`, in [0, 1); `None` for 0.8, and less for short runs, where
            that would only lag behind.

    Returns:
        `matplotlib.figure.Figure`.
    """
    limits = {"accuracy": 1.005, "loss": _loss_limit(histories.values())}
    # Two legend columns where the names leave room, since a legend that is too wide is cut off.
    columns = 2 if len(histories) > 1 and max(map(len, histories)) <= _SHORT_NAME else 1
    height = 4.0 + 0.22 * math.ceil(len(histories) / columns)
    figure = Figure(figsize=(10, height), layout="constrained")
    panels = dict(zip(limits, figure.subplots(1, 2), strict=True))
    runs = []
    for (name, history), colour in zip(
        histories.items(), line_colours(len(histories)), strict=True
    ):
        val_loss = np.asarray(history["val_loss"], dtype=np.float64)
        best = int(np.where(np.isfinite(val_loss), val_loss, np.inf).argmin())
        for quantity, axes in panels.items():
            _plot_run(axes, history, quantity, limits[quantity], best, colour, smoothing)
        label = (
            f"{name}: {100 * history['val_accuracy'][best]:.1f} %, "
            f"loss {val_loss[best]:.3f} at epoch {best + 1}"
        )
        runs.append(Line2D([], [], color=colour, linewidth=2.2, label=label))
    longest = max(len(history["loss"]) for history in histories.values())
    for quantity, axes in panels.items():
        axes.set(title=quantity.capitalize(), xlabel="epoch")
        axes.set_xlim(0, longest + max(0.5, longest / 50))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    low, high = panels["accuracy"].get_ylim()
    high = min(high, limits["accuracy"])
    panels["accuracy"].set_ylim(min(low, high - 0.05), high)  # 5 points, or noise fills the panel
    panels["accuracy"].yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    panels["loss"].set_ylim(0, limits["loss"])
    key = [
        Line2D([], [], color=INK, label="validation", **_VALIDATION),
        Line2D([], [], color=INK, label="training", **_TRAINING),
        Line2D([], [], color=INK, label="best epoch", **_RING),
    ]
    panels["loss"].legend(handles=key, loc="lower right", bbox_to_anchor=(1.01, 1.0), ncols=3)
    figure.legend(handles=runs, loc="outside lower center", ncols=columns)
    return figure


def _loss_limit(histories):
    """An upper limit for the loss, insensitive to a single outlying epoch."""
    losses = np.concatenate([np.append(h["loss"], h["val_loss"]) for h in histories])
    losses = losses[np.isfinite(losses)]
    return 1.05 * min(losses.max(), 2 * np.quantile(losses, 0.95)) if losses.size else 1.0


def _plot_run(axes, history, quantity, limit, best, colour, smoothing):
    """Draws one run's accuracy or loss."""
    num_epochs = len(history[quantity])
    epochs = np.arange(1, num_epochs + 1)
    if smoothing is None:  # an average with factor f looks back over 1 / (1 - f) epochs
        smoothing = min(_TEXTBOOK_SMOOTHING, max(0, 1 - 1 / (_LONGEST_LAG * num_epochs)))
    dot = "o" if num_epochs == 1 else None  # a line through one point is invisible
    for key, style in ((quantity, _TRAINING), (f"val_{quantity}", _VALIDATION)):
        if smoothing:
            axes.plot(epochs, history[key], color=colour, linewidth=1, alpha=0.22)
        # Clipped, or one outlying epoch would distort the average of the next twenty.
        values = smooth(np.minimum(history[key], limit), smoothing)
        axes.plot(epochs, values, color=colour, marker=dot, **style)
    value = history[f"val_{quantity}"][best]
    axes.plot(epochs[best], value, color=colour, zorder=4, clip_on=False, **_RING)


# ---- Predictions ----

_CLASS, _MARGIN, _MAX_SIDE = 0.95, 2.6, 12.0  # inches, of a confusion matrix
_MAX_CLASSES_IN_NUMBERS = 20  # of more classes the shading alone is shown


@matplotlib.rc_context(STYLE)
def plot_confusion_matrix(matrix, class_names):
    """Counts by true and predicted class; the shading is the fraction of the true class.

    Cells and their text shrink with the number of classes; above 20 classes only shading is left.

    Args:
        matrix: int (num_classes, num_classes), rows are the true classes.
        class_names: `num_classes` names.

    Returns:
        `matplotlib.figure.Figure`.
    """
    matrix, size = np.asarray(matrix), len(class_names)
    fractions = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    side = min(_MARGIN + _CLASS * size, _MAX_SIDE)
    cell = (side - _MARGIN) / size  # inches
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    # 0.8 stays clear of the maps' darkest ends, on which no text is easy to read.
    blues, oranges = (matplotlib.colormaps[name](0.8 * fractions) for name in ("Blues", "Oranges"))
    axes.imshow(np.where(np.eye(size, dtype=bool)[..., None], blues, oranges))
    if size <= _MAX_CLASSES_IN_NUMBERS:
        for (row, column), count in np.ndenumerate(matrix):
            fraction = fractions[row, column]
            style = {"color": "white" if fraction > 0.75 else INK, "ha": "center"}
            scale = cell / _CLASS
            axes.text(column, row, f"{count:,}", va="bottom", fontsize=17 * scale, **style)
            percent = f"{100 * fraction:.1f} %"
            axes.text(column, row + 0.06, percent, va="top", fontsize=10 * scale, **style)
    names = [name if len(name) <= 24 else f"{name[:23]}…" for name in class_names]
    font = min(10, 50 * cell)  # points: two thirds of a cell
    # Horizontal where they fit: a letter takes some 0.6 of the font's size, an inch has 72 points.
    fits = max(map(len, names)) * 0.6 * font < 72 * (side - 1) / size
    axes.set_xticks(range(size), names, rotation=0 if fits else 90, fontsize=font)
    axes.set_yticks(range(size), names, rotation=90 if fits else 0, va="center", fontsize=font)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true", labelpad=8)
    axes.set_title(f"{int(matrix.trace()):,} of {int(matrix.sum()):,} correct")
    axes.tick_params(length=0)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    return figure


@matplotlib.rc_context(STYLE)
def plot_roc(curves):
    """ROC curves; the corner where good models differ is enlarged if one comes near it.

    Args:
        curves: `{name: (false_positive_rate, true_positive_rate, area under the curve)}`, the
            rates float (num_points,) in [0, 1].

    Returns:
        `matplotlib.figure.Figure`.
    """
    figure = Figure(figsize=(5.6, 5.5 + 0.22 * len(curves)), layout="constrained")
    axes = figure.subplots()
    panels = [axes]
    if any(np.any((np.asarray(x) < 0.05) & (np.asarray(y) > 0.95)) for x, y, _ in curves.values()):
        corner = axes.inset_axes([0.36, 0.12, 0.58, 0.58], xlim=(-0.001, 0.1), ylim=(0.9, 1.001))
        corner.spines[:].set_visible(True)
        corner.tick_params(labelsize=8)
        axes.indicate_inset_zoom(corner, edgecolor=GREY)
        panels.append(corner)
    axes.plot([0, 1], [0, 1], **_CHANCE)
    for panel in panels:
        lines = [
            panel.plot(x, y, color=colour, linewidth=2)[0]
            for (x, y, _), colour in zip(curves.values(), line_colours(len(curves)), strict=True)
        ]
        panel.xaxis.set_major_formatter(_PERCENT)
        panel.yaxis.set_major_formatter(_PERCENT)
    axes.set(xlim=(-0.01, 1), ylim=(0, 1.01), aspect="equal")
    axes.set(xlabel="false positive rate", ylabel="true positive rate")
    # Given with their lines, since Matplotlib leaves labels that start with _ out of a legend.
    labels = [f"{name}: AUC {area:.4f}" for name, (_, _, area) in curves.items()]
    figure.legend(lines, labels, loc="outside lower center")
    return figure


@matplotlib.rc_context(STYLE)
def plot_reliability(before, after):
    """Accuracy against confidence, and the number of images at each confidence.

    Args:
        before: List from `reliability`, before temperature scaling.
        after: The same afterwards.

    Returns:
        `matplotlib.figure.Figure`.
    """
    figure = Figure(figsize=(5.6, 5.4), layout="constrained")
    axes, counts = figure.subplots(2, 1, height_ratios=(4, 1), sharex=True)
    axes.plot([0, 1], [0, 1], **_CHANCE)
    for bins, name, colour, marker in (
        (before, "before temperature scaling", COLOURS[1], "o"),
        (after, "after temperature scaling", COLOURS[0], "s"),
    ):
        confidence, accuracy, images = (
            np.array([part[key] for part in bins])
            for key in ("confidence", "accuracy", "num_images")
        )
        axes.plot(confidence, accuracy, color=colour, linewidth=1.2, alpha=0.6)
        sizes = 20 + 180 * images / images.sum()  # a bin of few images is uncertain: a small mark
        axes.scatter(confidence, accuracy, sizes, color=colour, marker=marker, label=name,
                     zorder=3, alpha=0.85)  # fmt: skip
        counts.plot(confidence, images, marker, color=colour, markersize=4)
    least, lowest = (min(part[key] for part in (*before, *after))
                     for key in ("confidence", "accuracy"))  # fmt: skip
    axes.set(xlim=(max(0.0, least - 0.05), 1.01), ylabel="accuracy")
    axes.set_ylim(max(-0.02, min(lowest, least) - 0.05), 1.03)
    axes.yaxis.set_major_formatter(_PERCENT)
    axes.legend(loc="lower right", markerscale=0.7)
    counts.set(yscale="log", ylabel="images", xlabel="confidence")
    counts.yaxis.set_major_formatter("{x:,.0f}")
    counts.minorticks_off()
    counts.xaxis.set_major_formatter(_PERCENT)
    return figure


# ---- Images and arrays ----


@matplotlib.rc_context(STYLE)
def plot_image_grid(images, titles=None, columns=8):
    """Images side by side.

    Args:
        images: uint8 (num_images, height, width, 3), or a list of uint8 (height, width, 3) or
            (height, width) of any sizes.
        titles: `num_images` short texts to write above the images, or `None`.
        columns: Images per row, at most.

    Returns:
        `matplotlib.figure.Figure`.
    """
    columns = min(columns, len(images))
    rows = math.ceil(len(images) / columns)
    width = min(1.9, 12 / columns)
    # As high as the highest image needs, so that images of one size have no bands beside them.
    height = width * max(image.shape[0] / image.shape[1] for image in images)
    title_height = 0.22 * (1 + max(title.count("\n") for title in titles)) if titles else 0
    figure = Figure(figsize=(width * columns, (height + title_height) * rows), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03, wspace=0, hspace=0)
    for index, axes in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
        axes.axis("off")
        if index < len(images):
            axes.imshow(images[index], cmap="gray", vmin=0, vmax=255)
            if titles:
                axes.set_title(titles[index], fontsize=9, weight="normal", loc="center", pad=3)
    return figure


_SIGNED = LinearSegmentedColormap.from_list("signed", [COLOURS[1], "white", COLOURS[0]])
_MAX_CELLS_IN_NUMBERS = 12  # cells a side; in larger arrays numbers could not be read
_CELL, _GAP, _EDGE, _MAX_WIDTH = 0.45, 0.35, 0.05, 10.0  # inches


@matplotlib.rc_context(STYLE)
def plot_arrays(arrays, titles, outlines=None):
    """Arrays as grids of coloured cells of one size, with a number in each if there is room.

    Blue is above zero, orange below, white is zero; each array has its own scale. A uint8 array
    is an image and shown in grey.

    Args:
        arrays: List of numbers (rows, columns), of any sizes.
        titles: A short text above each array.
        outlines: `{index of an array: (top, left, rows, columns)}`, cells to draw a frame around;
            or `None`.

    Returns:
        `matplotlib.figure.Figure`.
    """
    arrays = [np.asarray(array) for array in arrays]
    shapes = np.array([array.shape for array in arrays])
    rows, all_columns = shapes[:, 0].max(), shapes[:, 1].sum()
    gaps = _GAP * (len(arrays) - 1)
    cell = min(_CELL, (_MAX_WIDTH - gaps) / all_columns)
    title_height = 0.32 + 0.18 * max(title.count("\n") for title in titles)
    # Placed by hand: Matplotlib's layouts give every array the same room, and so another scale.
    size = np.array([cell * all_columns + gaps + 2 * _EDGE, cell * rows + title_height + 2 * _EDGE])
    figure = Figure(figsize=size)
    left = _EDGE
    for index, (array, title) in enumerate(zip(arrays, titles, strict=True)):
        extent = cell * shapes[index, ::-1]
        corner = left, _EDGE + (cell * rows - extent[1]) / 2  # smaller ones are centred
        left += extent[0] + _GAP
        axes = figure.add_axes((*(corner / size), *(extent / size)))
        _draw_array(axes, array, has_numbers=shapes.max() <= _MAX_CELLS_IN_NUMBERS)
        axes.set_title(title, fontsize=9.5, weight="normal", loc="center", pad=5)
        if outlines and index in outlines:
            top, first, height, width = outlines[index]
            frame = Rectangle((first - 0.5, top - 0.5), width, height, zorder=3, clip_on=False)
            frame.set(fill=False, edgecolor=INK, linewidth=2.5)
            axes.add_patch(frame)
    return figure


def _draw_array(axes, array, has_numbers):
    # Extreme cells of a large array must not leave the others pale.
    largest = np.quantile(np.abs(array), 1 if has_numbers else 0.99) or 1
    if array.dtype == np.uint8:
        axes.imshow(array, cmap="gray", vmin=0, vmax=255)
    else:
        axes.imshow(array, cmap=_SIGNED, vmin=-largest, vmax=largest)
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    axes.spines[:].set(visible=True, color=GREY)
    if has_numbers:
        for (row, column), value in np.ndenumerate(array):
            colour = "white" if abs(value) > 0.6 * largest else INK
            axes.text(column, row, f"{value:.3g}", color=colour, ha="center", va="center")


# ---- Files and notebooks ----


def save_figure(figure, path):
    """Writes a figure to a file, atomically.

    Args:
        figure: `matplotlib.figure.Figure`.
        path: Its suffix decides the format; its folder is made if missing.

    Raises:
        InputError: If Matplotlib does not write this format.
    """
    path = pathlib.Path(path)
    if path.suffix[1:] not in figure.canvas.get_supported_filetypes():
        raise InputError(f"Expected a picture format, such as .png or .jpg. Received: {path}.")
    with atomic_path(path) as temporary:
        _write(figure, temporary, dpi=120)


def render_figure(figure, dpi=80):
    """A figure as a picture, which a notebook shows when it is a cell's last value.

    Args:
        figure: `matplotlib.figure.Figure`.
        dpi: Pixels per inch.

    Returns:
        `IPython.display.Image`, PNG or JPEG, whichever is smaller.
    """
    from IPython.display import Image  # every notebook has it, nothing else needs it

    encoded = {form: io.BytesIO() for form in ("png", "jpeg")}
    for form, stream in encoded.items():
        _write(figure, stream, dpi=dpi, format=form)
    return Image(min((stream.getvalue() for stream in encoded.values()), key=len))


def _write(figure, file, **options):
    with warnings.catch_warnings():
        # A letter that the font lacks is drawn as a box, which everybody sees.
        warnings.filterwarnings("ignore", r"Glyph \d+")
        figure.savefig(file, **options)
