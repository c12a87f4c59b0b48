"""The run folder: everything a run leaves behind, so that it can be trusted and repeated.

config.json        every setting
environment.json   commit, versions, processor
history.csv        loss and accuracy of each epoch, training and validation
metrics.json       what came out: best epoch, validation, seconds, memory; test once evaluated
model.keras        the model of the best epoch, safe to load
curves.png         the history as a picture
state/             only while the run goes on: what `--resume` needs
"""

import contextlib
import csv
import pathlib
import shutil

from catsdogs.errors import InputError
from catsdogs.fields import FRACTION, check_fields, number
from catsdogs.files import atomic_path, read_json, write_json
from catsdogs.locks import PART, hold
from catsdogs.stages.environment import describe_environment
from catsdogs.tables import CONFIG, ENVIRONMENT, METRICS

__all__ = [
    "finished_runs",
    "is_complete",
    "load_run",
    "open_run",
    "read_history",
    "validation_folder",
    "write_history",
]

# What a run has written before its first epoch ended.
_BEGUN = {"config.json", "environment.json", "state", "tensorboard"}
_HISTORY = {"loss": [number(0)], "accuracy": [FRACTION]}
_HISTORY |= {f"val_{name}": values for name, values in _HISTORY.items()}


@contextlib.contextmanager
def open_run(settings, run_dir, *, resume=False):
    """Makes the folder of a run, or finds the one to go on with; nothing is ever overwritten.

    Other processes are kept out of it while the block runs. A new run that is refused there, with
    an `InputError` before its first epoch has ended, leaves no folder behind.

    Args:
        settings: Everything that decides the run, a JSON-ready dictionary.
        run_dir: The folder. A whole run that lies there is left alone and the next free name is
            taken: `run`, `run-2`, `run-3`. A run that ended before its first epoch did, say for
            a wrong flag, has nothing to lose and is begun anew.
        resume: Whether to go on with a run that was stopped. It may have been stopped at any
            moment: one that has not begun is begun, one that is whole (the last, if there are
            several) is returned as it is.

    Yields:
        The folder, a `Path` that holds `config.json`.

    Raises:
        InputError: If a stopped run lies there and `resume` is false, if it has other settings, or
            if another process is at it.
    """
    run_dir = newest = _named(run_dir)
    number, free = 1, run_dir
    while is_complete(free):
        number, newest = number + 1, free
        free = run_dir.with_name(f"{run_dir.name}-{number}")
    if resume and not free.exists():
        free = newest
    if free.is_file():
        raise _foreign(free)
    with hold(free):
        present = {path.name for path in free.iterdir() if not path.name.startswith(PART)}
        goes_on = _check_place(settings, free, present, resume)
        if "metrics.json" not in present:
            write_json(free / "config.json", settings)
            _write_environment(free / "environment.json", goes_on)
        try:
            yield free
        except InputError:
            if not present and not (free / "history.csv").exists():
                for name in _BEGUN:
                    shutil.rmtree(free / name, ignore_errors=True)
                    with contextlib.suppress(OSError):
                        (free / name).unlink()
            raise


def _named(run_dir):
    """The path of a folder, with a name that a number can be put to."""
    path = pathlib.Path(run_dir)
    return path if path.name not in ("", "..") else path.resolve()


def _check_place(settings, free, present, resume):
    """Refuses a folder that a run cannot take, by the names of what is `present` in it.

    Returns:
        Whether a run goes on there.
    """
    if "metrics.json" in present and not resume:  # another process has finished it in this moment
        raise _foreign(free)
    begun = bool(present & {"history.csv", "metrics.json"}) or any(free.glob("state/epoch-*.npz"))
    if "config.json" in present and begun:
        started = read_json(free / "config.json")
        if not resume:
            raise InputError(
                f"Expected a new folder, received {free}, where a stopped run lies. Add --resume "
                "to go on with it, or --run-dir to start another one."
            )
        changed = [k for k in settings if started.get(k) != settings[k]]
        if changed:
            wanted = ", ".join(f"{k}={started.get(k)!r} (not {settings[k]!r})" for k in changed)
            raise InputError(
                f"Expected the settings that {free} was started with: {wanted}. "
                "Give the same flags again, or start another run with --run-dir."
            )
    elif present - _BEGUN:
        raise _foreign(free)
    return begun


def _write_environment(path, goes_on):
    """Writes `environment.json`; for a run that goes on, adds what is no longer as it was."""
    environment = describe_environment()
    if goes_on and path.exists():
        begun = read_json(path, "Start another run with --run-dir.", ENVIRONMENT)
        changed = {name: now for name, now in environment.items() if begun.get(name) != now}
        if changed.keys() <= {"started"}:
            return
        environment = {**begun, "resumed": [*begun.get("resumed", []), changed]}
    write_json(path, environment)


def _foreign(free):
    return InputError(
        f"Expected a new or empty folder, received {free}, which holds other files. "
        "Choose another --run-dir."
    )


def is_complete(run_dir):
    """Whether a run ended well: its metrics are written last."""
    return (pathlib.Path(run_dir) / "metrics.json").exists()


def load_run(run_dir):
    """Reads a finished run's `config.json` and `metrics.json`.

    Returns:
        A pair of dictionaries: config and metrics.

    Raises:
        InputError: If there is no finished run, or its files are not as this version writes them.
    """
    run_dir = pathlib.Path(run_dir)
    if not run_dir.is_dir():
        raise InputError(
            f"Expected the folder of a finished run, found nothing at {run_dir}. "
            "Train one with scripts/train_scratch.py, or list what is there: ls runs/*."
        )
    if not is_complete(run_dir):
        raise InputError(
            f"Expected a finished run, received {run_dir}, which has no metrics.json. "
            "If it was stopped, go on with it by --resume; if runs lie in it, name those: "
            f"{run_dir}/*/."
        )
    remedy = "Train the run again."
    config = read_json(run_dir / "config.json", remedy, CONFIG)
    metrics = read_json(run_dir / "metrics.json", remedy, METRICS)
    return config, metrics


def validation_folder(run_dir):
    """The folder of the validation pictures that a run was measured on, as `str`.

    Raises:
        InputError: If there is no run, or its data set is gone.
    """
    folder = pathlib.Path(run_dir)
    remedy = "Name some pictures with --pictures."
    if not (folder / "config.json").is_file():
        raise InputError(f"Expected a run folder to find pictures by, received {folder}. {remedy}")
    table = {"data_dir": CONFIG["data_dir"]}
    data_dir = pathlib.Path(read_json(folder / "config.json", remedy, table)["data_dir"])
    if not (data_dir / "validation").is_dir():
        raise InputError(f"Expected the run's data set in {data_dir}, found none. {remedy}")
    return str(data_dir / "validation")


def finished_runs(run_dirs):
    """Leaves out what is no finished run, where several are named, as by `runs/NAME/*/`.

    Args:
        run_dirs: Paths.

    Returns:
        A pair of lists: those to use and those left out. A single one is never left out.
    """
    run_dirs = list(run_dirs)
    finished = [path for path in run_dirs if len(run_dirs) == 1 or is_complete(path)]
    return finished, [path for path in run_dirs if path not in finished]


def write_history(run_dir, history):
    """Writes `history.csv`, one line an epoch.

    Args:
        history: `{"loss": [...], "accuracy": [...], "val_loss": [...], ...}`.
    """
    with atomic_path(pathlib.Path(run_dir) / "history.csv") as path, open(path, "w") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["epoch", *history])
        for epoch, values in enumerate(zip(*history.values(), strict=True), start=1):
            writer.writerow([epoch, *(f"{value:.6g}" for value in values)])


def read_history(run_dir):
    """Reads `history.csv` back as a dictionary of lists of floats, without the epoch column.

    Raises:
        InputError: If it is missing or broken.
    """
    path = pathlib.Path(run_dir) / "history.csv"
    if not path.is_file():
        raise InputError(
            f"Expected a run's history.csv, found nothing at {path}. Is this a run folder?"
        )
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        names = [name for name in rows[0] if name != "epoch"]
        history = {name: [float(row[name]) for row in rows] for name in names}
        check_fields(history, _HISTORY)
        return history
    except (IndexError, KeyError, TypeError, ValueError, csv.Error):
        raise InputError(
            f"Expected one line of numbers an epoch in {path}, received something else. "
            "The run's metrics.json and model are not affected."
        ) from None
