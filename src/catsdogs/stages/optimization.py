"""Precision, optimizer, loss and metrics of the training stages."""

import math

import keras

from catsdogs.models.engine import has_bfloat16

__all__ = ["build_loss", "build_metrics", "build_optimizer", "choose_precision"]


def choose_precision(precision="auto"):
    """Sets the global dtype policy.

    Args:
        precision: `"float32"`, `"mixed_bfloat16"`, or `"auto"`: bfloat16 if the processor has
            instructions for it (AVX-512 BF16 or AMX). It is looked up, not timed, so that the same
            command always computes the same.

    Returns:
        The policy's name.
    """
    if precision == "auto":
        precision = "mixed_bfloat16" if has_bfloat16() else "float32"
    keras.config.set_dtype_policy(precision)
    return precision


def build_optimizer(config, num_steps):
    """The optimizer of a stage: AdamW or Muon with a linear warm-up and a cosine decay to zero, or
    RMSprop at a constant rate.

    Args:
        config: The stage's config: `optimizer`, `learning_rate`, and for AdamW and Muon `warmup`
            and `weight_decay`, from which biases and normalisation are exempt.
        num_steps: Steps of the complete run, for the schedule.

    Reference:
        Loshchilov and Hutter, "Decoupled weight decay regularization" (2019).
    """
    if config.optimizer == "rmsprop":
        return keras.optimizers.RMSprop(config.learning_rate)
    warmup_steps = max(1, round(config.warmup * num_steps))
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0,
        max(1, num_steps - warmup_steps),
        warmup_target=config.learning_rate,
        warmup_steps=warmup_steps,
    )
    decay = config.weight_decay
    if config.optimizer == "muon":
        optimizer = Muon(schedule, weight_decay=decay, adam_weight_decay=decay)
    else:
        optimizer = keras.optimizers.AdamW(schedule, weight_decay=decay)
    optimizer.exclude_from_weight_decay(var_names=["bias", "beta", "gamma"])
    return optimizer


def build_loss(num_classes, label_smoothing=0.0):
    """Cross-entropy of one sigmoid for two classes, else of a softmax."""
    if num_classes == 2:
        return keras.losses.BinaryCrossentropy(label_smoothing=label_smoothing)
    return keras.losses.CategoricalCrossentropy(label_smoothing=label_smoothing)


def build_metrics(num_classes):
    """Accuracy, and cross-entropy without label smoothing, so that runs compare."""
    if num_classes == 2:
        cross_entropy = keras.metrics.BinaryCrossentropy(name="cross_entropy")
    else:
        cross_entropy = keras.metrics.CategoricalCrossentropy(name="cross_entropy")
    return [keras.metrics.MeanMetricWrapper(_is_correct, name="accuracy"), cross_entropy]


class Muon(keras.optimizers.Muon):
    """Keras's Muon, extended to convolution kernels: each a matrix with one column per filter.

    Muon replaces each momentum matrix with the nearest semi-orthogonal one, so that all directions
    are learned at the same pace, not only those of the largest gradients. Adam trains the last
    layer, biases and normalisation.

    Reference:
        Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024).
    """

    def _should_use_adamw(self, variable):
        return len(variable.shape) < 2 or variable.path.endswith("logit/kernel")

    def zeropower_via_newtonschulz5(self, x, steps):
        matrix = keras.ops.reshape(x, (-1, x.shape[-1]))
        matrix = keras.ops.cast(matrix, keras.config.dtype_policy().compute_dtype)  # half the time
        update = super().zeropower_via_newtonschulz5(matrix, steps)
        return keras.ops.cast(keras.ops.reshape(update, x.shape), x.dtype)

    def lr_adjust(self, x):
        # The size of an update of Adam, so that one learning rate serves both (Liu et al. 2025).
        *others, num_filters = x.shape
        return x * self.rms_rate * math.sqrt(max(num_filters, math.prod(others)))


def _is_correct(targets, probabilities):
    """Whether each prediction is the target's main class; mixup and CutMix mix two."""
    if targets.shape[-1] == 1:
        return keras.ops.equal(targets > 0.5, probabilities > 0.5)
    predicted, wanted = (keras.ops.argmax(rows, axis=-1) for rows in (probabilities, targets))
    return keras.ops.equal(predicted, wanted)
