"""The figures of the results: accuracy of every recipe, accuracy against time, growth."""

import textwrap

import matplotlib
from growth import STEPS
from matplotlib.figure import Figure

from catsdogs.evaluation.plots import COLOURS, GREY, PALE, STYLE

__all__ = ["STAGES", "plot_frontier", "plot_growth", "plot_ladder"]

STAGES = {  # title, colour, marker
    "scratch": ("From scratch", COLOURS[0], "o"),
    "feature_extract": ("Feature extraction", COLOURS[1], "s"),
    "finetune": ("Fine-tuning", COLOURS[2], "D"),
}
# The best of each kind in the three editions of *Deep Learning with Python*, 2,000 training
# images: test accuracy where there is one, else validation accuracy.
_PUBLISHED = {
    "convnet from scratch with augmentation, 3rd ed.": 0.839,
    "small Xception from scratch, 3rd ed.": 0.908,
    "VGG16 features with augmentation, 2nd ed.": 0.975,
    "Xception features with augmentation, 3rd ed.": 0.984,
    "VGG16 fine-tuned, 2nd ed.": 0.985,
    "Xception fine-tuned, 3rd ed.": 0.986,
}
# The second edition's test accuracies, whose code the benchmark times.
_TEXTBOOK = {"scratch": 0.835, "feature_extract": 0.975, "finetune": 0.985}
_TICKS = (0.6, 0.8, 0.9, 0.95, 0.98, 0.99, 0.998)


@matplotlib.rc_context(STYLE)
def plot_ladder(rows):
    """Test accuracy of every recipe with its 95 % interval, beside published figures.

    The scale is that of the log-odds: from 90 % to 95 % is as far as from 98 % to 99 %.

    Args:
        rows: From `results.summarize`.

    Returns:
        `matplotlib.figure.Figure`.
    """
    lines = []  # from the top: label, colour, row or accuracy or None for a title
    for stage, (title, colour, _) in STAGES.items():
        chosen = [row for row in rows if row["stage"] == stage]
        lines += [(title, colour, None)] * bool(chosen)
        lines += [(f"{row['label']}, {row['image_size']}²", colour, row) for row in chosen]
    lines.append(("Published in Deep Learning with Python", GREY, None))
    lines += [(label, GREY, accuracy) for label, accuracy in _PUBLISHED.items()]

    figure = Figure(figsize=(10, 1.5 + 0.27 * len(lines)), layout="constrained")
    axes = figure.subplots()
    axes.set_xscale("logit", nonpositive="clip")

    def write_beside(points, depth, text, **style):
        axes.annotate(
            text, (1, depth), (points, 0), xycoords=axes.get_yaxis_transform(),
            textcoords="offset points", ha="right", va="center_baseline", **style,
        )  # fmt: skip

    for points, heading in ((52, "accuracy"), (132, "95 % interval"), (186, "minutes")):
        write_beside(points, -0.8, heading, color=GREY, fontsize=9)
    for depth, (_, colour, row) in enumerate(lines):
        if row is None:
            continue
        axes.axhline(depth, color=PALE, linewidth=0.8, zorder=0)
        if isinstance(row, float):
            axes.plot(row, depth, "D", color=colour, markersize=5)
            write_beside(52, depth, f"{100 * row:.1f} %", color=colour)
            continue
        mean, (low, high) = row["accuracy"]["mean"], row["accuracy"]["interval95"]
        axes.plot([low, high], [depth] * 2, color=colour, linewidth=6, alpha=0.25)
        for value in row["accuracy"]["values"]:
            axes.plot(value, depth, "|", color=colour, markersize=11)
        axes.plot(mean, depth, "o", color=colour, markersize=7)
        write_beside(52, depth, f"{100 * mean:.1f} %", color=colour, weight="bold")
        write_beside(132, depth, f"{100 * low:.1f} to {100 * high:.1f}", color=GREY)
        if row["cold_seconds"]:
            minutes = row["cold_seconds"] / 60
            write_beside(186, depth, f"{minutes:.{int(minutes < 10)}f}", color=GREY)
    labels = [textwrap.fill(line[0], 64) for line in lines]
    axes.set_yticks(range(len(lines)), labels, linespacing=0.9)
    for label, (_, colour, row) in zip(axes.get_yticklabels(), lines, strict=True):
        if row is None:
            label.set(weight="bold", color=colour)
    limits = axes.get_xlim()
    axes.set_xticks(_TICKS, [f"{100 * tick:.4g} %" for tick in _TICKS])
    axes.minorticks_off()
    axes.set(xlim=limits, ylim=(len(lines) - 0.4, -0.5))
    axes.set_xlabel("test accuracy (bar: 95 % interval; lines: single seeds)")
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    return figure


@matplotlib.rc_context(STYLE)
def plot_frontier(rows, textbook_seconds, hardware):
    """Test accuracy against minutes, on scales of log-odds and logarithms, with the best so far.

    Args:
        rows: From `results.summarize`, all with `cold_seconds`.
        textbook_seconds: Seconds of the textbook's code by stage.
        hardware: The machine that ran the textbook's code.

    Returns:
        `matplotlib.figure.Figure`.
    """
    figure = Figure(figsize=(10, 6), layout="constrained")
    axes = figure.subplots()
    axes.set_xscale("log")
    axes.set_yscale("logit", nonpositive="clip")

    def write_label(label, minutes, accuracy, colour, above=False):
        style = {"textcoords": "offset points", "fontsize": 8, "color": colour}
        place = {"xytext": (7, 4), "va": "bottom"} if above else {"xytext": (7, -4), "va": "top"}
        axes.annotate(textwrap.fill(label, 24), (minutes, accuracy), **place, **style)

    machines = list(dict.fromkeys([hardware, *(row["hardware"] for row in rows)]))
    for machine, line in zip(machines, ("-", "--", ":"), strict=False):
        frontier = []
        for row in sorted(rows, key=lambda row: row["cold_seconds"]):
            is_better = not frontier or row["accuracy"]["mean"] > frontier[-1][1]
            if row["hardware"] == machine and is_better:
                frontier.append((row["cold_seconds"] / 60, row["accuracy"]["mean"]))
        if frontier:
            style = {"color": GREY, "linewidth": 1, "drawstyle": "steps-post", "zorder": 1}
            label = f"{machine} ({'filled' if machine == hardware else 'hollow'})"
            axes.plot(*zip(*frontier, strict=True), linestyle=line, label=label, **style)
    for stage, (title, colour, marker) in STAGES.items():
        for row in (row for row in rows if row["stage"] == stage):
            minutes, accuracy = row["cold_seconds"] / 60, row["accuracy"]["mean"]
            low, high = row["accuracy"]["interval95"]
            axes.plot([minutes] * 2, [low, high], color=colour, alpha=0.25, linewidth=4)
            fill = colour if row["hardware"] == hardware else "white"
            axes.plot(minutes, accuracy, marker, color=colour, markersize=7, markerfacecolor=fill)
            label = row["label"]
            for usual in (", cached features", ", augmented views"):
                label = label.replace(usual, "")  # the markers say so
            label = f"{label}, {row['image_size']}²"
            write_label(label, minutes, accuracy, colour, above=stage == "finetune")
        axes.plot([], [], marker, color=colour, markersize=7, label=title)
    seconds = dict(textbook_seconds)
    seconds["finetune"] += seconds["feature_extract"]  # it starts from the trained head
    names = {"scratch": "convnet", "feature_extract": "features", "finetune": "fine-tuned"}
    for stage, accuracy in _TEXTBOOK.items():
        minutes = seconds[stage] / 60
        axes.plot(minutes, accuracy, "x", color=GREY, markersize=9, markeredgewidth=2)
        write_label(f"textbook, {names[stage]}", minutes, accuracy, GREY)
    ticks = (0.5, 1, 3, 10, 30, 60, 120, 240, 480)
    axes.set_xticks(ticks, [f"{t:g} min" if t < 60 else f"{t // 60} h" for t in ticks])
    axes.minorticks_off()
    lowest, highest = axes.get_ylim()
    shown = [tick for tick in _TICKS if lowest < tick < highest]
    axes.set_yticks(shown, [f"{100 * tick:.4g} %" for tick in shown])
    last = max(*seconds.values(), *(row["cold_seconds"] for row in rows)) / 60
    axes.set(ylabel="test accuracy", xlim=(None, 2 * last))
    axes.set_xlabel("minutes of training, nothing cached")
    axes.legend(loc="lower left")
    axes.set_title("Accuracy against training time", pad=24)
    axes.text(
        0, 1.02, "Bars: 95 % intervals. Crosses: the textbook's published accuracy (2nd ed.), its "
        "code timed.",
        transform=axes.transAxes, color=GREY, fontsize=9,
    )  # fmt: skip
    return figure


@matplotlib.rc_context(STYLE)
def plot_growth(rows):
    """Seconds and peak memory against the number of images, one line for each step.

    Args:
        rows: From `growth.measure_growth`.

    Returns:
        `matplotlib.figure.Figure`.
    """
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    time, memory = figure.subplots(1, 2)
    numbers = [row["num_images"] for row in rows]
    for (step, label), colour in zip(STEPS.items(), COLOURS, strict=False):
        style = {"color": colour, "marker": "o", "markersize": 4, "label": label}
        time.plot(numbers, [row[step]["seconds"] for row in rows], **style)
        memory.plot(numbers, [row[step]["peak_rss_mb"] / 1024 for row in rows], **style)
    time.plot(numbers, [number / 200 for number in numbers], color=GREY, linestyle="--",
              label="5 s per 1,000 images")  # fmt: skip
    time.set(yscale="log", title="Time", ylabel="wall-clock time, with Python's start")
    ticks = (1, 3, 10, 30, 100, 300, 1000)
    highest = max(row[step]["seconds"] for row in rows for step in STEPS)
    time.set_yticks(ticks, [f"{tick:,} s" for tick in ticks])
    time.set_ylim(1, 1.3 * highest)
    memory.set(ylim=(0, None), title="Peak memory", ylabel="GiB")
    for axes in (time, memory):
        axes.set_xscale("log")
        axes.set_xticks(numbers, [f"{number:,}" for number in numbers])
        axes.minorticks_off()
        axes.set_xlabel("images")
    figure.legend(*time.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure
