"""The ladder: every recipe's test accuracy in one figure, from the rows of a summary."""

import matplotlib
from matplotlib.figure import Figure

from catsdogs.evaluation.figures import COLOURS, GREY, PALE, STYLE, error_height

__all__ = ["plot_results"]

_STAGES = {
    "scratch": ("From scratch", COLOURS[0]),
    "feature_extract": ("Feature extraction", COLOURS[1]),
    "finetune": ("Fine-tuning", COLOURS[2]),
}
_VARIANTS = {
    "none": "no augmentation",
    "book": "book's augmentation",
    "strong": "strong augmentation",
    "cached": "cached features",
    "augmented": "augmented features",
    "end_to_end": "end to end",
}


@matplotlib.rc_context(STYLE)
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
        write_beside(points, -0.8, heading, color=GREY, fontsize=9)
    for depth, (_, colour, accuracy, minutes) in enumerate(lines):
        if accuracy is None:
            continue
        mean = accuracy["mean"]
        axes.axhline(depth, color=PALE, linewidth=0.8, zorder=0)
        if minutes is None:
            axes.plot(error_height(mean), depth, "D", color=colour, markersize=5)
            write_beside(52, depth, f"{100 * mean:.1f} %", color=colour)
            continue
        low, high = accuracy["interval95"]
        axes.plot(error_height([low, high]), [depth] * 2, color=colour, linewidth=6, alpha=0.25)
        for value in accuracy["values"]:
            axes.plot(error_height(value), depth, "|", color=colour, markersize=11)
        axes.plot(error_height(mean), depth, "o", color=colour, markersize=7)
        write_beside(52, depth, f"{100 * mean:.1f} %", color=colour, weight="bold")
        write_beside(132, depth, f"{100 * low:.1f} to {100 * high:.1f}", color=GREY)
        write_beside(186, depth, minutes, color=GREY)
    axes.set_yticks(range(len(lines)), [line[0] for line in lines])
    for label, (_, colour, accuracy, _) in zip(axes.get_yticklabels(), lines, strict=True):
        if accuracy is None:
            label.set(weight="bold", color=colour)
    left, right = axes.get_xlim()
    ticks = [0, 0.6, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999]
    axes.set_xticks(error_height(ticks), [f"{100 * tick:.4g} %" for tick in ticks])
    axes.set(xlim=(left, right), ylim=(len(lines) - 0.4, -0.5))
    axes.set_xlabel("test accuracy, logarithmic in the error; bar: 95 % interval; stroke: one seed")
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    datasets = dict.fromkeys(row["dataset"] for row in summary_rows)
    figure.suptitle(f"Test accuracy: {', '.join(datasets)}", x=0.01, ha="left", weight="bold")
    return figure


def _ladder_lines(summary_rows, published):
    """`(label, colour, accuracy, minutes)` downward; a heading has neither of the last two."""
    several = len({row["dataset"] for row in summary_rows}) > 1
    lines = []
    for stage, (heading, colour) in _STAGES.items():
        rows = [row for row in summary_rows if row["stage"] == stage]
        lines += [(heading, colour, None, None)] if rows else []
        for row in sorted(rows, key=lambda row: row["test_accuracy"]["mean"]):
            label = f"{_VARIANTS.get(row['variant'], row['variant'])}, {row['preset']}"
            label += f", {row['image_size']}²" + "".join(
                f", {name.replace('_', ' ')} {value}"
                for name, value in row["settings"].items()
                if name != "image_size"
            )
            label += f", {row['dataset']}" if several else ""
            seconds = row["wall_seconds"]  # None if no run of the recipe was a cold one
            minutes = "" if seconds is None else f"{seconds / 60:.0f}"
            lines.append((label, colour, row["test_accuracy"], minutes))
    lines += [("Published", GREY, None, None)] if published else []
    return lines + [(label, GREY, {"mean": value}, None) for label, value in published]
