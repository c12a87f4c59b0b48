"""Writes drawings as files, in several processes that end when the one that started them does."""

import concurrent.futures
import concurrent.futures.process
import contextlib
import multiprocessing
import os
import pathlib
import signal
import sys
import threading

from catsdogs.data.sketches import CATS_AND_DOGS, save_sketch
from catsdogs.errors import InputError

__all__ = ["write_sketches"]


def write_sketches(folder, *, per_class, seed=0, workers=None, animals=CATS_AND_DOGS):
    """Writes drawings: `folder/cat/cat.0.jpg` ... and `folder/dog/dog.0.jpg` ...

    A line on stderr counts them and says what they are. The number of processes changes no byte.

    Args:
        folder: Where to write, `str` or `Path`; made if missing.
        per_class: Number of drawings of each class.
        seed: Integer from 0 that decides them.
        workers: Number of processes, by default one a processor; 1 starts none. Others are spawned,
            so a script that calls this needs `if __name__ == "__main__":`.
        animals: Which ones, some of `ANIMALS`.

    Raises:
        InputError: If `per_class` or `workers` is below 1, `seed` is negative, or a process is
            killed.
    """
    workers = (os.cpu_count() or 1) if workers is None else workers
    if min(per_class, workers) < 1 or seed < 0:
        raise InputError(
            "Expected per_class and workers from 1 and seed from 0. "
            f"Received: per_class={per_class}, workers={workers}, seed={seed}."
        )
    jobs = [(pathlib.Path(folder), name, seed, i) for i in range(per_class) for name in animals]
    if workers == 1:
        _count(map(_write_sketch, jobs), len(jobs))
        return
    # Not fork: it is unsafe once TensorFlow's threads run.
    context = multiprocessing.get_context("spawn")
    with _stops_ignored():
        executor = concurrent.futures.ProcessPoolExecutor(
            workers, mp_context=context, initializer=_end_with_parent
        )
    try:
        with _stops_ignored():
            written = executor.map(_write_sketch, jobs, chunksize=16)
        _count(written, len(jobs))
    except concurrent.futures.process.BrokenProcessPool:
        raise InputError(
            "Expected the processes that draw to end well, received one that was killed, "
            "perhaps for want of memory. Give the same command again."
        ) from None
    finally:
        executor.shutdown(cancel_futures=True)  # when stopped, do not draw the rest first


@contextlib.contextmanager
def _stops_ignored():
    """For starting processes, which inherit it: Ctrl-C and the terminal's end reach all of them,
    but this one alone answers."""
    numbers = (signal.SIGINT, signal.SIGHUP)
    answers = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, answer in answers.items():
            signal.signal(number, answer)


def _end_with_parent():
    """Ends this worker when the process that started it is killed, which the pool does not."""

    def wait():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _write_sketch(job):
    folder, name, seed, index = job
    path = folder / name / f"{name}.{index}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_sketch(path, name, seed, index)


def _count(written, total):
    terminal = sys.stderr.isatty()
    for done, _ in enumerate(written, start=1):
        # A log file has no cursor to move back: there only the last state is printed.
        if done == total or (terminal and done % 20 == 0):
            line = f"Drawing animals (drawings, not photographs): {done:,}/{total:,}"
            end = "\n" if done == total else ""
            print("\r" * terminal + line, end=end, file=sys.stderr, flush=True)
