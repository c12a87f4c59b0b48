"""Runs every stage of the ladder, evaluates each, and prints one table.

Examples:
    python benchmarks/run_ladder.py --small    small images, few epochs: minutes (make run)
    python benchmarks/run_ladder.py            the runs behind the README's table (make ladder)
"""

import dataclasses
import pathlib

import ladder

from catsdogs import cli
from catsdogs.data.manifest import find_data_dir, load_manifest


@dataclasses.dataclass(frozen=True)
class Arguments:
    small: bool = False
    """Small images and few epochs, to see the ladder climb."""
    data_dir: str | None = None
    """Prepared data set; by default the photographs if there are any, else the sketches."""
    runs_dir: str | None = None
    """Folder for the runs; by default runs/DATASET, or runs/DATASET-small."""


def main():
    arguments = cli.parse(Arguments, __doc__)
    data_dir = find_data_dir(arguments.data_dir)
    name = load_manifest(data_dir).dataset + "-small" * arguments.small
    root = pathlib.Path(arguments.runs_dir or f"runs/{name}")
    steps = ladder.SMALL if arguments.small else ladder.FULL
    ladder.print_ladder(ladder.climb(steps, data_dir, root), root)


if __name__ == "__main__":
    cli.run(main)
