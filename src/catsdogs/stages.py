"""The stages: each joins data, a model and training into one run folder.

This is the only place where data sets and models meet. No stage but `evaluate` opens the test
split.
"""

import csv
import dataclasses
import pathlib
import zipfile

import keras

from catsdogs import config as presets
from catsdogs import models, runs
from catsdogs.data.augment import crop_sizes
from catsdogs.data.images import load_split
from catsdogs.data.pipeline import evaluation_batches
from catsdogs.data.splits import load_manifest
from catsdogs.evaluation import evaluate_predictions, roc_curve
from catsdogs.features import CUT, FeatureStore
from catsdogs.figures import save_figure
from catsdogs.files import InputError, atomic_path, write_json
from catsdogs.plots import plot_confusion_matrix, plot_roc
from catsdogs.stage_run import EVALUATION_BATCH, StageRun, few, run_name

__all__ = ["evaluate", "finetune", "load_model", "train_feature_extract", "train_scratch"]


def train_scratch(config, data_dir=None, run_dir=None, *, resume=False):
    """Trains a small convnet from random weights.

    Args:
        config: A `ScratchConfig`.
        data_dir: A prepared data set, or `None` for `find_data_dir`.
        run_dir: The run folder, or `None` for `runs/DATASET/STAGE-PRESET-VARIANT-seedN`.
        resume: Whether to go on with a run that was stopped.

    Returns:
        A pair of the run folder, a `Path`, and its metrics, a dictionary.

    Raises:
        InputError: If the data set, the folder or the settings cannot be used.
    """
    stage = StageRun("scratch", config, config.augmentation, data_dir, run_dir, resume)
    config = stage.config
    train = stage.load("train", config.image_size)
    validation = stage.load("validation", config.image_size)

    if config.architecture == "textbook" and config.image_size < 46:
        raise InputError(
            "Expected --image-size 46 or more for the textbook convnet, whose four convolutions "
            f"leave nothing of a smaller image. Received: {config.image_size}."
        )
    if config.architecture == "residual":
        model = models.build_residual_convnet(config.dropout)
        sizes = crop_sizes(config.first_crop_size, config.crop_size, config.epochs)
    else:
        # Its dense layer fits one size only, so crops are enlarged to that of the images.
        model = models.build_textbook_convnet(config.image_size, config.dropout)
        sizes = None

    return stage.train_on_images(
        model, train, validation, augmentation=config.augmentation, crop_sizes=sizes,
        mixup_share=config.mixup,
    )  # fmt: skip


def train_feature_extract(config, data_dir=None, run_dir=None, *, resume=False):
    """Trains a new head on the frozen VGG16 base.

    Args:
        config: A `FeatureExtractConfig`.
        data_dir, run_dir, resume: As for `train_scratch`.

    Returns, raises:
        As `train_scratch`.
    """
    stage = StageRun("feature_extract", config, config.variant, data_dir, run_dir, resume)
    config = stage.config
    # First, so that a wrong --weights is told before the minutes of decoding.
    conv_base = models.build_vgg16_base(config.image_size, config.pooling, config.weights)
    models.freeze(conv_base)
    train = stage.load("train", config.image_size)
    validation = stage.load("validation", config.image_size)
    head = models.build_head(
        conv_base.output.shape[1:], config.units, config.dropout,
        normalize=config.normalize,
    )  # fmt: skip
    classifier = models.build_vgg16_classifier(conv_base, head)

    if config.variant == "end_to_end":
        return stage.train_on_images(classifier, train, validation, augmentation="book")

    (images, labels), (validation_images, validation_labels) = train, validation
    store = stage.feature_store(conv_base)
    num_views = config.views if config.variant == "augmented" else 1
    # What fine-tuning starts from is kept on the way.
    num_kept = 0 if config.pooled_only else presets.FINETUNE["best"].views
    features = [
        store.features(images, "train", view, keep_cut=view < num_kept) for view in range(num_views)
    ]
    validation_features = store.features(
        validation_images, "validation", keep_cut=not config.pooled_only
    )
    return stage.train_on_features(
        head, classifier, (features, labels), (validation_features, validation_labels)
    )


def finetune(config, data_dir=None, run_dir=None, *, resume=False):
    """Trains VGG16's last block and the head of a feature-extraction run together.

    The head comes trained, from `config.start` or from the run that is made here first: gradients
    through a random head would wreck the features before they can help.

    Args:
        config: A `FinetuneConfig`.
        data_dir, run_dir, resume: As for `train_scratch`.

    Returns, raises:
        As `train_scratch`.
    """
    stage = StageRun("finetune", config, config.variant, data_dir, run_dir, resume)
    config = stage.config
    start, made = (pathlib.Path(config.start), False) if config.start else _make_start(stage)
    start_metrics = stage.begin_from(start, made)
    keras.utils.set_random_seed(config.seed)  # the same whether the start was made now or found
    classifier = load_model(start)
    models.unfreeze_block5(classifier)
    image_size = start_metrics["image_size"]
    train, validation = stage.load("train", image_size), stage.load("validation", image_size)

    if config.variant == "end_to_end":
        return stage.train_on_images(classifier, train, validation, augmentation="book")

    (images, labels), (validation_images, validation_labels) = train, validation
    store = stage.feature_store(classifier)
    num_views = config.views if config.variant == "augmented" else 1
    features = [store.features(images, "train", view, CUT) for view in range(num_views)]
    validation_features = store.features(validation_images, "validation", cut=CUT)
    _, suffix = models.split_base(classifier, CUT)
    return stage.train_on_features(
        suffix, classifier, (features, labels), (validation_features, validation_labels)
    )


def evaluate(run_dir, data_dir=None, *, flip=False):
    """Measures a finished run on the test split and adds the result to its `metrics.json`.

    Also writes `predictions.csv` (file, label, probability of class 1), `confusion.png` and
    `roc.png` into the run folder.

    Args:
        run_dir: The run folder.
        data_dir: The data set, or `None` for the one the run was trained on.
        flip: Whether to measure also the mean probability of each picture and its mirror image.

    Returns:
        The run's metrics with `"test"` added, and `"test_flip"` if asked for.

    Raises:
        InputError: If there is no such run, or the data set is not the one it was trained on.
    """
    run_dir = pathlib.Path(run_dir)
    config, metrics = runs.load_run(run_dir)
    data_dir = pathlib.Path(data_dir or config["data_dir"])
    manifest = load_manifest(data_dir)
    if manifest.digest != metrics["dataset_digest"]:
        raise InputError(
            f"Expected the data set that {run_dir} was trained on, received {data_dir}, whose "
            "pictures or splits differ: training pictures might be in its test split. Prepare "
            "the same data again, or train again."
        )
    model = load_model(run_dir)
    images, labels = load_split(data_dir, manifest, "test", metrics["image_size"])
    files = manifest.split("test")
    if config["smoke"]:
        images, labels, files = (few(rows, "test") for rows in (images, labels, files))
    views = [(images, False), (images, True)][: 2 if flip else 1]  # whether to mirror them
    if config["stage"] != "scratch":
        # The first four blocks are frozen in every run, so all runs share their activations.
        store = FeatureStore(
            data_dir / "features",
            model,
            dataset_digest=manifest.digest,
            precision=metrics["precision"],
        )
        views = [(store.features(images, "test", view, CUT), False) for view in range(len(views))]
        _, model = models.split_base(model, CUT)

    def predict(view):
        arrays, mirror = view
        batches = evaluation_batches(arrays, labels, batch_size=EVALUATION_BATCH, mirror=mirror)
        return model.predict(batches, verbose=0)[:, 0]

    probabilities, *mirrored = map(predict, views)
    metrics["test"] = evaluate_predictions(labels, probabilities, manifest.classes)
    metrics.pop("test_flip", None)
    if flip:
        both = (probabilities + mirrored[0]) / 2
        metrics["test_flip"] = evaluate_predictions(labels, both, manifest.classes)
    with atomic_path(run_dir / "predictions.csv") as path, path.open("w", newline="") as output:
        writer = csv.writer(output, lineterminator="\n")
        writer.writerow(["file", "label", f"probability_of_{manifest.classes[1]}"])
        for file, label, probability in zip(files, labels, probabilities, strict=True):
            writer.writerow([file.name, manifest.classes[label], f"{probability:.6f}"])
    save_figure(
        plot_confusion_matrix(metrics["test"]["confusion_matrix"], manifest.classes),
        run_dir / "confusion.png",
    )
    false_positive_rate, true_positive_rate = roc_curve(labels, probabilities)
    save_figure(
        plot_roc(
            {run_dir.name: (false_positive_rate, true_positive_rate, metrics["test"]["roc_auc"])}
        ),
        run_dir / "roc.png",
    )
    write_json(run_dir / "metrics.json", metrics)
    return metrics


def load_model(run_dir):
    """The model of a run, loaded in Keras's safe mode.

    Raises:
        InputError: If it is missing or broken.
    """
    path = pathlib.Path(run_dir) / "model.keras"
    if not path.is_file():
        raise InputError(f"Expected a model at {path}, found none. Train the run again.")
    try:
        return keras.models.load_model(path, safe_mode=True)
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise InputError(
            f"Expected a whole Keras model at {path}, received a damaged one "
            f"({type(error).__name__}). Train the run again."
        ) from None


def _make_start(stage):
    """The feature-extraction run beside this one to start from, and whether it was made now."""
    config = stage.config
    preset = presets.FEATURE_EXTRACT[config.preset]
    variant = "end_to_end" if config.variant == "end_to_end" else "cached"
    run_dir = stage.run_dir.with_name(
        run_name("feature_extract", config.preset, variant, config.seed)
    )
    missing = not runs.is_complete(run_dir)
    if missing:
        print("Fine-tuning needs a trained head first: extracting features.", flush=True)
        if variant == "end_to_end":  # the book's network has no dropout here
            preset = dataclasses.replace(preset, dropout=0.0)
        settings = dataclasses.replace(
            preset, variant=variant, weights=config.weights, precision=config.precision,
            seed=config.seed, smoke=config.smoke,
        )  # fmt: skip
        resume = (run_dir / "config.json").exists()
        train_feature_extract(settings, stage.data_dir, run_dir, resume=resume)
    return run_dir, missing
