"""Pieces of the benchmark, each run in a process of its own by `benchmark`.

Seconds are wall-clock seconds; rates are medians of repeated runs after a warm-up, so tracing and
first-time allocation are not in them.
"""

import functools
import json
import math
import pathlib
import statistics
import tempfile
import time
import timeit

import keras
import numpy as np
import tensorflow as tf
from book import time_book
from flops import convolve, count_flops, flops_of, possible_gflops

from catsdogs.data.augment import NUM_RANDOM, augment
from catsdogs.data.batches import encode_labels, image_batches
from catsdogs.data.images import decode_image, load_split
from catsdogs.data.manifest import load_manifest
from catsdogs.models import backbones, convnets
from catsdogs.models.fused_norm import training_copy
from catsdogs.models.model_file import load_model
from catsdogs.stages import optimization as training
from catsdogs.stages.features import CUT, FeatureStore

__all__ = [
    "measure_augmentation",
    "measure_base",
    "measure_fine_tuning",
    "measure_prediction",
    "measure_training",
    "run_piece",
]

_BATCH = 32
_seconds = functools.partial(timeit.timeit, number=1)


def measure_base(image_size, turns, precision="auto"):
    """What VGG16's own layers can do on this machine, and what extraction makes of it.

    Args:
        image_size: Side of the images, in pixels.
        turns: How often each is timed. The machine's speed changes from minute to minute, so what
            is compared is timed within one turn; medians count.
        precision: As for `choose_precision`.

    Returns:
        Images a second of the 13 convolutions with bias and ReLU, one by one; of the feature
        store, from uint8 images to the files of block4_pool and of pooled features; the share of
        the second in the first; GFLOP/s of both; the share of the second in what is possible.
    """
    precision = training.choose_precision(precision)
    dtype = "bfloat16" if precision == "mixed_bfloat16" else "float32"
    conv_base = backbones.build_base("vgg16", image_size, "average")
    shape = (4 * _BATCH, image_size, image_size, 3)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    gflop = count_flops(conv_base, image_size) / 1e9

    calls = []  # in the network's order
    for layer in conv_base.layers:
        if isinstance(layer, keras.layers.Conv2D):
            kernel, bias = (tf.cast(weight.value, dtype) for weight in (layer.kernel, layer.bias))
            x = tf.cast(tf.random.normal((_BATCH, *layer.input.shape[1:])), dtype)
            calls.append(functools.partial(convolve, x, kernel, bias))
    rates = []  # images a second: of the convolutions, of extraction, possible
    with tempfile.TemporaryDirectory() as folder:
        store = FeatureStore(folder, conv_base, dataset_digest="noise", precision=precision)

        def convolve_all():
            for _ in range(len(images) // _BATCH):
                for call in calls:
                    call()

        def extract(turn):
            store.features(images, f"turn {turn}", keep_cut=True)

        for turn in range(1 + turns):  # the first one traces and allocates
            seconds = _seconds(convolve_all), _seconds(functools.partial(extract, turn))
            rates.append([*(len(images) / each for each in seconds), possible_gflops() / gflop])
    rates = np.array(rates[1:])
    convolutions, extraction, _ = np.median(rates, axis=0)
    return {
        "image_size": image_size,
        "precision": precision,
        "gflop_an_image": round(gflop, 2),
        "convolutions_images_per_second": round(convolutions, 2),
        "extraction_images_per_second": round(extraction, 2),
        "extraction_share": round(np.median(rates[:, 1] / rates[:, 0]), 3),
        "convolutions_gflops": round(convolutions * gflop, 1),
        "extraction_gflops": round(extraction * gflop, 1),
        "utilisation": round(np.median(rates[:, 1] / rates[:, 2]), 3),
    }


def measure_augmentation(image_size, num_images):
    """The fused warp beside Keras's five random layers, both inside `tf.data`.

    Args:
        image_size: Side of the images, in pixels.
        num_images: How many are timed.

    Returns:
        Milliseconds an image of both and their ratio.
    """
    keras.utils.set_random_seed(0)
    images = np.random.default_rng(0).integers(0, 256, (64, image_size, image_size, 3), np.uint8)
    layers = [
        keras.layers.RandomFlip("horizontal"),
        keras.layers.RandomRotation(40 / 360, fill_mode="nearest"),
        keras.layers.RandomTranslation(0.2, 0.2, fill_mode="nearest"),
        keras.layers.RandomShear(0.2, 0.2, fill_mode="nearest", data_format="channels_last"),
        keras.layers.RandomZoom(0.2, 0.2, fill_mode="nearest"),
    ]

    def stacked(number):
        del number
        batch = tf.cast(images[:_BATCH], tf.float32)
        for layer in layers:
            batch = layer(batch, training=True)
        return batch

    def fused(number):
        random = tf.random.stateless_uniform((_BATCH, NUM_RANDOM), (0, number))
        return augment(images[:_BATCH], random, "book", image_size)

    def milliseconds(function):
        dataset = tf.data.Dataset.range(num_images // _BATCH)
        dataset = dataset.map(function, num_parallel_calls=2)
        for _ in dataset.take(2):
            pass
        return 1e3 * _seconds(lambda: [None for _ in dataset]) / (num_images // _BATCH * _BATCH)

    pairs = [(milliseconds(stacked), milliseconds(fused)) for _ in range(3)]
    return {
        "image_size": image_size,
        "keras_layers_ms": round(statistics.median(pair[0] for pair in pairs), 3),
        "fused_warp_ms": round(statistics.median(pair[1] for pair in pairs), 3),
        "ratio": round(statistics.median(pair[0] / pair[1] for pair in pairs), 1),
    }


def measure_training(data_dir, image_size, crop_size, mixup, batch_size, steps):
    """Whether a training step of the `best` convnet ever waits for its images.

    Args:
        data_dir: A prepared data set.
        image_size, crop_size, mixup, batch_size: As in `ScratchConfig`.
        steps: Steps to time.

    Returns:
        Seconds an epoch, the share of time that the loop waited for a batch, processor seconds
        over wall seconds, GFLOP/s of training (three times the forward pass), and the share of
        these in what is possible.
    """
    training.choose_precision()
    possible = possible_gflops()
    manifest = load_manifest(data_dir)
    images, labels = load_split(data_dir, manifest, "train", image_size)
    num_classes = len(manifest.classes)
    targets = encode_labels(labels, num_classes)
    convnet = convnets.build_residual_convnet(num_classes=num_classes)
    model = training_copy(convnet)
    training.compile_classifier(model, training.build_optimizer("adamw", 1e-3, num_steps=steps))
    model.optimizer.build(model.trainable_variables)
    epochs = math.ceil((steps + 5) / (len(labels) // batch_size))
    batches = image_batches(
        images, targets, batch_size=batch_size, epochs=epochs, seed=0, augmentation="strong",
        crop_sizes=[crop_size] * epochs, mixup_share=mixup,
    )  # fmt: skip
    # An epoch's smaller last batch would be compiled for in the midst of it.
    whole = batches.filter(lambda images, labels: tf.shape(labels)[0] == batch_size)
    whole = iter(whole.prefetch(2))
    step = tf.function(lambda *batch: model.train_step(batch))
    for _ in range(5):
        step(*next(whole))
    waited, start, cpu = 0.0, time.perf_counter(), time.process_time()
    for _ in range(steps):
        before = time.perf_counter()
        batch = next(whole)
        waited += time.perf_counter() - before
        step(*batch)
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    possible = statistics.mean([possible, possible_gflops()])  # before and after
    images_per_second = steps * batch_size / wall
    gflops = 3 * count_flops(convnet, crop_size) * images_per_second / 1e9
    return {
        "seconds_an_epoch": round(len(labels) / images_per_second, 2),
        "waiting_share": round(waited / wall, 4),
        "cpu_over_wall": round(cpu / wall, 2),
        "gflops": round(gflops, 1),
        "utilisation": round(gflops / possible, 3),
    }


def measure_fine_tuning(image_size, batch_size, steps):
    """How fast VGG16's last block trains on stored activations.

    Args:
        image_size: Side of the images that the activations are of, in pixels.
        batch_size: As in `FinetuneConfig`.
        steps: Steps to time.

    Returns:
        Images and GFLOP a second, three times the forward pass of block 5 less the gradient that
        no layer below it needs; the share of these in what is possible.
    """
    training.choose_precision()
    conv_base = backbones.build_base("vgg16", image_size, "average")
    backbones.unfreeze_after(conv_base, CUT)
    head = backbones.build_head(conv_base.output.shape[1:])
    _, suffix = backbones.split_model(backbones.build_classifier(conv_base, head), CUT)
    training.compile_classifier(suffix, training.build_optimizer("adamw", 1e-5, num_steps=steps))
    suffix.optimizer.build(suffix.trainable_variables)
    activations = tf.nn.relu(tf.random.normal((batch_size, *suffix.input.shape[1:])))
    labels = tf.cast(tf.range(batch_size)[:, None] % 2, tf.float32)
    step = tf.function(lambda *batch: suffix.train_step(batch))
    step(activations, labels)
    possible = possible_gflops()
    seconds = statistics.median(_seconds(lambda: step(activations, labels)) for _ in range(steps))
    possible = statistics.mean([possible, possible_gflops()])
    images_per_second = batch_size / seconds
    first, *others = (layer for layer in suffix.layers if isinstance(layer, keras.layers.Conv2D))
    flops = 2 * flops_of(first, first.output.shape)
    flops += 3 * sum(flops_of(layer, layer.output.shape) for layer in others)
    gflops = flops * images_per_second / 1e9
    return {
        "image_size": image_size,
        "images_per_second": round(images_per_second, 1),
        "gflops": round(gflops, 1),
        "utilisation": round(gflops / possible, 3),
    }


def measure_prediction(run_dir, picture, repeats, started):
    """Seconds to answer for one picture, file to probability, and for a hundred.

    Args:
        run_dir: A finished run.
        picture: A picture file.
        repeats: How often the warm prediction is timed.
        started: When this process was started, seconds of `time.time()`.

    Returns:
        Seconds from the start of this process to its first answer, milliseconds of one more
        answer, seconds for a hundred pictures.
    """
    model = load_model(run_dir)
    size = model.input.shape[1]
    size = size or json.loads((pathlib.Path(run_dir) / "metrics.json").read_text())["image_size"]

    def answer(number=1):
        batch = np.stack([decode_image(picture, size) for _ in range(number)])
        return np.concatenate(
            [model.predict_on_batch(batch[i : i + 25].astype(np.float32))
             for i in range(0, number, 25)]
        )  # fmt: skip

    answer()
    cold = time.time() - started
    one = statistics.median(_seconds(answer) for _ in range(repeats))
    answer(25)
    return {
        "image_size": size,
        "one_cold_seconds": round(cold, 2),
        "one_warm_milliseconds": round(1e3 * one, 1),
        "hundred_seconds": round(_seconds(lambda: answer(100)), 2),
    }


def run_piece(name, arguments):
    """Runs one piece and prints what it found as JSON.

    Args:
        name: `"augmentation"`, `"base"`, `"book"`, `"fine_tuning"`, `"prediction"` or `"training"`.
        arguments: Of its function, as JSON.
    """
    print(json.dumps(_PIECES[name](**json.loads(arguments))))


_PIECES = {
    "augmentation": measure_augmentation,
    "base": measure_base,
    "book": time_book,
    "fine_tuning": measure_fine_tuning,
    "prediction": measure_prediction,
    "training": measure_training,
}
