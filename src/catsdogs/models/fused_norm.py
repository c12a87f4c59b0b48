"""Training copies of models whose batch normalisation is one operation instead of a dozen.

Keras 3 computes batch normalisation as a sequence of elementwise operations in float32; on a CPU
they take longer than the convolutions between them. TensorFlow has one operation for all of it,
which oneDNN also fuses with the ReLU that follows.
"""

import keras

__all__ = ["training_copy"]


def training_copy(model):
    """A model with the same variables, for training; the original is what is saved.

    In the copy, batch normalisation of images is one operation if the backend is TensorFlow. The
    original consists of Keras's own layers only, so its file loads in safe mode everywhere.

    Args:
        model: A functional model, not compiled.

    Returns:
        A model that shares every variable with `model` and computes the same, up to rounding.
    """

    def copy(layer):
        if keras.backend.backend() == "tensorflow" and _can_be_fused(layer):
            return _FusedNormalization(layer)
        return layer

    return keras.models.clone_model(model, clone_function=copy)


def _can_be_fused(layer):
    return (
        isinstance(layer, keras.layers.BatchNormalization)
        and layer.center and layer.scale
        and layer.trainable  # frozen ones keep their statistics
        and len(layer.input.shape) == 4 and layer.axis in (-1, 3)
    )  # fmt: skip


class _FusedNormalization(keras.layers.Layer):
    """Computes what a `BatchNormalization` layer over the last axis does, with its variables."""

    def __init__(self, norm):
        super().__init__(name=f"fused_{norm.name}", dtype=norm.dtype_policy)
        self.norm = norm

    def call(self, inputs, training=False, mask=None):
        import tensorflow as tf

        norm = self.norm
        means, variances = norm.moving_mean, norm.moving_variance
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=norm.gamma,
            offset=norm.beta,
            mean=[] if training else means,
            variance=[] if training else variances,
            epsilon=norm.epsilon,
            is_training=bool(training),
        )
        if training:
            # The operation divides by n - 1, Keras by n.
            count = tf.cast(tf.size(inputs) // inputs.shape[-1], variance.dtype)
            variance *= (count - 1) / count
            means.assign(norm.momentum * means + (1 - norm.momentum) * mean)
            variances.assign(norm.momentum * variances + (1 - norm.momentum) * variance)
        return outputs
