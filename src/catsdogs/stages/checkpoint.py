"""Resume that is exact to the bit: all that a stopped run needs, written after every epoch."""

import math
import pathlib
import time

import keras
import numpy as np

from catsdogs.evaluation.plots import plot_history, save_figure
from catsdogs.files import atomic_path, read_history, write_history

__all__ = ["Checkpoint"]

_SECONDS_BETWEEN_CURVES = 5


class Checkpoint(keras.callbacks.Callback):
    """Writes the complete training state after every epoch, and restores it when training begins.

    Keras's BackupAndRestore keeps neither the history nor the best epoch, its weight files lack the
    random generators that decide which activations dropout drops next, and it writes two files one
    after the other. Here the state's file comes last: a run that is killed at any moment repeats
    the unfinished epoch and writes the same files again.

    Args:
        run_dir: The run folder.
        title: Name of the run in `curves.png`.
        started: When the run began, in seconds of `time.perf_counter()`.

    Attributes:
        epoch: Number of epochs that are completed.
        seconds: How long the run had taken when the last of them was completed.
        started: As given, but earlier by `seconds` if the run was stopped and is resumed.
        history: `{"loss", "accuracy", "val_loss", "val_accuracy"}`, each a list of floats. Losses
            are plain cross-entropy, without label smoothing: what Keras prints as `cross_entropy`.
    """

    def __init__(self, run_dir, title, started):
        super().__init__()
        self._run_dir, self._title = pathlib.Path(run_dir), title
        self._folder = self._run_dir / "state"
        self._curves_drawn = 0.0
        self.epoch, self.seconds = 0, 0.0
        self.history = {"loss": [], "accuracy": [], "val_loss": [], "val_accuracy": []}
        if states := self._states():
            self.epoch = int(states[-1].stem.removeprefix("epoch-"))
            with np.load(states[-1]) as arrays:
                self.seconds = float(arrays["seconds"])
            history = read_history(self._run_dir)
            self.history = {name: history[name][: self.epoch] for name in self.history}
        self.started = started - self.seconds

    def on_train_begin(self, logs=None):
        if self.epoch:
            print(f"Resuming after epoch {self.epoch}.")
            self.model.optimizer.build(self.model.trainable_variables)
            _load(self._path(self.epoch), _all_variables(self.model))

    def on_epoch_end(self, epoch, logs=None):
        if not (math.isfinite(logs["loss"]) and math.isfinite(logs["val_loss"])):
            self.model.stop_training = True  # and keep the last good state
            return
        # The digits that history.csv holds, so that a resumed run compares the same numbers.
        for name, source in (
            ("loss", "cross_entropy"),
            ("accuracy", "accuracy"),
            ("val_loss", "val_cross_entropy"),
            ("val_accuracy", "val_accuracy"),
        ):
            self.history[name].append(float(f"{logs[source]:.6g}"))
        *earlier, val_loss = self.history["val_loss"]
        if val_loss < min(earlier, default=math.inf):
            _save(self._folder / "best.npz", self.model.weights)
        write_history(self._run_dir, self.history)
        previous = self._states()
        self.epoch, self.seconds = epoch + 1, time.perf_counter() - self.started
        _save(self._path(self.epoch), _all_variables(self.model), seconds=self.seconds)
        for path in previous:
            if path != self._path(self.epoch):
                path.unlink()
        if time.monotonic() - self._curves_drawn > _SECONDS_BETWEEN_CURVES:
            self.draw_curves()

    def draw_curves(self):
        """Writes `curves.png`."""
        save_figure(plot_history({self._title: self.history}), self._run_dir / "curves.png")
        self._curves_drawn = time.monotonic()

    def load_best(self, model):
        """Gives a model the weights of the epoch of the lowest validation loss."""
        _load(self._folder / "best.npz", model.weights)

    def _states(self):
        return sorted(self._folder.glob("epoch-*.npz"))

    def _path(self, epoch):
        return self._folder / f"epoch-{epoch:06d}.npz"


def _all_variables(model):
    """Weights, states of random generators, and the optimizer's variables."""
    return [*model.variables, *model.optimizer.variables]


def _save(path, variables, **numbers):
    # NumPy, since HDF5 on a full disk ends in a segmentation fault.
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, *map(keras.ops.convert_to_numpy, variables), **numbers)


def _load(path, variables):
    with np.load(path) as arrays:
        for number, variable in enumerate(variables):
            variable.assign(arrays[f"arr_{number}"])
