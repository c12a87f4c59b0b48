"""Checkpoint and optimization: a resumed training ends like one that was never interrupted."""

import errno
import os
import pathlib
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

from catsdogs.config import ScratchConfig
from catsdogs.data.batches import encode_labels, evaluation_batches, image_batches
from catsdogs.files import read_history, write_history
from catsdogs.stages.checkpoint import Checkpoint
from catsdogs.stages.optimization import (
    build_loss,
    build_metrics,
    build_optimizer,
    choose_precision,
)

SIDE, NUM, BATCH_SIZE, EPOCHS = 12, 24, 8, 4
STEPS = NUM // BATCH_SIZE
LABELS = np.arange(NUM) % 2
TARGETS = encode_labels(LABELS, 2)
NOISE = np.random.default_rng(0).integers(0, 200, (NUM, SIDE, SIDE, 3))
IMAGES = (NOISE + 55 * LABELS[:, None, None, None]).astype(np.uint8)


def build():
    """A compiled net with batch statistics, dropout, moments and a schedule."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((None, None, 3))
    x = keras.layers.Rescaling(1 / 255)(inputs)
    x = keras.layers.Conv2D(4, 3, name="conv")(x)
    x = keras.layers.BatchNormalization(momentum=0.9, name="norm")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dropout(0.3)(x)
    model = keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid", name="logit")(x))
    model.compile(
        build_optimizer(
            ScratchConfig(learning_rate=0.01, warmup=0.2, weight_decay=0.1), EPOCHS * STEPS
        ),
        loss=build_loss(2, label_smoothing=0.1),
        metrics=build_metrics(2),
    )
    return model


def validation():
    return evaluation_batches(IMAGES, TARGETS, batch_size=BATCH_SIZE)


def fit(run_dir, interrupt_at=None):
    """Trains a new model from where `run_dir` is.

    Args:
        interrupt_at: Step of the complete training after which it is interrupted.

    Returns:
        The model and its `Checkpoint`.
    """
    model, checkpoint = build(), Checkpoint(run_dir, "a run", time.perf_counter() - 1000)
    steps = iter(range(STEPS * checkpoint.epoch + 1, STEPS * EPOCHS + 1))
    keras.utils.set_random_seed(checkpoint.epoch)  # what a process holds must not matter

    def interrupt(batch, logs):
        if next(steps) == interrupt_at:
            raise KeyboardInterrupt

    model.fit(
        image_batches(
            IMAGES, TARGETS, batch_size=BATCH_SIZE, epochs=EPOCHS, seed=0, augmentation="strong",
            crop_sizes=[10] * EPOCHS, initial_epoch=checkpoint.epoch,
        ),
        validation_data=validation(), epochs=EPOCHS, initial_epoch=checkpoint.epoch,
        steps_per_epoch=STEPS, shuffle=False, verbose=0,
        callbacks=[keras.callbacks.LambdaCallback(on_train_batch_end=interrupt), checkpoint],
    )  # fmt: skip
    return model, checkpoint


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A training without an interruption: its model, checkpoint and folder."""
    run_dir = tmp_path_factory.mktemp("straight")
    return *fit(run_dir), run_dir


def assert_equal(found, expected):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other, err_msg=getattr(other, "path", ""))


# ---- Checkpoint ----


def test_a_resumed_training_ends_bit_for_bit_as_if_it_was_not_interrupted(straight, tmp_path):
    expected_model, expected, _ = straight
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, interrupt_at=STEPS + 1)
    # What a process leaves that is killed between an epoch's two files.
    history = read_history(tmp_path)
    write_history(tmp_path, {name: [*values, 9.0] for name, values in history.items()})
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, interrupt_at=3 * STEPS + 2)
    # Each of the two parts said that it began a thousand seconds before.
    assert Checkpoint(tmp_path, "", 0).epoch == 3
    assert 2000 < Checkpoint(tmp_path, "", 0).seconds < 2300
    model, checkpoint = fit(tmp_path)
    assert checkpoint.epoch == EPOCHS and checkpoint.history == expected.history
    assert read_history(tmp_path) == expected.history
    assert_equal(model.variables, expected_model.variables)
    assert_equal(model.optimizer.variables, expected_model.optimizer.variables)


def test_dropout_and_the_optimizer_resume_where_they_were(straight):
    trained, _, run_dir = straight
    model, checkpoint = build(), Checkpoint(run_dir, "", 0)
    checkpoint.set_model(model)
    checkpoint.on_train_begin()
    assert int(model.optimizer.iterations) == EPOCHS * STEPS
    moments = [v.numpy() for v in model.optimizer.variables if "momentum" in v.path]
    assert moments and all(np.abs(moment).max() > 0 for moment in moments)
    assert_equal(model.optimizer.variables, trained.optimizer.variables)
    found, expected = (
        [v for v in net.variables if "seed_generator" in v.path] for net in (model, trained)
    )
    assert_equal(found, expected)
    assert found[0].numpy()[1] == EPOCHS * STEPS  # dropout drew once a step


def test_the_best_epoch_is_the_one_of_least_validation_loss(straight):
    _, checkpoint, run_dir = straight
    model, val_loss = build(), checkpoint.history["val_loss"]
    checkpoint.load_best(model)
    probabilities = model.predict(validation(), verbose=0)[:, 0].astype(np.float64)
    # Plain cross-entropy, without the label smoothing of the training loss.
    plain = -np.log(np.where(LABELS == 1, probabilities, 1 - probabilities)).mean()
    assert min(val_loss) == pytest.approx(plain, rel=1e-4)
    assert min(val_loss) < max(val_loss)
    files = sorted(path.name for path in (run_dir / "state").iterdir())
    assert files == ["best.npz", f"epoch-{EPOCHS:06d}.npz"]  # no state of an earlier epoch
    assert (run_dir / "curves.png").stat().st_size > 1000


@pytest.fixture
def end_epochs(tmp_path):
    """A function that ends an epoch for each validation loss; the model's bias is its number."""
    model, checkpoint = build(), Checkpoint(tmp_path, "", 0)
    model.optimizer.build(model.trainable_variables)
    checkpoint.set_model(model)

    def end(*val_losses):
        for val_loss in val_losses:
            epoch = checkpoint.epoch
            model.get_layer("logit").bias.assign([epoch + 1.0])
            logs = {"val_loss": val_loss, "val_cross_entropy": val_loss, "loss": 1.0}
            logs |= {"cross_entropy": 1.0, "accuracy": 0.5, "val_accuracy": 0.5}
            checkpoint.on_epoch_end(epoch, logs)
        return model, checkpoint

    return end


def test_of_equal_epochs_the_first_is_best(end_epochs):
    model, checkpoint = end_epochs(0.7, 0.6000001, 0.6, 0.65)
    checkpoint.load_best(model)
    # Equal in the digits of history.csv, which a resumed run reads.
    assert checkpoint.history["val_loss"] == [0.7, 0.6, 0.6, 0.65]
    assert model.get_layer("logit").bias.numpy().tolist() == [2.0]


def test_an_epoch_whose_loss_is_not_finite_is_not_kept(end_epochs, tmp_path):
    model, checkpoint = end_epochs(0.7, 0.6, np.nan)
    assert model.stop_training
    resumed = Checkpoint(tmp_path, "", 0)
    assert checkpoint.epoch == resumed.epoch == 2
    assert resumed.history["val_loss"] == checkpoint.history["val_loss"] == [0.7, 0.6]
    resumed.set_model(model)
    resumed.on_train_begin()
    assert model.get_layer("logit").bias.numpy().tolist() == [2.0]


def test_a_full_disk_keeps_the_last_complete_state(end_epochs, tmp_path, monkeypatch):
    savez = np.savez

    def disk_is_full(file, *arrays, **numbers):
        if numbers:  # the state, which is larger than the best weights
            file.write(b"the first bytes of many")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        savez(file, *arrays)

    end_epochs(0.7)
    monkeypatch.setattr(np, "savez", disk_is_full)
    with pytest.raises(OSError, match="No space left"):
        end_epochs(0.6)
    files = sorted(path.name for path in (tmp_path / "state").iterdir())
    assert files == ["best.npz", "epoch-000001.npz"]
    assert Checkpoint(tmp_path, "", 0).history["val_loss"] == [0.7]


# ---- Precision ----


@pytest.mark.parametrize("name", ["float32", "mixed_bfloat16"])
def test_the_precision_that_is_asked_for_is_set(name):
    assert choose_precision(name) == name == keras.config.dtype_policy().name


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("avx2 avx512f avx512_bf16", "mixed_bfloat16"),  # AMD since Zen 4, Intel Cooper Lake
        ("avx512f amx_bf16 amx_tile", "mixed_bfloat16"),
        ("avx2 avx512f", "float32"),
        (None, "float32"),  # no such file: another system than Linux
    ],
)
def test_precision_is_chosen_by_the_processors_flags(monkeypatch, flags, expected):
    def read_text(path):
        if flags is None:
            raise FileNotFoundError(path)
        return f"flags\t\t: {flags}\n"

    monkeypatch.setattr(pathlib.Path, "read_text", read_text)
    assert choose_precision() == expected == keras.config.dtype_policy().name


# ---- Optimizer, loss and metrics ----


def test_the_learning_rate_rises_linearly_and_decays_to_zero():
    optimizer = build_optimizer(ScratchConfig(learning_rate=0.5, warmup=0.1), 100)
    rates = []
    for step in range(101):
        optimizer.iterations.assign(step)
        rates.append(float(optimizer.learning_rate))
    np.testing.assert_allclose(rates[:11], np.linspace(0, 0.5, 11), atol=1e-6)
    steps = np.arange(91)
    np.testing.assert_allclose(rates[10:], 0.25 * (1 + np.cos(np.pi * steps / 90)), atol=1e-6)
    constant = build_optimizer(ScratchConfig(optimizer="rmsprop", learning_rate=1e-4), 100)
    constant.iterations.assign(50)
    assert float(constant.learning_rate) == pytest.approx(1e-4)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_biases_and_normalisation_are_exempt_from_weight_decay(kind):
    model = build()
    config = ScratchConfig(optimizer=kind, learning_rate=0.1, weight_decay=0.5)
    optimizer = build_optimizer(config, 10)
    for weight in model.trainable_variables:
        weight.assign(tf.ones_like(weight))
    for _ in range(3):  # the first step of the warm-up has rate zero
        zeros = [tf.zeros_like(weight) for weight in model.trainable_variables]
        optimizer.apply_gradients(zip(zeros, model.trainable_variables, strict=True))
    decayed = {w.path for w in model.trainable_variables if float(keras.ops.max(w)) < 1}
    assert decayed == {"conv/kernel", "logit/kernel"}


def test_muon_learns_all_directions_of_a_kernel_at_one_pace():
    rate, rng = 0.1, np.random.default_rng(0)
    config = ScratchConfig(optimizer="muon", learning_rate=rate, warmup=0, weight_decay=0)
    optimizer, model = build_optimizer(config, 1000), build()
    before = [weight.numpy() for weight in model.trainable_variables]
    gradients = [rng.normal(size=weight.shape).astype(np.float32) for weight in before]
    gradients[0][..., 0] *= 100  # one filter's are much larger
    for _ in range(2):  # the first step of the warm-up has rate zero
        optimizer.apply(gradients, model.trainable_variables)
    for old, gradient, weight in zip(before, gradients, model.trainable_variables, strict=True):
        step = old - weight.numpy()
        if weight.path == "conv/kernel":
            directions = np.linalg.svd(step.reshape(-1, step.shape[-1]), compute_uv=False)
            size = rate * 0.2 * np.sqrt(max(step.size // step.shape[-1], step.shape[-1]))
            np.testing.assert_allclose(directions, size, rtol=0.35)  # Newton-Schulz is rough
        else:  # Adam: every entry moves by the rate
            np.testing.assert_allclose(step, rate * np.sign(gradient), rtol=0.01)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_loss_and_metrics(num_classes):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, num_classes, 20)
    targets = encode_labels(labels, num_classes)
    rows = rng.dirichlet(np.ones(num_classes), 20).astype(np.float32)
    outputs = rows[:, 1:] if num_classes == 2 else rows
    log = np.log(rows.astype(np.float64))
    plain = -log[np.arange(20), labels].mean()
    accuracy, cross_entropy = build_metrics(num_classes)
    assert float(cross_entropy(targets, outputs)) == pytest.approx(plain, rel=1e-4)
    assert float(accuracy(targets, outputs)) == pytest.approx((rows.argmax(1) == labels).mean())
    assert float(build_loss(num_classes)(targets, outputs)) == pytest.approx(plain, rel=1e-4)
    # A tenth of each label is spread over all classes.
    smooth = 0.9 * plain + 0.1 * -log.mean()
    assert float(build_loss(num_classes, 0.1)(targets, outputs)) == pytest.approx(smooth, rel=1e-4)
    # Mixup blends two targets: the larger part counts.
    blended = 0.7 * targets + 0.3 * encode_labels((labels + 1) % num_classes, num_classes)
    (accuracy, _) = build_metrics(num_classes)
    assert float(accuracy(blended, outputs)) == pytest.approx((rows.argmax(1) == labels).mean())
