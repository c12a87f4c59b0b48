"""The training stages: each joins data, a model and training into one run folder.

Data sets and models meet here and in `evaluate_run` alone, and only that one opens the test split.
"""

import pathlib

import keras

from catsdogs import config as presets
from catsdogs.data.augment import crop_sizes
from catsdogs.errors import InputError
from catsdogs.locks import hold
from catsdogs.models import backbones, convnets
from catsdogs.models.model_file import load_saved_model
from catsdogs.stages import run as runs
from catsdogs.stages.features import CUT
from catsdogs.stages.recipe import default_start, run_name
from catsdogs.stages.stage_run import StageRun
from catsdogs.stages.start import keep_start

__all__ = ["finetune", "train_feature_extract", "train_scratch"]


def train_scratch(config, data_dir=None, run_dir=None, *, resume=False, tensorboard=False):
    """Trains a small convnet from random weights.

    Args:
        config: A `ScratchConfig`.
        data_dir: A prepared data set, or `None` for `find_data_dir`.
        run_dir: The run folder, or `None` for `runs/DATASET/STAGE-PRESET-VARIANT-seedN`.
        resume: Whether to go on with a run that was stopped, at whatever moment; a whole one is
            returned as it is.
        tensorboard: Whether to write TensorBoard's event files to `run_dir/tensorboard` too.

    Returns:
        A pair of the run folder, a `Path`, and its metrics, a dictionary.

    Raises:
        InputError: If the data set, the folder or the settings cannot be used.
    """
    places = data_dir, run_dir, resume, tensorboard
    with StageRun("scratch", config, config.augmentation, *places) as stage:
        if outcome := stage.finish_if_whole():
            return outcome
        config = stage.config
        train = stage.load("train", config.image_size)
        validation = stage.load("validation", config.image_size)

        if config.architecture == "textbook" and config.image_size < 46:
            raise InputError(
                "Expected --image-size 46 or more for the textbook convnet, whose four "
                "convolutions leave nothing of a smaller image. "
                f"Received: {config.image_size}."
            )
        if config.architecture == "residual":
            model = convnets.build_residual_convnet(config.dropout, len(stage.classes))
            sizes = crop_sizes(config.first_crop_size, config.crop_size, config.epochs)
        else:
            # Its dense layer fits one size only, so crops are enlarged to that of the images.
            model = convnets.build_textbook_convnet(
                config.image_size, config.dropout, len(stage.classes)
            )
            sizes = None

        return stage.train_on_images(
            model, train, validation, augmentation=config.augmentation, crop_sizes=sizes,
            mixup_share=config.mixup,
        )  # fmt: skip


def train_feature_extract(config, data_dir=None, run_dir=None, *, resume=False, tensorboard=False):
    """Trains a new head on the frozen VGG16 base.

    Args:
        config: A `FeatureExtractConfig`.
        data_dir, run_dir, resume, tensorboard: As for `train_scratch`.

    Returns, raises:
        As `train_scratch`.
    """
    places = data_dir, run_dir, resume, tensorboard
    with StageRun("feature_extract", config, config.variant, *places) as stage:
        if outcome := stage.finish_if_whole():
            return outcome
        config = stage.config
        # First, so that a wrong --weights is told before the minutes of decoding.
        conv_base = backbones.build_base("vgg16", config.image_size, config.pooling, config.weights)
        backbones.freeze(conv_base)
        train = stage.load("train", config.image_size)
        validation = stage.load("validation", config.image_size)
        head = backbones.build_head(
            conv_base.output.shape[1:], config.units, config.dropout,
            normalize=config.normalize, num_classes=len(stage.classes),
        )  # fmt: skip
        classifier = backbones.build_classifier(conv_base, head)

        if config.variant == "end_to_end":
            return stage.train_on_images(classifier, train, validation, augmentation="book")

        (images, labels), (validation_images, validation_labels) = train, validation
        store = stage.feature_store(conv_base)
        num_views = config.views if config.variant == "augmented" else 1
        # What fine-tuning starts from is kept on the way.
        num_kept = 0 if config.pooled_only else presets.FINETUNE["best"].views
        features = [
            store.features(images, "train", view, keep_cut=view < num_kept)
            for view in range(num_views)
        ]
        validation_features = store.features(
            validation_images, "validation", keep_cut=not config.pooled_only
        )
        return stage.train_on_features(
            head, classifier, (features, labels), (validation_features, validation_labels)
        )


def finetune(config, data_dir=None, run_dir=None, *, resume=False, tensorboard=False):
    """Trains VGG16's last block and the head of a feature-extraction run together.

    The head comes trained, from `config.start` or from the run that is made here first: gradients
    through a random head would wreck the features before they can help.

    Args:
        config: A `FinetuneConfig`.
        data_dir, run_dir, resume, tensorboard: As for `train_scratch`.

    Returns, raises:
        As `train_scratch`.
    """
    places = data_dir, run_dir, resume, tensorboard
    with StageRun("finetune", config, config.variant, *places) as stage:
        if outcome := stage.finish_if_whole():
            return outcome
        config = stage.config
        start, made = (pathlib.Path(config.start), False) if config.start else _make_start(stage)
        stage.begin_from(start, made)
        keras.utils.set_random_seed(config.seed)  # the same whether the start was made now or found
        saved = load_saved_model(start)
        classifier, image_size = saved.model, saved.image_size
        backbones.check_frozen_layers(classifier, "vgg16", start)
        if saved.classes != stage.classes:
            raise InputError(
                f"Expected --start to know {', '.join(stage.classes)}, received {start}, whose "
                f"model knows {', '.join(saved.classes)}. Make one with "
                "scripts/train_feature_extract.py."
            )
        keep_start(stage.run_dir, start)
        backbones.unfreeze_after(classifier, CUT)
        train, validation = stage.load("train", image_size), stage.load("validation", image_size)

        if config.variant == "end_to_end":
            return stage.train_on_images(classifier, train, validation, augmentation="book")

        (images, labels), (validation_images, validation_labels) = train, validation
        store = stage.feature_store(classifier)
        num_views = config.views if config.variant == "augmented" else 1
        features = [store.features(images, "train", view, CUT) for view in range(num_views)]
        validation_features = store.features(validation_images, "validation", cut=CUT)
        _, suffix = backbones.split_model(classifier, CUT)
        return stage.train_on_features(
            suffix, classifier, (features, labels), (validation_features, validation_labels)
        )


def _make_start(stage):
    """The feature-extraction run beside this one to start from, and whether it was made meanwhile,
    here or by another process."""
    config = default_start(stage.config)
    name = run_name("feature_extract", config.preset, config.variant, config.seed)
    run_dir, number = stage.run_dir.with_name(name), 1
    # Those of other pictures or settings, which the name does not tell, are passed over.
    while runs.is_complete(run_dir) and not stage.could_reuse(run_dir, config):
        number += 1
        run_dir = run_dir.with_name(f"{name}-{number}")
    if runs.is_complete(run_dir):
        return run_dir, False
    with hold(run_dir, wait=True):  # another fine-tuning may be making it now
        if runs.is_complete(run_dir):
            return (run_dir, True) if stage.could_reuse(run_dir, config) else _make_start(stage)
        print("Fine-tuning needs a trained head first: extracting features.", flush=True)
        stage.count_in(run_dir)
        train_feature_extract(config, stage.data_dir, run_dir, resume=True)
        keras.backend.clear_session()  # the base is not needed any more, its memory is
    return run_dir, True
