"""Is a `.keras` file from a stranger one that this project could have written?

It may consist of the classes that models are made of here and of nothing else, and may not ask for
more memory than its size explains. Keras's safe mode alone refuses the harmful classes that are
known to it.
"""

import concurrent.futures
import io
import json
import math

import h5py
import keras

from catsdogs.errors import InputError

__all__ = ["check_archive", "read_member"]

_CONFIG, _WEIGHTS = "config.json", "model.weights.h5"

# All that our models consist of; a new kind of layer there is added here.
_KNOWN = {
    "keras": {"DTypePolicy"},
    "keras.initializers": {"GlorotUniform", "HeNormal", "Ones", "Zeros"},
    "keras.layers": {
        "Activation", "Add", "BatchNormalization", "Conv2D", "Dense", "Dropout", "Flatten",
        "GlobalAveragePooling2D", "InputLayer", "LayerNormalization", "MaxPooling2D", "Rescaling",
    },
    "keras.src.models.functional": {"Functional"},
    "keras.src.ops.numpy": {"Flip"},
    None: {"__keras_tensor__"},
}  # fmt: skip
_MAX_CONFIG = 2**24  # bytes; a model of VGG16 has 70,000
_MAX_LAYER = 2**28  # numbers that a layer may give for one picture: a gigabyte in float32
_MAX_MODEL = 5 * _MAX_LAYER  # and all layers together: VGG16 at 2,048 pixels, the largest allowed


def check_archive(archive, size, side):
    """Looks through a `.keras` file before Keras sees it.

    Args:
        archive: The file, an open `zipfile.ZipFile`.
        size: Its size in bytes.
        side: Of the pictures that it will get if it takes any, in pixels.

    Returns:
        How many numbers all its layers together give for one picture.

    Raises:
        InputError: If Keras should not see it, with the bare reason.
    """
    if sum(entry.file_size for entry in archive.infolist()) > 2 * size:
        raise InputError("which would unpack to more than twice its size")
    config = json.loads(read_member(archive, _CONFIG))
    _check_classes(config)
    stored = archive.getinfo(_WEIGHTS).file_size
    with archive.open(_WEIGHTS) as file, h5py.File(io.BytesIO(file.read())) as weights:
        _check_arrays(weights, stored)
    # In a thread of its own, since Keras keeps by thread which variables still want their memory.
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        return executor.submit(_check_shapes, config, stored, side).result()


def read_member(archive, name):
    """A JSON member of an archive, `bytes`.

    Raises:
        InputError: If it is too large, with the bare reason.
        KeyError: If there is none.
    """
    if archive.getinfo(name).file_size > _MAX_CONFIG:
        raise InputError(f"whose {name} is larger than {_MAX_CONFIG >> 20} MB")
    return archive.read(name)


def _check_classes(config):
    """Looks at everything that names a class, however deep."""
    left = [config]
    while left:
        part = left.pop()
        if isinstance(part, dict):
            name, module = part.get("class_name"), part.get("module")
            if "class_name" in part and not (
                isinstance(name, str)
                and (module is None or isinstance(module, str))
                and name in _KNOWN.get(module, ())
                and part.get("registered_name") in (None, name)
            ):
                raise InputError(f"which contains {str(module)[:40]!r} {str(name)[:40]!r}")
            # Used twice, a layer gives more than is counted below; told to train, batch
            # normalisation lets pictures decide on each other's answers.
            if len(part.get("inbound_nodes") or ()) > 1 or part.get("training"):
                raise InputError(f"whose {str(name)[:40]!r} is used in another way")
            left += part.values()
        elif isinstance(part, list):
            left += part


def _check_arrays(weights, stored):
    """Refuses arrays that lie in other files, or that claim to be larger than what is stored."""
    sizes = []

    # What these return ends the visit; an error would get lost in it.
    def visit_link(name, link):
        return None if isinstance(link, h5py.HardLink) else name

    def visit(name, item):
        if isinstance(item, h5py.Dataset):
            sizes.append(math.prod(item.shape) * item.dtype.itemsize)
            return name if item.external or item.is_virtual else None

    if name := weights.visititems_links(visit_link) or weights.visititems(visit):
        raise InputError(f"whose weights {name[:80]!r} lie elsewhere")
    if sum(sizes) > stored:
        raise InputError("whose weights claim to be larger than the file")


def _check_shapes(config, stored, side):
    """Builds a model that has shapes but no memory, to see how much it would take."""
    for layer in config["config"]["layers"]:
        if layer["class_name"] == "InputLayer":
            batch, *rest = layer["config"]["batch_shape"]
            layer["config"]["batch_shape"] = [batch, *(side if n is None else n for n in rest)]
    with keras.StatelessScope(initialize_variables=False):
        model = keras.saving.deserialize_keras_object(config, safe_mode=True)
    if model.count_params() * 2 > stored:  # bytes: no precision has fewer
        raise InputError(
            f"which wants {model.count_params():,} weights and brings {stored:,} bytes"
        )
    layers = model.layers[-1].layers if model.layers[-1].name == "head" else model.layers
    names, last = [layer.name for layer in layers], getattr(layers[-1], "activation", None)
    final = (keras.activations.sigmoid, keras.activations.softmax)
    if names[-2:-1] != ["logit"] or last not in final:
        raise InputError("which does not end in a layer called logit and a sigmoid or softmax")
    numbers = _numbers_by_layer(model)
    largest = max(numbers, key=numbers.get)
    if numbers[largest] > _MAX_LAYER:
        raise InputError(
            f"whose layer {largest[:40]!r} gives {numbers[largest]:,} numbers, too much to hold"
        )
    if sum(numbers.values()) > _MAX_MODEL:
        raise InputError(f"whose layers give {sum(numbers.values()):,} numbers, too much to hold")
    return sum(numbers.values())


def _numbers_by_layer(model):
    """How many numbers each layer and other operation of a model gives for one picture."""
    numbers = {}
    for operation in model.operations:
        shapes = [tensor.shape[1:] for tensor in keras.tree.flatten(operation.output)]
        numbers[operation.name] = sum(map(math.prod, shapes))
        if isinstance(operation, keras.Model):
            inner = _numbers_by_layer(operation)
            numbers |= {f"{operation.name}/{name}": number for name, number in inner.items()}
    return numbers
