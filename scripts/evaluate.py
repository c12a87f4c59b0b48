"""Measures finished runs on the test split: loss, accuracy with its interval, ROC AUC, confusion.

Examples:
    python scripts/evaluate.py runs/dogs-vs-cats/finetune-best-augmented-seed0
    python scripts/evaluate.py runs/dogs-vs-cats/*/           several runs, one table
    python scripts/evaluate.py runs/dogs-vs-cats/*/ --json    the same for a program to read
    python scripts/evaluate.py runs/dogs-vs-cats/*/ --flip    also with each mirror image averaged
"""

import dataclasses
import json
import sys

import tyro

from catsdogs import cli, console
from catsdogs.evaluation import comparison


@dataclasses.dataclass(frozen=True)
class Arguments:
    runs: tyro.conf.Positional[tuple[str, ...]]
    """Run folders."""
    data_dir: str | None = None
    """Prepared data set; by default the one that each run was trained on."""
    flip: bool = False
    """Also measure the mean prediction for each picture and its mirror image: twice the work."""
    json: bool = False
    """Print JSON instead of a table."""


def main():
    arguments = cli.parse(Arguments, __doc__)
    finished = cli.usable_runs(arguments.runs)
    evaluate = cli.load_quietly("catsdogs.stages.evaluate").evaluate_runs
    metrics = evaluate(finished, arguments.data_dir, flip=arguments.flip)
    comparisons = comparison.compare_runs(list(metrics))
    if arguments.json:
        kinds = ("test", "test_flip") if arguments.flip else ("test",)
        found = {run: {kind: one[kind] for kind in kinds} for run, one in metrics.items()}
        print(json.dumps({"runs": found, "comparisons": comparisons}, indent=2))
    else:
        console.print_evaluation(metrics)
        print(*(one["sentence"] for one in comparisons), sep="\n")
    if comparisons:
        page = cli.load_quietly("catsdogs.evaluation.report").write_comparison(metrics, comparisons)
        print(f"Compared in {page}", file=sys.stderr)


if __name__ == "__main__":
    cli.run(main)
