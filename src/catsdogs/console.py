"""What commands print: progress, outcomes, tables."""

import pathlib
import sys
import time

__all__ = [
    "Progress", "print_backbones", "print_cross_validation", "print_evaluation", "print_outcome",
]  # fmt: skip

_SECONDS_BETWEEN_LINES = 10  # off a terminal
_MAX_MISTAKES = 6  # kinds of mistake listed for each run


class Progress:
    """Progress of a long task on stderr: a bar on a terminal, a line every ten seconds elsewhere.

    Args:
        label: What is being done, such as `"Decoding images"`.
        total: Number of steps, or `None` if it is not known.
        unit: Name of a step, such as `"MB"`.
        scale: Steps in a unit.
        hidden: Whether to show nothing.
    """

    def __init__(self, label, total, unit="", scale=1, hidden=False):
        self._label, self._total, self._unit, self._scale = label, total, unit, scale
        self._hidden, self._done, self._printed, self._bar = hidden, 0, 0, None

    def __enter__(self):
        self._shown = time.monotonic()
        if not self._hidden and sys.stderr.isatty():
            from rich import console, progress  # only on a terminal

            self._bar = progress.Progress(
                progress.TextColumn("{task.description}"),
                progress.BarColumn(),
                progress.TextColumn("{task.fields[count]}"),
                progress.TimeRemainingColumn(),
                console=console.Console(stderr=True),
            )
            self._task = self._bar.add_task(self._label, total=self._total, count=self._count())
            self._bar.start()
        return self

    def __exit__(self, error_type, *_):
        if self._bar:
            self._bar.stop()
        elif self._done > self._printed and not self._hidden and error_type is None:
            self._print()

    def update(self, done):
        """Reports that `done` steps in total are finished."""
        self._done = done
        if self._bar:
            self._bar.update(self._task, completed=done, count=self._count())
        elif not self._hidden and time.monotonic() - self._shown > _SECONDS_BETWEEN_LINES:
            self._shown = time.monotonic()
            self._print()

    def note(self, text):
        """Prints a line above the bar."""
        if self._bar:
            self._bar.console.print(text)
        else:
            print(text, file=sys.stderr, flush=True)

    def _count(self):
        count = f"{self._done // self._scale:,}"
        if self._total is not None:
            count += f"/{self._total // self._scale:,}"
        return f"{count} {self._unit}".rstrip()

    def _print(self):
        self._printed = self._done
        print(f"{self._label}: {self._count()}", file=sys.stderr, flush=True)


def print_outcome(run_dir, metrics):
    """Prints what a training run reached and where it is."""
    validation = metrics["validation"]
    low, high = validation["accuracy_interval95"]
    print(
        f"Validation accuracy {validation['accuracy']:.1%} (95 % interval {low:.1%} to {high:.1%}),"
        f" best epoch {metrics['best_epoch']}, {metrics['wall_seconds'] / 60:.1f} minutes.\n"
        f"Run folder: {run_dir}\n"
        f"Next: python scripts/evaluate.py {run_dir}"
    )


def print_backbones(backbones):
    """Prints a table of backbones.

    Args:
        backbones: `{name: record}`, see `catsdogs.models.backbones`.
    """
    print(f"{'backbone':<20}{'image':>7}{'parameters':>12}{'GFLOP':>8}  weights")
    for name, one in backbones.items():
        print(
            f"{name:<20}{f'{one.image_size}²':>7}{f'{one.num_parameters / 1e6:.1f} M':>12}"
            f"{one.gflop:>8.3g}  {one.weights}"
        )


def print_cross_validation(result):
    """Prints what `catsdogs.stages.cross_validate` returns, in a line."""
    low, high = result["interval95"]
    spread = "" if result["std"] is None else f" ± {100 * result['std']:.2f}"
    print(
        f"{result['backbone']} {result['image_size']}²: {result['accuracy']:.2%}{spread} of "
        f"{result['n']:,} pictures (95 % interval {low:.2%} to {high:.2%}); "
        f"folds: {result['folds']}, repeats: {result['repeats']}, {result['seconds']:.0f} s."
    )


def print_evaluation(metrics):
    """Prints the test figures of evaluated runs as a table, and the mistakes of each.

    Args:
        metrics: `{run folder: metrics with "test"}`.
    """
    tta_label = "  with test-time augmentation"
    width = max(len(tta_label), *(len(str(run)) for run in metrics))
    print(
        f"{'run':<{width}}  {'test accuracy':>13}  {'95 % interval':>17}  {'loss':>6}  {'AUC':>7}"
    )
    for run, found in metrics.items():
        sketches = "  (sketches)" if found.get("sketches") else ""
        for name, test in ((run, found["test"]), (tta_label, found.get("test_tta"))):
            if test:
                low, high = test["accuracy_interval95"]
                auc = "\N{EN DASH}" if test["roc_auc"] is None else f"{test['roc_auc']:.4f}"
                print(
                    f"{name!s:<{width}}  {test['accuracy']:>13.1%}  {low:>7.1%} to {high:>6.1%}  "
                    f"{test['loss']:>6.3f}  {auc:>7}{sketches}"
                )
    for run, found in metrics.items():
        mistakes = [
            (count, f"{count} of {sum(row)} {true} pictures predicted as {predicted}")
            for true, row in zip(found["classes"], found["test"]["confusion_matrix"], strict=True)
            for predicted, count in zip(found["classes"], row, strict=True)
            if predicted != true and count
        ]
        mistakes.sort(key=lambda mistake: -mistake[0])
        shown = ", ".join(text for _, text in mistakes[:_MAX_MISTAKES])
        print(f"{run}: {shown or 'no mistakes'}. Report: {pathlib.Path(run) / 'report.html'}")
