"""The trained head that fine-tuning starts from: whether it may, and that it stays the same one."""

import pathlib

from catsdogs.errors import InputError
from catsdogs.files import read_json, sha256_of, write_json
from catsdogs.stages import run as runs
from catsdogs.stages.checkpoint import completed_epochs

__all__ = ["check_start", "keep_start"]


def check_start(start, config, data_dir, dataset_digest):
    """Reads the run to start from and refuses what cannot be started from.

    Args:
        start: Folder of a finished feature extraction.
        config: A `FinetuneConfig`.
        data_dir: The data set's folder, for what is said.
        dataset_digest: What its manifest says of itself.

    Returns:
        The run's metrics, a dictionary.

    Raises:
        InputError: If it is no such run, or one of other pictures, other precision or `--smoke`.
    """
    _, metrics = runs.load_run(start)
    if metrics["stage"] != "feature_extract":
        raise InputError(
            f"Expected --start to be a feature-extraction run, received {start}, a "
            f"{metrics['stage']} run. Make one with scripts/train_feature_extract.py."
        )
    if metrics["dataset_digest"] != dataset_digest:
        raise InputError(
            f"Expected --start to be trained on {data_dir}, received {start}, which was "
            "trained on other pictures or splits: it may have seen test pictures. Train the "
            "head again, or give another --start."
        )
    if config.precision not in ("auto", metrics["precision"]):
        raise InputError(
            f"Expected --precision {metrics['precision']}, which {start} was trained in. "
            f"Received: {config.precision}."
        )
    if metrics["config"]["smoke"] and not config.smoke:
        raise InputError(
            f"Expected --start to be a full run, received {start}, made with --smoke. "
            "Make one with scripts/train_feature_extract.py."
        )
    return metrics


def keep_start(run_dir, start):
    """Notes which head a run starts from, for `--resume`: half a run from each of two is neither.

    Args:
        run_dir: The run folder.
        start: Folder of the run that is started from.

    Raises:
        InputError: If the run has been going on from another head.
    """
    note = pathlib.Path(run_dir) / "state" / "start.json"
    found = {"model": sha256_of(pathlib.Path(start) / "model.keras")}
    goes_on = completed_epochs(run_dir) > 0
    if goes_on and not (note.is_file() and read_json(note) == found):
        raise InputError(
            f"Expected the head in {start} that {run_dir} was started from, received another one. "
            "Put that back, or start another run with --run-dir."
        )
    write_json(note, found)
