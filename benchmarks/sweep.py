"""Compares settings on the validation split alone: image sizes, and how to fine-tune.

Examples:
    python benchmarks/sweep.py                 everything: most of an hour, the best one first
    python benchmarks/sweep.py --minutes 20    begins nothing after 20 minutes; goes on next time
"""

import dataclasses
import math
import pathlib

import ladder

from catsdogs import cli
from catsdogs.data.manifest import find_data_dir, load_manifest


@dataclasses.dataclass(frozen=True)
class Arguments:
    minutes: float = math.inf
    """Begin no run after so many minutes."""
    data_dir: str | None = None
    """Prepared data set; by default the photographs if there are any, else the sketches."""
    runs_dir: str | None = None
    """Folder for the runs and sweep.csv; by default runs/DATASET-sweep."""


def main():
    arguments = cli.parse(Arguments, __doc__)
    data_dir = find_data_dir(arguments.data_dir)
    root = pathlib.Path(arguments.runs_dir or f"runs/{load_manifest(data_dir).dataset}-sweep")
    steps, minutes = ladder.SWEEP, arguments.minutes
    found = ladder.climb(steps, data_dir, root, evaluate=False, minutes=minutes)
    ladder.print_sweep(found, root)


if __name__ == "__main__":
    cli.run(main)
