"""Times the machine, the book's recipe and every stage in one run, and prints the ratios.

Examples:
    python benchmarks/run_benchmark.py --output results/benchmark.json    as in the README
    python benchmarks/run_benchmark.py        on the photographs: most of an hour
    python benchmarks/run_benchmark.py --quick    does it run? small images and few steps: minutes
"""

import dataclasses
import pathlib
import tempfile

import benchmark

from catsdogs import cli
from catsdogs.data.manifest import find_data_dir
from catsdogs.files import write_json


@dataclasses.dataclass(frozen=True)
class Arguments:
    quick: bool = False
    """Small images and few steps, to see that it works; its figures mean nothing."""
    data_dir: str | None = None
    """Prepared data set; by default the photographs if there are any, else the sketches."""
    output: str | None = None
    """JSON file to write; by default runs/benchmark.json."""
    runs_dir: str = "runs"
    """Folder in which the runs are kept, in benchmark-XXXX."""


def main():
    arguments = cli.parse(Arguments, __doc__)
    data_dir = find_data_dir(arguments.data_dir)
    pathlib.Path(arguments.runs_dir).mkdir(parents=True, exist_ok=True)
    folder = tempfile.mkdtemp(prefix="benchmark-", dir=arguments.runs_dir)
    found = benchmark.run_benchmark(data_dir, folder, quick=arguments.quick)
    benchmark.print_benchmark(found)
    output = pathlib.Path(arguments.output or pathlib.Path(arguments.runs_dir) / "benchmark.json")
    write_json(output, found)
    print(f"\nWritten: {output}; the runs are in {folder}")


if __name__ == "__main__":
    cli.run(main)
