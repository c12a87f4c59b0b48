"""The histories of runs, once or as they grow."""

import pathlib
import time

from catsdogs.errors import InputError
from catsdogs.stages import run as runs

__all__ = ["follow_histories", "read_histories"]


def read_histories(run_dirs):
    """The histories of runs by name, or by whole path where two names are alike.

    Args:
        run_dirs: Run folders that have a `history.csv`.

    Returns:
        `{name: history}`, as `catsdogs.evaluation.history_plot.plot_history` takes it.

    Raises:
        InputError: If one is missing or broken.
    """
    paths = [pathlib.Path(run_dir) for run_dir in run_dirs]
    unique = len({path.name for path in paths}) == len(paths)
    return {path.name if unique else str(path): runs.read_history(path) for path in paths}


def follow_histories(run_dirs, *, seconds=2.0):
    """Waits beside runs that go on.

    Args:
        run_dirs: Run folders, whose training has begun or is done.
        seconds: Time between two looks.

    Yields:
        The histories of those that have finished an epoch, each time that there is a new one,
        until all runs are finished.

    Raises:
        InputError: If one of them is no run folder.
    """
    paths = [pathlib.Path(run_dir) for run_dir in run_dirs]
    for path in paths:
        if not (path / "config.json").is_file():
            raise InputError(
                f"Expected the folder of a run that goes on, received {path}. Training scripts "
                "print its name when they start."
            )
    seen = {}
    while True:
        finished = all(map(runs.is_complete, paths))  # asked first, so that no epoch is missed
        histories = read_histories(path for path in paths if (path / "history.csv").exists())
        if histories != seen:
            seen = histories
            yield histories
        if finished:
            return
        time.sleep(seconds)
