"""A trained model as it lies in its run folder."""

import pathlib
import zipfile

import keras

from catsdogs.files import InputError

__all__ = ["load_model"]


def load_model(run_dir):
    """The model of a run, loaded in Keras's safe mode.

    Raises:
        InputError: If it is missing or broken.
    """
    path = pathlib.Path(run_dir) / "model.keras"
    if not path.is_file():
        raise InputError(f"Expected a model at {path}, found none. Train the run again.")
    try:
        return keras.models.load_model(path, safe_mode=True)
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise InputError(
            f"Expected a whole Keras model at {path}, received a damaged one "
            f"({type(error).__name__}). Train the run again."
        ) from None
