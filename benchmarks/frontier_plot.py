"""Accuracy against minutes: what a user gets for the time, every recipe in one figure."""

import matplotlib
from matplotlib.figure import Figure

from catsdogs.evaluation.figures import COLOURS, GREY, STYLE, error_height

__all__ = ["plot_frontier"]

_STAGES = {
    "scratch": ("from scratch", COLOURS[0], "o"),
    "feature_extract": ("feature extraction", COLOURS[1], "s"),
    "finetune": ("fine-tuning", COLOURS[2], "D"),
}
_TICKS = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995)


@matplotlib.rc_context(STYLE)
def plot_frontier(points, book=()):
    """Test accuracy against minutes from a cold start, on logarithmic scales.

    The accuracy's scale is logarithmic in the error, so that one height is one ratio of mistakes.

    Args:
        points: List of `{"stage", "label", "minutes", "accuracy", "interval95"}`, the accuracy a
            fraction.
        book: The same without intervals, for the book's recipe on the same machine.

    Returns:
        `matplotlib.figure.Figure`.
    """
    figure = Figure(figsize=(10, 6), layout="constrained")
    axes = figure.subplots()
    axes.set_xscale("log")
    best = _upper_edge(points)
    axes.plot([p["minutes"] for p in best], [error_height(p["accuracy"]) for p in best],
              color=GREY, linewidth=1, drawstyle="steps-post", zorder=1)  # fmt: skip
    for stage, (name, colour, marker) in _STAGES.items():
        chosen = [point for point in points if point["stage"] == stage]
        for point in chosen:
            low, high = error_height(point["interval95"])
            axes.plot([point["minutes"]] * 2, [low, high], color=colour, alpha=0.25, linewidth=4)
            _name(axes, point, colour, points_up=-12)  # clear of the edge's line
        axes.plot([p["minutes"] for p in chosen], [error_height(p["accuracy"]) for p in chosen],
                  marker, color=colour, markersize=7, label=name)  # fmt: skip
    for point in book:
        axes.plot(point["minutes"], error_height(point["accuracy"]), "x", color=GREY, markersize=9,
                  markeredgewidth=2)  # fmt: skip
        _name(axes, point, GREY, points_up=5)
    ticks = [1, 3, 10, 30, 60, 120, 240, 480]
    last = max(point["minutes"] for point in (*points, *book))
    ticks = [tick for tick in ticks if tick < 1.6 * last]
    axes.set_xticks(ticks, [f"{t} min" if t < 60 else f"{t // 60} h" for t in ticks])
    axes.minorticks_off()
    shown = [point["accuracy"] for point in (*points, *book)]
    heights = [t for t in _TICKS if min(shown) - 0.1 < t]
    axes.set_yticks(error_height(heights), [f"{100 * t:.4g} %" for t in heights])
    axes.set(ylabel="test accuracy", xlim=(None, 2.2 * last))
    axes.set_xlabel("minutes of training with nothing stored beforehand; Python's start aside")
    axes.legend(loc="lower right")
    axes.set_title("Accuracy per minute", pad=24)
    axes.text(
        0, 1.02, "bars: 95 % intervals; crosses: the book's recipe, its published accuracy at the "
        "time it takes on this machine", transform=axes.transAxes, color=GREY, fontsize=9,
    )  # fmt: skip
    return figure


def _upper_edge(points):
    """Those that no other point beats in less time, by minutes."""
    edge = []
    for point in sorted(points, key=lambda point: (point["minutes"], -point["accuracy"])):
        if not edge or point["accuracy"] > edge[-1]["accuracy"]:
            edge.append(point)
    return edge


def _name(axes, point, colour, points_up):
    place = point["minutes"], error_height(point["accuracy"])
    style = {"textcoords": "offset points", "fontsize": 8, "color": colour}
    axes.annotate(point["label"], place, (7, points_up), **style)
