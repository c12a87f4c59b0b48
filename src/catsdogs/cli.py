"""The commands: each script calls the function of its name.

TensorFlow takes seconds to load, so a command imports what needs it only once its arguments are
known to be good.
"""

import contextlib
import dataclasses
import functools
import inspect
import io
import itertools
import json
import operator
import os
import pathlib
import signal
import sys
import tempfile
from typing import Annotated, Literal

import pydantic
import tyro
from pydantic import Field

from catsdogs import config, console
from catsdogs.errors import InputError, describe_invalid, printable, shorten, user_message

__all__ = [
    "cross_validate",
    "demo",
    "evaluate",
    "explain",
    "export",
    "finetune",
    "plot_history",
    "predict",
    "prepare_data",
    "train_feature_extract",
    "train_scratch",
]

Model = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN_OR_MODEL")]
Paths = Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="PATH...")]
Probability = Annotated[float, Field(ge=0, le=1), tyro.conf.arg(metavar="PROBABILITY")]
Runs = Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="RUN...")]


def command(main):
    """Makes a function a command: what its user can act on becomes one line and an exit code.

    Exit codes: 0 done; 1 a file could not be read (`predict`); 2 the input cannot be used; 130
    interrupted by Ctrl-C or `kill`; 141 nobody reads the output any more, as with `head`.
    """

    @functools.wraps(main)
    def run():
        name = main.__name__
        sys.stdout.reconfigure(line_buffering=True)  # in a log, too, one sees how far it is
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # `kill` is like Ctrl-C
        try:
            code = main() or 0
            sys.stdout.flush()
        except KeyboardInterrupt as interrupt:
            training = name in ("train_scratch", "train_feature_extract", "finetune")
            again = "Resume with the same command and --resume." if training else ""
            code = _complain(f"{name}: Interrupted {interrupt}".rstrip() + f". {again}", 130)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = 141
        except Exception as error:
            message = user_message(error)
            if message is None:
                raise
            code = _complain(f"{name}: {message}", 2)
        sys.exit(code)

    return run


@command
def prepare_data():
    """Checks pictures, splits them and writes a dataset, without near-duplicates across splits.

    Examples:
        python scripts/prepare_data.py                       downloads Microsoft's photographs
        python scripts/prepare_data.py --archive train.zip   Kaggle's, or Microsoft's archive
        python scripts/prepare_data.py --folder my_pictures --train 300 --validation 100 --test 100
        python scripts/prepare_data.py --sketches            drawn by this program, no network
    """
    settings = parse(config.PrepareConfig, prepare_data.__doc__)
    from catsdogs.data.sources import open_pictures
    from catsdogs.data.splits import prepare

    sizes = {"train": settings.train, "validation": settings.validation, "test": settings.test}
    with open_pictures(
        archive=settings.archive,
        folder=settings.folder,
        sketches=settings.sketches,
        rabbits=settings.rabbits,
        num_pictures=sum(sizes.values()),
    ) as source:
        data_dir = settings.data_dir or f"data/{source.name}"
        manifest = prepare(source, data_dir, **sizes, overwrite=settings.overwrite)
    print(manifest.describe())
    print(f"Prepared in {data_dir}")
    if settings.preview:
        with quiet_tensorflow():
            from catsdogs.data.augment import preview_augmentation
            from catsdogs.data.images import load_split
            from catsdogs.evaluation.plots import plot_image_grid, save_figure
        images, _ = load_split(data_dir, manifest, "train", config.SCRATCH["best"].image_size)
        path = pathlib.Path(data_dir) / "augmentation.jpg"
        save_figure(plot_image_grid(*preview_augmentation(images[0])), path)
        print(f"Augmentation shown in {path}")


@dataclasses.dataclass(frozen=True)
class TrainingPaths:
    """Where a training command reads and writes."""

    data_dir: str | None = None
    """Prepared dataset; by default the photographs if there are any, else the sketches."""
    run_dir: str | None = None
    """Folder for the results; by default runs/DATASET/STAGE-PRESET-VARIANT-seedN."""
    resume: bool = False
    """Resume an interrupted run after its last complete epoch; if there is none, start it."""
    tensorboard: bool = False
    """Also write event files to tensorboard/ in the run folder, for: tensorboard --logdir runs"""


@command
def train_scratch():
    """Trains a small convnet from random weights.

    Examples:
        python scripts/train_scratch.py --smoke                   does it run? (seconds)
        python scripts/train_scratch.py                           this project's recipe
        python scripts/train_scratch.py --preset record           the highest accuracy, in hours
        python scripts/train_scratch.py --preset textbook         the textbook's recipe
        python scripts/train_scratch.py --preset textbook --augmentation none --dropout 0
        python scripts/train_scratch.py --resume                  resume after an interruption
    """
    settings, paths = parse_training(config.SCRATCH, train_scratch.__doc__)
    with quiet_tensorflow():
        from catsdogs.stages import scratch
    console.print_outcome(*scratch.train_scratch(settings, **vars(paths)))


@command
def train_feature_extract():
    """Trains a new head on a frozen base that was pretrained on ImageNet.

    Examples:
        python scripts/train_feature_extract.py --smoke               does it run? (seconds)
        python scripts/train_feature_extract.py --preset light        a light backbone: a minute
        python scripts/train_feature_extract.py --preset record       the most accurate: minutes
        python scripts/train_feature_extract.py                       VGG16: minutes
        python scripts/train_feature_extract.py --list-backbones      others, for --backbone
        python scripts/train_feature_extract.py --image-size 256      faster, a little less accurate
        python scripts/train_feature_extract.py --variant augmented   several views of each image
        python scripts/train_feature_extract.py --preset textbook
        python scripts/train_feature_extract.py --resume              resume after an interruption
    """
    settings, paths = parse_training(config.FEATURE_EXTRACT, train_feature_extract.__doc__)
    with quiet_tensorflow():
        from catsdogs.stages import feature_extract
    console.print_outcome(*feature_extract.train_feature_extract(settings, **vars(paths)))


@command
def finetune():
    """Trains the last block of a pretrained base together with a trained head.

    Examples:
        python scripts/finetune.py --smoke               does it run? (seconds)
        python scripts/finetune.py                       makes the head first if there is none
        python scripts/finetune.py --preset light        a light backbone, in minutes
        python scripts/finetune.py --start runs/dogs-vs-cats/feature_extract-best-cached-seed0
        python scripts/finetune.py --resume              resume after an interruption
    """
    settings, paths = parse_training(config.FINETUNE, finetune.__doc__)
    with quiet_tensorflow():
        from catsdogs.stages import finetune as stage
    console.print_outcome(*stage.finetune(settings, **vars(paths)))


@pydantic.dataclasses.dataclass(frozen=True)
class CrossValidationArguments:
    data_dir: str | None = None
    """Prepared dataset; by default the photographs if there are any, else the sketches."""
    folds: Annotated[int, Field(ge=2)] = 5
    """Number of folds."""
    repeats: Annotated[int, Field(ge=1)] = 1
    """Repetitions, each with new random folds."""
    include_test: bool = False
    """Use the test pictures too: for final figures, never to compare settings."""
    output: str | None = None
    """JSON file to add the result to."""


@command
def cross_validate():
    """Cross-validates a head on the cached features of training and validation pictures.

    Examples:
        python scripts/cross_validate.py --preset light
        python scripts/cross_validate.py --preset record --folds 2 --repeats 3
        python scripts/cross_validate.py --units 64 --output results.json
    """
    settings, arguments = parse_training(
        config.FEATURE_EXTRACT, cross_validate.__doc__, CrossValidationArguments
    )
    with quiet_tensorflow():
        from catsdogs.stages import cross_validate as stage
    result = stage.cross_validate(
        settings,
        arguments.data_dir,
        folds=arguments.folds,
        repeats=arguments.repeats,
        include_test=arguments.include_test,
    )
    console.print_cross_validation(result)
    if arguments.output:
        stage.add_result(arguments.output, result)


@dataclasses.dataclass(frozen=True)
class EvaluateArguments:
    runs: Runs
    """Run folders."""
    data_dir: str | None = None
    """Prepared dataset; by default the one that each run was trained on."""
    tta: bool = False
    """Test-time augmentation: also measure the mean prediction for each picture and its horizontal
    flip, in twice the time."""
    json: bool = False
    """Print JSON instead of a table."""


@command
def evaluate():
    """Measures finished runs on the test split: accuracy with its interval, loss, ROC AUC.

    Writes a report.html into each run folder, and compares several runs with each other.

    Examples:
        python scripts/evaluate.py runs/dogs-vs-cats/finetune-best-augmented-seed0
        python scripts/evaluate.py runs/dogs-vs-cats/*/           several runs, one table
        python scripts/evaluate.py runs/dogs-vs-cats/*/ --json    for a program to read
        python scripts/evaluate.py runs/dogs-vs-cats/*/ --tta     with test-time augmentation
    """
    arguments = parse(EvaluateArguments, evaluate.__doc__)
    finished = finished_runs(arguments.runs)
    with quiet_tensorflow():
        from catsdogs.evaluation import report
        from catsdogs.stages.evaluate import evaluate_runs
    metrics = evaluate_runs(finished, arguments.data_dir, tta=arguments.tta)
    comparisons = report.compare_runs(list(metrics))
    if arguments.json:
        kinds = ("test", "test_tta") if arguments.tta else ("test",)
        found = {run: {kind: one[kind] for kind in kinds} for run, one in metrics.items()}
        print(json.dumps({"runs": found, "comparisons": comparisons}, indent=2))
    else:
        console.print_evaluation(metrics)
        print(*(one["sentence"] for one in comparisons), sep="\n")
    if comparisons:
        print(f"Comparison: {report.write_comparison(metrics, comparisons)}", file=sys.stderr)


@pydantic.dataclasses.dataclass(frozen=True)
class PlotArguments:
    runs: Runs
    """Run folders; several are drawn into one figure."""
    output: str = "history.png"
    """Picture to write."""
    smoothing: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Weight of the past in the exponential moving average, from 0 to below 1; by default 0.8, and
    less for runs so short that the average would lag behind."""


@command
def plot_history():
    """Plots accuracy and loss over epochs, training and validation, raw and smoothed.

    Examples:
        python scripts/plot_history.py runs/dogs-vs-cats/scratch-textbook-basic-seed0
        python scripts/plot_history.py runs/dogs-vs-cats/scratch-* --output scratch.png
        python scripts/plot_history.py runs/dogs-vs-cats/scratch-* --smoothing 0.9
    """
    arguments = parse(PlotArguments, plot_history.__doc__)
    from catsdogs.evaluation import plots
    from catsdogs.files import read_history

    if not arguments.runs:
        raise InputError("Expected at least one run, received none.")
    paths = [pathlib.Path(run) for run in arguments.runs]
    is_unique = len({path.name for path in paths}) == len(paths)
    histories = {path.name if is_unique else str(path): read_history(path) for path in paths}
    figure = plots.plot_history(histories, arguments.smoothing)
    plots.save_figure(figure, arguments.output)
    print(arguments.output)


@pydantic.dataclasses.dataclass(frozen=True)
class PredictArguments:
    model: Model
    """Run folder or .keras file."""
    pictures: Paths
    """Files, folders, patterns in quotes, or - for a list on standard input."""
    threshold: Probability = 0.8
    """Predictions of a lower probability are marked as unsure."""
    tta: bool = False
    """Test-time augmentation: mean prediction for each picture and its horizontal flip."""
    format: Literal["table", "json", "csv"] = "table"
    """How to print the predictions."""


@command
def predict():
    """Predicts what pictures show, with a calibrated probability.

    Examples:
        python scripts/predict.py runs/dogs-vs-cats/finetune-best-augmented-seed0 photo.jpg
        python scripts/predict.py model.keras my_pictures/ --format csv > predictions.csv
        find . -name '*.jpg' | python scripts/predict.py RUN - --format json

    Files that cannot be read are named on standard error and skipped; the exit code is then 1.
    """
    arguments = parse(PredictArguments, predict.__doc__)
    with quiet_tensorflow():
        from catsdogs.inference import predict as prediction
        from catsdogs.models.model_file import load_saved_model
    saved = load_saved_model(arguments.model)
    return prediction.print_predictions(
        prediction.predict_pictures(
            saved, prediction.list_pictures(arguments.pictures), tta=arguments.tta
        ),
        saved.classes,
        arguments.threshold,
        arguments.format,
        prediction.count_pictures(arguments.pictures),
    )


@pydantic.dataclasses.dataclass(frozen=True)
class ExplainArguments:
    model: Model
    """Run folder or .keras file."""
    pictures: Paths
    """Files, folders, or patterns in quotes."""
    output: str | None = None
    """Folder to write; by default explain beside the model."""
    layers: tuple[str, ...] = ()
    """Layers to look into; by default the deepest of every resolution."""
    target: str | None = None
    """Class whose evidence is shown; by default each picture's prediction."""
    channels: Annotated[int, Field(ge=1)] = 10
    """Channels to show of each layer: those that respond most to the pictures."""


@command
def explain():
    """Shows what a model sees in pictures: Grad-CAM, occlusion, activations and its filters.

    Examples:
        python scripts/explain.py runs/dogs-vs-cats/finetune-best-augmented-seed0 photo.jpg
        python scripts/explain.py model.keras my_pictures/ --output explained --target dog
        python scripts/explain.py RUN photo.jpg --layers block3_conv1 block5_conv3
    """
    arguments = parse(ExplainArguments, explain.__doc__)
    with quiet_tensorflow():
        from catsdogs.inference.explain import explain_pictures
        from catsdogs.models.model_file import load_saved_model
    saved = load_saved_model(arguments.model)
    written = explain_pictures(
        saved,
        arguments.pictures,
        pathlib.Path(arguments.output or saved.path.with_name("explain")),
        layer_names=arguments.layers,
        target=arguments.target,
        num_channels=arguments.channels,
    )
    print(*map(printable, written), sep="\n")


@dataclasses.dataclass(frozen=True)
class ExportArguments:
    model: Model
    """Run folder or .keras file."""
    format: Literal["savedmodel", "onnx", "litert"] = "onnx"
    """TensorFlow's SavedModel, ONNX or LiteRT (.tflite)."""
    output: str | None = None
    """Folder to write; by default export-FORMAT beside the model."""
    pictures: tuple[str, ...] = ()
    """Files and folders to compare on; by default the validation pictures of the run."""


@command
def export():
    """Writes a trained model for other programs, checked against Keras on real pictures.

    Examples:
        python scripts/export.py runs/dogs-vs-cats/finetune-best-augmented-seed0 --format onnx
        python scripts/export.py model.keras --format litert --pictures my_pictures/
    """
    arguments = parse(ExportArguments, export.__doc__)
    with quiet_tensorflow():
        from catsdogs.inference.export import export_model
        from catsdogs.models.model_file import load_saved_model
        from catsdogs.stages.run import validation_folder
    saved = load_saved_model(arguments.model)
    pictures = arguments.pictures or (validation_folder(saved.path.parent),)
    folder = pathlib.Path(arguments.output or saved.path.with_name(f"export-{arguments.format}"))
    number, difference, difference_here = export_model(saved, arguments.format, folder, pictures)
    print(
        f"{folder}: same predictions as Keras in float32 on {number} pictures, to within "
        f"{difference:.1e} in probability\n(to within {difference_here:.1e} of the model in its "
        f"own precision).\nClass names and preprocessing: {folder}/model.json"
    )


@pydantic.dataclasses.dataclass(frozen=True)
class DemoArguments:
    models: Annotated[
        tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="[RUN_OR_MODEL...]")
    ] = ()
    """Run folders or .keras files to choose among on the page."""
    host: str = "127.0.0.1"
    """Address to listen on; by default only this computer reaches the page."""
    port: Annotated[int, Field(ge=0, le=65_535)] = 7860
    """Port to listen on."""
    threshold: Probability = 0.8
    """Predictions of a lower probability are marked as unsure."""


@command
def demo():
    """Serves a local web page: drop a photo, see the prediction and where the model looked.

    Examples:
        python scripts/demo.py
        python scripts/demo.py runs/dogs-vs-cats/finetune-best-augmented-seed0 model.keras
        python scripts/demo.py --host 0.0.0.0 --port 8000    for others on the network as well

    Without a run all finished ones in runs/*/*/ are offered, the best validation accuracy first.
    """
    arguments = parse(DemoArguments, demo.__doc__)
    with quiet_tensorflow():
        from catsdogs.inference.demo import find_choices, serve
    serve(find_choices(arguments.models), arguments.host, arguments.port, arguments.threshold)


def parse(arguments_class, description, default=None):
    """Parses the command line into a dataclass; the docstrings of its fields are the help texts.

    Args:
        arguments_class: The dataclass.
        description: The command's docstring: what it does, then examples.
        default: An instance whose values are the defaults, or `None` for the class's own.

    Raises:
        InputError: If a flag is unknown or a value does not fit.
    """
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(
                arguments_class,
                description=inspect.cleandoc(description),
                config=(tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone),
                **({} if default is None else {"default": default}),
            )
    except SystemExit as stop:
        if not stop.code:  # --help
            raise
        raise InputError(_reason(stop, complaint.getvalue())) from None


def parse_training(presets, description, flags_class=TrainingPaths):
    """Parses the command line of a training stage: a preset, changed by every other flag.

    Args:
        presets: `{"best": config, "textbook": config}` of one stage.
        description: As for `parse`.
        flags_class: Dataclass of the flags that are no settings of the stage.

    Returns:
        A pair of the stage's config and an instance of `flags_class`.
    """
    if "--list-backbones" in sys.argv[1:]:
        with quiet_tensorflow():
            from catsdogs.models.backbones import BACKBONES
        console.print_backbones(BACKBONES)
        sys.exit()
    words = [word for argument in sys.argv[1:] for word in argument.split("=", 1)]
    chosen = [name for flag, name in itertools.pairwise(words) if flag == "--preset"]
    preset = presets.get(chosen[-1] if chosen else "best", presets["best"])
    # The flags are those of the default's class, so the class is made for this stage.
    arguments_class = dataclasses.make_dataclass(
        "Arguments",
        [
            ("settings", tyro.conf.OmitArgPrefixes[type(preset)]),
            ("flags", tyro.conf.OmitArgPrefixes[flags_class]),
        ],
        frozen=True,
    )
    arguments = parse(arguments_class, description, arguments_class(preset, flags_class()))
    return arguments.settings, arguments.flags


@contextlib.contextmanager
def quiet_tensorflow():
    """Hides what TensorFlow logs about processor features and missing GPUs while it loads.

    It looks like errors, and no environment variable silences all of it.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.stderr.flush()
    stderr = os.dup(2)
    try:
        with tempfile.TemporaryFile() as log:
            os.dup2(log.fileno(), 2)
            try:
                yield
                import tensorflow as tf

                tf.get_logger().setLevel("ERROR")  # tracing anew for every model is meant
                tf.config.list_logical_devices()
                # The last message comes with the first graph in half precision.
                tf.function(lambda x: tf.cast(x, tf.float16))(tf.constant([1.0]))
            except Exception:
                log.seek(0)
                os.write(stderr, log.read())
                raise
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


def finished_runs(run_dirs):
    """The finished runs among those that were named; reports the others.

    Raises:
        InputError: If there is none.
    """
    finished = [run for run in run_dirs if (pathlib.Path(run) / "metrics.json").exists()]
    if not finished:
        raise InputError(
            f"Expected at least one finished run. Received: {' '.join(run_dirs) or 'none'}. "
            "Example: runs/dogs-vs-cats/*/."
        )
    for run in run_dirs:
        if run not in finished:
            _complain(f"Skipped, not a finished run: {run}", 0)
    return finished


def _reason(stop, complaint):
    """Why tyro refused a command line, in one line; it explains at length, in a box."""
    error = stop
    while error is not None:
        if isinstance(error, pydantic.ValidationError):
            name, problem = describe_invalid(error)
            return f"--{name.replace('_', '-')} {problem}. See --help."
        error = error.__cause__ or error.__context__
    lines = [line.strip("│╭╮╰╯─ ") for line in complaint.splitlines()][1:]
    # Where the output is not UTF-8, the box is made of dashes.
    lines = ["" if set(line) == {"-"} else line for line in lines]
    lines = list(itertools.dropwhile(operator.not_, lines))
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
    return f"{shorten(reason, 500)}.{hint} See --help."


def _complain(message, code):
    print(printable(message), file=sys.stderr)  # whatever is in a file name
    return code
