"""Optimizers, precision, and the promise that a run that was stopped ends as if it had not been."""

import errno
import os
import shutil
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

from catsdogs.data.batches import encode_labels, evaluation_batches, image_batches
from catsdogs.errors import InputError
from catsdogs.stages import checkpoint as run_state
from catsdogs.stages import optimization as training
from catsdogs.stages import run as runs

SIDE, NUM, BATCH, EPOCHS = 12, 24, 8, 4
STEPS = NUM // BATCH
RNG = np.random.default_rng(0)
LABELS = np.arange(NUM) % 2
TARGETS = encode_labels(LABELS, 2)
IMAGES = (RNG.integers(0, 200, (NUM, SIDE, SIDE, 3)) + 55 * LABELS[:, None, None, None]).astype(
    np.uint8
)


class StoppedError(Exception):
    """Stands for Ctrl-C or a power cut."""


def build(optimizer="adamw", learning_rate=0.01):
    """A net with all that a state has to hold: batch statistics, dropout, moments, a schedule."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((None, None, 3))
    x = keras.layers.Rescaling(1 / 255)(inputs)
    x = keras.layers.Conv2D(4, 3, name="conv")(x)
    x = keras.layers.BatchNormalization(momentum=0.9, name="norm")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dropout(0.3)(x)
    model = keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid", name="logit")(x))
    built = training.build_optimizer(
        optimizer, learning_rate, num_steps=EPOCHS * STEPS, warmup=0.2, weight_decay=0.1
    )
    training.compile_classifier(model, built, label_smoothing=0.1)
    return model


def fit(model, run_dir, stop_in_epoch=None, images=IMAGES, tensorboard=False):
    """Trains; `stop_in_epoch` breaks off after the first batch of that epoch (from 1)."""
    batches = image_batches(
        images, TARGETS, batch_size=BATCH, epochs=EPOCHS, seed=0, augmentation="strong",
        crop_sizes=[10] * 6, initial_epoch=run_state.completed_epochs(run_dir),
    )  # fmt: skip
    if stop_in_epoch:
        done = run_state.completed_epochs(run_dir)
        count = iter(range(10**6))

        def check(epoch, logs=None):
            if next(count) == (stop_in_epoch - 1 - done) * STEPS:
                raise StoppedError

        stopper = keras.callbacks.LambdaCallback(on_train_batch_end=check)
        original = model.fit
        model.fit = lambda *a, callbacks, **k: original(*a, callbacks=[*callbacks, stopper], **k)
    return training.fit(
        model,
        batches,
        evaluation_batches(images, TARGETS, batch_size=BATCH),
        epochs=EPOCHS,
        steps_per_epoch=STEPS,
        run_dir=run_dir,
        started=time.perf_counter() - run_state.completed_seconds(run_dir) - 1000,
        tensorboard=tensorboard,
    )


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A run without a stop: its model, history and folder."""
    run_dir = tmp_path_factory.mktemp("straight")
    model = build()
    return model, fit(model, run_dir), run_dir


@pytest.mark.parametrize("stops", [[2, 4]])
def test_stopped_run_ends_bit_for_bit_as_if_it_had_not_been(straight, stops, tmp_path):
    expected_model, expected, expected_dir = straight
    for epoch in stops:
        with pytest.raises(StoppedError):
            fit(build(), tmp_path, stop_in_epoch=epoch)
        assert run_state.completed_epochs(tmp_path) == epoch - 1
    # Each of the two parts says that it began a thousand seconds before.
    assert 2000 < run_state.completed_seconds(tmp_path) < 2300
    assert run_state.completed_seconds(tmp_path / "nothing") == 0
    model = build()
    keras.utils.set_random_seed(99)  # what the new process happens to hold must not matter
    assert fit(model, tmp_path) == expected
    assert runs.read_history(tmp_path) == runs.read_history(expected_dir) == expected
    for found, wanted in zip(model.get_weights(), expected_model.get_weights(), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_tensorboard_files_tell_the_history(straight, tmp_path):
    _, expected, plain_dir = straight
    assert fit(build(), tmp_path, tensorboard=True) == expected  # it only watches
    assert not (plain_dir / "tensorboard").exists()
    for part, name in (("train", "accuracy"), ("validation", "val_accuracy")):
        (path,) = (tmp_path / "tensorboard" / part).glob("events.out.tfevents.*")
        events = [
            tf.compat.v1.Event.FromString(record.numpy())
            for record in tf.data.TFRecordDataset(str(path))
        ]
        found = {
            event.step: float(tf.make_ndarray(value.tensor))
            for event in events
            for value in event.summary.value
            if value.tag == "epoch_accuracy"
        }
        assert list(found) == list(range(EPOCHS))
        assert list(found.values()) == pytest.approx(expected[name], abs=1e-6)


def test_state_holds_more_than_the_weights(straight):
    trained, _, run_dir = straight
    model = build()
    run_state.RunState(run_dir, started=0).restore(model, EPOCHS)
    assert int(model.optimizer.iterations) == EPOCHS * STEPS
    moments = [v.numpy() for v in model.optimizer.variables if "momentum" in v.path]
    assert moments and all(np.abs(moment).max() > 0 for moment in moments)
    (generator,) = (v.numpy() for v in model.variables if "seed_generator" in v.path)
    (expected,) = (v.numpy() for v in trained.variables if "seed_generator" in v.path)
    np.testing.assert_array_equal(generator, expected)
    assert generator[1] == EPOCHS * STEPS  # dropout drew once a step


def test_finished_training_is_not_repeated(straight):
    expected_model, expected, run_dir = straight
    model = build()
    model.fit = lambda *args, **kwargs: pytest.fail("all epochs are done")
    assert fit(model, run_dir) == expected
    for found, wanted in zip(model.get_weights(), expected_model.get_weights(), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_best_epoch_is_what_is_left(straight):
    model, history, run_dir = straight
    found = model.evaluate(
        evaluation_batches(IMAGES, TARGETS, batch_size=BATCH), verbose=0, return_dict=True
    )
    assert found["cross_entropy"] == pytest.approx(min(history["val_loss"]), rel=1e-5)
    assert sorted(path.name for path in (run_dir / "state").iterdir()) == [
        "best.npz", f"epoch-{EPOCHS:04d}.npz",
    ]  # fmt: skip


def test_of_equal_epochs_the_first_is_kept(tmp_path):
    model = build()
    state = run_state.RunState(tmp_path, started=0)
    state.set_model(model)
    logs = {"loss": 1.0, "cross_entropy": 1.0, "accuracy": 0.5, "val_accuracy": 0.5}
    for epoch, val_loss in enumerate([0.7, 0.6000001, 0.6, 0.65]):
        model.get_layer("logit").bias.assign([float(epoch)])
        state.on_epoch_end(epoch, {**logs, "val_loss": val_loss, "val_cross_entropy": val_loss})
    state.load_best(model)
    # The same as `history["val_loss"].index(min(...))`, which metrics.json calls the best epoch.
    assert state.history["val_loss"].index(min(state.history["val_loss"])) == 1
    assert model.get_layer("logit").bias.numpy().tolist() == [1.0]


def test_losses_are_plain_cross_entropy(straight):
    model, history, _ = straight
    assert list(history) == ["loss", "accuracy", "val_loss", "val_accuracy"]
    batches = evaluation_batches(IMAGES, TARGETS, batch_size=BATCH)
    probabilities = model.predict(batches, verbose=0)[:, 0].astype(np.float64)
    plain = -np.log(np.where(LABELS == 1, probabilities, 1 - probabilities)).mean()
    assert min(history["val_loss"]) == pytest.approx(plain, rel=1e-4)


@pytest.mark.parametrize("epoch", [1, 3])
def test_loss_that_is_not_finite_is_an_error_and_the_last_good_state_stays(tmp_path, epoch):
    """The weights break in an epoch's very last step, which its training loss does not show."""
    model = build()
    count = iter(range(1, 10**6))

    def break_weights(batch, logs=None):
        if next(count) == epoch * STEPS:
            model.get_layer("logit").bias.assign([np.nan])

    original = model.fit
    breaker = keras.callbacks.LambdaCallback(on_train_batch_end=break_weights)
    model.fit = lambda *a, callbacks, **k: original(*a, callbacks=[breaker, *callbacks], **k)
    with pytest.raises(InputError, match=rf"epoch {epoch}\b.*--learning-rate"):
        fit(model, tmp_path)
    assert run_state.completed_epochs(tmp_path) == epoch - 1
    if epoch > 1:
        assert len(runs.read_history(tmp_path)["val_loss"]) == epoch - 1
        healthy = build()
        run_state.RunState(tmp_path, started=0).restore(healthy, epoch - 1)
        assert all(np.isfinite(weight).all() for weight in healthy.get_weights())


def test_full_disk_keeps_the_last_whole_state(tmp_path, monkeypatch):
    model, savez = build(), np.savez

    def disk_is_full(file, *arrays, **numbers):
        if run_state.completed_epochs(tmp_path) == 1 and len(arrays) > len(model.weights):
            file.write(b"the first bytes of many")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        savez(file, *arrays, **numbers)

    monkeypatch.setattr(np, "savez", disk_is_full)
    with pytest.raises(OSError, match="No space left"):
        fit(model, tmp_path)
    assert sorted(path.name for path in (tmp_path / "state").iterdir()) == [
        "best.npz", "epoch-0001.npz",
    ]  # fmt: skip
    assert run_state.completed_epochs(tmp_path) == 1


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 and no more", None])
def test_a_damaged_state_is_an_error(tmp_path, damage):
    with pytest.raises(StoppedError):
        fit(build(), tmp_path, stop_in_epoch=2)
    (path,) = (tmp_path / "state").glob("epoch-*.npz")
    path.write_bytes(path.read_bytes()[:-500] if damage is None else damage)
    for go_on in (run_state.completed_seconds, lambda run_dir: fit(build(), run_dir)):
        with pytest.raises(InputError, match=f"in {path}, received something else"):
            go_on(tmp_path)


def test_a_history_that_lacks_epochs_is_an_error(tmp_path):
    with pytest.raises(StoppedError):
        fit(build(), tmp_path, stop_in_epoch=2)
    (tmp_path / "history.csv").write_text("epoch,loss,accuracy,val_loss,val_accuracy\n")
    with pytest.raises(InputError, match=r"history\.csv"):
        fit(build(), tmp_path)


def test_a_state_that_is_gone_is_an_error(tmp_path):
    with pytest.raises(StoppedError):
        fit(build(), tmp_path, stop_in_epoch=3)
    before = (tmp_path / "history.csv").read_text()
    shutil.rmtree(tmp_path / "state")
    with pytest.raises(InputError, match="Expected the state of a stopped run"):
        fit(build(), tmp_path)
    assert (tmp_path / "history.csv").read_text() == before


def test_a_best_epoch_that_is_gone_is_told_before_the_rest_is_trained(tmp_path):
    with pytest.raises(StoppedError):
        fit(build(), tmp_path, stop_in_epoch=2)
    (tmp_path / "state" / "best.npz").unlink()
    with pytest.raises(InputError, match=r"best\.npz"):
        fit(build(), tmp_path, stop_in_epoch=3)


def test_more_than_9999_epochs(tmp_path):
    model = build()
    state = run_state.RunState(tmp_path, started=0)
    state.set_model(model)
    logs = dict.fromkeys(("loss", "cross_entropy", "accuracy", "val_accuracy"), 0.5)
    for epoch in (9998, 9999):
        state.on_epoch_end(epoch, {**logs, "val_loss": 0.5, "val_cross_entropy": 0.5})
        assert run_state.completed_epochs(tmp_path) == epoch + 1
    assert len(list((tmp_path / "state").glob("epoch-*"))) == 1


def test_rate_too_high_is_an_error(tmp_path):
    with pytest.raises(InputError, match="Expected a finite loss"):
        fit(build("rmsprop", 1e38), tmp_path)
    assert run_state.completed_epochs(tmp_path) == 0


@pytest.mark.parametrize("name", ["float32", "mixed_bfloat16"])
def test_precision_asked_for_is_set(name):
    keras.config.set_floatx("float16")  # as keras.json may say
    assert training.choose_precision(name) == name
    assert keras.config.floatx() == "float32"
    assert keras.config.dtype_policy().name == name


@pytest.mark.parametrize(
    "flags, expected",
    [
        ("avx2 avx512f avx512_bf16", "mixed_bfloat16"),  # AMD since Zen 4, Intel Cooper Lake
        ("avx512f amx_bf16 amx_tile", "mixed_bfloat16"),
        ("avx2 avx512f", "float32"),
        (None, "float32"),  # no such file: another system than Linux
    ],
)
def test_precision_chosen_by_the_processors_flags(monkeypatch, flags, expected):
    def read_text(path):
        if flags is None:
            raise FileNotFoundError(path)
        return f"flags\t\t: {flags}\n"

    monkeypatch.setattr(training.pathlib.Path, "read_text", read_text)
    assert training.choose_precision() == expected
    assert keras.config.dtype_policy().name == expected


def test_schedule_climbs_then_falls_to_zero():
    optimizer = training.build_optimizer("adamw", 0.5, num_steps=100, warmup=0.1)
    rate = [float(optimizer._learning_rate(step)) for step in range(101)]
    np.testing.assert_allclose(rate[:11], np.linspace(0, 0.5, 11), atol=1e-6)
    steps = np.arange(91)
    np.testing.assert_allclose(rate[10:], 0.25 * (1 + np.cos(np.pi * steps / 90)), atol=1e-6)
    assert max(rate) == rate[10] == 0.5 and rate[100] == pytest.approx(0, abs=1e-6)
    constant = training.build_optimizer("rmsprop", 1e-4, num_steps=100, warmup=0.1)
    assert float(constant.learning_rate) == pytest.approx(1e-4)


def test_weight_decay_spares_biases_and_normalisation():
    model = build()
    optimizer = training.build_optimizer("adamw", 0.1, num_steps=10, warmup=0, weight_decay=0.5)
    for weight in model.trainable_variables:
        weight.assign(tf.ones_like(weight))
    optimizer.build(model.trainable_variables)
    for _ in range(3):  # the first step of the warm-up has rate zero
        zeros = [tf.zeros_like(weight) for weight in model.trainable_variables]
        optimizer.apply_gradients(zip(zeros, model.trainable_variables, strict=True))
    for weight in model.trainable_variables:
        decayed = float(keras.ops.max(weight)) < 1
        assert decayed == ("kernel" in weight.path), weight.path
