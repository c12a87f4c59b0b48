"""What a stopped run needs to go on, in the folder `state` of its run."""

import contextlib
import math
import pathlib
import time
import zipfile

import keras
import numpy as np

from catsdogs.errors import InputError, say_briefly
from catsdogs.files import atomic_path
from catsdogs.stages.run import read_history, write_history

__all__ = ["RunState", "completed_epochs", "completed_seconds"]


def completed_epochs(run_dir):
    """How many epochs of a stopped run can be taken over; 0 if none."""
    return max((_epoch_of(path) for path in _states(run_dir)), default=0)


def completed_seconds(run_dir):
    """How many seconds a stopped run had taken when it finished these epochs; 0.0 if none."""
    newest = max(_states(run_dir), key=_epoch_of, default=None)
    if newest is None:
        return 0.0
    with _read_state(newest) as arrays:
        return float(arrays["seconds"])


class RunState(keras.callbacks.Callback):
    """Writes after every epoch what a stopped run needs to go on.

    Keras's BackupAndRestore keeps neither the history nor the best epoch, and writes its two files
    one after the other. Here the order makes every moment safe to stop in: the state's file comes
    last, and what was written before it is written again, the same, when the epoch is repeated.

    Keras's own weight files leave out the random generators, and with them which activations
    dropout drops next; and writing HDF5 on a full disk ends in a segmentation fault.

    Args:
        run_dir: The run folder.
        started: When the run began, seconds of `time.perf_counter()`.

    Attributes:
        history: Of all epochs so far, `{"loss", "accuracy", "val_loss", "val_accuracy"}`.
    """

    def __init__(self, run_dir, started):
        super().__init__()
        self._run_dir, self._started = pathlib.Path(run_dir), started
        self._best_path = self._run_dir / "state" / "best.npz"
        self.history = {"loss": [], "accuracy": [], "val_loss": [], "val_accuracy": []}

    def restore(self, model, epoch):
        """Takes a compiled model and the history back to where they were after an epoch.

        Raises:
            InputError: If the state is damaged, or the history shorter than the run was.
        """
        with _read_state(self._best_path):
            pass  # needed only at the end, but then it is too late to tell
        model.optimizer.build(model.trainable_variables)
        _load(_state_path(self._run_dir, epoch), _all_variables(model))
        history = read_history(self._run_dir)
        if min(map(len, history.values())) < epoch:
            raise InputError(
                f"Expected {epoch} epochs in {self._run_dir / 'history.csv'}, as in the run's "
                "state, received fewer. Start another run with --run-dir."
            )
        self.history = {name: history[name][:epoch] for name in self.history}

    def load_best(self, model):
        """Gives a model the weights of the epoch of least validation loss."""
        _load(self._best_path, model.weights)

    def refuse_if_lost(self):
        """Without a state there is nothing to go on from, and beginning anew loses the history."""
        path = self._run_dir / "history.csv"
        # The first epoch's line is written before the first state.
        if path.is_file() and len(path.read_bytes().splitlines()) > 2:
            raise InputError(
                f"Expected the state of a stopped run in {self._best_path.parent}, found none. "
                "Start another run with --run-dir."
            )

    def on_epoch_end(self, epoch, logs=None):
        if not (math.isfinite(logs["loss"]) and math.isfinite(logs["val_loss"])):
            # Do not keep what is broken. TerminateOnNaN looks at the training loss alone, which
            # does not know yet of weights that the last step broke.
            self.model.stop_training = True
            return
        for name, source in (
            ("loss", "cross_entropy"),
            ("accuracy", "accuracy"),
            ("val_loss", "val_cross_entropy"),
            ("val_accuracy", "val_accuracy"),
        ):
            # The digits that history.csv holds, so that a run that goes on compares the same.
            self.history[name].append(float(f"{logs[source]:.6g}"))
        *earlier, val_loss = self.history["val_loss"]
        if val_loss < min(earlier, default=math.inf):
            _save(self._best_path, self.model.weights)
        write_history(self._run_dir, self.history)
        newest = _state_path(self._run_dir, epoch + 1)
        seconds = time.perf_counter() - self._started
        _save(newest, _all_variables(self.model), seconds=seconds)
        for path in _states(self._run_dir):
            if path != newest:
                path.unlink()


def _all_variables(model):
    """Weights, random generators and what the optimizer has gathered."""
    return [*model.variables, *model.optimizer.variables]


def _save(path, variables, **numbers):
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, *map(keras.ops.convert_to_numpy, variables), **numbers)


def _load(path, variables):
    with _read_state(path) as arrays:
        for number, variable in enumerate(variables):
            variable.assign(arrays[f"arr_{number}"])


@contextlib.contextmanager
def _read_state(path):
    try:
        with open(path, "rb") as file, np.load(file) as arrays:
            yield arrays
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(
            f"Expected the state of a stopped run in {path}, received something else "
            f"({say_briefly(error)}). Start another run with --run-dir."
        ) from None


def _states(run_dir):
    paths = (pathlib.Path(run_dir) / "state").glob("epoch-*.npz")
    return [path for path in paths if path.stem.removeprefix("epoch-").isdecimal()]


def _state_path(run_dir, epoch):
    return pathlib.Path(run_dir) / "state" / f"epoch-{epoch:04d}.npz"


def _epoch_of(path):
    return int(path.stem.removeprefix("epoch-"))
