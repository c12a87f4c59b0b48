"""Where a network runs once it is trained: in TensorFlow, or in onnxruntime.

Without bfloat16 instructions onnxruntime is faster at networks of depthwise convolutions, above all
for a single image; with them, TensorFlow in half precision is. VGG16 is fastest in TensorFlow.
"""

import warnings
from typing import Literal

import keras

from catsdogs.files import atomic_path
from catsdogs.models.convnets import in_float32

__all__ = ["Engine", "choose_engine", "inference_function"]

Engine = Literal["tensorflow", "onnxruntime"]


def choose_engine(engine, preferred, precision):
    """The engine for a network.

    Args:
        engine: `"tensorflow"`, `"onnxruntime"` or `"auto"`.
        preferred: The one that is faster in float32, `Backbone.engine`.
        precision: Name of the dtype policy; onnxruntime knows float32 only.
    """
    if engine != "auto":
        return engine
    return preferred if precision == "float32" else "tensorflow"


def inference_function(model, engine, path=None):
    """A function from a batch of inputs to the list of a model's outputs.

    Args:
        model: A functional model with one input.
        engine: `"tensorflow"` or `"onnxruntime"`, which computes in float32.
        path: For onnxruntime, the file that the converted model is kept in, made if missing; its
            name must say which model it is.

    Returns:
        A function from an array (batch, ...) to a list of arrays (batch, ...).
    """
    if engine == "tensorflow":
        return lambda batch: keras.tree.flatten(model.predict_on_batch(batch))
    import onnxruntime

    if not path.exists():
        (given,) = model.inputs
        signature = [keras.InputSpec(shape=given.shape, dtype=given.dtype, name="input")]
        with atomic_path(path) as temporary, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the converter, about its own code
            in_float32(model).export(
                temporary, format="onnx", verbose=False, input_signature=signature
            )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda batch: session.run(None, {"input": batch})
