"""Accuracy and loss of runs, epoch by epoch, in one figure."""

import math

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

from catsdogs.errors import InputError
from catsdogs.evaluation.figures import INK, STYLE, line_colours

__all__ = ["plot_history", "smooth"]

_BOOKS_FACTOR = 0.8
_LONGEST_LAG = 0.05  # of a run; a longer average would show its own lag and little else
_SHORT_NAME = 22  # characters that fit twice across the figure, with the figures beside them
_VALIDATION = {"linewidth": 2.2, "linestyle": "-"}
_TRAINING = {"linewidth": 1.6, "linestyle": (0, (3, 1.2))}


def smooth(values, factor=_BOOKS_FACTOR):
    """Exponential moving average, as the book's curves have it.

    Args:
        values: float `(num_epochs,)`.
        factor: Weight of the past in [0, 1); 0 changes nothing.

    Returns:
        `list` of `num_epochs` floats; the first is the first value.

    Raises:
        InputError: If `factor` is out of range.

    Reference:
        Chollet, *Deep Learning with Python*, first edition, chapter 5.
    """
    if not 0 <= factor < 1:
        raise InputError(f"Expected smoothing from 0 to below 1. Received: {factor}.")
    smoothed = []
    for value in values:
        past = smoothed[-1] if smoothed else value
        smoothed.append(float(past * factor + value * (1 - factor)))
    return smoothed


@matplotlib.rc_context(STYLE)
def plot_history(histories, smoothing=None):
    """Accuracy and loss of one or several runs, epoch by epoch.

    Faint lines are the values themselves, bold ones their moving average; a ring marks the epoch
    of least validation loss, whose model is the one that is kept.

    Args:
        histories: `dict` from the run's name to its history: lists of one float an epoch under
            `accuracy`, `val_accuracy` (fractions), `loss` and `val_loss` (nats).
        smoothing: Factor for `smooth`, in [0, 1); `None` for the book's 0.8, and less for short
            runs, where that would only lag behind.

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
    colours = line_colours(len(histories))
    limits = {"accuracy": 1.005, "loss": _loss_limit(histories.values())}
    # Two legend columns where the names leave room, since a legend that is too wide is cut off.
    columns = 2 if len(histories) > 1 and max(map(len, histories)) <= _SHORT_NAME else 1
    height = 4.0 + 0.22 * math.ceil(len(histories) / columns)
    figure = Figure(figsize=(10, height), layout="constrained")
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
        Line2D([], [], color=INK, label="validation", **_VALIDATION),
        Line2D([], [], color=INK, label="training", **_TRAINING),
        Line2D([], [], label="best epoch", **_ring(INK)),
    ]
    panels["loss"].legend(handles=key, loc="lower right", bbox_to_anchor=(1.01, 1.0), ncols=3)
    figure.legend(handles=runs, loc="outside lower center", ncols=columns)
    return figure


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
    short = max(0, 1 - 1 / (_LONGEST_LAG * num_epochs))
    factor = min(_BOOKS_FACTOR, short) if smoothing is None else smoothing
    dot = "o" if num_epochs == 1 else None  # a line through one point shows nothing
    for key, style in ((quantity, _TRAINING), (f"val_{quantity}", _VALIDATION)):
        if factor:
            axes.plot(epochs, history[key], color=colour, linewidth=1, alpha=0.22)
        # Clipped, or one wild epoch would bend the average for the next twenty.
        values = smooth(np.minimum(history[key], limit), factor)
        axes.plot(epochs, values, color=colour, marker=dot, **style)
    ring = _ring(colour)
    axes.plot(epochs[best], history[f"val_{quantity}"][best], zorder=4, clip_on=False, **ring)


def _ring(colour):
    return {
        "color": colour,
        "linestyle": "",
        "marker": "o",
        "markerfacecolor": "white",
        "markeredgewidth": 2,
        "markersize": 8,
    }
