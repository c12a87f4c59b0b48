"""The run folder: opening it, what its files must hold, and finishing a run.

config.json        every setting
environment.json   commit, versions, processor
history.csv        loss and accuracy of each epoch, training and validation
metrics.json       results: best epoch, validation, seconds, memory; test once evaluated
model.keras        the model of the best epoch, safe to load
curves.png         the history as a figure
state/             only while the run is unfinished: what `--resume` needs
"""

import contextlib
import dataclasses
import datetime
import importlib.metadata
import importlib.util
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import time
from typing import Annotated, Any, Literal, NotRequired

import keras
import numpy as np
from pydantic import ConfigDict, Field, FiniteFloat, with_config
from typing_extensions import TypedDict

from catsdogs.config import run_name, shrink
from catsdogs.data.images import load_split
from catsdogs.data.manifest import Manifest, find_data_dir, load_manifest
from catsdogs.errors import InputError
from catsdogs.evaluation.calibration import apply_temperature, fit_temperature
from catsdogs.evaluation.metrics import class_probabilities, evaluate_predictions
from catsdogs.files import PART, lock, read_json, sha256_of, write_json
from catsdogs.models.backbones import find_backbone
from catsdogs.models.convnets import divide_logits
from catsdogs.models.engine import Engine, choose_engine
from catsdogs.models.model_file import save_model
from catsdogs.stages.checkpoint import Checkpoint
from catsdogs.stages.features import FeatureStore
from catsdogs.stages.optimization import choose_precision

__all__ = [
    "Metrics",
    "Run",
    "describe_environment",
    "is_complete",
    "load_run",
    "open_run",
    "peak_memory_mb",
    "subset",
    "validation_folder",
]

_SMOKE_IMAGES = {"train": 64, "validation": 32, "test": 32}

Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Amount = Annotated[FiniteFloat, Field(ge=0)]
Stage = Literal["scratch", "feature_extract", "finetune"]


@with_config(ConfigDict(extra="allow"))
class RunConfig(TypedDict):
    """`config.json`: every setting of the run, of which these are read by other commands."""

    stage: Stage
    data_dir: str
    smoke: bool


@with_config(ConfigDict(extra="allow"))
class Environment(TypedDict):
    """`environment.json`."""

    commit: str | None
    packages: dict[str, str]
    processor: str
    cores: Count
    resumed: NotRequired[list[dict[str, Any]]]


@with_config(ConfigDict(extra="allow"))
class Scores(TypedDict):
    """What `evaluation.metrics.evaluate_predictions` returns."""

    num_images: Count
    loss: Amount
    accuracy: Fraction
    accuracy_interval95: Annotated[list[Fraction], Field(min_length=2, max_length=2)]


@with_config(ConfigDict(extra="allow"))
class Metrics(TypedDict):
    """`metrics.json`, written when a run is finished and again when it is evaluated."""

    stage: Stage
    preset: str
    variant: str
    dataset: str
    dataset_digest: str
    sketches: NotRequired[bool]
    classes: Annotated[list[str], Field(min_length=2)]
    image_size: Count
    precision: str
    engine: NotRequired[Engine]
    config: dict[str, Any]
    num_parameters: Count
    num_trainable: int
    best_epoch: Count
    validation: Scores
    temperature: Annotated[float, Field(gt=0)]
    cold: bool
    warm: bool
    wall_seconds: Amount
    peak_rss_mb: Amount
    environment: Environment
    test: NotRequired[Scores]
    test_tta: NotRequired[Scores]


@dataclasses.dataclass
class Run:
    """A run folder that is open for training; made by `open_run`."""

    stage: str
    variant: str
    config: Any
    """The stage's config, shrunk already with `--smoke`."""
    dir: pathlib.Path
    data_dir: pathlib.Path
    manifest: Manifest
    precision: str
    """Name of the dtype policy."""
    callbacks: list
    """For `fit`: checkpoint, stop at NaN, TensorBoard if it was asked for."""
    resumed: bool
    """Whether some epochs had been completed before."""

    @property
    def checkpoint(self):
        """The `Checkpoint` among the callbacks."""
        return self.callbacks[0]

    @property
    def epoch(self):
        """How many epochs are completed: where `fit` begins."""
        return self.checkpoint.epoch

    @property
    def num_classes(self):
        """Number of classes, two or more."""
        return len(self.manifest.classes)

    @property
    def is_complete(self):
        """Whether there is nothing left to do: the run was to be resumed and is finished."""
        return is_complete(self.dir)

    @property
    def verbose(self):
        """For `fit`: a progress bar on a terminal, a line an epoch in a log."""
        return 1 if sys.stdout.isatty() else 2

    def load_split(self, split, image_size):
        """Images and labels of `"train"` or `"validation"`; a subset of them with `--smoke`.

        Returns:
            uint8 (n, image_size, image_size, 3) in [0, 255] and int32 (n,), both read-only.

        Raises:
            ValueError: If the split is `"test"`: only `stages.evaluate` opens that one.
        """
        if split not in ("train", "validation"):
            raise ValueError(f"Expected split 'train' or 'validation'. Received: split={split!r}")
        images, labels = load_split(self.data_dir, self.manifest, split, image_size)
        if self.config.smoke:
            images, labels = subset(images, split), subset(labels, split)
        return images, labels

    def feature_store(self, conv_base, backbone):
        """The dataset's `FeatureStore` for a base or classifier.

        Args:
            conv_base: As for `FeatureStore`.
            backbone: The `Backbone` it is made of.
        """
        engine = choose_engine(self.config.engine, backbone.engine, self.precision)
        print(f"Engine for {self.config.backbone}: {engine}")
        return FeatureStore(
            self.data_dir / "features",
            conv_base,
            backbone.cut,
            engine=engine,
            dataset_digest=self.manifest.digest,
            precision=self.precision,
        )

    def outcome(self):
        """Folder and metrics of a run that is complete."""
        shutil.rmtree(self.dir / "state", ignore_errors=True)  # if it was killed before that
        return self.dir, load_run(self.dir)[1]

    def finish(self, model, trained, validation, labels, *, image_size, store=None, **details):
        """Calibrates and saves the model of the best epoch, and writes `metrics.json`.

        Args:
            model: The complete classifier, which is saved.
            trained: The model that was fitted; it shares its weights with `model`.
            validation: Batches that `trained` takes, unshuffled.
            labels: int (n,), the class of each validation image.
            image_size: Side of the images that `model` takes, in pixels.
            store: The `FeatureStore` that the features came from, or `None`.
            details: Further entries of `metrics.json`.

        Returns:
            A pair of the run folder, a `Path`, and its metrics, a dictionary.

        Raises:
            InputError: If training ended early since the loss was no longer finite.
        """
        config, history = self.config, self.checkpoint.history
        if self.epoch < config.epochs:
            raise InputError(
                f"The loss became NaN or infinite in epoch {self.epoch + 1}. Try a smaller "
                "--learning-rate, or --precision float32."
            )
        self.checkpoint.load_best(trained)
        outputs = class_probabilities(trained.predict(validation, verbose=0))
        # Divided into the last layer, so that the loaded model gives calibrated probabilities.
        temperature = fit_temperature(labels, outputs)
        divide_logits(model, temperature)
        probabilities = apply_temperature(outputs, temperature)
        engine = store.engine if store else "tensorflow"
        save_model(
            model,
            self.dir / "model.keras",
            classes=self.manifest.classes,
            image_size=image_size,
            temperature=temperature,
            engine=engine,
        )
        self.checkpoint.draw_curves()
        metrics = {
            "stage": self.stage,
            "preset": config.preset,
            "variant": self.variant,
            "dataset": self.manifest.dataset,
            "dataset_digest": self.manifest.digest,
            "sketches": self.manifest.is_sketches,
            "classes": list(self.manifest.classes),
            "image_size": image_size,
            "precision": self.precision,
            "engine": engine,
            "config": dataclasses.asdict(config),
            "num_parameters": model.count_params(),
            "num_trainable": sum(int(np.prod(w.shape)) for w in trained.trainable_weights),
            "best_epoch": 1 + history["val_loss"].index(min(history["val_loss"])),
            "validation": evaluate_predictions(labels, probabilities, self.manifest.classes),
            "temperature": temperature,
            **details,
            **self._timing(store, details.get("start")),
            "wall_seconds": round(time.perf_counter() - self.checkpoint.started, 1),
            "peak_rss_mb": peak_memory_mb(),
            "environment": read_json(self.dir / "environment.json"),
        }
        write_json(self.dir / "metrics.json", metrics)
        shutil.rmtree(self.dir / "state", ignore_errors=True)
        return self.dir, metrics

    def _timing(self, store, start):
        """Whether the seconds include all computations (cold), or no features at all (warm)."""
        cold = store is None or not store.reused
        warm = store is not None and not store.computed and not self.resumed
        if start:  # the features that fine-tuning reuses may be those of the head it made
            cold = start["made"] and start["cold"]
            warm = warm and (start["warm"] or not start["made"])
        return {"cold": cold, "warm": warm}


@contextlib.contextmanager
def open_run(
    stage, variant, config, data_dir=None, run_dir=None, *, resume=False, tensorboard=False
):
    """Opens the folder of a training run; other processes are kept out of it meanwhile.

    A finished run is never overwritten: a new one of the same name gets a number (`NAME-2`). A
    stopped run is continued with `resume` and never started over. With `resume`, a run that does
    not exist is started, and one that is finished is returned as it is.

    Args:
        stage: `"scratch"`, `"feature_extract"` or `"finetune"`.
        variant: The config's variant, or augmentation.
        config: The stage's config.
        data_dir: A prepared dataset, or `None` for `find_data_dir`.
        run_dir: The run folder, or `None` for `runs/DATASET/STAGE-PRESET-VARIANT-seedN`.
        resume: Whether to resume a stopped run.
        tensorboard: Whether to write TensorBoard's event files into the run folder.

    Yields:
        A `Run`, under the config's precision and with its random seed set.

    Raises:
        InputError: If the dataset or the folder cannot be used.
    """
    started = time.perf_counter()
    if tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise InputError("--tensorboard needs a package: pip install tensorboard.")
    config = shrink(config) if config.smoke else config
    data_dir = find_data_dir(data_dir)
    manifest = load_manifest(data_dir)
    name = run_name(stage, config, variant)
    root = pathlib.Path("runs") / (manifest.dataset + "-smoke" * config.smoke)
    run_dir = _choose_folder(pathlib.Path(run_dir or root / name), resume)
    settings = {
        "stage": stage,
        "variant": variant,
        "data_dir": str(data_dir),
        "dataset_digest": manifest.digest,
        **dataclasses.asdict(config),
    }
    if getattr(config, "backbone", "").endswith(".keras"):
        find_backbone(config.backbone)  # reports a wrong file
        # The file at this path may change.
        settings["backbone_digest"] = sha256_of(config.backbone)
    with lock(run_dir):
        checkpoint = Checkpoint(run_dir, f"{stage} {config.preset} {variant}", started)
        if not is_complete(run_dir):
            _check_folder(run_dir, settings, resume)
            write_json(run_dir / "config.json", settings)
            _write_environment(run_dir / "environment.json", checkpoint.epoch > 0)
        callbacks = [checkpoint, keras.callbacks.TerminateOnNaN()]
        if tensorboard:
            log_dir = run_dir / "tensorboard"
            callbacks.append(keras.callbacks.TensorBoard(log_dir, write_graph=False))
        keras.utils.set_random_seed(config.seed)
        precision = choose_precision(config.precision)
        kind = " (not photographs)" if manifest.is_sketches else ""
        print(f"{manifest.dataset}{kind}, {precision}. Curves: {run_dir}/curves.png")
        try:
            yield Run(
                stage, variant, config, run_dir, data_dir, manifest, precision, callbacks,
                resumed=checkpoint.epoch > 0,
            )  # fmt: skip
        except InputError:
            if not (run_dir / "history.csv").exists():  # refused before anything was trained
                for name in ("config.json", "environment.json"):
                    (run_dir / name).unlink(missing_ok=True)
                with contextlib.suppress(OSError):  # if there is something else in it
                    run_dir.rmdir()
            raise
        except KeyboardInterrupt:
            epochs = f"{checkpoint.epoch} of {config.epochs} epochs"
            raise KeyboardInterrupt(f"after {epochs} of {run_dir}") from None


def subset(rows, split):
    """Some rows of a split, evenly spaced so that every class is among them, for `--smoke`."""
    return rows[:: max(1, len(rows) // _SMOKE_IMAGES[split])]


def _choose_folder(run_dir, resume):
    """The folder itself, or with the next free number if it holds a finished run."""
    if run_dir.name in ("", ".."):  # of `.` and `..`, which a number cannot be added to
        run_dir = run_dir.resolve()
    number, newest, free = 1, run_dir, run_dir
    while is_complete(free):
        number, newest = number + 1, free
        free = run_dir.with_name(f"{run_dir.name}-{number}")
    return newest if resume and not free.exists() else free


def _check_folder(run_dir, settings, resume):
    """Refuses a folder that holds a stopped run, unless it is resumed with the same settings."""
    if not run_dir.exists() or all(path.name.startswith(PART) for path in run_dir.iterdir()):
        return
    if not (run_dir / "config.json").exists():
        raise InputError(
            f"Expected a new or empty folder, found other files in {run_dir}. "
            "Choose another --run-dir."
        )
    if not (run_dir / "history.csv").exists():
        return  # it ended before its first epoch did: nothing is lost
    if not resume:
        raise InputError(
            f"There is an interrupted run in {run_dir}. Add --resume to continue it, or --run-dir "
            "to start another one."
        )
    recorded = read_json(run_dir / "config.json")
    changed = [
        f"{name}={recorded.get(name)!r} (not {value!r})"
        for name, value in settings.items()
        if recorded.get(name) != value
    ]
    if changed:
        raise InputError(
            f"{run_dir} was started with other settings: {', '.join(changed)}. Give the same flags "
            "again, or start another run with --run-dir."
        )


def _write_environment(path, resumed):
    """Writes `environment.json`; a resumed run adds what has changed since it began."""
    environment = describe_environment()
    if resumed and path.exists():
        begun = read_json(path, Environment)
        changed = {name: now for name, now in environment.items() if begun.get(name) != now}
        if changed.keys() <= {"started"}:
            return
        environment = {**begun, "resumed": [*begun.get("resumed", []), changed]}
    write_json(path, environment)


def is_complete(run_dir):
    """Whether a run is finished: its metrics are written last."""
    return (pathlib.Path(run_dir) / "metrics.json").exists()


def load_run(run_dir):
    """Reads a finished run's `config.json` and `metrics.json`.

    Returns:
        A pair of dictionaries: config and metrics.

    Raises:
        InputError: If there is no finished run, or its files cannot be used.
    """
    run_dir = pathlib.Path(run_dir)
    if not is_complete(run_dir):
        state = "no metrics.json" if run_dir.is_dir() else "nothing"
        raise InputError(
            f"Expected a finished run at {run_dir}, found {state}. List what there is with "
            "ls runs/*, or resume an interrupted run with --resume."
        )
    remedy = "Train the run again."
    config = read_json(run_dir / "config.json", RunConfig, remedy)
    return config, read_json(run_dir / "metrics.json", Metrics, remedy)


def validation_folder(run_dir):
    """The folder of the validation pictures that a run was measured on, as `str`.

    Raises:
        InputError: If it is not there.
    """
    remedy = "Name some pictures with --pictures."
    config = read_json(pathlib.Path(run_dir) / "config.json", RunConfig, remedy)
    folder = pathlib.Path(config["data_dir"]) / "validation"
    if not folder.is_dir():
        raise InputError(f"Expected validation pictures in {folder}, found none. {remedy}")
    return str(folder)


def describe_environment():
    """Commit, versions and hardware, as a JSON-ready dictionary."""
    packages = ("tensorflow", "keras", "onnxruntime", "numpy", "pillow", "matplotlib")
    return {
        "commit": _commit(),
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in packages},
        "backend": os.environ.get("KERAS_BACKEND", "tensorflow"),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def peak_memory_mb():
    """Peak memory of this process so far in MiB, touched pages of mapped files included."""
    try:
        # Not getrusage, which on Linux begins with the peak of the process that started this one.
        status = pathlib.Path("/proc/self/status").read_text()
        return round(int(status.partition("VmHWM:")[2].split()[0]) / 1024)
    except OSError:  # another system; macOS counts in bytes
        import resource

        return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2)


def _commit():
    """Hash of the checked-out commit, with `+changes` if files differ; `None` outside git."""
    git = ["git", "-C", str(pathlib.Path(__file__).parent)]
    try:
        head = subprocess.run([*git, "rev-parse", "--short=10", "HEAD"], capture_output=True)
        status = subprocess.run(
            [*git, "status", "--porcelain", "-uno", "--", ":/src", ":/scripts"], capture_output=True
        )
    except OSError:
        return None
    if head.returncode:
        return None
    return head.stdout.decode().strip() + ("+changes" if status.stdout.strip() else "")


def _processor():
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
