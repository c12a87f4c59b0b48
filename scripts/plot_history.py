"""Plots accuracy and loss over epochs, training and validation, raw and smoothed.

Examples:
    python scripts/plot_history.py runs/dogs-vs-cats/scratch-textbook-book-seed0
    python scripts/plot_history.py runs/dogs-vs-cats/scratch-* --output scratch.png
    python scripts/plot_history.py runs/dogs-vs-cats/scratch-* --smoothing 0.9 --show
    python scripts/plot_history.py --follow runs/dogs-vs-cats/scratch-best-strong-seed0
"""

import dataclasses

import tyro

from catsdogs import cli
from catsdogs.evaluation import figures
from catsdogs.evaluation.history_plot import plot_history
from catsdogs.follow import follow_histories, read_histories


@dataclasses.dataclass(frozen=True)
class Arguments:
    runs: tyro.conf.Positional[tuple[str, ...]]
    """Run folders; several are drawn over each other."""
    output: str = "history.png"
    """Picture to write."""
    smoothing: float | None = None
    """Weight of the past in the exponential moving average, from 0 to below 1; by default 0.8, and
    less for runs so short that the average would lag behind."""
    show: bool = False
    """Also open the picture in a window; with --follow once the runs are finished."""
    follow: bool = False
    """Draw anew after every epoch, until the runs are finished."""


def main():
    arguments = cli.parse(Arguments, __doc__)
    if arguments.follow:
        several = follow_histories(arguments.runs)
    else:
        several = [read_histories(cli.usable_runs(arguments.runs))]
    for histories in several:
        figure = plot_history(histories, arguments.smoothing)
        figures.save_figure(figure, arguments.output)
        longest = max(len(history["loss"]) for history in histories.values())
        print(f"{arguments.output}: {longest} epochs" if arguments.follow else arguments.output)
    if arguments.show:
        figures.show_figure(figure)


if __name__ == "__main__":
    cli.run(main)
