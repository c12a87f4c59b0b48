"""Precision, optimizer, and a fit that can be stopped and continued."""

import pathlib
import sys

import keras

from catsdogs.errors import InputError
from catsdogs.stages.checkpoint import RunState, completed_epochs

__all__ = [
    "build_optimizer",
    "choose_precision",
    "compile_classifier",
    "fit",
]


def choose_precision(precision="auto"):
    """Sets the global dtype policy.

    Args:
        precision: `"float32"`, `"mixed_bfloat16"`, or `"auto"`: bfloat16 if the processor has
            instructions for it (AVX-512 BF16 or AMX). No trial run decides: one disturbed by other
            work would give the same command another precision another time. The benchmark
            measures what the instructions are worth.

    Returns:
        The policy's name.
    """
    if precision == "auto":
        precision = "mixed_bfloat16" if _has_bfloat16() else "float32"
    keras.config.set_floatx("float32")  # whatever keras.json says: losses are computed in it
    keras.config.set_dtype_policy(precision)
    return precision


def build_optimizer(name, learning_rate, *, num_steps, warmup=0.0, weight_decay=0.0):
    """The optimizer of a stage.

    Args:
        name: `"rmsprop"` at a constant rate, or `"adamw"` with a linear warm-up to
            `learning_rate` and a cosine decay to zero.
        learning_rate: The rate, or its peak.
        num_steps: Steps of the whole run, for the schedule.
        warmup: Share of them in which the rate climbs.
        weight_decay: Decoupled decay of AdamW; spares biases and normalisation.

    Reference:
        Loshchilov and Hutter, "Decoupled weight decay regularization" (2019).
    """
    if name == "rmsprop":
        return keras.optimizers.RMSprop(learning_rate)
    warmup_steps = max(1, round(warmup * num_steps))
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, max(1, num_steps - warmup_steps),
        warmup_target=learning_rate, warmup_steps=warmup_steps,
    )  # fmt: skip
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=weight_decay)
    optimizer.exclude_from_weight_decay(var_names=["bias", "beta", "gamma"])
    return optimizer


def fit(
    model, batches, validation, *, epochs, steps_per_epoch, run_dir, started, tensorboard=False
):  # fmt: skip
    """Trains a compiled model and leaves it with the weights of the epoch of least validation loss.

    After every epoch the whole state (weights, optimizer, random generators, history) goes to
    `run_dir/state`. A run that finds a state there goes on from it, and ends with the very weights
    and history it would have had without the stop.

    Args:
        model: A compiled model; see `compile_classifier`.
        batches: `tf.data.Dataset` of all batches from epoch `completed_epochs(run_dir)` to the end.
        validation: Batches to validate on after each epoch, unshuffled.
        epochs: Total number of epochs.
        steps_per_epoch: Batches an epoch.
        run_dir: The run folder.
        started: When the run began, seconds of `time.perf_counter()`; earlier by
            `completed_seconds(run_dir)` for one that goes on.
        tensorboard: Whether to write TensorBoard's event files to `run_dir/tensorboard` too.

    Returns:
        The history of all epochs, `{"loss", "accuracy", "val_loss", "val_accuracy"}`, each a list
        of floats. The losses are plain cross-entropy: without label smoothing and weight penalty,
        so that runs can be compared.

    Raises:
        InputError: If the loss is no longer finite, or if a stopped run's state is damaged or gone.
    """
    state = RunState(run_dir, started)
    initial_epoch = completed_epochs(run_dir)
    if initial_epoch:
        state.restore(model, initial_epoch)
        print(f"Going on after epoch {initial_epoch}.", flush=True)
    else:
        state.refuse_if_lost()
    callbacks = [keras.callbacks.TerminateOnNaN(), state]
    if tensorboard:
        log_dir = pathlib.Path(run_dir) / "tensorboard"
        callbacks.append(keras.callbacks.TensorBoard(log_dir, write_graph=False))
    if initial_epoch < epochs:
        try:
            model.fit(
                batches,
                validation_data=validation,
                epochs=epochs,
                initial_epoch=initial_epoch,
                steps_per_epoch=steps_per_epoch,
                shuffle=False,  # the batches are shuffled already
                callbacks=callbacks,
                verbose=1 if sys.stdout.isatty() else 2,
            )
        except KeyboardInterrupt:
            reached = f"after epoch {completed_epochs(run_dir)} of {epochs} of {run_dir}"
            raise KeyboardInterrupt(reached) from None
    if len(state.history["loss"]) < epochs:
        raise InputError(
            "Expected a finite loss, received NaN or infinity in epoch "
            f"{len(state.history['loss']) + 1}. Try a smaller --learning-rate, or "
            "--precision float32."
        )
    state.load_best(model)
    return state.history


def compile_classifier(model, optimizer, *, label_smoothing=0.0, steps_per_execution=1):
    """Compiles a classifier for training, in place.

    Args:
        model: A model that ends in a sigmoid, (batch, 1), or a softmax, (batch, num_classes).
        optimizer: From `build_optimizer`.
        label_smoothing: Share by which targets move towards one over the number of classes, in
            the training loss.
        steps_per_execution: Steps that run without coming back to Python in between.
    """
    if model.output.shape[-1] == 1:
        loss, cross_entropy = keras.losses.BinaryCrossentropy, keras.metrics.BinaryCrossentropy
    else:
        loss = keras.losses.CategoricalCrossentropy
        cross_entropy = keras.metrics.CategoricalCrossentropy
    model.compile(
        optimizer=optimizer,
        loss=loss(label_smoothing=label_smoothing),
        metrics=[
            keras.metrics.MeanMetricWrapper(_hits, name="accuracy"),
            cross_entropy(name="cross_entropy"),
        ],
        steps_per_execution=steps_per_execution,
    )


def _hits(targets, probabilities):
    """Whether each prediction is right; of a blend, whether it names what there is more of."""
    if targets.shape[-1] == 1:
        return keras.ops.equal(targets > 0.5, probabilities > 0.5)
    found, wanted = (keras.ops.argmax(rows, axis=-1) for rows in (probabilities, targets))
    return keras.ops.equal(found, wanted)


def _has_bfloat16():
    try:
        flags = pathlib.Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags
