"""A trained model as one file that holds all that predicting needs.

A `.keras` file is a zip; beside Keras's own members it gets `catsdogs.json`: class names, image
size and how pictures are resized. Keras passes over that member, so the file loads anywhere.
"""

import dataclasses
import errno
import json
import pathlib
import zipfile
import zlib

import keras
import numpy as np

from catsdogs.errors import InputError, shorten
from catsdogs.fields import CLASSES, check_fields, number, whole
from catsdogs.files import atomic_path
from catsdogs.models.model_check import check_archive, read_member

__all__ = ["SavedModel", "load_model", "load_saved_model", "read_card", "save_model"]

_CARD = "catsdogs.json"
_CARD_TABLE = {
    "classes": CLASSES, "image_size": whole(8, 2048), "temperature": number(1e-6, 1e6),
}  # fmt: skip
_NOT_THE_MODELS_FAULT = (
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EMFILE, errno.ENFILE, errno.ENOMEM,
)  # fmt: skip
_USUAL_SIDE = 224  # pixels, where nobody says at what size a model will be used
_ZIP_ERRORS = (OSError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error)

# The whole of what `catsdogs.data.images.decode_image` does, for who has the model alone.
_RESIZE = (
    "of an animation the first frame; JPEG decoded at the least of full, half, quarter and eighth "
    "size that is at least twice image_size in width and height (Pillow's draft); EXIF orientation "
    "applied; grey of 16 bits scaled to 8, 65535 being white (32 bits: white is the least of 255, "
    "65535 and 4294967295 that no pixel exceeds, in floating point also 1); transparency laid on "
    "white; RGB; squashed to a square of image_size pixels whatever the aspect ratio, bicubic with "
    "antialiasing (Pillow's BICUBIC); float32 in [0, 255]"
)


@dataclasses.dataclass(frozen=True)
class SavedModel:
    """A model and what it was trained for."""

    path: pathlib.Path
    model: keras.Model
    classes: tuple[str, ...]
    image_size: int
    """Side of the square images that it expects, in pixels."""
    temperature: float
    """By which its logits have been divided already; see `catsdogs.evaluation.calibration`."""
    num_activations: int = 0
    """Numbers that all its layers together give for one picture; 0 in one that was not loaded."""

    @property
    def card(self):
        """What `catsdogs.json` holds, a dictionary."""
        return {
            "classes": list(self.classes),
            "image_size": self.image_size,
            "resize": _RESIZE,
            "temperature": self.temperature,
        }


def save_model(model, path, *, classes, image_size, temperature):
    """Writes a model and what predicting with it needs, in one file.

    Args:
        model: A Keras model.
        path: File to write, ending in `.keras`.
        classes, image_size, temperature: See `SavedModel`.
    """
    card = SavedModel(path, model, classes, image_size, temperature).card
    with atomic_path(path) as temporary:
        model.save(temporary)
        with zipfile.ZipFile(temporary, "a") as archive:
            archive.writestr(_CARD, json.dumps(card, indent=2))


def load_saved_model(run_or_model):
    """Loads a model with what it was trained for, in Keras's safe mode.

    Args:
        run_or_model: A run folder or a `.keras` file that `save_model` wrote.

    Raises:
        InputError: If it is missing, broken, or was not written by this project.
    """
    path = _model_file(run_or_model)
    card = read_card(path)
    model, num_activations = _load(path, card["image_size"])
    side, number = card["image_size"], len(card["classes"])
    inputs = ((None, side, side, 3), (None, None, None, 3))
    outputs = (None, 1 if number == 2 else number)  # of two classes one probability tells both
    if model.input_shape not in inputs or model.output_shape != outputs:
        raise InputError(
            f"Expected a model that takes pictures of {side}x{side} and answers for {number} "
            f"classes, as {path} says of itself. Received: {model.input_shape} to "
            f"{model.output_shape}. Train the run again."
        )
    try:  # some that Keras builds cannot answer, say for a data type that no layer computes with
        model(np.zeros((1, side, side, 3), np.float32), training=False)
    except Exception as error:
        raise _damaged(path, error) from None
    return SavedModel(path, model, **card, num_activations=num_activations)


def read_card(run_or_model):
    """What a model was trained for, without loading it.

    Args:
        run_or_model: A run folder or a `.keras` file that `save_model` wrote.

    Returns:
        A dictionary: `classes`, `image_size` and `temperature` of `SavedModel`.

    Raises:
        InputError: As `load_saved_model`.
    """
    path = _model_file(run_or_model)
    try:
        with zipfile.ZipFile(path) as archive:
            card = json.loads(read_member(archive, _CARD))
        check_fields(card, _CARD_TABLE)
    except KeyError:
        raise InputError(
            f"Expected a model that tells its classes and image size, received {path}, which does "
            "not: it was not trained here, or by an earlier version. Train the run again."
        ) from None
    except (ValueError, RecursionError, *_ZIP_ERRORS) as error:
        raise _damaged(path, f"in its {_CARD}, {error}") from None
    return {
        "classes": tuple(card["classes"]),
        "image_size": card["image_size"],
        "temperature": float(card["temperature"]),
    }


def load_model(run_or_model):
    """The Keras model of a run, loaded in Keras's safe mode.

    Args:
        run_or_model: A run folder or a `.keras` file.

    Raises:
        InputError: If it is missing or broken.
    """
    return _load(_model_file(run_or_model), _USUAL_SIDE)[0]


def _load(path, side):
    """A Keras model, and how many numbers its layers give for one picture of so many pixels."""
    try:
        with zipfile.ZipFile(path) as archive:
            num_activations = check_archive(archive, path.stat().st_size, side)
        model = keras.saving.load_model(path, safe_mode=True, compile=False)
        return model, num_activations
    except InputError as error:
        raise InputError(
            f"Expected a model as this project makes them, received {path}, {error}. "
            "Use a model that was trained here."
        ) from None
    except MemoryError:
        raise
    except Exception as error:  # Keras says nowhere what it raises on a file that is not one of its
        if getattr(error, "errno", None) in _NOT_THE_MODELS_FAULT:
            raise
        raise _damaged(path, error) from None


def _model_file(run_or_model):
    path = pathlib.Path(run_or_model)
    if path.is_file() and path.suffix != ".keras":
        raise InputError(f"Expected a run folder or a .keras file, received {path}.")
    folder, path = path, path if path.suffix == ".keras" else path / "model.keras"
    if path.is_file():
        return path
    remedy = "Train the run again."
    if (folder / "config.json").is_file():
        remedy = "The run was stopped: go on with it by the command that started it and --resume."
    raise InputError(f"Expected a model at {path}, found none. {remedy}")


def _damaged(path, error):
    reason = shorten(error) or type(error).__name__
    return InputError(
        f"Expected a whole Keras model at {path}, received a damaged one ({reason}). "
        "Train the run again."
    )
