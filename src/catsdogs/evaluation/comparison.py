"""Is one run better than another, or does it only look so? Both saw the same test pictures."""

import csv
import itertools
import pathlib
import statistics

from catsdogs.errors import InputError
from catsdogs.evaluation.significance import adjust_p_values, mcnemar_test
from catsdogs.files import read_json

__all__ = ["compare_runs"]

_LEVEL = 0.05  # of the adjusted p, below which a difference counts as real


def compare_runs(run_dirs):
    """Compares the most accurate of several evaluated runs with each of the others.

    Which one is the most accurate is known from the very pictures that it is compared on. So all
    pairs of runs are tested, and the p-values are adjusted for their number.

    Args:
        run_dirs: Run folders with `metrics.json` and `predictions.csv`.

    Returns:
        A list of dictionaries, one for every run but the best: `best`, `other` (`str`),
        `only_best`, `only_other` (numbers of pictures that only one of them got right), `p_value`,
        `adjusted_p_value`, and `sentence`, which says it all. For a run on other pictures only
        `best`, `other` and `sentence`.

    Raises:
        InputError: If a file is missing or broken.
    """
    tested = {str(run): _read(pathlib.Path(run)) for run in run_dirs}
    best, *others = sorted(tested, key=lambda run: -statistics.fmean(tested[run][1].values()))
    pairs = {
        (first, second): mcnemar_test(*_aligned(tested[first][1], tested[second][1]))
        for first, second in itertools.combinations([best, *others], 2)
        if _same_pictures(tested[first], tested[second])
    }
    adjusted = adjust_p_values([found["p_value"] for found in pairs.values()])
    adjusted = dict(zip(pairs, adjusted, strict=True))
    names = {run: pathlib.PurePath(run).name for run in tested}
    if len(set(names.values())) < len(names):
        names = {run: run for run in tested}
    comparisons = []
    for other in others:
        found = {"best": best, "other": other}
        if pair := pairs.get((best, other)):
            found |= {
                "only_best": pair["only_first"],
                "only_other": pair["only_second"],
                "p_value": pair["p_value"],
                "adjusted_p_value": adjusted[best, other],
            }
        found["sentence"] = _say(found, names, len(tested[other][1]), len(pairs))
        comparisons.append(found)
    return comparisons


def _say(found, names, num_images, num_pairs):
    best, other = names[found["best"]], names[found["other"]]
    if "p_value" not in found:
        return f"{best} and {other} were tested on different pictures: no comparison."
    if found["adjusted_p_value"] < _LEVEL:
        verdict = f"{best} is better; chance alone rarely does that"
    else:
        verdict = "no real difference between them is shown"
    p_value = f"p = {found['p_value']:.2g}"
    if num_pairs > 1:
        p_value += f", adjusted for {num_pairs} comparisons {found['adjusted_p_value']:.2g}"
    return (
        f"{best} alone is right on {found['only_best']} of {num_images:,} pictures, {other} alone "
        f"on {found['only_other']}: {verdict} (McNemar's test, {p_value})."
    )


def _same_pictures(first, second):
    return first[0] == second[0] and first[1].keys() == second[1].keys()


def _aligned(first, second):
    return list(first.values()), [second[file] for file in first]


def _read(run_dir):
    """The data set's digest, and whether each test picture was predicted right, by name."""
    path = run_dir / "predictions.csv"
    digest = read_json(run_dir / "metrics.json").get("dataset_digest")
    if not path.is_file():
        raise InputError(
            f"Expected an evaluated run, found no {path}. Run scripts/evaluate.py {run_dir}."
        )
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        found = {row["file"]: row["label"] == row["prediction"] for row in rows}
    except (KeyError, UnicodeDecodeError, csv.Error):
        found = {}
    if not found:
        raise InputError(
            f"Expected file, label and prediction of each test picture in {path}, received "
            f"something else. Run scripts/evaluate.py {run_dir} again."
        )
    return digest, found
