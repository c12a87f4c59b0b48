"""Runs every stage of the ladder, evaluates the runs and prints one table.

Each stage is the command that a user would type, in a process of its own. Finished runs are not
repeated, so the same command resumes an interrupted ladder.

Examples:
    python benchmarks/ladder.py small    small images, few epochs: minutes (make run)
    python benchmarks/ladder.py full     the runs behind the results table: hours (make ladder)
    python benchmarks/ladder.py sweep    compares convnets on the validation split: an hour
"""

import dataclasses
import pathlib
import subprocess
import sys
from typing import Literal

import tyro

from catsdogs import cli
from catsdogs.data.manifest import find_data_dir, load_manifest
from catsdogs.evaluation.plots import plot_history, save_figure
from catsdogs.files import read_history, read_json

__all__ = ["FULL", "SMALL", "SWEEP", "Step", "climb", "print_runs"]


@dataclasses.dataclass(frozen=True)
class Step:
    """One training run."""

    script: str
    """Name of the training script, without `.py`."""
    name: str
    """Name of the run folder."""
    flags: tuple[str, ...] = ()
    """Flags of the script, besides `--data-dir` and `--run-dir`."""
    start: str | None = None
    """Name of the run that a fine-tuning starts from, or `None` for its own choice."""


def _for_seeds(script, name, *flags):
    return tuple(
        Step(script, f"{name}-seed{seed}", (*flags, "--seed", str(seed))) for seed in range(3)
    )


# Minutes on two cores: small images, few epochs. A plain convnet that overfits; a residual one with
# mild augmentation, since so few epochs are not enough for more; features of a pretrained base; its
# last block fine-tuned; and the features of a light backbone, which can afford larger images.
SMALL = (
    Step(
        "train_scratch", "scratch-textbook-none",
        (
            "--preset", "textbook", "--augmentation", "none", "--dropout", "0",
            "--optimizer", "adamw", "--learning-rate", "1e-3", "--batch-size", "32",
            "--image-size", "96", "--epochs", "8",
        ),
    ),
    Step(
        "train_scratch", "scratch-best-basic",
        (
            "--augmentation", "basic", "--mixup", "0", "--cutmix", "0",
            "--image-size", "96", "--epochs", "16",
        ),
    ),
    Step("train_feature_extract", "feature_extract", ("--image-size", "96", "--epochs", "15")),
    Step(
        "finetune", "finetune", ("--variant", "cached", "--learning-rate", "1e-4", "--epochs", "6"),
        start="feature_extract",
    ),
    Step(
        "train_feature_extract", "feature_extract-light",
        ("--preset", "light", "--image-size", "128", "--epochs", "15"),
    ),
)  # fmt: skip

# Fine-tuning comes first: it makes the heads that it starts from, which are the cached feature
# extractions of its seeds, the first one without anything cached. The textbook's way of running
# the frozen base in every epoch is slow and is sampled for an epoch or two only.
FULL = (
    *_for_seeds("finetune", "finetune-best-augmented"),
    *_for_seeds("finetune", "finetune-light-augmented", "--preset", "light"),
    *_for_seeds("train_feature_extract", "feature_extract-light-cached", "--preset", "light"),
    *_for_seeds("train_feature_extract", "feature_extract-record-cached", "--preset", "record"),
    *_for_seeds("train_feature_extract", "feature_extract-best-cached"),
    *_for_seeds(
        "train_feature_extract", "feature_extract-best-augmented", "--variant", "augmented"
    ),
    *_for_seeds("train_feature_extract", "feature_extract-best-cached-256", "--image-size", "256"),
    Step(
        "train_feature_extract", "feature_extract-best-cached-128-seed0",
        ("--image-size", "128", "--pooled-only"),
    ),
    Step(
        "train_feature_extract", "feature_extract-best-cached-192-seed0",
        ("--image-size", "192", "--pooled-only"),
    ),
    Step(
        "train_feature_extract", "feature_extract-best-cached-150-seed0",
        ("--image-size", "150", "--pooled-only"),
    ),
    Step(
        "train_feature_extract", "feature_extract-best-cached-150-float32-seed0",
        ("--image-size", "150", "--pooled-only", "--precision", "float32"),
    ),
    Step(
        "train_feature_extract", "feature_extract-textbook-end_to_end-seed0",
        ("--preset", "textbook", "--variant", "end_to_end", "--dropout", "0", "--epochs", "2"),
    ),
    Step(
        "finetune", "finetune-textbook-end_to_end-seed0", ("--preset", "textbook", "--epochs", "1"),
        start="feature_extract-textbook-end_to_end-seed0",
    ),
    *_for_seeds("train_scratch", "scratch-best-strong"),
    Step("train_scratch", "scratch-record-strong-seed0", ("--preset", "record")),
    Step("train_scratch", "scratch-textbook-basic-seed0", ("--preset", "textbook")),
)  # fmt: skip

# The `best` convnet in few epochs, and others that differ from it in one respect, to compare by
# validation loss.
SWEEP = tuple(
    Step("train_scratch", name, (*flags, "--epochs", "40"))
    for name, flags in {
        "best": (),
        "adamw": ("--optimizer", "adamw", "--learning-rate", "1e-3", "--weight-decay", "0.05"),
        "no-cutmix": ("--cutmix", "0"),
        "no-mixup": ("--mixup", "0"),
        "decay-0.05": ("--weight-decay", "0.05"),
        "rate-1e-3": ("--learning-rate", "1e-3"),
        "decay-0.5": ("--weight-decay", "0.5"),
    }.items()
)


def climb(steps, data_dir, root, *, evaluate=True, tta=False):
    """Trains every step, resuming what is there, then evaluates those not evaluated yet.

    Args:
        steps: `SMALL`, `FULL`, `SWEEP` or other `Step`s.
        data_dir: A prepared dataset.
        root: Folder for the runs.
        evaluate: Whether to open the test split, which a search for settings must not.
        tta: Whether to evaluate with test-time augmentation too.

    Returns:
        The run folders, in order.
    """
    run_dirs = [pathlib.Path(root) / step.name for step in steps]
    for number, (step, run_dir) in enumerate(zip(steps, run_dirs, strict=True), start=1):
        print(f"\n[{number}/{len(steps)}] {step.script} {' '.join(step.flags)}", flush=True)
        start = ("--start", run_dir.with_name(step.start)) if step.start else ()
        places = ("--data-dir", data_dir, "--run-dir", run_dir, "--resume")
        _run(step.script, *step.flags, *start, *places)
    new = [run_dir for run_dir in run_dirs if "test" not in read_json(run_dir / "metrics.json")]
    if evaluate and new:
        print("\nEvaluation on the test split", flush=True)
        _run("evaluate", *["--tta"] * tta, *new)
    return run_dirs


def print_runs(run_dirs, split):
    """Prints a table of runs as measured on a split, and writes their curves to `history.png`."""
    print(f"\n{'run':<36}{split:>10}{'95 % interval':>18}{'loss':>8}{'minutes':>9}")
    for run_dir in run_dirs:
        metrics = read_json(run_dir / "metrics.json")
        measured = metrics[split]
        low, high = measured["accuracy_interval95"]
        print(
            f"{run_dir.name:<36}{measured['accuracy']:>10.1%}{f'{low:.1%} to {high:.1%}':>18}"
            f"{measured['loss']:>8.3f}{metrics['wall_seconds'] / 60:>9.1f}"
        )
    if metrics.get("sketches"):
        print("\nThese figures are for sketches drawn by this program, not for photographs.")
    path = run_dirs[0].with_name("history.png")
    save_figure(plot_history({run_dir.name: read_history(run_dir) for run_dir in run_dirs}), path)
    print(f"\nCurves of all runs: {path}")
    if split == "test":
        print(
            "One page for each:", *(f"    {run_dir}/report.html" for run_dir in run_dirs), sep="\n"
        )


def _run(script, *flags):
    path = pathlib.Path(__file__).parents[1] / "scripts" / f"{script}.py"
    finished = subprocess.run([sys.executable, *map(str, (path, *flags))])
    if finished.returncode:  # the script has printed why
        sys.exit(finished.returncode)


@dataclasses.dataclass(frozen=True)
class Arguments:
    steps: tyro.conf.Positional[Literal["small", "full", "sweep"]]
    """Which steps to run."""
    data_dir: str | None = None
    """Prepared dataset; by default the photographs if there are any, else the sketches."""
    runs_dir: str | None = None
    """Folder for the runs; by default runs/DATASET, runs/DATASET-small or runs/DATASET-sweep."""


@cli.command
def ladder():
    arguments = cli.parse(Arguments, __doc__)
    data_dir, steps = find_data_dir(arguments.data_dir), arguments.steps
    suffix = "" if steps == "full" else f"-{steps}"
    root = arguments.runs_dir or f"runs/{load_manifest(data_dir).dataset}{suffix}"
    evaluate = steps != "sweep"
    chosen = {"small": SMALL, "full": FULL, "sweep": SWEEP}[steps]
    run_dirs = climb(chosen, data_dir, root, evaluate=evaluate, tta=steps == "full")
    print_runs(run_dirs, "test" if evaluate else "validation")


if __name__ == "__main__":
    ladder()
