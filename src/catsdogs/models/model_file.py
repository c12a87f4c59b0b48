"""A trained model as one file that holds all that predicting needs.

A `.keras` file is a zip; beside Keras's own members it has `catsdogs.json`: class names, image size
and how pictures are resized. Keras ignores that member, so the file loads anywhere.

A file may come from a stranger. Keras's safe mode refuses code and links to other files; beyond
that, only layers that are known to be harmless are loaded, and a model cannot take more memory for
its weights than the size of the file explains.
"""

import concurrent.futures
import contextlib
import dataclasses
import functools
import io
import json
import math
import pathlib
import zipfile
from typing import Annotated

import h5py
import keras
import pydantic
from pydantic import Field

from catsdogs.errors import InputError, describe_invalid, shorten
from catsdogs.files import atomic_path
from catsdogs.models.convnets import in_float32
from catsdogs.models.engine import Engine, has_bfloat16, inference_function

__all__ = [
    "SavedModel",
    "load_model",
    "load_network",
    "load_saved_model",
    "read_card",
    "save_model",
]

_CARD, _CONFIG, _WEIGHTS = "catsdogs.json", "config.json", "model.weights.h5"
_RESIZE = (
    "Decode; of an animation, take the first frame. Apply the EXIF orientation. Lay transparency "
    "on white and convert to RGB. Resize to a square of image_size pixels, ignoring the aspect "
    "ratio, with Pillow's BICUBIC. Pass float32 in [0, 255]."
)

# The classes that a model's config may name, by module. Layers that only compute: none that runs
# code from the file or another library, or reads further files.
_ALLOWED = {
    "keras": {"DTypePolicy", "Sequential"},
    "keras.initializers": {
        "Constant", "GlorotNormal", "GlorotUniform", "HeNormal", "HeUniform", "Ones",
        "RandomNormal", "RandomUniform", "TruncatedNormal", "VarianceScaling", "Zeros",
    },
    "keras.layers": {
        "Activation", "Add", "AveragePooling2D", "BatchNormalization", "Concatenate", "Conv2D",
        "Cropping2D", "Dense", "DepthwiseConv2D", "Dropout", "Flatten", "GlobalAveragePooling2D",
        "GlobalMaxPooling2D", "GroupNormalization", "InputLayer", "LayerNormalization",
        "LeakyReLU", "MaxPooling2D", "Multiply", "ReLU", "Rescaling", "Reshape",
        "SeparableConv2D", "Softmax", "SpatialDropout2D", "ZeroPadding2D",
    },
    "keras.src.models.functional": {"Functional"},
    "keras.src.ops.numpy": {"Add", "Flip", "Multiply"},
    "keras.src.applications.convnext": {"LayerScale"},
    None: {"__keras_tensor__"},
}  # fmt: skip


# Printable, and no path.
_ClassName = Annotated[str, Field(pattern=r"^[^/\\\p{C}\p{Zl}\p{Zp}]{1,200}$")]


class _Card(pydantic.BaseModel):
    """The content of `catsdogs.json`."""

    classes: Annotated[tuple[_ClassName, ...], Field(min_length=2)]
    image_size: Annotated[int, Field(strict=True, ge=8, le=2048)]
    temperature: Annotated[float, Field(ge=1e-6, le=1e6)]
    engine: Engine = "tensorflow"


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
    engine: Engine = "tensorflow"
    """What predicts, see `catsdogs.models.engine`."""

    @property
    def card(self):
        """The content of `catsdogs.json`, a dictionary."""
        return {
            "classes": list(self.classes),
            "image_size": self.image_size,
            "resize": _RESIZE,
            "temperature": self.temperature,
            "engine": self.engine,
        }

    @functools.cached_property
    def predict(self):
        """A function from images, float32 (batch, image_size, image_size, 3), to the outputs."""
        compute = inference_function(self.model, self.engine)
        return lambda images: compute(images)[0]


def save_model(model, path, *, classes, image_size, temperature, engine="tensorflow"):
    """Writes a model and what predicting with it needs, in one file.

    Args:
        model: A Keras model.
        path: File to write, ending in `.keras`.
        classes, image_size, temperature, engine: See `SavedModel`.
    """
    card = SavedModel(path, model, classes, image_size, temperature, engine).card
    with atomic_path(path) as temporary:
        model.save(temporary)
        with zipfile.ZipFile(temporary, "a") as archive:
            archive.writestr(_CARD, json.dumps(card, indent=2))


def load_saved_model(run_or_model):
    """Loads a model with what it was trained for, in Keras's safe mode.

    One that was trained in bfloat16 computes in float32 on a processor without bfloat16.

    Args:
        run_or_model: A run folder or a `.keras` file that `save_model` wrote.

    Raises:
        InputError: If it is missing, damaged, unsafe, or was not written by this project.
    """
    path = _model_file(run_or_model)
    card = read_card(path)
    model = load_model(path)
    if not has_bfloat16() and any(layer.compute_dtype == "bfloat16" for layer in model.layers):
        model = in_float32(model)  # trained on another processor; this one would be slow at it
    side, number = card["image_size"], len(card["classes"])
    inputs = ((None, side, side, 3), (None, None, None, 3))
    outputs = (None, 1 if number == 2 else number)
    if model.input_shape not in inputs or model.output_shape != outputs:
        raise _unusable(
            path,
            f"{_CARD} has {number} classes and images of {side}x{side}, but the model maps "
            f"{model.input_shape} to {model.output_shape}",
        )
    return SavedModel(path, model, **card)


def read_card(run_or_model):
    """What a model was trained for, without loading it.

    Args:
        run_or_model: A run folder or a `.keras` file that `save_model` wrote.

    Returns:
        A dictionary: `classes`, `image_size`, `temperature` and `engine` of `SavedModel`.

    Raises:
        InputError: If the file is missing, damaged, or was not written by this project.
    """
    path = _model_file(run_or_model)
    with _open(path) as archive:
        return _Card.model_validate_json(archive.read(_CARD)).model_dump()


def load_model(run_or_model):
    """The Keras model of a run, loaded in Keras's safe mode.

    Args:
        run_or_model: A run folder or a `.keras` file.

    Raises:
        InputError: If it is missing, damaged or unsafe.
    """
    path = _model_file(run_or_model)
    with _open(path):
        model = load_network(path)
        _check_end(model)
    return model


def load_network(path):
    """Any Keras model, loaded in Keras's safe mode.

    Args:
        path: A `.keras` file.

    Raises:
        InputError: If it is missing, damaged or unsafe.
    """
    path = pathlib.Path(path)
    with _open(path) as archive:
        config = json.loads(archive.read(_CONFIG))
        _check_classes(config)
        _check_weights(config, archive.read(_WEIGHTS))
        return keras.saving.load_model(path, safe_mode=True, compile=False)


@contextlib.contextmanager
def _open(path):
    """Opens a model as a zip; whatever fails in the block becomes one line."""
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > 2 * path.stat().st_size:
                raise ValueError("it would unpack to more than twice its size")
            yield archive
    except (InputError, MemoryError, PermissionError):
        raise
    except pydantic.ValidationError as error:
        raise _unusable(path, f"{_CARD}: {' '.join(describe_invalid(error))}") from None
    except Exception as error:  # Keras does not document what it raises for a damaged file
        raise _unusable(path, error) from None


def _check_classes(config):
    """Looks at everything that names a class, however deep."""
    remaining = [config]
    while remaining:
        part = remaining.pop()
        if isinstance(part, dict):
            if "class_name" in part:
                name, module = part["class_name"], part.get("module")
                registered = part.get("registered_name")
                if name not in _ALLOWED.get(module, ()) or registered not in (None, name):
                    raise ValueError(f"it contains {module}.{name}, which is not known to be safe")
            remaining += part.values()
        elif isinstance(part, list):
            remaining += part


def _check_weights(config, data):
    """Refuses a model that would take more memory for its weights than `data`, the HDF5 file."""
    sizes = []

    def visit(name, item):
        if isinstance(item, h5py.Dataset):
            sizes.append(math.prod(item.shape) * item.dtype.itemsize)

    def count_parameters():
        with keras.StatelessScope(initialize_variables=False):  # has shapes, takes no memory
            return keras.saving.deserialize_keras_object(config, safe_mode=True).count_params()

    with h5py.File(io.BytesIO(data)) as file:
        file.visititems(visit)
    # In another thread, since Keras lists by thread the variables that it initializes later.
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        num_parameters = executor.submit(count_parameters).result()
    if sum(sizes) > len(data) or 2 * num_parameters > len(data):  # 2 bytes in half precision
        raise ValueError(f"its weights would be larger than the {len(data):,} bytes stored")


def _check_end(model):
    layers = model.layers[-1].layers if model.layers[-1].name == "head" else model.layers
    ends = (keras.activations.sigmoid, keras.activations.softmax)
    if layers[-2].name != "logit" or getattr(layers[-1], "activation", None) not in ends:
        raise ValueError("it does not end in a layer named logit and a sigmoid or softmax")


def _model_file(run_or_model):
    path = pathlib.Path(run_or_model)
    if path.is_file() and path.suffix != ".keras":
        raise InputError(f"Expected a run folder or a .keras file. Received: {path}.")
    folder, path = path, path if path.suffix == ".keras" else path / "model.keras"
    if path.is_file():
        return path
    remedy = "Correct the path, or train the run again."
    if (folder / "config.json").is_file():
        remedy = "The run was interrupted: repeat the command that started it with --resume."
    raise InputError(f"Expected a model at {path}, found none. {remedy}")


def _unusable(path, reason):
    return InputError(
        f"Expected a model at {path}, received one that cannot be used: "
        f"{shorten(reason) or type(reason).__name__}. Train it again, or use another one."
    )
