"""Feature extraction: a new head on a frozen pretrained base."""

import dataclasses
import math

from catsdogs.config import FINETUNE
from catsdogs.data.batches import (
    encode_labels,
    evaluation_batches,
    feature_batches,
    image_batches,
)
from catsdogs.models.backbones import (
    build_base,
    build_classifier,
    build_head,
    find_backbone,
    freeze,
    split_model,
)
from catsdogs.models.fused_norm import training_copy
from catsdogs.stages.optimization import build_loss, build_metrics, build_optimizer
from catsdogs.stages.run import open_run

__all__ = ["train_feature_extract", "with_image_size"]


def train_feature_extract(config, data_dir=None, run_dir=None, *, resume=False, tensorboard=False):
    """Trains a new head on a frozen pretrained base.

    Args:
        config: A `FeatureExtractConfig`.
        data_dir, run_dir, resume, tensorboard: As for `train_scratch`.

    Returns, raises:
        As `train_scratch`.
    """
    config = with_image_size(config)
    with open_run(
        "feature_extract", config.variant, config, data_dir, run_dir,
        resume=resume, tensorboard=tensorboard,
    ) as run:  # fmt: skip
        if run.is_complete:
            return run.outcome()
        config = run.config

        # Model. The base comes first: wrong weights are reported before minutes of decoding.
        conv_base = build_base(
            config.backbone, config.image_size, config.pooling, config.backbone_weights
        )
        freeze(conv_base)
        backbone = find_backbone(config.backbone, config.cut)
        split_model(conv_base, backbone.cut)  # a wrong --cut is reported before training
        head = build_head(
            conv_base.output.shape[1:],
            config.units,
            config.dropout,
            normalize=config.normalize,
            num_classes=run.num_classes,
        )
        classifier = build_classifier(conv_base, head)
        store = None
        if config.variant != "end_to_end":
            store = run.feature_store(conv_base, backbone)

        # Data
        images, labels = run.load_split("train", config.image_size)
        validation_images, validation_labels = run.load_split("validation", config.image_size)
        targets = encode_labels(labels, run.num_classes)
        validation_targets = encode_labels(validation_labels, run.num_classes)
        steps_per_epoch = math.ceil(len(images) / config.batch_size)
        batching = {
            "batch_size": config.batch_size,
            "epochs": config.epochs,
            "seed": config.seed,
            "initial_epoch": run.epoch,
        }
        if store is None:
            # The base runs in every epoch, on images that are augmented differently each time.
            trained = training_copy(classifier)
            batches = image_batches(images, targets, augmentation="basic", **batching)
            validation = evaluation_batches(validation_images, validation_targets)
        else:
            # The base runs once on each view of an image, and the head trains on what is stored.
            trained = training_copy(head)
            num_views = config.views if config.variant == "augmented" else 1
            # The activations that fine-tuning starts from are kept on the way.
            num_kept = 0 if config.pooled_only else FINETUNE[config.preset].views
            features = [
                store.features(images, "train", view, keep_cut=view < num_kept)
                for view in range(num_views)
            ]
            validation_features = store.features(
                validation_images, "validation", keep_cut=not config.pooled_only
            )
            batches = feature_batches(features, targets, **batching)
            validation = evaluation_batches(validation_features, validation_targets)

        # Compile
        trained.compile(
            optimizer=build_optimizer(config, config.epochs * steps_per_epoch),
            loss=build_loss(run.num_classes, config.label_smoothing),
            metrics=build_metrics(run.num_classes),
            # Steps on pooled features are so short that returning to Python would double them.
            steps_per_execution=steps_per_epoch if len(trained.input.shape) == 2 else 1,
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
            image_size=config.image_size, store=store,
        )  # fmt: skip


def with_image_size(config):
    """The config itself, or with its backbone's image size if it has none."""
    size = config.image_size or find_backbone(config.backbone).image_size
    return dataclasses.replace(config, image_size=size)
