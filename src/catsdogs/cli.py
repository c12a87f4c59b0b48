"""From dataclass to command line, and from error to one clear line."""

import contextlib
import dataclasses
import errno
import importlib
import io
import itertools
import logging
import os
import pathlib
import sys
import tempfile

import tyro

from catsdogs import runs
from catsdogs.files import InputError, say_briefly

__all__ = [
    "StagePlaces",
    "load_quietly",
    "parse",
    "parse_stage",
    "run",
    "usable_runs",
]

# What a user can mend: a full or read-only disk, a missing permission, a path that leads nowhere.
_USERS_ERRNO = (
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO,
    errno.EBUSY, errno.EXDEV, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST,
    errno.ENAMETOOLONG,
)  # fmt: skip

_TRAINED = "Go on after the last whole epoch with the same command and --resume."
_GO_ON = dict.fromkeys(("train_scratch.py", "train_feature_extract.py", "finetune.py"), _TRAINED)
_GO_ON["demo.py"] = "The page is closed."


@dataclasses.dataclass(frozen=True)
class StagePlaces:
    """Where a stage reads and writes; the same flags on every training script."""

    data_dir: str | None = None
    """Prepared data set; by default the photographs if there are any, else the sketches."""
    run_dir: str | None = None
    """Folder for the results; by default runs/DATASET/STAGE-PRESET-VARIANT-seedN."""
    resume: bool = False
    """Go on with a run that was stopped, from its last whole epoch."""
    tensorboard: bool = False
    """Also write event files to tensorboard/ in the run folder, for: tensorboard --logdir runs"""


def parse(arguments_class, description, default=None):
    """Parses `sys.argv` into a dataclass; field comments are the help texts.

    Args:
        arguments_class: The dataclass.
        description: The script's docstring: what it does, then worked examples.
        default: An instance whose values are the defaults, or `None` for the class's own.

    Raises:
        InputError: If a flag is unknown or a value does not fit.
    """
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(
                arguments_class,
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


def parse_stage(presets, description):
    """Parses a training script's command line: a preset, changed by every other flag given.

    Args:
        presets: `{"best": config, "textbook": config}` of one stage.
        description: The script's docstring.

    Returns:
        A pair of the stage's config and `StagePlaces`.
    """
    preset = "best"
    for word, following in zip(sys.argv, [*sys.argv[1:], ""], strict=True):
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
    arguments = parse(arguments_class, description, arguments_class(chosen, StagePlaces()))
    return arguments.settings, arguments.folders


def load_quietly(module):
    """Imports a module that needs TensorFlow, without the chatter.

    Loading takes seconds, so scripts do it only once the command line is known to be good. While
    TensorFlow loads it tells of processor features and missing GPUs, in words that look like
    errors and that no environment variable silences.

    Args:
        module: Its name, as in `"catsdogs.stages"`.

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
        except Exception:
            chatter.seek(0)
            os.write(stderr, chatter.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def run(main):
    """Runs a script's `main` and ends the process.

    Exit codes: 0 done; 2 the input cannot be used, the disk is full or the folder read-only, each
    said in one line; 130 stopped with Ctrl-C; 141 nobody reads the output any more, as with `head`.
    """
    script = pathlib.Path(sys.argv[0]).name
    try:
        main()
    except InputError as error:
        sys.exit(_say(f"{script}: {error}", 2))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for Python's last flush
        sys.exit(141)
    except OSError as error:
        # HDF5 raises OSErrors of its own, which name the cause only in their text.
        cause = os.strerror(errno.ENOSPC) if "No space left" in str(error) else error.strerror
        if error.errno not in _USERS_ERRNO and cause != os.strerror(errno.ENOSPC):
            raise
        message = (
            f"Expected a usable path, permission and free space, received: {cause}"
            + (f" ({error.filename})" if error.filename else "")
            + ". Mend that or choose another path."
        )
        sys.exit(_say(f"{script}: {message}", 2))
    except KeyboardInterrupt:
        sys.exit(
            _say(f"{script}: Stopped. {_GO_ON.get(script, 'Give the same command again.')}", 130)
        )


def _say(message, code):
    print(message, file=sys.stderr)
    return code


def usable_runs(run_dirs):
    """The finished ones of the runs that were named; says which are left out.

    Raises:
        InputError: If there is none.
    """
    finished, left_out = runs.finished_runs(run_dirs)
    for path in left_out:
        print(f"Left out, no finished run: {path}", file=sys.stderr)
    if not finished:
        raise InputError(
            "Expected at least one finished run, received none. Example: runs/dogs-vs-cats/*/."
        )
    for path in finished:
        runs.load_run(path)
    return finished
