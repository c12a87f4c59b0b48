"""What every training stage does alike: find its places, load, fit, and write the run down."""

import contextlib
import dataclasses
import importlib.util
import math
import pathlib
import shutil
import time

import keras

from catsdogs import config as presets
from catsdogs.data.batches import (
    encode_labels,
    evaluation_batches,
    feature_batches,
    image_batches,
)
from catsdogs.data.images import load_split
from catsdogs.data.manifest import find_data_dir, load_manifest
from catsdogs.errors import InputError
from catsdogs.evaluation.calibration import apply_temperature, fit_temperature
from catsdogs.evaluation.figures import save_figure
from catsdogs.evaluation.history_plot import plot_history
from catsdogs.evaluation.metrics import class_probabilities, evaluate_predictions
from catsdogs.files import read_json, write_json
from catsdogs.locks import hold
from catsdogs.models.convnets import divide_logits
from catsdogs.models.fused_norm import training_copy
from catsdogs.models.model_file import save_model
from catsdogs.stages import checkpoint as run_state
from catsdogs.stages import environment
from catsdogs.stages import optimization as training
from catsdogs.stages import run as runs
from catsdogs.stages.features import FeatureStore
from catsdogs.stages.recipe import changes, default_start, run_name
from catsdogs.stages.start import check_start

__all__ = ["EVALUATION_BATCH", "StageRun", "few"]

EVALUATION_BATCH = 64

_SMOKE_IMAGES = {"train": 64, "validation": 32, "test": 32}


class StageRun:
    """One run of a training stage, a context manager that keeps other processes out of its folder.

    Args:
        stage: `"scratch"`, `"feature_extract"` or `"finetune"`.
        config: The stage's config.
        variant: The augmentation of a scratch run; `config.variant` otherwise.
        data_dir: A prepared data set, or `None` for `find_data_dir`.
        run_dir: The run folder, or `None` for `runs/DATASET/STAGE-PRESET-VARIANT-seedN`.
        resume: Whether to go on with a run that was stopped.
        tensorboard: Whether to write TensorBoard's event files into the run folder.

    Raises:
        InputError: If the data set or the folder cannot be used.
    """

    def __init__(self, stage, config, variant, data_dir, run_dir, resume, tensorboard=False):
        if tensorboard and importlib.util.find_spec("tensorboard") is None:
            raise InputError(
                "Expected the package tensorboard for --tensorboard, found none. "
                "Install the extra: pip install 'catsdogs[tensorboard]'."
            )
        self._tensorboard = tensorboard
        self._started, self._began = time.perf_counter(), time.time()
        presets.check(config)
        self._stage, self._variant = stage, variant
        self.config = presets.shrink(config) if config.smoke else config
        self.data_dir = find_data_dir(data_dir)
        self._store = None
        self._start, self._start_changes = None, {}
        self._image_size = None
        keras.utils.set_random_seed(config.seed)
        self.precision = training.choose_precision(config.precision)
        with contextlib.ExitStack() as stack:
            stack.enter_context(hold(self.data_dir, shared=True))
            self._manifest = load_manifest(self.data_dir)
            self.classes = self._manifest.classes
            settings = {
                "stage": stage,
                "variant": variant,
                "data_dir": str(self.data_dir),
                "dataset_digest": self._manifest.digest,
                **dataclasses.asdict(self.config),
            }
            root = pathlib.Path("runs") / (self._manifest.dataset + "-smoke" * config.smoke)
            run_dir = run_dir or root / run_name(stage, config.preset, variant, config.seed)
            opened = runs.open_run(settings, run_dir, resume=resume)
            self.run_dir = stack.enter_context(opened)
            self._places = stack.pop_all()
        what = " (drawings, not photographs)" if self._manifest.is_drawing else ""
        print(f"{self._manifest.dataset}{what}, {self.precision}, {self.run_dir}", flush=True)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._places.__exit__(*error)

    def finish_if_whole(self):
        """Run folder and metrics of a run that was to be resumed and is whole already, or `None`.

        It may have been stopped in its very last moment.
        """
        if not runs.is_complete(self.run_dir):
            return None
        print("This run is finished.", flush=True)
        self._clear_state()
        return self.run_dir, runs.load_run(self.run_dir)[1]

    def could_reuse(self, run_dir, config):
        """Whether a finished run is what a config would give on this data set as it is now."""
        _, metrics = runs.load_run(run_dir)
        found = metrics["dataset_digest"], metrics["precision"]
        same = found == (self._manifest.digest, self.precision)
        return same and changes(metrics["config"], config).keys() <= {"precision"}  # auto or named

    def begin_from(self, start, made):
        """Takes another run as the one to start from.

        Args:
            start: Folder of a finished feature extraction.
            made: Whether it was made within this run.

        Raises:
            InputError: If it is not one, or one of other pictures, other precision or `--smoke`.
        """
        metrics = check_start(start, self.config, self.data_dir, self._manifest.digest)
        self.precision = metrics["precision"]
        self._start_changes = changes(metrics["config"], default_start(self.config))
        self._start = {
            "run": pathlib.Path(start).name, "made": made,
            "cold": metrics["cold"], "warm": metrics["warm"],
        }  # fmt: skip
        print(f"Starting from {start}", flush=True)

    def count_in(self, run_dir):
        """Lets the seconds of a stopped run, which is about to go on within this one, count."""
        self._started -= run_state.completed_seconds(run_dir)

    def load(self, split, image_size):
        """Images and labels of a split, as `load_split` gives them; a few of them with `--smoke`.

        Raises:
            ValueError: If the split is `"test"`: only `evaluate` opens that one.
        """
        if split not in ("train", "validation"):
            raise ValueError(f"Expected split 'train' or 'validation'. Received: split={split!r}")
        self._image_size = image_size
        images, labels = load_split(self.data_dir, self._manifest, split, image_size)
        if self.config.smoke:
            images, labels = few(images, split), few(labels, split)
        return images, labels

    def feature_store(self, conv_base):
        """The data set's feature store for this base."""
        self._store = FeatureStore(
            self.data_dir / "features",
            conv_base,
            dataset_digest=self._manifest.digest,
            precision=self.precision,
            since=self._began,
        )
        return self._store

    def train_on_images(self, model, train, validation, **augmentation):
        """Trains a model on augmented images and finishes the run.

        Args:
            model: A classifier of images.
            train, validation: Pairs of images and labels.
            augmentation: Further arguments of `image_batches`.

        Returns:
            As `train_on_features`.
        """
        images, labels = train

        def make_batches(targets, **epochs):
            return image_batches(images, targets, **augmentation, **epochs)

        return self._train(model, model, make_batches, labels, validation)

    def train_on_features(self, model, whole, train, validation):
        """Trains the last part of a classifier on cached activations and finishes the run.

        Args:
            model: The part to train.
            whole: The classifier that it is a part of, which is what gets saved.
            train: Pair of a list of features, one array a view, and labels.
            validation: Pair of features and labels.

        Returns:
            A pair of the run folder, a `Path`, and its metrics, a dictionary.
        """
        features, labels = train

        def make_batches(targets, **epochs):
            return feature_batches(features, targets, **epochs)

        # On pooled features steps are so short that coming back to Python would double them.
        without_a_break = features[0].ndim == 2
        return self._train(model, whole, make_batches, labels, validation, without_a_break)

    def _train(self, model, whole, make_batches, labels, validation, without_a_break=False):
        config, classes, num_images = self.config, self.classes, len(labels)
        steps_per_epoch = math.ceil(num_images / config.batch_size)
        optimizer = training.build_optimizer(
            config.optimizer, config.learning_rate, num_steps=config.epochs * steps_per_epoch,
            warmup=config.warmup, weight_decay=config.weight_decay,
        )  # fmt: skip
        # Compiled is another model of the same variables, so that `whole` is saved without an
        # optimizer: the file is a third of the size and holds only what predicting needs.
        model = training_copy(model)
        training.compile_classifier(
            model, optimizer, label_smoothing=config.label_smoothing,
            steps_per_execution=steps_per_epoch if without_a_break else 1,
        )  # fmt: skip
        num_trainable = sum(math.prod(weight.shape) for weight in model.trainable_weights)
        first_epoch = run_state.completed_epochs(self.run_dir)
        self._started -= run_state.completed_seconds(self.run_dir)  # of the parts before a stop
        arrays, validation_labels = validation
        validation_batches = evaluation_batches(
            arrays, encode_labels(validation_labels, len(classes)), batch_size=EVALUATION_BATCH
        )
        history = training.fit(
            model,
            make_batches(
                encode_labels(labels, len(classes)), batch_size=config.batch_size,
                epochs=config.epochs, seed=config.seed, initial_epoch=first_epoch,
            ),
            validation_batches,
            epochs=config.epochs, steps_per_epoch=steps_per_epoch, run_dir=self.run_dir,
            started=self._started, tensorboard=self._tensorboard,
        )  # fmt: skip
        outputs = class_probabilities(model.predict(validation_batches, verbose=0))
        # Part of the model from here on, so that whoever loads it gets calibrated probabilities.
        temperature = fit_temperature(validation_labels, outputs)
        divide_logits(whole, temperature)
        probabilities = apply_temperature(outputs, temperature)

        save_model(
            whole,
            self.run_dir / "model.keras",
            classes=classes,
            image_size=self._image_size,
            temperature=temperature,
        )
        title = f"{self._stage} {config.preset} {self._variant}"
        save_figure(plot_history({title: history}), self.run_dir / "curves.png")
        metrics = {
            "stage": self._stage,
            "preset": config.preset,
            "variant": self._variant,
            "dataset": self._manifest.dataset,
            "dataset_digest": self._manifest.digest,
            "drawings": self._manifest.is_drawing,
            "classes": list(classes),
            "image_size": self._image_size,
            "precision": self.precision,
            "config": dataclasses.asdict(config),
            "num_parameters": whole.count_params(),
            "num_trainable": num_trainable,
            "num_train": num_images,
            "best_epoch": 1 + history["val_loss"].index(min(history["val_loss"])),
            "validation": evaluate_predictions(validation_labels, probabilities, classes),
            "temperature": temperature,
            "start": self._start,
            "start_changes": self._start_changes,
            **self._timing(resumed=first_epoch > 0),
            "wall_seconds": round(time.perf_counter() - self._started, 1),
            "peak_rss_mb": environment.peak_memory_mb(),
            "environment": read_json(self.run_dir / "environment.json"),
        }
        write_json(self.run_dir / "metrics.json", metrics)
        self._clear_state()
        return self.run_dir, metrics

    def _clear_state(self):
        shutil.rmtree(self.run_dir / "state", ignore_errors=True)

    def _timing(self, resumed):
        """What the seconds stand for: all there is to do, or training on cached features alone."""
        store, start = self._store, self._start
        # What a stopped run extracted counts as reused: these seconds are not in any state.
        cold = store is None or not store.reused
        warm = not resumed and store is not None and not store.computed
        if start:
            cold = cold and start["made"] and start["cold"]
            warm = warm and (start["warm"] or not start["made"])
        return {"cold": cold, "warm": warm}


def few(rows, split):
    """Every so many of a split's rows, both classes among them, for `--smoke`."""
    return rows[:: max(1, len(rows) // _SMOKE_IMAGES[split])]
