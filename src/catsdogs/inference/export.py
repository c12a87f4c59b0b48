"""Models for other programs: TensorFlow's SavedModel, ONNX, LiteRT, each checked against Keras."""

import contextlib
import itertools
import math
import pathlib
import shutil
import warnings

import keras
import numpy as np

from catsdogs.data import decode
from catsdogs.data.images import decode_image
from catsdogs.errors import InputError, shorten, user_message
from catsdogs.files import atomic_folder, write_json
from catsdogs.inference.predict import list_pictures
from catsdogs.models.convnets import in_float32

__all__ = ["FORMATS", "export_model", "load_exported"]

# Name of the file or folder, Keras's own name of the format.
FORMATS = {
    "savedmodel": ("model", "tf_saved_model"),
    "onnx": ("model.onnx", "onnx"),
    "litert": ("model.tflite", "litert"),
}
_CARD = "model.json"
_ONNX_EXAMPLE = (pathlib.Path(__file__).with_name("predict_onnx.py"), pathlib.Path(decode.__file__))
_NUM_COMPARED = 32  # pictures
_TOLERANCE = 1e-3  # of a probability


def export_model(saved, form, folder, pictures):
    """Writes a model in another format, if its predictions are those of Keras in float32.

    The exported model computes in float32, whatever the model was trained in, because not every
    reader of these formats knows bfloat16. It is compared with a float32 copy of the model. A model
    that computes in bfloat16 predicts slightly differently itself; by how much is reported.

    Args:
        saved: A `SavedModel`.
        form: A key of `FORMATS`.
        folder: Folder to write: the model, `model.json` with class names, image size and
            preprocessing, and for ONNX an example that needs neither Keras nor this package.
        pictures: Files and folders of pictures to compare predictions on; 32 are taken, spread
            evenly over all of them.

    Returns:
        A triple: number of pictures compared; largest difference in probability from Keras in
        float32; and that from the model in its own precision, which has no limit.

    Raises:
        InputError: If there are no pictures, `folder` has other content, the format cannot express
            the model, or the predictions differ by more than 0.001 from Keras's in float32; then
            nothing is written.
    """
    name, keras_format = FORMATS[form]
    folder = pathlib.Path(folder)
    if not _may_replace(folder):
        raise InputError(
            f"Expected a new folder or an earlier export at {folder}, received something else. "
            "Choose another --output."
        )
    images = _decode(pictures, saved.image_size)
    model = in_float32(saved.model)
    expected = _outputs(model.predict_on_batch, images)
    shape = (None, saved.image_size, saved.image_size, 3)
    with atomic_folder(folder) as temporary:
        signature = [keras.InputSpec(shape=shape, dtype="float32", name="image")]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the converters, about their own code
                model.export(
                    temporary / name, format=keras_format, verbose=False, input_signature=signature
                )
            exported = _outputs(load_exported(form, temporary), images)
        except Exception as error:  # of the converter, or the reader does not know what it wrote
            if user_message(error):  # a full disk
                raise
            raise InputError(
                f"Expected a model that {form} can express, but {shorten(error)}. "
                "Choose another --format."
            ) from None
        difference = float(np.abs(exported - expected).max())
        own = _outputs(saved.model.predict_on_batch, images)
        own_difference = float(np.abs(exported - own).max())
        if not difference <= _TOLERANCE:
            raise InputError(
                "Expected the exported model to predict as Keras does in float32, to within "
                f"{_TOLERANCE} in probability; it differs by {difference:.2g}. Nothing was written."
            )
        card = {
            **{name: value for name, value in saved.card.items() if name != "engine"},
            "format": form,
            "file": name,
            "input": f"float32 (batch, {saved.image_size}, {saved.image_size}, 3) in [0, 255], RGB",
            "output": "probability of the second class, (batch, 1)"
            if expected.shape[1] == 1
            else "probability of each class, (batch, number of classes)",
            "compared_with": "Keras in float32",
            "largest_difference": difference,
            "largest_difference_in_own_precision": own_difference,
        }
        write_json(temporary / _CARD, card)
        if form == "onnx":
            for file in _ONNX_EXAMPLE:
                shutil.copy(file, temporary)
    return len(images), difference, own_difference


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
        warnings.simplefilter("ignore")  # TensorFlow announces LiteRT's move to another package
        interpreter = tf.lite.Interpreter(str(path))

    def run(images):
        (given,), (returned,) = interpreter.get_input_details(), interpreter.get_output_details()
        interpreter.resize_tensor_input(given["index"], images.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(given["index"], images)
        interpreter.invoke()
        return interpreter.get_tensor(returned["index"])

    return run


def _outputs(predict, images):
    """Few images at a time: activations of VGG16 at 320² take 100 MB each."""
    return np.concatenate([predict(images[i : i + 4]) for i in range(0, len(images), 4)])


def _may_replace(folder):
    """Whether a folder is new, empty, or contains nothing but an earlier export."""
    if not folder.is_dir():
        return not folder.exists()
    found = {path.name for path in folder.iterdir()}
    exports = {name for name, _ in FORMATS.values()}
    others = {_CARD, *(file.name for file in _ONNX_EXAMPLE)}
    return not found or (_CARD in found and bool(found & exports) and found <= exports | others)


def _decode(pictures, image_size):
    """Decodes some of the pictures, float32 (n, image_size, image_size, 3) in [0, 255]."""
    files = list(list_pictures(pictures))
    # Every nth: they are sorted by class, and every class should be compared.
    step = max(1, math.ceil(len(files) / _NUM_COMPARED))
    images = []
    for file in itertools.chain.from_iterable(files[start::step] for start in range(step)):
        with contextlib.suppress(InputError):
            images.append(decode_image(file, image_size))
        if len(images) == _NUM_COMPARED:
            break
    if not images:
        raise InputError(
            "Expected pictures to compare predictions on, received none that can be read. "
            "Name some with --pictures."
        )
    return np.stack(images).astype(np.float32)
