"""Measures how time and memory grow with the number of images, on sketches drawn by this program.

Examples:
    python benchmarks/growth.py --output results/growth.json    1,000 to 25,000 images: half an hour
    python benchmarks/growth.py --numbers 100 200               does it run?
"""

import concurrent.futures
import dataclasses
import math
import multiprocessing
import pathlib
import tempfile
import time

from catsdogs import cli
from catsdogs.config import FEATURE_EXTRACT, SCRATCH
from catsdogs.data.images import load_split
from catsdogs.data.manifest import load_manifest
from catsdogs.data.sketches import write_sketches
from catsdogs.data.sources import open_source
from catsdogs.data.splits import prepare
from catsdogs.files import write_json

__all__ = ["STEPS", "measure_growth", "run_alone"]

STEPS = {
    "prepare": "prepare (check, compare, copy)",
    "decode": "decode at 64²",
    "extract": "extract VGG16 features at 64²",
    "head": "train a head, 30 epochs",
    "convnet": "train the convnet, 1 epoch at 64²",
}
_SIZE = 64  # pixels: growth is about the number of images, not about theirs


def measure_growth(numbers):
    """Runs every step on more and more sketches, each in a process of its own.

    Args:
        numbers: Numbers of sketches: half to train on, a quarter each to validate and test.

    Returns:
        A JSON-ready dictionary: `environment`, and `rows`, each with `num_images` and, for every
        step, `seconds` and `peak_rss_mb`.
    """
    found = {"environment": run_alone(_describe_environment), "rows": []}
    with tempfile.TemporaryDirectory() as folder:
        pictures = pathlib.Path(folder) / "pictures"
        # More than needed, since some are near-duplicates.
        write_sketches(pictures, per_class=math.ceil(1.04 * max(numbers) / 2))
        for number in numbers:
            row = {"num_images": number}
            for step in STEPS:
                print(f"{number:,} images: {STEPS[step]}", flush=True)
                start = time.perf_counter()
                peak = run_alone(_run_step, step, pictures, pathlib.Path(folder, str(number)))
                seconds = round(time.perf_counter() - start, 1)
                row[step] = {"seconds": seconds, "peak_rss_mb": peak}
            found["rows"].append(row)
    return found


def run_alone(function, *args, **kwargs):
    """Calls a function in a new process, where nothing is loaded or allocated yet."""
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn) as executor:
        return executor.submit(function, *args, **kwargs).result()


def _run_step(step, pictures, folder):
    """Returns the peak memory of this process in MiB."""
    number, data_dir = int(folder.name), folder / "data"
    if step == "prepare":
        with open_source(pictures) as source:
            prepare(source, data_dir, train=number // 2, validation=number // 4, test=number // 4)
    elif step == "decode":
        for split in ("train", "validation"):
            load_split(data_dir, load_manifest(data_dir), split, _SIZE)
    else:
        with cli.quiet_tensorflow():  # here: the steps above are measured without TensorFlow
            from catsdogs.stages.feature_extract import train_feature_extract
            from catsdogs.stages.scratch import train_scratch
        if step == "convnet":
            config, train = SCRATCH["best"], train_scratch
            config = dataclasses.replace(config, image_size=_SIZE, crop_size=56, epochs=1)
        else:  # the first run extracts and hardly trains, the second finds the features cached
            config, train = FEATURE_EXTRACT["best"], train_feature_extract
            epochs = 1 if step == "extract" else config.epochs
            config = dataclasses.replace(config, image_size=_SIZE, epochs=epochs)
        train(config, data_dir, folder / step)
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) // 1024


def _describe_environment():
    with cli.quiet_tensorflow():
        from catsdogs.stages.run import describe_environment
    return describe_environment()


@dataclasses.dataclass(frozen=True)
class Arguments:
    numbers: tuple[int, ...] = (1000, 2000, 4000, 8000, 25_000)
    """Numbers of images: half to train on, a quarter each to validate and test."""
    output: str = "runs/growth.json"
    """JSON file to write."""


@cli.command
def growth():
    arguments = cli.parse(Arguments, __doc__)
    found = measure_growth(arguments.numbers)
    write_json(arguments.output, found)
    for row in found["rows"]:
        cells = (f"{row[s]['seconds']:8.1f} s {row[s]['peak_rss_mb']:5} MB {s}" for s in STEPS)
        print(f"\n{row['num_images']:,} images", *cells, sep="\n")
    print(f"\nWritten: {arguments.output}")


if __name__ == "__main__":
    growth()
