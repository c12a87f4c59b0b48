"""What the scripts print: outcomes, tables, answers."""

import csv
import json
import pathlib
import sys

from catsdogs.data.progress import Progress
from catsdogs.errors import InputError, say_line

__all__ = ["accept_any_file_name", "print_evaluation", "print_outcome", "print_predictions"]

_SHOWN_MISTAKES = 6  # kinds of them, a run


def print_outcome(run_dir, metrics):
    """Says what a stage reached and where it lies, in a few lines."""
    validation = metrics["validation"]
    low, high = validation["accuracy_interval95"]
    print(
        f"Validation accuracy {validation['accuracy']:.1%} (95 % interval {low:.1%} to {high:.1%}),"
        f" epoch {metrics['best_epoch']} kept, {metrics['wall_seconds'] / 60:.1f} minutes.\n"
        f"Results: {run_dir}\n"
        f"Next: python scripts/evaluate.py {run_dir}"
    )


def print_evaluation(metrics):
    """Prints the test figures of evaluated runs as a table, and how each one errs.

    Args:
        metrics: `{run folder: metrics with "test"}`.
    """
    width = max(len("  with mirror image"), *(len(str(run)) for run in metrics))
    print(
        f"{'run':<{width}}  {'test accuracy':>13}  {'95 % interval':>17}  {'loss':>6}  {'AUC':>7}"
    )
    for run, found in metrics.items():
        drawings = "  (drawings)" if found["drawings"] else ""
        for name, test in ((run, found["test"]), ("  with mirror image", found.get("test_flip"))):
            if test:
                low, high = test["accuracy_interval95"]
                area = "\N{EN DASH}" if test["roc_auc"] is None else f"{test['roc_auc']:.4f}"
                print(
                    f"{name!s:<{width}}  {test['accuracy']:>13.1%}  {low:>7.1%} to {high:>6.1%}  "
                    f"{test['loss']:>6.3f}  {area:>7}{drawings}"
                )
    for run, found in metrics.items():
        mistakes = [
            (count, f"{count} of {sum(row)} {true} pictures taken for {predicted}")
            for true, row in zip(found["classes"], found["test"]["confusion_matrix"], strict=True)
            for predicted, count in zip(found["classes"], row, strict=True)
            if predicted != true and count
        ]
        mistakes.sort(key=lambda mistake: -mistake[0])
        shown = ", ".join(text for _, text in mistakes[:_SHOWN_MISTAKES])
        print(f"{run}: {shown or 'no mistakes'}. All of it: {pathlib.Path(run) / 'report.html'}")


def accept_any_file_name():
    """Lets names that are not valid UTF-8 through standard input and output, byte for byte.

    Linux allows any bytes in a name, and one such name must not end a run over many files.
    """
    for stream in filter(None, (sys.stdin, sys.stdout)):  # None if closed
        stream.reconfigure(errors="surrogateescape")


def print_predictions(predictions, classes, threshold, form="table", total=None):
    """Prints answers as they come, on standard output, and unreadable files on standard error.

    Args:
        predictions: Iterable of `catsdogs.inference.predict.Prediction`.
        classes: Class names.
        threshold: Answers of a lower probability are marked as unsure.
        form: `"table"`, whose names are made printable, `"json"` (a list of objects) or `"csv"`,
            both with names as they are.
        total: Number of files for the progress line, or `None` if nobody knows.

    Returns:
        The exit code: 1 if a file could not be read, else 0.

    Raises:
        InputError: If the threshold is no probability.
    """
    if not 0 <= threshold <= 1:
        raise InputError(f"Expected --threshold from 0 to 1. Received: {threshold}.")
    write = {"table": _TableWriter, "json": _JsonWriter, "csv": _CsvWriter}[form](classes)
    unreadable = 0
    # A line that is rewritten in place would get between the answers on the same terminal.
    with Progress("Predicting", total, hidden=sys.stdout.isatty()) as progress:
        for done, answer in enumerate(predictions, start=1):
            if answer.error:
                unreadable += 1
                # Whatever stands in a file's name, it must not steer the terminal.
                error = say_line(answer.error)
                print(f"predict.py: {error}", file=sys.stderr, flush=True)
            else:
                write.answer(answer, answer.probability < threshold)
            progress.update(done)
    write.close()
    if unreadable:
        print(f"predict.py: {unreadable:,} of {done:,} files left out.", file=sys.stderr)
    return 1 if unreadable else 0


class _TableWriter:
    def __init__(self, classes):
        self._width = max(map(len, ("label", *classes)))
        print(f"{'label':<{self._width}}  probability          file")

    def answer(self, answer, unsure):
        mark = "unsure" if unsure else ""
        file = say_line(answer.file)
        print(
            f"{answer.label:<{self._width}}  {answer.probability:>11.1%}  {mark:<6}  {file}",
            flush=True,
        )

    def close(self):
        pass


class _JsonWriter:
    def __init__(self, classes):
        del classes
        self._before = "["

    def answer(self, answer, unsure):
        content = {
            "file": answer.file,
            "label": answer.label,
            "probability": answer.probability,
            "unsure": unsure,
            "probabilities": answer.probabilities,
        }
        text = json.dumps(content, ensure_ascii=False)
        # A byte that is not UTF-8 is half a character to Python, which JSON can only write escaped.
        text = text.encode(errors="backslashreplace").decode()
        print(f"{self._before}\n{text}", end="", flush=True)
        self._before = ","

    def close(self):
        print("[]" if self._before == "[" else "\n]")


class _UnixLines:
    """Lets `csv` end its lines with CR LF, so that it quotes both in a name, and writes LF."""

    def __init__(self, stream):
        self._stream = stream

    def write(self, line):
        self._stream.write(line.removesuffix("\r\n") + "\n")


class _CsvWriter:
    def __init__(self, classes):
        self._writer = csv.writer(_UnixLines(sys.stdout))
        names = (f"probability_of_{name}" for name in classes)
        self._writer.writerow(["file", "label", "probability", "unsure", *names])

    def answer(self, answer, unsure):
        numbers = (f"{value:.6f}" for value in answer.probabilities.values())
        self._writer.writerow(
            [answer.file, answer.label, f"{answer.probability:.6f}", str(unsure).lower(), *numbers]
        )

    def close(self):
        pass
