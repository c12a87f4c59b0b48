"""From dataclass to command line, and from error to one clear line."""

import contextlib
import dataclasses
import functools
import importlib
import io
import itertools
import logging
import os
import pathlib
import shutil
import sys
import tempfile

import tyro

from catsdogs.errors import InputError, explain, say_briefly, say_line
from catsdogs.stages import run as runs
from catsdogs.stops import find_stop, ignore_stops, raise_stops

__all__ = ["StagePlaces", "load_quietly", "parse", "parse_stage", "run", "usable_runs"]

_TRAINED = "Go on with the same command and --resume."
_GO_ON = dict.fromkeys(("train_scratch.py", "train_feature_extract.py", "finetune.py"), _TRAINED)
_GO_ON["demo.py"] = "The page is closed."
_MIN_COLUMNS = 20  # in fewer, tyro never ends


@dataclasses.dataclass(frozen=True)
class StagePlaces:
    """Where a stage reads and writes; the same flags on every training script."""

    data_dir: str | None = None
    """Prepared data set; by default the photographs if there are any, else the sketches."""
    run_dir: str | None = None
    """Folder for the results; by default runs/DATASET/STAGE-PRESET-VARIANT-seedN."""
    resume: bool = False
    """Go on with a run that was stopped, from its last whole epoch; without one, start."""
    tensorboard: bool = False
    """Also write event files to tensorboard/ in the run folder, for: tensorboard --logdir runs"""


def parse(arguments_class, description, default=None, words=None):
    """Parses a command line into a dataclass; field comments are the help texts.

    Args:
        arguments_class: The dataclass.
        description: The script's docstring: what it does, then worked examples.
        default: An instance whose values are the defaults, or `None` for the class's own.
        words: The command line without the script, or `None` for that of this process.

    Raises:
        InputError: If a flag is unknown or a value does not fit.
    """
    complaint = io.StringIO()
    if shutil.get_terminal_size().columns < _MIN_COLUMNS:
        os.environ["COLUMNS"] = str(_MIN_COLUMNS)
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(
                arguments_class,
                args=words,
                description=description,
                config=(tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone),
                **({} if default is None else {"default": default}),
            )
    except SystemExit as stop:
        if not stop.code:  # --help
            raise
        # tyro explains at length, in a box; what stands above its first rule says it all.
        lines = [line.strip("│╭╮╰╯─ ") for line in complaint.getvalue().splitlines()][1:]
        reason = " ".join(itertools.takewhile(bool, lines)).removesuffix(".")
        lines = [line for line in lines if line]
        hint = next(
            (
                f" Perhaps you meant {following}."
                for line, following in itertools.pairwise(lines)
                if line.startswith("Perhaps you meant")
            ),
            "",
        )
        raise InputError(f"{say_briefly(reason, 500)}.{hint} See --help.") from None


def parse_stage(presets, description, words=None):
    """Parses a training script's command line: a preset, changed by every other flag given.

    Args:
        presets: `{"best": config, "textbook": config}` of one stage.
        description, words: As for `parse`.

    Returns:
        A pair of the stage's config and `StagePlaces`.
    """
    preset = "best"
    words = sys.argv[1:] if words is None else words
    for word, following in itertools.pairwise([*words, ""]):
        if word == "--preset" and following in presets:
            preset = following
        if word.startswith("--preset=") and word.removeprefix("--preset=") in presets:
            preset = word.removeprefix("--preset=")
    chosen = presets[preset]

    # The default's class decides which flags exist, so the class is made for this stage alone.
    arguments_class = dataclasses.make_dataclass(
        "Arguments",
        [
            ("settings", tyro.conf.OmitArgPrefixes[type(chosen)]),
            ("folders", tyro.conf.OmitArgPrefixes[StagePlaces]),
        ],
        frozen=True,
    )
    default = arguments_class(chosen, StagePlaces())
    arguments = parse(arguments_class, description, default, words)
    return arguments.settings, arguments.folders


def load_quietly(module):
    """Imports a module that needs TensorFlow, without the chatter.

    Loading takes seconds, so scripts do it only once the command line is known to be good. While
    TensorFlow loads it tells of processor features and missing GPUs, in words that look like
    errors and that no environment variable silences.

    Args:
        module: Its name, as in `"catsdogs.stages.training_stages"`.

    Returns:
        The module.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with tempfile.TemporaryFile() as chatter:
        sys.stderr.flush()
        stderr = os.dup(2)
        os.dup2(chatter.fileno(), 2)
        try:
            import tensorflow as tf

            # Every model that extracts features is traced anew, which is meant. Set only now,
            # because in a notebook TensorFlow sets a level of its own while it loads.
            logging.getLogger("tensorflow").setLevel(logging.ERROR)
            tf.config.list_logical_devices()  # the last chatter comes with the devices
            return importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name not in ("jax", "torch", "openvino"):
                raise
            raise InputError(
                f"Expected the package {error.name}, which KERAS_BACKEND or keras.json in Keras's "
                "folder asks for, found none. Set KERAS_BACKEND=tensorflow."
            ) from None
        except Exception as error:
            if explain(error) is None:
                chatter.seek(0)
                os.write(stderr, chatter.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def run(main):
    """Runs a script's `main` and ends the process.

    Exit codes: 0 done; 2 the input cannot be used, the disk is full or the folder read-only, each
    said in one line; 130 stopped with Ctrl-C, by `kill` or with the terminal; 141 nobody reads the
    output any more, as with `head`.
    """
    script = pathlib.Path(sys.argv[0]).name
    raise_stops()
    try:
        try:
            main()
        finally:  # here, where a full disk below `> answers.csv` can still be told
            sys.stdout.flush()
    except BrokenPipeError:
        _drop_output()
        sys.exit(141)
    except KeyboardInterrupt as stop:
        sys.exit(_stopped(stop))
    except Exception as error:
        if stop := find_stop(error):
            sys.exit(_stopped(stop))
        message = explain(error)
        if message is None:
            raise
        _drop_output()
        sys.exit(_say(f"{script}: {message}", 2))
    finally:
        ignore_stops()


def _drop_output():
    """Gives up what standard output still holds, if it cannot be written: Python would try again
    at the very end and complain."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _stopped(stop):
    """Says where things stand and how to go on; returns the exit code."""
    ignore_stops()
    script = pathlib.Path(sys.argv[0]).name
    place = f" {stop}" if str(stop) else ""
    go_on = _GO_ON.get(script, "Give the same command again.")
    return _say(f"{script}: Stopped{place}. {go_on}", 130)


def _answer_early(answer, kind, error, traceback):
    """What ends a script while it still loads what it needs, before `run` watches over it."""
    if stop := find_stop(error):
        sys.exit(_stopped(stop))
    if message := explain(error):
        sys.exit(_say(f"{pathlib.Path(sys.argv[0]).name}: {message}", 2))
    answer(kind, error, traceback)


def _say(message, code):
    # Whatever stands in a name, it must not steer the terminal.
    print(say_line(message), file=sys.stderr)
    return code


def usable_runs(run_dirs):
    """The finished ones of the runs that were named; says which are left out.

    Raises:
        InputError: If there is none.
    """
    finished, left_out = runs.finished_runs(run_dirs)
    for path in left_out:
        _say(f"Left out, no finished run: {path}", 0)
    if not finished:
        raise InputError(
            "Expected at least one finished run, received none. Example: runs/dogs-vs-cats/*/."
        )
    for path in finished:
        runs.load_run(path)
    return finished


def _replace_closed_streams():
    """Opens what was closed by `>&-`, or the next file that is opened would take its number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 (as long as the process)


_replace_closed_streams()
# What scripts import after this module takes part of a second. In a notebook Ctrl-C is its own.
if pathlib.Path(sys.argv[0]).resolve().parent.name == "scripts":
    sys.excepthook = functools.partial(_answer_early, sys.excepthook)
