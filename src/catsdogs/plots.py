"""Figures from plain dicts and arrays; knows nothing of models.

Every `plot_` function returns a `matplotlib.figure.Figure` that belongs to no window, so that runs
on machines without a display make the same pictures; `save_figure` and `show_figure` do the rest.
"""

import io
import math
import pathlib

import matplotlib
import numpy as np
import PIL.Image
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

from catsdogs.files import InputError, atomic_path

__all__ = [
    "plot_confusion_matrix",
    "plot_history",
    "plot_image_grid",
    "plot_results",
    "plot_roc",
    "save_figure",
    "show_figure",
    "smooth",
]

# Okabe and Ito's palette, told apart with every kind of colour blindness; without its yellow, which
# is too pale for a line on white.
_COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00"]
_INK, _GREY, _PALE = "#222222", "#767676", "#E4E4E4"
_STYLE = {
    "font.size": 10,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _PALE,
    "grid.linewidth": 0.8,
    "xtick.color": _GREY,
    "ytick.color": _GREY,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "legend.frameon": False,
}
_MAX_BYTES = 150_000  # figures are committed and shown on a web page
# What is tried to stay under it: dots per inch, colours of a PNG (None: all), quality of a JPEG.
_RENDERINGS = ((160, None, 90), (160, 256, 85), (120, 256, 80), (90, 256, 70))
_LONGEST_LAG = 0.05  # of a run; a longer average would show its own lag and little else
_LOWEST_ERROR = 0.001  # the ladder's scale is logarithmic in the error and needs an end
_VALIDATION = {"linewidth": 2.2, "linestyle": "-"}
_TRAINING = {"linewidth": 1.6, "linestyle": (0, (3, 1.2))}
_STAGES = {
    "scratch": ("From scratch", _COLOURS[0]),
    "feature_extract": ("Feature extraction", _COLOURS[1]),
    "finetune": ("Fine-tuning", _COLOURS[2]),
}
_VARIANTS = {
    "none": "no augmentation",
    "book": "book's augmentation",
    "strong": "strong augmentation",
    "cached": "cached features",
    "augmented": "augmented features",
    "end_to_end": "end to end",
}


def smooth(values, factor=0.8):
    """Exponential moving average, as the book's curves have it.

    Args:
        values: float `(num_epochs,)`.
        factor: Weight of the past in [0, 1); 0 changes nothing.

    Returns:
        `list` of `num_epochs` floats; the first is the first value.

    Raises:
        ValueError: If `factor` is out of range.

    Reference:
        Chollet, *Deep Learning with Python*, first edition, chapter 5.
    """
    if not 0 <= factor < 1:
        raise ValueError(f"Expected a smoothing factor in [0, 1). Received: factor={factor}")
    smoothed = []
    for value in values:
        past = smoothed[-1] if smoothed else value
        smoothed.append(float(past * factor + value * (1 - factor)))
    return smoothed


@matplotlib.rc_context(_STYLE)
def plot_history(histories, path=None, smoothing=0.8):
    """Accuracy and loss of one or several runs, epoch by epoch.

    Faint lines are the values themselves, bold ones their moving average; a ring marks the epoch
    of least validation loss, whose model is the one that is kept.

    Args:
        histories: `dict` from the run's name to its history: lists of one float an epoch under
            `accuracy`, `val_accuracy` (fractions), `loss` and `val_loss` (nats).
        path: PNG file to save as well, or `None`.
        smoothing: Factor for `smooth`; less for short runs, where it would only lag behind.

    Returns:
        `matplotlib.figure.Figure`.

    Raises:
        ValueError: If there is no run, or one has no epochs, lacks a key, or has lists of unequal
            lengths.
    """
    if not histories:
        raise ValueError(f"Expected at least one history. Received: histories={histories}")
    for name, history in histories.items():
        _check_history(name, history)
    colours = _colours(len(histories))
    limits = {"accuracy": 1.005, "loss": _loss_limit(histories.values())}
    figure = Figure(figsize=(10, 4.0 + 0.22 * math.ceil(len(histories) / 2)), layout="constrained")
    panels = dict(zip(limits, figure.subplots(1, 2), strict=True))
    runs = []
    for (name, history), colour in zip(histories.items(), colours, strict=True):
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
        Line2D([], [], color=_INK, label="validation", **_VALIDATION),
        Line2D([], [], color=_INK, label="training", **_TRAINING),
        Line2D([], [], label="best epoch", **_ring(_INK)),
    ]
    panels["loss"].legend(handles=key, loc="lower right", bbox_to_anchor=(1.01, 1.0), ncols=3)
    figure.legend(handles=runs, loc="outside lower center", ncols=min(2, len(runs)))
    if path is not None:
        save_figure(figure, path)
    return figure


@matplotlib.rc_context(_STYLE)
def plot_confusion_matrix(matrix, class_names):
    """Counts by true and predicted class; shading is the share of the true class.

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
    side = 2.6 + 0.95 * size
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    # 0.8 keeps clear of the maps' darkest ends, on which no text is easy to read.
    diagonal = np.eye(size, dtype=bool)[..., None]
    axes.imshow(np.where(diagonal, right(0.8 * shares), wrong(0.8 * shares)))
    for (row, column), count in np.ndenumerate(matrix):
        share = shares[row, column]
        colour = "white" if share > 0.75 else _INK
        style = {"color": colour, "ha": "center"}
        axes.text(column, row, f"{count:,}", va="bottom", fontsize=17, **style)
        axes.text(column, row + 0.06, f"{100 * share:.1f} %", va="top", **style)
    axes.set_xticks(range(size), class_names)
    axes.set_yticks(range(size), class_names, rotation=90, va="center")
    axes.set_xlabel("predicted")
    axes.set_ylabel("true", labelpad=8)
    correct, total = int(matrix.trace()), int(matrix.sum())
    axes.set_title(f"{correct:,} of {total:,} right")
    axes.tick_params(length=0)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    return figure


@matplotlib.rc_context(_STYLE)
def plot_roc(curves):
    """ROC curves, with the corner that tells good models apart enlarged.

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
    corner = axes.inset_axes([0.36, 0.12, 0.58, 0.58], xlim=(-0.001, 0.1), ylim=(0.9, 1.001))
    corner.spines[:].set_visible(True)
    corner.tick_params(labelsize=8)
    axes.indicate_inset_zoom(corner, edgecolor=_GREY)
    axes.plot([0, 1], [0, 1], color=_GREY, linewidth=1, linestyle=(0, (1, 2)), zorder=1)
    for (name, (x, y, area)), colour in zip(curves.items(), _colours(len(curves)), strict=True):
        axes.plot(x, y, color=colour, linewidth=2, label=f"{name}: area {area:.4f}")
        corner.plot(x, y, color=colour, linewidth=2)
    for each in (axes, corner):
        each.xaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
        each.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    axes.set(xlim=(-0.01, 1), ylim=(0, 1.01), aspect="equal")
    axes.set(xlabel="false positive rate", ylabel="true positive rate")
    figure.legend(loc="outside lower center")
    return figure


@matplotlib.rc_context(_STYLE)
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


@matplotlib.rc_context(_STYLE)
def plot_results(summary_rows, published=()):
    """The ladder: test accuracy of every stage, preset and variant, with its 95 % interval.

    The scale is logarithmic in the error, so that one length is one ratio of mistakes: from 90 %
    to 95 % is as far as from 98 % to 99 %.

    Args:
        summary_rows: `list` of `dict` as in `results/summary.json`: `stage`, `preset`, `variant`,
            `dataset`, `test_accuracy` (`mean`, `values`, `interval95`) and `wall_seconds`.
        published: `list` of `(label, accuracy)`, figures of others to compare with.

    Returns:
        `matplotlib.figure.Figure`.

    Raises:
        ValueError: If there are no rows, or one is of an unknown stage.
    """
    stages = {row["stage"] for row in summary_rows}
    if not stages or stages - _STAGES.keys():
        raise ValueError(
            f"Expected at least one row, of stages {', '.join(_STAGES)}. "
            f"Received: {len(summary_rows)} rows of stages {sorted(stages)}"
        )
    lines = _ladder_lines(summary_rows, published)
    figure = Figure(figsize=(10, 1.5 + 0.27 * len(lines)), layout="constrained")
    axes = figure.subplots()

    def write_beside(points, depth, text, **style):
        axes.annotate(
            text,
            (1, depth),
            (points, 0),
            xycoords=axes.get_yaxis_transform(),
            textcoords="offset points",
            ha="right",
            va="center_baseline",
            **style,
        )

    for points, heading in ((52, "accuracy"), (132, "95 % interval"), (186, "minutes")):
        write_beside(points, -0.8, heading, color=_GREY, fontsize=9)
    for depth, (_, colour, accuracy, minutes) in enumerate(lines):
        if accuracy is None:
            continue
        mean = accuracy["mean"]
        axes.axhline(depth, color=_PALE, linewidth=0.8, zorder=0)
        if minutes is None:
            axes.plot(_rung(mean), depth, "D", color=colour, markersize=5)
            write_beside(52, depth, f"{100 * mean:.1f} %", color=colour)
            continue
        low, high = accuracy["interval95"]
        axes.plot(_rung([low, high]), [depth] * 2, color=colour, linewidth=6, alpha=0.25)
        for value in accuracy["values"]:
            axes.plot(_rung(value), depth, "|", color=colour, markersize=11)
        axes.plot(_rung(mean), depth, "o", color=colour, markersize=7)
        write_beside(52, depth, f"{100 * mean:.1f} %", color=colour, weight="bold")
        write_beside(132, depth, f"{100 * low:.1f} to {100 * high:.1f}", color=_GREY)
        write_beside(186, depth, minutes, color=_GREY)
    axes.set_yticks(range(len(lines)), [line[0] for line in lines])
    for label, (_, colour, accuracy, _) in zip(axes.get_yticklabels(), lines, strict=True):
        if accuracy is None:
            label.set(weight="bold", color=colour)
    left, right = axes.get_xlim()
    ticks = [0, 0.6, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999]
    axes.set_xticks(_rung(ticks), [f"{100 * tick:.4g} %" for tick in ticks])
    axes.set(xlim=(left, right), ylim=(len(lines) - 0.4, -0.5))
    axes.set_xlabel("test accuracy, logarithmic in the error; bar: 95 % interval; stroke: one seed")
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    datasets = dict.fromkeys(row["dataset"] for row in summary_rows)
    figure.suptitle(f"Test accuracy: {', '.join(datasets)}", x=0.01, ha="left", weight="bold")
    return figure


def save_figure(figure, path):
    """Writes a figure, atomically and small enough for a web page.

    Of a few renderings the sharpest one under 150 kB is kept, or else the last. JPEG is for
    grids of photographs, PNG for all else.

    Args:
        figure: `matplotlib.figure.Figure`.
        path: File to write, `.png` or `.jpg`; its folder is made if missing.

    Raises:
        InputError: If the path has another suffix.
    """
    path = pathlib.Path(path)
    if path.suffix not in (".png", ".jpg"):
        raise InputError(f"Expected a figure's file to end in .png or .jpg. Received: path={path}")
    for dpi, num_colours, quality in _RENDERINGS:
        rendered, encoded = io.BytesIO(), io.BytesIO()
        figure.savefig(rendered, format="png", dpi=dpi)
        image = PIL.Image.open(rendered).convert("RGB")
        if path.suffix == ".jpg":
            image.save(encoded, format="jpeg", quality=quality, optimize=True)
        else:
            # A chart's few colours survive a palette unchanged, at a third of the bytes.
            image = image.quantize(num_colours) if num_colours else image
            image.save(encoded, format="png", optimize=True)
        if encoded.tell() < _MAX_BYTES:
            break
    with atomic_path(path) as temporary:
        temporary.write_bytes(encoded.getvalue())


def show_figure(figure):
    """Opens a figure in a window and waits until it is closed.

    Raises:
        InputError: If matplotlib has no display to open a window on.
    """
    import matplotlib.pyplot as plt  # only here, because it looks for a display

    interactive = matplotlib.backends.backend_registry.list_builtin(
        matplotlib.backends.BackendFilter.INTERACTIVE
    )
    if plt.get_backend().lower() not in map(str.lower, interactive):
        raise InputError(
            "Expected a display to show the figure on. "
            f"Received: matplotlib backend {plt.get_backend()}. Open the saved PNG file instead."
        )
    plt.figure(figure)
    plt.show()


def _check_history(name, history):
    keys = ("accuracy", "val_accuracy", "loss", "val_loss")
    lengths = {key: len(history.get(key, ())) for key in keys}
    if len(set(lengths.values())) != 1 or not lengths["loss"]:
        raise ValueError(
            "Expected lists of one float an epoch, of equal length, under each of "
            f"{', '.join(keys)}. Received: {name!r} with lengths {lengths}"
        )


def _loss_limit(histories):
    """An upper end for the loss that a first, wild epoch does not decide."""
    losses = np.concatenate([np.append(h["loss"], h["val_loss"]) for h in histories])
    losses = losses[np.isfinite(losses)]
    return 1.05 * min(losses.max(), 2 * np.quantile(losses, 0.95)) if losses.size else 1.0


def _plot_run(axes, history, quantity, limit, best, colour, smoothing):
    """Draws one run's accuracy or loss."""
    num_epochs = len(history[quantity])
    epochs = np.arange(1, num_epochs + 1)
    # An average with factor f looks back over 1 / (1 - f) epochs.
    factor = min(smoothing, max(0, 1 - 1 / (_LONGEST_LAG * num_epochs)))
    dot = "o" if num_epochs == 1 else None  # a line through one point shows nothing
    for key, style in ((quantity, _TRAINING), (f"val_{quantity}", _VALIDATION)):
        if factor:
            axes.plot(epochs, history[key], color=colour, linewidth=1, alpha=0.22)
        # Clipped, or one wild epoch would bend the average for the next twenty.
        values = smooth(np.minimum(history[key], limit), factor)
        axes.plot(epochs, values, color=colour, marker=dot, **style)
    ring = _ring(colour)
    axes.plot(epochs[best], history[f"val_{quantity}"][best], zorder=4, clip_on=False, **ring)


def _fullest_columns(number):
    """Columns of a landscape grid that leave the fewest places of its last row empty."""
    ideal = math.sqrt(2 * number)
    candidates = range(math.ceil(math.sqrt(number)), math.ceil(2 * math.sqrt(number)) + 1)
    return min(candidates, key=lambda columns: (-number % columns, abs(columns - ideal)))


def _ladder_lines(summary_rows, published):
    """`(label, colour, accuracy, minutes)` downward; a heading has neither of the last two."""
    several = len({row["dataset"] for row in summary_rows}) > 1
    lines = []
    for stage, (heading, colour) in _STAGES.items():
        rows = [row for row in summary_rows if row["stage"] == stage]
        lines += [(heading, colour, None, None)] if rows else []
        for row in sorted(rows, key=lambda row: row["test_accuracy"]["mean"]):
            label = f"{_VARIANTS.get(row['variant'], row['variant'])}, {row['preset']}"
            label += f", {row['dataset']}" if several else ""
            lines.append((label, colour, row["test_accuracy"], f"{row['wall_seconds'] / 60:.0f}"))
    lines += [("Published", _GREY, None, None)] if published else []
    return lines + [(label, _GREY, {"mean": value}, None) for label, value in published]


def _rung(accuracies):
    """Where accuracies stand on the ladder: how many powers of ten below 1 the error is."""
    return -np.log10(np.maximum(1 - np.asarray(accuracies), _LOWEST_ERROR))


def _colours(number):
    """`number` line colours, as distinct as so many can be."""
    if number <= len(_COLOURS):
        return _COLOURS[:number]
    return list(matplotlib.colormaps["viridis"](np.linspace(0, 0.88, number)))


def _ring(colour):
    return {
        "color": colour,
        "linestyle": "",
        "marker": "o",
        "markerfacecolor": "white",
        "markeredgewidth": 2,
        "markersize": 8,
    }
