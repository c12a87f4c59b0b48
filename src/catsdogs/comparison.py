"""Is one run better than another, or does it only look so? Both saw the same test pictures."""

import csv
import pathlib

from catsdogs.files import InputError
from catsdogs.significance import mcnemar_test

__all__ = ["compare_runs"]

_LEVEL = 0.05  # of p, below which a difference counts as real


def compare_runs(run_dirs):
    """Compares the most accurate of several evaluated runs with each of the others.

    Args:
        run_dirs: Run folders with `predictions.csv`, two or more.

    Returns:
        A list of sentences, one a comparison. Runs on other pictures are said to be so.

    Raises:
        InputError: If a `predictions.csv` is missing or broken.
    """
    right = {pathlib.Path(run): _read(run) for run in run_dirs}
    best = max(right, key=lambda run: sum(right[run].values()) / len(right[run]))
    return [_compare(best, run, right) for run in right if run != best]


def _compare(first, second, right):
    if right[first].keys() != right[second].keys():
        return f"{first} and {second} were tested on different pictures: no comparison."
    files = list(right[first])
    found = mcnemar_test([right[first][f] for f in files], [right[second][f] for f in files])
    better, worse, p_value = found["only_first"], found["only_second"], found["p_value"]
    verdict = (
        f"{first} is better, and not by chance"
        if p_value < _LEVEL
        else "no real difference between them is shown"
    )
    return (
        f"{first} alone is right on {better} of {len(files):,} pictures, {second} alone on "
        f"{worse}: {verdict} (McNemar's test, p = {p_value:.2g})."
    )


def _read(run_dir):
    """Whether each test picture was predicted right, by name."""
    path = pathlib.Path(run_dir) / "predictions.csv"
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        found = {row["file"]: row["label"] == row["prediction"] for row in rows}
    except FileNotFoundError:
        raise InputError(
            f"Expected an evaluated run, found no {path}. Run scripts/evaluate.py {run_dir}."
        ) from None
    except (KeyError, UnicodeDecodeError, csv.Error):
        found = {}
    if not found:
        raise InputError(
            f"Expected file, label and prediction of each test picture in {path}, received "
            f"something else. Run scripts/evaluate.py {run_dir} again."
        )
    return found
