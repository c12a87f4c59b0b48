"""Times the machine, the textbook's own code and every stage of this project in one run.

Each piece runs in a process of its own, one after the other, on a machine that does nothing else:
its speed changes from one hour to the next, so that only ratios within one run can be trusted.

Examples:
    python benchmarks/benchmark.py --output results/benchmark.json    most of an hour
    python benchmarks/benchmark.py --quick       does it run? small images, few steps: minutes
    ONEDNN_MAX_CPU_ISA=AVX2 python benchmarks/benchmark.py --precision float32 \
        --no-fine-tune-vgg16 --output results/benchmark-avx2.json
        as on a processor with AVX2 alone: most of an hour. onnxruntime has no such switch: its
        figures are those of all the instructions there are.
"""

import dataclasses
import itertools
import json
import math
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import timeit
from typing import Literal

import keras
import numpy as np
import tensorflow as tf
from growth import run_alone
from textbook import EPOCHS, time_textbook

from catsdogs import cli
from catsdogs.config import FINETUNE, SCRATCH
from catsdogs.data.augment import NUM_RANDOM, augment
from catsdogs.data.batches import encode_labels, image_batches
from catsdogs.data.images import load_split
from catsdogs.data.manifest import find_data_dir, load_manifest
from catsdogs.files import read_json, write_json
from catsdogs.inference.export import export_model
from catsdogs.inference.predict import predict_pictures
from catsdogs.models.backbones import (
    build_base,
    build_classifier,
    build_head,
    find_backbone,
    split_model,
    unfreeze_after,
)
from catsdogs.models.convnets import build_residual_convnet
from catsdogs.models.fused_norm import training_copy
from catsdogs.models.model_file import load_saved_model
from catsdogs.stages.features import FeatureStore
from catsdogs.stages.optimization import (
    build_loss,
    build_metrics,
    build_optimizer,
    choose_precision,
)
from catsdogs.stages.run import describe_environment

__all__ = [
    "count_flops",
    "measure_augmentation",
    "measure_convnet",
    "measure_extraction",
    "measure_fine_tuning",
    "measure_prediction",
    "ratios",
    "run_benchmark",
]

_BACKBONE = "vgg16"
_BATCH_SIZE = 32
_SCRIPTS = pathlib.Path(__file__).parents[1] / "scripts"


def run_benchmark(data_dir, precision="auto", quick=False, fine_tune_vgg16=True):
    """Measures everything.

    Args:
        data_dir: A prepared dataset. Its pictures are linked into a temporary folder, where
            nothing is cached yet.
        precision: As for `choose_precision`.
        quick: Small images and few steps, to see that it works.
        fine_tune_vgg16: Whether the stages include the fine-tuning of VGG16.

    Returns:
        A JSON-ready dictionary.
    """
    size, steps = (64, 2) if quick else (find_backbone(_BACKBONE).image_size, 10)
    pathlib.Path("runs").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="benchmark-", dir="runs") as folder:
        data = pathlib.Path(folder) / "data"
        caches = shutil.ignore_patterns("decoded", "features")
        shutil.copytree(data_dir, data, copy_function=os.link, ignore=caches)
        manifest = load_manifest(data)
        found = {
            "quick": quick,
            "dataset": manifest.dataset,
            "images": manifest.sizes,
            "environment": describe_environment(),
            "precision": choose_precision(precision),
            "onednn_max_cpu_isa": os.environ.get("ONEDNN_MAX_CPU_ISA"),  # oneDNN's limit
            "load_average": round(os.getloadavg()[0], 2),  # above 0.5: do not trust the figures
        }
        found["extraction"] = [
            run_alone(measure_extraction, side, dtype, turns=1 if quick else 5)
            for side in ((64,) if quick else (150, 224))
            for dtype in dict.fromkeys((found["precision"], "float32"))
        ]
        found["augmentation"] = run_alone(measure_augmentation, 150, 64 if quick else 640)
        found["training"] = run_alone(measure_convnet, data, precision, 12 * steps)
        found["fine_tuning"] = run_alone(measure_fine_tuning, size, precision, steps)
        found["textbook"] = {
            stage: run_alone(time_textbook, stage, data, 96 if quick else 180, steps)
            for stage in EPOCHS
        }
        flags = ("--precision", precision, *("--smoke",) * quick)
        found["stages"] = _time_stages(data, pathlib.Path(folder), flags, fine_tune_vgg16)
        found["prediction"] = {
            name: run_alone(measure_prediction, pathlib.Path(folder) / name, data)
            for name in found["stages"]
            if name == "scratch" or "features" in name
        }
    found["ratios"] = ratios(found)
    return found


def ratios(found):
    """The slower over the faster, as a dictionary by name, of what `run_benchmark` found."""
    textbook = {stage: one["seconds"] for stage, one in found["textbook"].items()}
    seconds = {name: stage["seconds"] for name, stage in found["stages"].items()}
    result = {"Keras's five random layers / fused warp": found["augmentation"]["ratio"]}
    rates = {
        (one["image_size"], one["precision"]): one["images_per_second"]
        for one in found["extraction"]
    }
    for (size, precision), rate in rates.items():
        if precision == "mixed_bfloat16":
            name = f"VGG16 at {size}², images/s, bfloat16 / float32"
            result[name] = rate / rates[size, "float32"]
    cold = {name: one for name, one in seconds.items() if "features" in name}
    if "fine-tuning" in seconds:
        cold["features and fine-tuning"] = seconds["features"] + seconds["fine-tuning"]
        name = "textbook's fine-tuning, 30 epochs / fine-tuning, cached"
        result[name] = textbook["finetune"] / seconds["fine-tuning, cached"]
    both = textbook["feature_extract"] + textbook["finetune"]
    for name, one in cold.items():
        result[f"textbook's features and fine-tuning, 50 + 30 epochs / {name}"] = both / one
    convnet = seconds["scratch"] / found["stages"]["scratch"]["epochs"] * SCRATCH["best"].epochs
    name = "textbook's convnet, 100 epochs / `best` convnet, scaled to all its epochs"
    result[name] = textbook["scratch"] / convnet
    return {name: float(f"{ratio:.3g}") for name, ratio in result.items()}


def _time_stages(data, folder, flags, fine_tune_vgg16):
    """Runs the scripts; features are extracted with nothing cached."""
    found = {}

    def run(name, script, *others):
        print(name, flush=True)
        if "features" in name:
            for cache in ("decoded", "features"):
                shutil.rmtree(data / cache, ignore_errors=True)
        command = (_SCRIPTS / f"{script}.py", "--data-dir", data, "--run-dir", folder / name)
        start = time.perf_counter()
        subprocess.run([sys.executable, *map(str, (*command, *flags, *others))], check=True)
        seconds = round(time.perf_counter() - start, 1)
        metrics = read_json(folder / name / "metrics.json")
        found[name] = {
            "seconds": seconds,
            "peak_rss_mb": metrics["peak_rss_mb"],
            "image_size": metrics["image_size"],
            "epochs": metrics["config"]["epochs"],
            "val_accuracy": metrics["validation"]["accuracy"],
        }

    run("features", "train_feature_extract")
    if fine_tune_vgg16:
        for name in ("fine-tuning", "fine-tuning, cached"):
            run(name, "finetune", "--start", folder / "features")
    for preset in ("record", "light"):
        for engine in ("onnxruntime", "tensorflow"):
            settings = "--preset", preset, "--engine", engine
            run(f"{preset} features, {engine}", "train_feature_extract", *settings)
    start = folder / "light features, tensorflow"
    light = "--preset", "light", "--engine", "tensorflow"
    run("light fine-tuning", "finetune", *light, "--start", start)
    run("scratch", "train_scratch", "--epochs", "5")
    return found


def measure_extraction(image_size, precision, turns):
    """Measures how fast the feature store computes VGG16's features, uint8 images to files.

    Args:
        image_size: Side of the images, in pixels.
        precision: As for `choose_precision`.
        turns: How often it is timed, in turn with what the machine can do; medians count.

    Returns:
        A dictionary: images/s, GFLOP/s and their fraction of what the machine can do.
    """
    precision = choose_precision(precision)
    conv_base = build_base(_BACKBONE, image_size, "average")
    shape = (128, image_size, image_size, 3)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    gflop = count_flops(conv_base, image_size) / 1e9
    rates = []  # images/s of extraction, and possible
    with tempfile.TemporaryDirectory() as folder:
        store = FeatureStore(
            folder, conv_base, find_backbone(_BACKBONE).cut, dataset_digest="", precision=precision
        )
        for turn in range(1 + turns):
            seconds = _seconds(lambda turn=turn: store.features(images, f"{turn}", keep_cut=True))
            rates.append((len(images) / seconds, _possible_gflops() / gflop))
    rates = np.array(rates[1:])  # the first turn traces and allocates
    images_per_second = np.median(rates[:, 0])
    return {
        "image_size": image_size,
        "precision": precision,
        "images_per_second": round(images_per_second, 2),
        "gflops": round(images_per_second * gflop, 1),
        "utilisation": round(np.median(rates[:, 0] / rates[:, 1]), 3),
    }


def measure_augmentation(image_size, num_images):
    """Compares the fused warp with Keras's five random layers, both inside `tf.data`.

    Args:
        image_size: Side of the images, in pixels.
        num_images: How many are timed.

    Returns:
        A dictionary: milliseconds per image of both, and their ratio.
    """
    keras.utils.set_random_seed(0)
    shape = (_BATCH_SIZE, image_size, image_size, 3)
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    layers = [
        keras.layers.RandomFlip("horizontal"),
        keras.layers.RandomRotation(40 / 360, fill_mode="nearest"),
        keras.layers.RandomTranslation(0.2, 0.2, fill_mode="nearest"),
        keras.layers.RandomShear(0.2, 0.2, fill_mode="nearest", data_format="channels_last"),
        keras.layers.RandomZoom(0.2, 0.2, fill_mode="nearest"),
    ]

    def stacked(number):
        del number
        batch = tf.cast(images, tf.float32)
        for layer in layers:
            batch = layer(batch, training=True)
        return batch

    def fused(number):
        random = tf.random.stateless_uniform((_BATCH_SIZE, NUM_RANDOM), (0, number))
        return augment(images, random, "basic", image_size)

    def milliseconds(function):
        num_batches = num_images // _BATCH_SIZE
        dataset = tf.data.Dataset.range(num_batches).map(function, num_parallel_calls=2)
        for _ in dataset.take(2):
            pass
        return 1e3 * _seconds(lambda: [None for _ in dataset]) / (num_batches * _BATCH_SIZE)

    pairs = [(milliseconds(stacked), milliseconds(fused)) for _ in range(3)]
    return {
        "image_size": image_size,
        "keras_layers_ms": round(statistics.median(pair[0] for pair in pairs), 3),
        "fused_warp_ms": round(statistics.median(pair[1] for pair in pairs), 3),
        "ratio": round(statistics.median(pair[0] / pair[1] for pair in pairs), 1),
    }


def measure_convnet(data_dir, precision, steps):
    """Measures training of the `best` convnet from scratch, at the size of its last epochs.

    Args:
        data_dir: A prepared dataset.
        precision: As for `choose_precision`.
        steps: Steps to time.

    Returns:
        As `measure_fine_tuning`.
    """
    choose_precision(precision)
    config, manifest = SCRATCH["best"], load_manifest(data_dir)
    images, labels = load_split(data_dir, manifest, "train", config.image_size)
    num_classes = len(manifest.classes)
    model = build_residual_convnet(num_classes=num_classes)
    batch_size, size = config.batch_size, config.crop_size
    epochs = math.ceil((steps + 5) / (len(labels) // batch_size))
    batches = image_batches(
        images, encode_labels(labels, num_classes), batch_size=batch_size, epochs=epochs, seed=0,
        augmentation="strong", crop_sizes=[size] * epochs, mixup=config.mixup,
        cutmix=config.cutmix,
    )  # fmt: skip
    # The smaller last batch of an epoch would be traced in the middle of it.
    batches = batches.filter(lambda images, labels: tf.shape(labels)[0] == batch_size).prefetch(2)
    flops = 3 * count_flops(model, size)
    return _time_training(training_copy(model), config, num_classes, iter(batches), steps, flops)


def measure_fine_tuning(image_size, precision, steps):
    """Measures training of VGG16's last block on cached activations.

    Args:
        image_size: Side of the images that the activations come from, in pixels.
        precision: As for `choose_precision`.
        steps: Steps to time.

    Returns:
        A dictionary: images/s, the fraction of time spent waiting for a batch, GFLOP/s (three times
        the forward pass, less the gradients that no layer needs) and their fraction of what the
        machine can do.
    """
    choose_precision(precision)
    conv_base = build_base(_BACKBONE, image_size, "average")
    cut, batch_size = find_backbone(_BACKBONE).cut, FINETUNE["best"].batch_size
    unfreeze_after(conv_base, cut)
    classifier = build_classifier(conv_base, build_head(conv_base.output.shape[1:]))
    _, model = split_model(classifier, cut)
    activations = tf.nn.relu(tf.random.normal((batch_size, *model.input.shape[1:])))
    labels = tf.cast(tf.range(batch_size)[:, None] % 2, tf.float32)
    first, *others = (_flops(layer, layer.output.shape) for layer in _convolutions(model))
    batches = itertools.repeat((activations, labels))
    flops = 2 * first + 3 * sum(others)
    return _time_training(model, FINETUNE["best"], 2, batches, steps, flops)


def measure_prediction(run_dir, data_dir):
    """Measures prediction from files, and what the exported model takes.

    Args:
        run_dir: A finished run.
        data_dir: The prepared dataset whose validation pictures are predicted.

    Returns:
        A dictionary: milliseconds for one picture once the model is loaded, files/s, and megabytes
        of the model as ONNX and LiteRT.
    """
    saved = load_saved_model(run_dir)
    folder = data_dir / "validation"
    files = sorted(map(str, folder.glob("*/*")))

    def predict(some):
        return _seconds(lambda: list(predict_pictures(saved, some)))

    predict(files[:1])  # the first calls trace
    one = statistics.median(predict([file]) for file in files[:50])
    predict(files[:32])
    exported = {}
    for form, pattern in (("onnx", "*.onnx"), ("litert", "*.tflite")):
        with tempfile.TemporaryDirectory() as output:
            export_model(saved, form, pathlib.Path(output) / form, [str(folder)])
            (path,) = pathlib.Path(output).rglob(pattern)
            exported[f"{form}_megabytes"] = round(path.stat().st_size / 1e6, 1)
    return {
        "image_size": saved.image_size,
        "engine": saved.engine,
        "one_picture_ms": round(1e3 * one, 1),
        "files_per_second": round(len(files) / predict(files), 1),
        **exported,
    }


def count_flops(model, image_size):
    """Floating-point operations of a forward pass of one image, in its convolutions alone.

    A multiplication and an addition count as two.
    """
    convolutions = _convolutions(model)
    outputs = keras.Model(model.input, [layer.output for layer in convolutions])
    shapes = outputs.compute_output_shape((1, image_size, image_size, 3))
    return sum(map(_flops, convolutions, shapes))


def _time_training(model, config, num_classes, batches, steps, flops):
    """Times training steps; `flops` are those of one image."""
    optimizer = build_optimizer(config, steps)
    model.compile(optimizer, build_loss(num_classes), metrics=build_metrics(num_classes))
    optimizer.build(model.trainable_variables)
    step = tf.function(lambda *batch: model.train_step(batch))
    for _ in range(5):  # the first steps trace and allocate
        step(*next(batches))
    possible, waiting, start = _possible_gflops(), 0.0, time.perf_counter()
    for _ in range(steps):
        before = time.perf_counter()
        images, labels = next(batches)
        waiting += time.perf_counter() - before
        step(images, labels)
    seconds = time.perf_counter() - start
    possible = statistics.mean([possible, _possible_gflops()])  # before and after
    images_per_second = steps * len(labels) / seconds
    gflops = flops * images_per_second / 1e9
    return {
        "images_per_second": round(images_per_second, 1),
        "waiting_fraction": round(waiting / seconds, 4),
        "gflops": round(gflops, 1),
        "utilisation": round(gflops / possible, 3),
    }


def _convolutions(model):
    kinds = keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.SeparableConv2D
    return [layer for layer in model.layers if isinstance(layer, kinds)]


def _flops(convolution, output_shape):
    kernels = [weight.shape for weight in convolution.weights if len(weight.shape) == 4]
    return 2 * math.prod(output_shape[1:3]) * sum(map(math.prod, kernels))


def _seconds(function):
    return timeit.timeit(function, number=1)


def _possible_gflops():
    """What the machine can do at this moment, in the chosen precision.

    Measured on VGG16's fastest layer, block3_conv2 at 224², for two seconds: a processor that has
    rested is several times as fast for a moment.
    """
    dtype = keras.config.dtype_policy().compute_dtype
    x = tf.cast(tf.random.normal((32, 56, 56, 256)), dtype)
    kernel, bias = tf.cast(tf.random.normal((3, 3, 256, 256)), dtype), tf.zeros(256, dtype)
    flops = 2 * math.prod(x.shape) * math.prod(kernel.shape[:2]) * kernel.shape[3]
    _convolve(x, kernel, bias)
    seconds, end = [], time.perf_counter() + 2
    while time.perf_counter() < end:
        seconds.append(_seconds(lambda: _convolve(x, kernel, bias)))
    return flops / statistics.median(seconds) / 1e9


@tf.function
def _convolve(x, kernel, bias):
    return tf.nn.relu(tf.nn.bias_add(tf.nn.conv2d(x, kernel, 1, "SAME"), bias))


@dataclasses.dataclass(frozen=True)
class Arguments:
    quick: bool = False
    """Small images and few steps, to see that it works; the figures mean nothing."""
    fine_tune_vgg16: bool = True
    """Whether to time the fine-tuning of VGG16 too: an hour and a half without bfloat16."""
    precision: Literal["auto", "float32", "mixed_bfloat16"] = "auto"
    """Numeric precision of what this project runs; the textbook's code is float32."""
    data_dir: str | None = None
    """Prepared dataset; by default the photographs if there are any, else the sketches."""
    output: str = "runs/benchmark.json"
    """JSON file to write."""


@cli.command
def benchmark():
    arguments = cli.parse(Arguments, __doc__)
    found = run_benchmark(
        find_data_dir(arguments.data_dir), arguments.precision, arguments.quick,
        arguments.fine_tune_vgg16,
    )  # fmt: skip
    write_json(arguments.output, found)
    print(json.dumps(found, indent=2, ensure_ascii=False))
    print(f"Written: {arguments.output}")


if __name__ == "__main__":
    benchmark()
