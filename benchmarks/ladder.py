"""The whole ladder: every stage in turn, each in a process of its own, then one table.

A process of its own gives each stage its true peak memory and seconds, and leaves nothing behind.
Stages that are finished already are not run again, so a stopped ladder goes on where it was.
"""

import csv
import dataclasses
import math
import pathlib
import subprocess
import sys
import time

from catsdogs import cli
from catsdogs import config as presets
from catsdogs.data.manifest import load_manifest
from catsdogs.errors import InputError
from catsdogs.evaluation.figures import save_figure
from catsdogs.evaluation.history_plot import plot_history
from catsdogs.files import atomic_path, read_json
from catsdogs.stages import run as runs
from catsdogs.stages.recipe import changes

__all__ = ["FULL", "SMALL", "SWEEP", "Step", "climb", "print_ladder", "print_sweep"]


@dataclasses.dataclass(frozen=True)
class Step:
    """One training run.

    Args:
        script: Name of the training script, without `.py`.
        name: Name of the run folder.
        flags: Flags of the script, besides `--data-dir` and `--run-dir`.
        start: Name of the run that a fine-tuning starts from, or `None` for its own choice.
    """

    script: str
    name: str
    flags: tuple[str, ...] = ()
    start: str | None = None


def _seeds(script, name, *flags, seeds=(0, 1, 2)):
    return tuple(
        Step(script, f"{name}-seed{seed}", (*flags, "--seed", str(seed))) for seed in seeds
    )


_PRESETS = {
    "train_scratch": presets.SCRATCH,
    "train_feature_extract": presets.FEATURE_EXTRACT,
    "finetune": presets.FINETUNE,
}

# Minutes on two cores: small images and few epochs, to see the ladder climb. The book's optimizer
# needs a hundred epochs, so these take AdamW.
_QUICK = (
    "--preset", "textbook", "--image-size", "96", "--optimizer", "adamw",
    "--learning-rate", "1e-3", "--batch-size", "32",
)  # fmt: skip
SMALL = (
    Step(
        "train_scratch", "scratch-none",
        (*_QUICK, "--augmentation", "none", "--dropout", "0", "--epochs", "8"),
    ),
    Step("train_scratch", "scratch-book", (*_QUICK, "--augmentation", "book", "--epochs", "14")),
    Step("train_feature_extract", "feature_extract", ("--image-size", "128", "--epochs", "15")),
    Step("finetune", "finetune", ("--variant", "cached", "--epochs", "2"), "feature_extract"),
)  # fmt: skip

# The runs behind the README's table. Fine-tuning makes the heads that it starts from, which are
# the cached feature extractions of its seeds, the first one from a cold start. The book's way of
# running VGG16 anew in every epoch is sampled for a few epochs only.
FULL = (
    *_seeds("finetune", "finetune-best-augmented"),
    *_seeds("train_feature_extract", "feature_extract-best-cached"),
    *_seeds("train_feature_extract", "feature_extract-best-augmented", "--variant", "augmented"),
    *_seeds("train_feature_extract", "feature_extract-best-cached-256", "--image-size", "256"),
    *(
        Step(
            "train_feature_extract", f"feature_extract-best-cached-{size}-seed0",
            ("--image-size", str(size), "--pooled-only"),
        ) for size in (128, 192)  # how little time is needed for how much
    ),
    *(
        Step(
            "train_feature_extract", f"feature_extract-best-cached-150{suffix}-seed0",
            ("--image-size", "150", "--pooled-only", *flags),
        ) for suffix, flags in (("", ()), ("-float32", ("--precision", "float32")))
    ),
    *_seeds(
        "train_feature_extract", "feature_extract-textbook-end_to_end", "--preset", "textbook",
        "--variant", "end_to_end", "--dropout", "0", "--epochs", "2", seeds=(0,),
    ),
    Step(
        "finetune", "finetune-textbook-end_to_end-seed0", ("--preset", "textbook", "--epochs", "1"),
        start="feature_extract-textbook-end_to_end-seed0",
    ),
    *_seeds("train_scratch", "scratch-best-strong-30-epochs", "--epochs", "30", seeds=(0,)),
    *_seeds("train_scratch", "scratch-best-strong"),
    *_seeds("train_scratch", "scratch-record-strong", "--preset", "record", seeds=(0,)),
    *_seeds("train_scratch", "scratch-textbook-book", "--preset", "textbook", seeds=(0,)),
)  # fmt: skip

# Settings to compare by validation loss: the size, then fine-tuning's.
SWEEP = (
    *(
        Step(
            "train_feature_extract", f"features-{size}",
            ("--image-size", str(size), *(() if size == 320 else ("--pooled-only",))),
        ) for size in (128, 192, 256, 320, 384)
    ),
    *(
        Step(
            "finetune", f"finetune-{views}-views-rate-{rate}",
            ("--views", str(views), "--learning-rate", rate), "features-320",
        ) for views, rate in ((2, "2e-5"), (3, "2e-5"), (3, "4e-5"))
    ),
)  # fmt: skip


def climb(steps, data_dir, root, *, evaluate=True, minutes=math.inf):
    """Runs the steps that are not finished yet and evaluates them.

    Args:
        steps: `SMALL`, `FULL` or other `Step`s.
        data_dir: A prepared data set.
        root: Folder for the runs.
        evaluate: Whether to open the test split; a search for settings must not.
        minutes: No step is begun after so many.

    Returns:
        The folders of the finished runs, in order.

    Raises:
        InputError: If a step fails, whose own message has been printed by then; or if a finished
            run is of other pictures or settings.
    """
    scripts = pathlib.Path(__file__).parents[1] / "scripts"
    run_dirs = [pathlib.Path(root) / step.name for step in steps]
    end = time.monotonic() + 60 * minutes
    for number, (step, run_dir) in enumerate(zip(steps, run_dirs, strict=True), start=1):
        if time.monotonic() > end:
            print(f"\nThe time is up; the same command goes on with {step.name}.")
            return run_dirs[: number - 1]
        print(f"\n[{number}/{len(steps)}] {step.script} {' '.join(step.flags)}", flush=True)
        if runs.is_complete(run_dir):
            _check_run(step, run_dir, data_dir)
        else:
            command = [scripts / f"{step.script}.py", *step.flags]
            command += ["--data-dir", data_dir, "--run-dir", run_dir, "--resume"]
            if step.start:
                command += ["--start", pathlib.Path(root) / step.start]
            _run(command, step.name)
        if evaluate and "test" not in read_json(run_dir / "metrics.json"):
            _run([scripts / "evaluate.py", "--flip", run_dir], f"evaluation of {step.name}")
    return run_dirs


def print_ladder(run_dirs, root):
    """Prints the table of evaluated runs and writes `history.png`, their curves together.

    Args:
        run_dirs: Run folders.
        root: Folder for the picture.
    """
    rows = [("stage", "recipe", "test accuracy", "95 % interval", "minutes")]
    for run_dir in run_dirs:
        _, metrics = runs.load_run(run_dir)
        test = metrics["test"]
        low, high = test["accuracy_interval95"]
        rows.append((
            metrics["stage"].replace("_", " "),
            f"{metrics['preset']} {metrics['variant']}",
            f"{test['accuracy']:.1%}",
            f"{low:.1%} to {high:.1%}",
            f"{metrics['wall_seconds'] / 60:.1f}",
        ))  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    print()
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)))
    if metrics["drawings"]:
        print("\nThese figures are for drawings of cats and dogs, not for photographs.")

    picture = pathlib.Path(root) / "history.png"
    histories = {run_dir.name: runs.read_history(run_dir) for run_dir in run_dirs}
    save_figure(plot_history(histories), picture)
    print(f"\nFigures: {picture}")
    for run_dir in run_dirs:
        print(f"         {run_dir}/curves.png, confusion.png, roc.png")


def print_sweep(run_dirs, root):
    """Prints runs by validation loss, the best first, and writes them to `sweep.csv`.

    Args:
        run_dirs: Run folders.
        root: Folder for the file.
    """
    rows = []
    for run_dir in run_dirs:
        _, metrics = runs.load_run(run_dir)
        found = metrics["validation"]
        rows.append((found["loss"], found["accuracy"], metrics["wall_seconds"], run_dir.name))
    rows.sort()
    print("\nvalidation loss  accuracy  minutes  run")
    for loss, accuracy, seconds, name in rows:
        print(f"{loss:15.4f}  {accuracy:8.1%}  {seconds / 60:7.1f}  {name}")
    with atomic_path(pathlib.Path(root) / "sweep.csv") as path, path.open("w") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([("loss", "accuracy", "seconds", "run"), *rows])


def _check_run(step, run_dir, data_dir):
    """Refuses a finished run of other pictures or settings: its figures would pass for these'."""
    _, metrics = runs.load_run(run_dir)
    if metrics["dataset_digest"] != load_manifest(data_dir).digest:
        raise InputError(
            f"Expected {run_dir} to be a run on {data_dir}, found one on other pictures or splits. "
            "Move or delete that folder and start again."
        )
    config = metrics["config"]
    wanted, _ = cli.parse_stage(_PRESETS[step.script], "", step.flags)
    others = changes(config, wanted)
    if pathlib.Path(str(config.get("start"))).name != str(step.start):
        others["start"] = config.get("start")
    if others:
        raise InputError(
            f"Expected {run_dir} to be made by {' '.join([step.script, *step.flags])}, found a run "
            f"with other settings: {', '.join(f'{k}={v!r}' for k, v in others.items())}. "
            "Move or delete that folder and start again."
        )


def _run(command, name):
    code = subprocess.run([sys.executable, *map(str, command)]).returncode
    if code:
        raise InputError(
            f"Expected {name} to end well, received exit code {code}; what it said stands above. "
            "The same command goes on from here."
        )
