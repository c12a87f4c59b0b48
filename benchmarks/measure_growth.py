"""Measures how time and memory grow with the number of images, on drawings.

Examples:
    python benchmarks/measure_growth.py                    1,000 to 25,000 images: a quarter hour
    python benchmarks/measure_growth.py --numbers 100 200      does it run?
    python benchmarks/measure_growth.py --output results/growth.json    also what the README shows
"""

import dataclasses

import growth

from catsdogs import cli
from catsdogs.files import write_json


@dataclasses.dataclass(frozen=True)
class Arguments:
    numbers: tuple[int, ...] = (1000, 2000, 4000, 8000, 25_000)
    """How many images; half to train on, a quarter each to validate and test."""
    folder: str = "runs/growth"
    """Folder for drawings, data sets and runs; what is measured there is not measured again."""
    output: str | None = None
    """JSON file to write besides the one in the folder."""


def main():
    arguments = cli.parse(Arguments, __doc__)
    found = growth.measure_growth(arguments.folder, arguments.numbers)
    growth.print_growth(found["rows"])
    if arguments.output:
        write_json(arguments.output, found)


if __name__ == "__main__":
    cli.run(main)
