"""Floating-point operations: how many a network takes, how many a second the machine can do."""

import math
import statistics
import time
import timeit

import keras
import tensorflow as tf

__all__ = ["convolve", "count_flops", "flops_of", "possible_gflops"]


def count_flops(model, image_size):
    """Floating-point operations of a forward pass, two a multiplication, convolutions alone.

    Args:
        model: A functional model of images.
        image_size: Side of the input, in pixels.

    Returns:
        A number an image.
    """
    convolutions = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    outputs = keras.Model(model.input, [layer.output for layer in convolutions])
    shapes = outputs.compute_output_shape((1, image_size, image_size, 3))
    return sum(map(flops_of, convolutions, shapes))


def flops_of(convolution, output_shape):
    """The same for one convolution of a known output shape (batch, height, width, channels)."""
    return 2 * math.prod(output_shape[1:]) * math.prod(convolution.kernel.shape[:3])


def possible_gflops():
    """What the machine can do at this moment, in the precision that was chosen.

    Measured on the shape that it is fastest at among VGG16's layers, block3_conv2 at 224², for two
    seconds: a processor that rested runs several times as fast for a moment.

    Returns:
        GFLOP/s, the median of the calls.
    """
    dtype = keras.config.dtype_policy().compute_dtype
    x = tf.cast(tf.random.normal((32, 56, 56, 256)), dtype)
    kernel, bias = tf.cast(tf.random.normal((3, 3, 256, 256)), dtype), tf.zeros(256, dtype)
    flops = 2 * math.prod(x.shape) * math.prod(kernel.shape[:2]) * kernel.shape[3]
    convolve(x, kernel, bias)
    seconds, end = [], time.perf_counter() + 2
    while time.perf_counter() < end:
        seconds.append(timeit.timeit(lambda: convolve(x, kernel, bias), number=1))
    return flops / statistics.median(seconds) / 1e9


@tf.function
def convolve(x, kernel, bias):
    """A layer of VGG16: convolution, bias, ReLU; (batch, height, width, channels) in and out."""
    return tf.nn.relu(tf.nn.bias_add(tf.nn.conv2d(x, kernel, 1, "SAME"), bias))
