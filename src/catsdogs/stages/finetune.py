"""Fine-tuning: the last block of a pretrained base and a trained head, together."""

import math
import pathlib

import keras

from catsdogs.config import changed_settings, head_config, run_name
from catsdogs.data.batches import (
    encode_labels,
    evaluation_batches,
    feature_batches,
    image_batches,
)
from catsdogs.errors import InputError
from catsdogs.files import lock, read_json, sha256_of, write_json
from catsdogs.models.backbones import find_backbone, split_model, unfreeze_after
from catsdogs.models.fused_norm import training_copy
from catsdogs.models.model_file import load_saved_model
from catsdogs.stages.feature_extract import train_feature_extract, with_image_size
from catsdogs.stages.optimization import (
    build_loss,
    build_metrics,
    build_optimizer,
    choose_precision,
)
from catsdogs.stages.run import is_complete, load_run, open_run

__all__ = ["finetune"]


def finetune(config, data_dir=None, run_dir=None, *, resume=False, tensorboard=False):
    """Trains the last block of a pretrained base and a trained head together.

    The head comes from the feature extraction `config.start`, or from one that is made first:
    gradients through a random head would wreck the pretrained features.

    Args:
        config: A `FinetuneConfig`.
        data_dir, run_dir, resume, tensorboard: As for `train_scratch`.

    Returns, raises:
        As `train_scratch`.
    """
    with open_run(
        "finetune", config.variant, config, data_dir, run_dir,
        resume=resume, tensorboard=tensorboard,
    ) as run:  # fmt: skip
        if run.is_complete:
            return run.outcome()
        config = run.config

        # Model: the classifier of the feature extraction, its last block trainable again.
        head_dir, made = (pathlib.Path(config.start), False) if config.start else _find_head(run)
        start = _check_head(run, head_dir, made)
        print(f"Starting from {head_dir}")
        keras.utils.set_random_seed(config.seed)  # the same whether the head was made or found
        saved = load_saved_model(head_dir)
        classifier, image_size = saved.model, saved.image_size
        backbone = find_backbone(config.backbone, config.cut)
        unfreeze_after(classifier, backbone.cut)

        # Data
        images, labels = run.load_split("train", image_size)
        validation_images, validation_labels = run.load_split("validation", image_size)
        targets = encode_labels(labels, run.num_classes)
        validation_targets = encode_labels(validation_labels, run.num_classes)
        steps_per_epoch = math.ceil(len(images) / config.batch_size)
        batching = {
            "batch_size": config.batch_size,
            "epochs": config.epochs,
            "seed": config.seed,
            "initial_epoch": run.epoch,
        }
        if config.variant == "end_to_end":
            # The complete network runs in every epoch, on freshly augmented images.
            store, trained = None, training_copy(classifier)
            batches = image_batches(images, targets, augmentation="basic", **batching)
            validation = evaluation_batches(validation_images, validation_targets)
        else:
            # The frozen layers run once on each view; the rest trains on stored activations.
            store = run.feature_store(classifier, backbone)
            _, suffix = split_model(classifier, backbone.cut)
            trained = training_copy(suffix)
            num_views = config.views if config.variant == "augmented" else 1
            features = [
                store.features(images, "train", view, backbone.cut) for view in range(num_views)
            ]
            validation_features = store.features(validation_images, "validation", cut=backbone.cut)
            batches = feature_batches(features, targets, **batching)
            validation = evaluation_batches(validation_features, validation_targets)

        # Compile
        trained.compile(
            optimizer=build_optimizer(config, config.epochs * steps_per_epoch),
            loss=build_loss(run.num_classes, config.label_smoothing),
            metrics=build_metrics(run.num_classes),
        )

        # Fit
        trained.fit(
            batches,
            validation_data=validation,
            epochs=config.epochs,
            initial_epoch=run.epoch,
            steps_per_epoch=steps_per_epoch,
            shuffle=False,  # the batches are shuffled already
            callbacks=run.callbacks,
            verbose=run.verbose,
        )

        # Save
        return run.finish(
            classifier, trained, validation, validation_labels,
            image_size=image_size, store=store, start=start,
        )  # fmt: skip


def _find_head(run):
    """The feature extraction beside this run to start from, and whether it had to be made."""
    config = with_image_size(head_config(run.config))
    name = run_name("feature_extract", config, config.variant)
    head_dir, number = run.dir.with_name(name), 1
    with lock(head_dir, wait=True):  # another fine-tuning may be making it
        while is_complete(head_dir) and not _is_as_wanted(run, head_dir, config):
            number += 1
            head_dir = head_dir.with_name(f"{name}-{number}")
        if is_complete(head_dir):
            return head_dir, False
        print("Fine-tuning needs a trained head first: extracting features.")
        train_feature_extract(config, run.data_dir, head_dir, resume=True)
        keras.backend.clear_session()  # frees the base's memory
    return head_dir, True


def _is_as_wanted(run, head_dir, config):
    """Whether a feature extraction has this run's data and precision, and these settings."""
    recorded, metrics = load_run(head_dir)
    network = read_json(run.dir / "config.json").get("backbone_digest")  # of a user's own file
    found = (
        metrics["dataset_digest"], metrics["precision"], metrics["config"].get("backbone"),
        recorded.get("backbone_digest"),
    )  # fmt: skip
    wanted = run.manifest.digest, run.precision, config.backbone, network
    return found == wanted and changed_settings(metrics["config"], config).keys() <= {"precision"}


def _check_head(run, head_dir, made):
    """Refuses a head of another kind; returns the entry `start` of this run's `metrics.json`."""
    _, metrics = load_run(head_dir)
    remedy = "Make one with scripts/train_feature_extract.py."
    if metrics["stage"] != "feature_extract":
        raise InputError(
            f"Expected --start to be a feature extraction, received {head_dir}: "
            f"{metrics['stage']}. {remedy}"
        )
    if (backbone := metrics["config"]["backbone"]) != run.config.backbone:
        raise InputError(
            f"Expected --start with {run.config.backbone}, but {head_dir} was trained with "
            f"{backbone}. Pass --backbone {backbone}, or its preset, as well."
        )
    if metrics["dataset_digest"] != run.manifest.digest:
        raise InputError(
            f"Expected --start to be trained on {run.data_dir}. {head_dir} was trained on other "
            f"pictures or splits, so it may have seen test pictures. {remedy}"
        )
    if run.config.precision not in ("auto", metrics["precision"]):
        raise InputError(
            f"Expected --precision {metrics['precision']}, as in {head_dir}. "
            f"Received: {run.config.precision}."
        )
    if metrics["config"]["smoke"] and not run.config.smoke:
        raise InputError(f"Expected --start to be a full run, received {head_dir}, a smoke run.")
    run.precision = choose_precision(metrics["precision"])

    # A resumed run must continue from the head it was started from.
    note, found = run.dir / "state" / "head.json", {"model": sha256_of(head_dir / "model.keras")}
    if run.resumed and read_json(note) != found:
        raise InputError(
            f"{run.dir} was started from another head than the one in {head_dir} now. Restore it, "
            "or start another run with --run-dir."
        )
    write_json(note, found)
    return {
        "run": head_dir.name,
        "made": made,
        "changes": changed_settings(metrics["config"], with_image_size(head_config(run.config))),
        "cold": metrics["cold"],
        "warm": metrics["warm"],
    }
