"""How time and memory grow with the number of images: prepare, decode, extract, train."""

import dataclasses
import json
import math
import os
import pathlib
import shutil
import sys

import matplotlib
from matplotlib.figure import Figure
from PIL import Image, ImageOps

from catsdogs import cli
from catsdogs.data.images import map_pictures
from catsdogs.data.sketches import write_sketches
from catsdogs.errors import InputError
from catsdogs.evaluation.figures import COLOURS, GREY, STYLE
from catsdogs.files import atomic_folder, read_json, write_json
from catsdogs.processes import run_python
from catsdogs.stages import environment
from catsdogs.tables import GROWTH

__all__ = ["measure_growth", "plot_growth", "print_growth"]

_STEPS = {
    "prepare": "prepare (check, compare, copy)",
    "decode": "decode at 64²",
    "extract": "extract VGG16 features at 64²",
    "head": "train a head, 30 epochs",
    "convnet": "train the convnet, 1 epoch at 64²",
}
_SIZE = 64  # pixels: growth is about the number of images, not about theirs
_WORK, _MARK = "growth-files", "made-by-measure-growth"  # a folder, and a file in it


def measure_growth(folder, numbers):
    """Runs every step on more and more drawings, each in a process of its own.

    Args:
        folder: `growth.json` there holds what this commit has measured already, so a stopped
            measurement goes on. Drawings, data sets and runs go to `growth-files` there; all but
            the drawings are removed as it goes.
        numbers: Numbers of drawings, half to train on, a quarter each to validate and test.

    Returns:
        A JSON-ready dictionary: `environment`, and `rows`, each with `num_images` and
        `{seconds, peak_rss_mb}` of every step.

    Raises:
        InputError: If `growth.json` or `growth-files` is there and is something else.
    """
    record = pathlib.Path(folder) / "growth.json"
    found = {"environment": environment.describe_environment(), "rows": []}
    if record.exists():
        earlier = read_json(record, "Move it away, or choose another --folder.", GROWTH)
        commit = found["environment"]["commit"]
        # Without a commit, or with changes to it, nobody knows what code was measured.
        known = commit is not None and not commit.endswith("+changes")
        if known and earlier["environment"]["commit"] == commit:
            found = earlier
    work = _open_work(record.with_name(_WORK))
    pictures = _draw_pictures(work / "pictures", max(numbers))
    for number in sorted(set(numbers) - {row["num_images"] for row in found["rows"]}):
        place = work / str(number)
        shutil.rmtree(place, ignore_errors=True)
        _link_some(pictures, place / "pictures", number)
        row = {"num_images": number}
        for step in _STEPS:
            print(f"{number} images: {_STEPS[step]} ...", flush=True)
            arguments = {"folder": str(place), "number": number}
            finished = run_python("-m", "growth", step, json.dumps(arguments), name=step)
            peak = int(finished.output.splitlines()[-1])
            row[step] = {"seconds": finished.seconds, "peak_rss_mb": peak}
        shutil.rmtree(place)
        found["rows"] = sorted([*found["rows"], row], key=lambda row: row["num_images"])
        write_json(record, found)
    return found


def print_growth(rows):
    """Prints the rows that `measure_growth` found: seconds and peak memory of each step."""
    print("\n" + f"{'images':>8}" + "".join(f"{step:>18}" for step in _STEPS))
    for row in rows:
        cells = (f"{row[step]['seconds']:.0f} s {row[step]['peak_rss_mb']} MB" for step in _STEPS)
        print(f"{row['num_images']:>8,}" + "".join(f"{cell:>18}" for cell in cells))


@matplotlib.rc_context(STYLE)
def plot_growth(rows):
    """Seconds and peak memory against the number of images, a line a step.

    Args:
        rows: Of what `measure_growth` returns.

    Returns:
        `matplotlib.figure.Figure`.
    """
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    time, memory = figure.subplots(1, 2)
    numbers = [row["num_images"] for row in rows]
    for (step, label), colour in zip(_STEPS.items(), COLOURS, strict=False):
        style = {"color": colour, "marker": "o", "markersize": 4, "label": label}
        time.plot(numbers, [row[step]["seconds"] for row in rows], **style)
        memory.plot(numbers, [row[step]["peak_rss_mb"] / 1024 for row in rows], **style)
    for axes in (time, memory):
        axes.set_xscale("log")
        axes.set_xticks(numbers, [f"{number:,}" for number in numbers])
        axes.minorticks_off()
        axes.set_xlabel("images")
    time.plot(numbers, [number / 200 for number in numbers], color=GREY, linestyle="--",
              label="5 s a thousand images")  # fmt: skip
    time.set(yscale="log", title="Seconds", ylabel="wall-clock seconds, Python's start included")
    ticks = [1, 3, 10, 30, 100, 300, 1000]
    time.set_yticks(ticks, [f"{tick:,} s" for tick in ticks])
    time.minorticks_off()
    highest = max(row[step]["seconds"] for row in rows for step in _STEPS)
    time.set_ylim(None, 1.3 * highest)
    figure.legend(*time.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    memory.set(ylim=(0, None), title="Peak memory", ylabel="GiB")
    return figure


def _open_work(folder):
    """Makes the folder whose content may be replaced or removed; a mark says that it is ours."""
    mark = folder / _MARK
    if folder.exists() and not mark.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(
            f"Expected nothing at {folder}, or what this command has made, received something "
            "else. Move it away, or choose another --folder."
        )
    folder.mkdir(parents=True, exist_ok=True)
    mark.touch()
    return folder


def _draw_pictures(folder, number):
    """Drawings in `folder/cat` and `folder/dog`: a quarter is drawn, and kept turned four ways.

    Drawings that lie there already are kept if they are enough. Some more than `number` are made,
    since a few look alike.
    """
    per_class = _with_spare(number // 2)
    if len(list(folder.glob("*/*.jpg"))) >= 2 * per_class:
        return folder
    ways = (ImageOps.mirror, ImageOps.flip, lambda image: ImageOps.mirror(ImageOps.flip(image)))

    def turn(path):
        with Image.open(path) as image:
            for way, turned in enumerate(ways, start=1):
                turned(image).save(path.with_stem(f"{path.stem}-{way}"), quality=90)

    with atomic_folder(folder) as new:
        write_sketches(new, per_class=math.ceil(per_class / 4))
        for _ in map_pictures(turn, sorted(new.glob("*/*.jpg"))):
            pass
    return folder


def _with_spare(number):
    return math.ceil(1.04 * number)


def _link_some(pictures, folder, number):
    """As many of the pictures in a folder of their own, both classes alike."""
    for label in sorted(path.name for path in pictures.iterdir()):
        (folder / label).mkdir(parents=True)
        for path in sorted((pictures / label).iterdir())[: _with_spare(number // 2)]:
            os.link(path, folder / label / path.name)


def _take_step(step, folder, number):
    # Here and not on top: the process that starts the others needs none of this.
    from catsdogs.config import FEATURE_EXTRACT, SCRATCH
    from catsdogs.data.images import load_split
    from catsdogs.data.manifest import load_manifest
    from catsdogs.data.sources import open_source
    from catsdogs.data.splits import prepare

    folder = pathlib.Path(folder)
    data = folder / "data"
    if step == "prepare":
        with open_source(folder / "pictures") as source:
            prepare(source, data, train=number // 2, validation=number // 4, test=number // 4)
    elif step == "decode":
        for split in ("train", "validation"):
            load_split(data, load_manifest(data), split, _SIZE)
    elif step == "convnet":
        config = dataclasses.replace(SCRATCH["best"], image_size=_SIZE, crop_size=56, epochs=1)
        cli.load_quietly("catsdogs.stages.training_stages").train_scratch(
            config, data, folder / step
        )
    else:  # the first run extracts and hardly trains, the second finds the features
        epochs = 1 if step == "extract" else 30
        config = dataclasses.replace(FEATURE_EXTRACT["best"], image_size=_SIZE, epochs=epochs)
        cli.load_quietly("catsdogs.stages.training_stages").train_feature_extract(
            config, data, folder / step
        )
    print(environment.peak_memory_mb())


if __name__ == "__main__":
    cli.run(lambda: _take_step(sys.argv[1], **json.loads(sys.argv[2])))
