"""The benchmark: the machine, the book's recipe and this project's stages, one after the other.

Everything is timed in one run on a machine that does nothing else, each piece in a process of its
own, so the ratios hold where bare seconds do not.
"""

import json
import os
import pathlib
import shutil
import time

from catsdogs import config as presets
from catsdogs.data.manifest import SPLITS, load_manifest
from catsdogs.files import read_json, write_json
from catsdogs.processes import run_python
from catsdogs.stages import environment

__all__ = ["print_benchmark", "run_benchmark"]

_RUN_PIECE = """
import sys
from catsdogs import cli
cli.run(lambda: cli.load_quietly("measure").run_piece(*sys.argv[1:]))
"""
_SCRIPTS = pathlib.Path(__file__).parents[1] / "scripts"


def run_benchmark(data_dir, folder, *, quick=False):
    """Measures everything.

    Args:
        data_dir: A prepared data set. Its pictures are linked into `folder`, so that nothing is
            cached beforehand and the user's own caches stay as they are.
        folder: New folder for the data, the runs and `benchmark.json`, which is written after
            every piece; links and caches are removed at the end.
        quick: Whether to take small images and few steps: minutes, to see that it works.

    Returns:
        A JSON-ready dictionary, for `print_benchmark`.

    Raises:
        InputError: If a piece fails.
    """
    data_dir, folder = pathlib.Path(data_dir), pathlib.Path(folder)
    manifest = load_manifest(data_dir)
    data = folder / "data"
    found = {
        "quick": quick,
        "dataset": manifest.dataset,
        "images": manifest.sizes,
        "environment": environment.describe_environment(),
        "load_average": round(os.getloadavg()[0], 2),
    }
    if found["load_average"] > 0.5:
        print("The machine is busy with something else: do not trust these figures.")
    try:
        _link(data_dir, data)
        for name, value in _measure_pieces(data, quick):
            found[name] = value
            write_json(folder / "benchmark.json", found)  # what is measured is not lost
        found["stages"] = _run_stages(data, folder, quick)
        picture = str(data / manifest.split("validation")[0].name)
        found["prediction"] = {
            name: _piece(
                "prediction", run_dir=str(folder / found["stages"][name]["run"]), picture=picture,
                repeats=5 if quick else 50, started=time.time(),
            ) for name in ("scratch", "fine-tuning, cold")
        }  # fmt: skip
    finally:
        shutil.rmtree(data, ignore_errors=True)
    found["utilisation"] = _utilisation(found)
    found["ratios"] = _ratios(found)
    write_json(folder / "benchmark.json", found)
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
    warp, wait = found["augmentation"], found["training"]
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
    print("\nThis project's stages, from the command to its end (within: without Python's start)")
    for name, stage in found["stages"].items():
        print(
            f"  {name}: {stage['seconds'] / 60:.1f} minutes, "
            f"{stage['peak_rss_mb'] / 1024:.1f} GiB, validation {stage['val_accuracy']:.1%}"
        )
    print("\nPrediction, from the file to the probability")
    for name, one in found["prediction"].items():
        print(
            f"  {name}: one picture {one['one_cold_seconds']:.1f} s from the start of Python, then "
            f"{one['one_warm_milliseconds']:.0f} ms; a hundred {one['hundred_seconds']:.1f} s"
        )
    print("\nUtilisation: operations done over possible")
    for name, share in found["utilisation"].items():
        print(f"  {share:7.1%}  {name}")
    print("\nRatios")
    for name, ratio in found["ratios"].items():
        print(f"  {ratio:7.3g}  {name}")


def _measure_pieces(data, quick):
    """Yields pairs of a name and what was measured."""
    best = presets.SCRATCH["best"]
    yield (
        "base",
        [
            _piece("base", image_size=size, turns=1 if quick else 5, precision=precision)
            for size in ((64,) if quick else (150, 224))
            for precision in ("auto", "float32")
        ],
    )
    yield "augmentation", _piece("augmentation", image_size=150, num_images=64 if quick else 640)
    yield "training", _piece(
        "training", data_dir=str(data), image_size=best.image_size, crop_size=best.crop_size,
        mixup=best.mixup, batch_size=best.batch_size, steps=5 if quick else 120,
    )  # fmt: skip
    yield "fine_tuning", _piece(
        "fine_tuning", image_size=64 if quick else presets.FEATURE_EXTRACT["best"].image_size,
        batch_size=presets.FINETUNE["best"].batch_size, steps=2 if quick else 8,
    )  # fmt: skip
    size, steps = (96, 2) if quick else (180, 10)
    yield (
        "book",
        {
            stage: _piece("book", stage=stage, data_dir=str(data), image_size=size, steps=steps)
            for stage in ("scratch", "feature_extract", "finetune")
        },
    )


def _run_stages(data, folder, quick):
    small = ("--smoke",) if quick else ()
    found = {}

    def record(name, run_dir, seconds):
        metrics = read_json(run_dir / "metrics.json")
        found[name] = {
            "run": run_dir.name,
            "seconds": seconds,
            "peak_rss_mb": metrics["peak_rss_mb"],
            "image_size": metrics["image_size"],
            "epochs": metrics["config"]["epochs"],
            "cold": metrics["cold"],
            "val_accuracy": metrics["validation"]["accuracy"],
        }

    def run(name, script, *flags):
        print(f"{name} ...", flush=True)
        run_dir = folder / name.replace(", ", "-").replace(" ", "-").replace("²", "")
        command = (_SCRIPTS / f"{script}.py", "--data-dir", data, "--run-dir", run_dir, *flags)
        finished = run_python(*command, name=name)
        record(name, run_dir, finished.seconds)
        return run_dir

    fine_tuned = run("fine-tuning, cold", "finetune", *small)
    # The head that it made on the way; without the seconds in which Python starts.
    head = fine_tuned.with_name("feature_extract-best-cached-seed0")
    seconds = read_json(head / "metrics.json")["wall_seconds"]
    record("features, cold, within fine-tuning", head, seconds)
    again = (*small, "--start", head, "--learning-rate", "1e-5")
    run("fine-tuning again, features cached", "finetune", *again)
    run("features, cached", "train_feature_extract", *small, "--seed", "1")
    if not quick:
        for cache in ("features", "decoded"):
            shutil.rmtree(data / cache)
        smaller = ("train_feature_extract", "--image-size", "256")
        run("features at 256², cold", *smaller)
        run("features at 256², cached", *smaller, "--seed", "1")
    run("scratch", "train_scratch", *(small or ("--epochs", "5")))
    return found


def _utilisation(found):
    """Floating-point operations done over those possible, in the precision that is chosen."""
    return {
        "extraction": max(found["base"], key=lambda base: base["extraction_gflops"])["utilisation"],
        "training the convnet": found["training"]["utilisation"],
        "fine-tuning": found["fine_tuning"]["utilisation"],
    }


def _ratios(found):
    """What the benchmark is for: each the slower over the faster, both from this run."""
    stages, book = found["stages"], found["book"]
    ratios = {"Keras's five random layers / fused warp": found["augmentation"]["ratio"]}
    by_size = {}
    for base in found["base"]:
        by_size.setdefault(base["image_size"], {})[base["precision"]] = base
    for size, rates in by_size.items():
        if "mixed_bfloat16" in rates:
            ratios[f"VGG16 at {size}², bfloat16 / float32, images a second"] = (
                rates["mixed_bfloat16"]["extraction_images_per_second"]
                / rates["float32"]["extraction_images_per_second"]
            )
    seconds = {stage: timed["seconds_scaled"] for stage, timed in book.items()}
    both = seconds["feature_extract"] + seconds["finetune"]
    for name, stage in stages.items():  # a cached run is no match for one that starts from nothing
        if name.startswith("features") and stage["cold"]:
            ratio = seconds["feature_extract"] / stage["seconds"]
            ratios[f"book's features, 50 epochs / {name}"] = ratio
    ratio = both / stages["fine-tuning, cold"]["seconds"]
    ratios["book's features and fine-tuning, 50 + 30 epochs / fine-tuning, cold"] = ratio
    ratio = seconds["finetune"] / stages["fine-tuning again, features cached"]["seconds"]
    ratios["book's fine-tuning again, 30 epochs / the same, features cached"] = ratio
    convnet = stages["scratch"]
    whole = convnet["seconds"] / convnet["epochs"] * presets.SCRATCH["best"].epochs
    ratios["book's convnet, 100 epochs / this one, scaled to all its epochs"] = (
        seconds["scratch"] / whole
    )
    return {name: float(f"{ratio:.3g}") for name, ratio in ratios.items()}


def _piece(name, **arguments):
    described = ", ".join(str(value) for key, value in arguments.items() if key != "data_dir")
    print(f"{name} ({described}) ...", flush=True)
    finished = run_python("-c", _RUN_PIECE, name, json.dumps(arguments), name=name)
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
