"""Models for other programs: TensorFlow's SavedModel, ONNX, LiteRT, each checked against Keras."""

import contextlib
import importlib.util
import itertools
import math
import pathlib
import shutil
import warnings

import keras
import numpy as np

from catsdogs.data.images import decode_image
from catsdogs.errors import InputError
from catsdogs.files import atomic_folder, read_json, write_json
from catsdogs.inference.predict import list_pictures
from catsdogs.models.convnets import in_float32

__all__ = ["FORMATS", "export_model", "load_exported"]

# Name of the file or folder, Keras's own name of the format, packages that it takes.
FORMATS = {
    "savedmodel": ("model", "tf_saved_model", ()),
    "onnx": ("model.onnx", "onnx", ("onnx", "onnxruntime", "tf2onnx")),
    "litert": ("model.tflite", "litert", ()),
}
_CARD, _EXAMPLE = "model.json", "predict_onnx.py"
_NUM_CHECKED = 32  # pictures
_TOLERANCE = 1e-3  # of a probability


def export_model(saved, form, folder, pictures):
    """Writes a model in another format, if it answers as Keras does in float32.

    Exported is float32, whatever the model was trained in: these formats have no bfloat16 that
    every reader knows. So the answers are held against those of a float32 copy; a model that
    computes in bfloat16 answers a little differently itself, and by how much is told.

    Args:
        saved: A `SavedModel`.
        form: A key of `FORMATS`.
        folder: Folder to write: the model, `model.json` with class names, image size and what to
            do with a picture, and for ONNX an example that needs onnxruntime alone.
        pictures: Files and folders of pictures to compare answers on; 32 are taken, spread
            evenly over all of them.

    Returns:
        Number of pictures compared; the largest difference of a probability to Keras in float32;
        and that to the model as it predicts here, in its own precision, which has no limit.

    Raises:
        InputError: If a package is missing, there are no pictures, `folder` holds something else,
            or the answers differ from Keras's in float32 by more than 0.001; then nothing is
            written.
    """
    name, keras_format, packages = FORMATS[form]
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        raise InputError(
            f"Expected the package {missing[0]} for {form}, found none. "
            "Install the extra: pip install 'catsdogs[export]'."
        )
    folder = pathlib.Path(folder)
    if not _is_free(folder):
        raise InputError(
            f"Expected a new folder or an earlier export at {folder}, received something else. "
            "Choose another --output."
        )
    images = _decode(pictures, saved.image_size)
    model = in_float32(saved.model)
    expected = model.predict_on_batch(images)
    shape = (None, saved.image_size, saved.image_size, 3)
    with atomic_folder(folder) as temporary:
        signature = [keras.InputSpec(shape=shape, dtype="float32", name="image")]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the converters, about their own code
            model.export(
                temporary / name, format=keras_format, verbose=False, input_signature=signature
            )
        answers = load_exported(form, temporary)(images)
        difference = float(np.abs(answers - expected).max())
        difference_here = float(np.abs(answers - saved.model.predict_on_batch(images)).max())
        if not difference <= _TOLERANCE:
            raise InputError(
                f"Expected the exported model to answer as Keras in float32 within {_TOLERANCE}, "
                f"received a difference of {difference:.2g} in a probability. Nothing was written."
            )
        content = {
            **saved.card,
            "format": form,
            "file": name,
            "input": f"float32 (batch, {saved.image_size}, {saved.image_size}, 3) in [0, 255], RGB",
            "output": "probability of the second class, (batch, 1)"
            if expected.shape[1] == 1
            else "probability of each class, (batch, number of classes)",
            "compared_with": "Keras in float32",
            "largest_difference": difference,
            "largest_difference_in_own_precision": difference_here,
        }
        write_json(temporary / _CARD, content)
        if form == "onnx":
            example = pathlib.Path(__file__).with_name("onnx_example.py")
            shutil.copyfile(example, temporary / _EXAMPLE)
    return len(images), difference, difference_here


def load_exported(form, folder):
    """A function from images, float32 (n, size, size, 3), to what the exported model returns."""
    path = pathlib.Path(folder) / FORMATS[form][0]
    if form == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path)
        return lambda images: session.run(None, {session.get_inputs()[0].name: images})[0]
    import tensorflow as tf

    if form == "savedmodel":
        loaded = tf.saved_model.load(path)
        return lambda images: loaded.serve(images).numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its new home is a package of its own
        interpreter = tf.lite.Interpreter(str(path))

    def run(images):
        (given,), (returned,) = interpreter.get_input_details(), interpreter.get_output_details()
        interpreter.resize_tensor_input(given["index"], images.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(given["index"], images)
        interpreter.invoke()
        return interpreter.get_tensor(returned["index"])

    return run


def _is_free(folder):
    """Whether nothing is lost if an export takes this place."""
    if not folder.exists():
        return True
    if not folder.is_dir():
        return False
    found = {path.name for path in folder.iterdir()}
    if not found:
        return True
    if _CARD not in found or found - {_CARD, _EXAMPLE, *(name for name, *_ in FORMATS.values())}:
        return False
    try:
        card = read_json(folder / _CARD)
    except (InputError, OSError):
        return False
    return isinstance(card, dict) and {"format", "largest_difference"} <= card.keys()


def _decode(pictures, image_size):
    files = list(list_pictures(pictures))
    # Every nth: they come class by class, and an answer must be right for each.
    step = max(1, math.ceil(len(files) / _NUM_CHECKED))
    spread = itertools.chain.from_iterable(files[start::step] for start in range(step))
    images = []
    for file in itertools.islice(spread, 4 * _NUM_CHECKED):
        with contextlib.suppress(InputError):
            images.append(decode_image(file, image_size))
        if len(images) == _NUM_CHECKED:
            break
    if not images:
        raise InputError(
            "Expected pictures to compare the exported model's answers on, received none that can "
            "be read. Name some with --pictures."
        )
    return np.stack(images).astype(np.float32)
