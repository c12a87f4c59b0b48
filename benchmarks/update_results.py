"""Adds evaluated runs to results/, then makes the summary, the picture and the README's table.

Examples:
    python benchmarks/update_results.py runs/dogs-vs-cats/*/   add these runs' evidence
    python benchmarks/update_results.py                        only make the summary and table anew
"""

import dataclasses

import tyro

import results
from catsdogs import cli


@dataclasses.dataclass(frozen=True)
class Arguments:
    runs: tyro.conf.Positional[tuple[str, ...]] = ()
    """Run folders to add."""


def main():
    arguments = cli.parse(Arguments, __doc__)
    results.add_runs(arguments.runs)
    print(*results.update(), sep="\n")


if __name__ == "__main__":
    cli.run(main)
