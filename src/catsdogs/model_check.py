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

from catsdogs.files import InputError

__all__ = ["check_archive", "read_member"]

_CONFIG, _WEIGHTS = "config.json", "model.weights.h5"

# All that the models of `catsdogs.models` consist of; a new kind of layer there is added here.
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
_ANY_SIDE = 512  # pixels, of a layer that takes any


def check_archive(archive, size):
    """Looks through a `.keras` file before Keras sees it.

    Args:
        archive: The file, an open `zipfile.ZipFile`.
        size: Its size in bytes.

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
        executor.submit(_check_shapes, config, stored).result()


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


def _check_shapes(config, stored):
    """Builds a model that has shapes but no memory, to see how much it would take."""
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
    for layer in model.layers:
        for shape in (tensor.shape for tensor in keras.tree.flatten(layer.output)):
            if math.prod(side or _ANY_SIDE for side in shape[1:]) > _MAX_LAYER:
                raise InputError(f"whose layer {layer.name[:40]!r} gives {shape}, too much to hold")
