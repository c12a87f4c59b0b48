"""What runs a network for inference: TensorFlow or onnxruntime.

In float32 onnxruntime is faster at networks of depthwise convolutions, above all for a single
image. With bfloat16 instructions TensorFlow is faster still, and VGG16 is fastest there in any
case.
"""

import contextlib
import gc
import pathlib
import tempfile
import warnings
from typing import Literal

import keras

from catsdogs.errors import InputError, shorten
from catsdogs.models.convnets import in_float32

__all__ = ["Engine", "choose_engine", "has_bfloat16", "inference_function"]

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


def has_bfloat16():
    """Whether the processor has instructions for bfloat16: AVX-512 BF16 or AMX."""
    try:
        flags = pathlib.Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def inference_function(model, engine):
    """A function from a batch of inputs to the list of a model's outputs.

    Args:
        model: A functional model with one input.
        engine: `"tensorflow"` or `"onnxruntime"`, which computes in float32.

    Returns:
        A function from an array (batch, ...) to a list of arrays (batch, ...).

    Raises:
        InputError: If onnxruntime cannot run the model.
    """
    if engine == "tensorflow":
        return lambda batch: keras.tree.flatten(model.predict_on_batch(batch))
    import onnxruntime

    (given,) = model.inputs
    signature = [keras.InputSpec(shape=given.shape, dtype=given.dtype, name="input")]
    # Converted by each process, in two or three seconds, and not kept: a file that lies beside a
    # model may belong to another one.
    with (
        tempfile.TemporaryDirectory() as folder,
        warnings.catch_warnings(),
        _frequent_collection(),
    ):
        warnings.simplefilter("ignore")  # of the converter, about its own code
        path = pathlib.Path(folder) / "model.onnx"
        try:
            in_float32(model).export(path, format="onnx", verbose=False, input_signature=signature)
            session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        except Exception as error:  # of the converter, or onnxruntime does not know what it wrote
            raise InputError(
                f"onnxruntime cannot run this network: {shorten(error)}. Use --engine tensorflow."
            ) from None
    return lambda batch: session.run(None, {"input": batch})


@contextlib.contextmanager
def _frequent_collection():
    """Collects garbage often: the converter leaves copies of the weights in reference cycles.

    They are few objects, but 0.7 GB of them for EfficientNet-Lite2 at 380².
    """
    thresholds = gc.get_threshold()
    gc.freeze()  # leaves the many older objects out, so that a collection is quick
    gc.set_threshold(700, 3, 3)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()
        gc.collect()
