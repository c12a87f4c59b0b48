"""The benchmark: the machine, the book's recipe and this project's stages, one after the other.

Everything is timed in one run on a machine that does nothing else, each piece in a process of its
own, so the ratios hold where bare seconds do not.
"""

import json
import os
import pathlib
import shutil

from catsdogs import config as presets
from catsdogs import runs
from catsdogs.data.splits import SPLITS, load_manifest
from catsdogs.files import read_json
from catsdogs.processes import run_python

__all__ = ["print_benchmark", "run_benchmark"]

_SCRIPTS = pathlib.Path(__file__).parents[2] / "scripts"


def run_benchmark(data_dir, folder, *, quick=False):
    """Measures everything.

    Args:
        data_dir: A prepared data set. Its pictures are linked into `folder`, so that nothing is
            cached beforehand and the user's own caches stay as they are.
        folder: New folder for the data and the runs; the links and caches are removed at the end.
        quick: Whether to take small images and few steps: minutes, to see that it works.

    Returns:
        A JSON-ready dictionary, for `print_benchmark`.

    Raises:
        InputError: If a piece fails.
    """
    data_dir, folder = pathlib.Path(data_dir), pathlib.Path(folder)
    manifest = load_manifest(data_dir)
    data = folder / "data"
    try:
        _link(data_dir, data)
        found = {
            "quick": quick,
            "dataset": manifest.dataset,
            "images": manifest.sizes,
            "environment": runs.describe_environment(),
            "load_average": round(os.getloadavg()[0], 2),
            **_measure_pieces(data, quick),
            "stages": _run_stages(data, folder, quick),
        }
        picture = str(data / manifest.split("test")[0].name)
        repeats = 5 if quick else 50
        found["prediction"] = {
            name: _piece("prediction", run_dir=stage["run"], picture=picture, repeats=repeats)
            for name, stage in found["stages"].items()
            if name in ("scratch", "fine-tuning, cold")
        }
    finally:
        shutil.rmtree(data, ignore_errors=True)
    found["ratios"] = _ratios(found)
    return found


def print_benchmark(found):
    """Prints what `run_benchmark` found as a table of ratios and seconds."""
    print(f"\n{found['environment']['processor']}, {found['environment']['cores']} cores")
    print("\nThe machine")
    for base in found["base"]:
        print(
            f"  VGG16 at {base['image_size']}², {base['precision']}: convolutions alone "
            f"{base['convolutions_images_per_second']:.1f} images/s "
            f"({base['convolutions_gflops']:.0f} GFLOP/s), extraction "
            f"{base['extraction_images_per_second']:.1f} images/s, {base['extraction_share']:.0%}"
        )
    warp, wait = found["augmentation"], found["scratch"]
    print(
        f"  augmentation at {warp['image_size']}²: {warp['fused_warp_ms']:.2f} ms an image, "
        f"Keras's five layers {warp['keras_layers_ms']:.2f} ms\n"
        f"  training the convnet: {wait['seconds_an_epoch']:.1f} s an epoch, waiting for images "
        f"{wait['waiting_share']:.1%}, {wait['cpu_over_wall']:.2f} processors busy, "
        f"{wait['gflops']:.0f} GFLOP/s"
    )
    print("\nThe book's recipe, second edition, scaled from a few steps")
    for stage, book in found["book"].items():
        print(
            f"  {stage}: {book['seconds_an_epoch']:.0f} s an epoch, {book['epochs']} epochs "
            f"{book['seconds_scaled'] / 60:.0f} minutes"
        )
    print("\nThis project's stages, from the command to its end")
    for name, stage in found["stages"].items():
        print(
            f"  {name}: {stage['seconds'] / 60:.1f} minutes, {stage['peak_rss_mb'] / 1000:.1f} GB, "
            f"validation {stage['val_accuracy']:.1%}"
        )
    print("\nPrediction, from the file to the probability")
    for name, one in found["prediction"].items():
        print(
            f"  {name}: one picture {one['one_cold_seconds']:.1f} s from the start of Python, then "
            f"{one['one_warm_milliseconds']:.0f} ms; a hundred {one['hundred_seconds']:.1f} s"
        )
    print("\nRatios")
    for name, ratio in found["ratios"].items():
        print(f"  {ratio:7.1f}  {name}")


def _measure_pieces(data, quick):
    best = presets.SCRATCH["best"]
    sizes, steps = ((64,), 2) if quick else ((150, 224), 8)
    image_size = 64 if quick else 180
    return {
        "base": [
            _piece("base", image_size=size, num_images=64 if quick else 320, precision=precision)
            for size in sizes
            for precision in ("auto", "float32")
        ],
        "augmentation": _piece("augmentation", image_size=150, num_images=64 if quick else 640),
        "scratch": _piece(
            "scratch", data_dir=str(data), image_size=best.image_size, crop_size=best.crop_size,
            batch_size=best.batch_size, steps=5 if quick else 100,
        ),
        "book": {
            stage: _piece(
                "book", stage=stage, data_dir=str(data), image_size=image_size, steps=steps
            ) for stage in ("scratch", "feature_extract", "finetune")
        },
    }  # fmt: skip


def _run_stages(data, folder, quick):
    small = ("--image-size", "64", "--epochs", "2") if quick else ()
    head = ("train_feature_extract", small)
    found = {}

    def run(name, script, *flags):
        run_dir = folder / name.replace(", ", "-").replace(" ", "-")
        print(f"{name} ...", flush=True)
        finished = run_python(
            _SCRIPTS / f"{script}.py", "--data-dir", data, "--run-dir", run_dir, *flags, name=name
        )
        metrics = read_json(run_dir / "metrics.json")
        found[name] = {
            "run": str(run_dir),
            "seconds": finished.seconds,
            "peak_rss_mb": finished.peak_rss_mb,
            "image_size": metrics["image_size"],
            "epochs": metrics["config"]["epochs"],
            "cold": metrics["cold"],
            "val_accuracy": metrics["validation"]["accuracy"],
        }
        return run_dir

    def forget():
        for cache in ("features", "decoded"):
            shutil.rmtree(data / cache, ignore_errors=True)

    fewer = ("--epochs", "1", "--views", "1") if quick else ()
    if quick:  # a head of small images to start from
        start = ("--start", run("features", *head[:1], *head[1]))
        forget()
    else:
        start = ()
    run("fine-tuning, cold", "finetune", *start, *fewer)
    # Its head lies beside it, under the name that fine-tuning gave it.
    start = start or ("--start", folder / "feature_extract-best-cached-seed0")
    run("fine-tuning again, features cached", "finetune", *start, *fewer, "--learning-rate", "1e-5")
    for size in (None,) if quick else (None, 256):
        flags = (*small, *(("--image-size", str(size)) if size else ()))
        at = f" at {size}²" if size else ""
        forget()
        run(f"features{at}, cold", head[0], *flags)
        run(f"features{at}, cached", head[0], *flags, "--seed", "1")
    run("scratch", "train_scratch", "--epochs", "1" if quick else "3")
    return found


def _ratios(found):
    """What the benchmark is for: each the slower over the faster, both from this run."""
    stages, book = found["stages"], found["book"]
    ratios = {"Keras's five random layers / fused warp": found["augmentation"]["ratio"]}
    by_size = {}
    for base in found["base"]:
        by_size.setdefault(base["image_size"], {})[base["precision"]] = base
    for size, rates in by_size.items():
        if "mixed_bfloat16" in rates:
            ratios[f"VGG16 at {size}², bfloat16 / float32, images a second"] = round(
                rates["mixed_bfloat16"]["extraction_images_per_second"]
                / rates["float32"]["extraction_images_per_second"], 1,
            )  # fmt: skip
    for name, stage in stages.items():
        if name.startswith("features"):
            seconds = book["feature_extract"]["seconds_scaled"]
            ratios[f"book's features, 50 epochs / {name}"] = round(seconds / stage["seconds"], 1)
        if name.startswith("fine-tuning"):
            seconds = book["feature_extract"]["seconds_scaled"] + book["finetune"]["seconds_scaled"]
            ratios[f"book's features and fine-tuning / {name}"] = round(
                seconds / stage["seconds"], 1
            )
    seconds = stages["scratch"]["seconds"] / stages["scratch"]["epochs"]
    ratios["book's convnet / this one, seconds an epoch"] = round(
        book["scratch"]["seconds_an_epoch"] / seconds, 1
    )
    return ratios


def _piece(name, **arguments):
    described = ", ".join(str(value) for key, value in arguments.items() if key != "data_dir")
    print(f"{name} ({described}) ...", flush=True)
    finished = run_python("-m", "catsdogs.measure", name, json.dumps(arguments), name=name)
    return json.loads(finished.output.splitlines()[-1])


def _link(data_dir, copy):
    """The data set once more without its caches, by hard links where they can be had."""

    def link(source, target):
        try:
            os.link(source, target)
        except OSError:
            shutil.copy2(source, target)

    for split in SPLITS:
        shutil.copytree(data_dir / split, copy / split, copy_function=link)
    shutil.copy2(data_dir / "manifest.json", copy / "manifest.json")
