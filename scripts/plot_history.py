"""Plots accuracy and loss over epochs, training and validation, raw and smoothed.

Examples:
    python scripts/plot_history.py runs/dogs-vs-cats/scratch-textbook-book-seed0
    python scripts/plot_history.py runs/dogs-vs-cats/scratch-* --output scratch.png
    python scripts/plot_history.py runs/dogs-vs-cats/scratch-* --smoothing 0.9 --show
"""

import dataclasses
import pathlib

import tyro

from catsdogs import cli, figures, runs
from catsdogs.history_plot import plot_history


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
    """Also open the picture in a window."""


def main():
    arguments = cli.parse(Arguments, __doc__)
    paths = [pathlib.Path(run) for run in cli.usable_runs(arguments.runs)]
    same_names = len({path.name for path in paths}) < len(paths)
    histories = {str(p) if same_names else p.name: runs.read_history(p) for p in paths}
    figure = plot_history(histories, arguments.smoothing)
    figures.save_figure(figure, arguments.output)
    print(arguments.output)
    if arguments.show:
        figures.show_figure(figure)


if __name__ == "__main__":
    cli.run(main)
