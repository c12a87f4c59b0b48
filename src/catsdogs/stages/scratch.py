"""A small convnet, trained from random weights."""

import math

from catsdogs.data.augment import crop_sizes
from catsdogs.data.batches import encode_labels, evaluation_batches, image_batches
from catsdogs.models.convnets import build_residual_convnet, build_textbook_convnet
from catsdogs.models.fused_norm import training_copy
from catsdogs.stages.optimization import build_loss, build_metrics, build_optimizer
from catsdogs.stages.run import open_run

__all__ = ["train_scratch"]


def train_scratch(config, data_dir=None, run_dir=None, *, resume=False, tensorboard=False):
    """Trains a small convnet from random weights.

    Args:
        config: A `ScratchConfig`.
        data_dir: A prepared dataset, or `None` for the one that `find_data_dir` finds.
        run_dir: The run folder, or `None` for `runs/DATASET/STAGE-PRESET-VARIANT-seedN`.
        resume: Whether to resume a run that was interrupted.
        tensorboard: Whether to write TensorBoard's event files to `run_dir/tensorboard` too.

    Returns:
        A pair of the run folder, a `Path`, and its metrics, a dictionary.

    Raises:
        InputError: If the dataset, the folder or the settings cannot be used.
    """
    with open_run(
        "scratch", config.augmentation, config, data_dir, run_dir,
        resume=resume, tensorboard=tensorboard,
    ) as run:  # fmt: skip
        if run.is_complete:
            return run.outcome()
        config = run.config

        # Data: uint8 images, decoded once to files that are mapped into memory.
        images, labels = run.load_split("train", config.image_size)
        validation_images, validation_labels = run.load_split("validation", config.image_size)
        steps_per_epoch = math.ceil(len(images) / config.batch_size)

        # Model
        if config.architecture == "residual":
            model = build_residual_convnet(config.dropout, run.num_classes)
            sizes = crop_sizes(config.first_crop_size, config.crop_size, config.epochs)
        else:
            model = build_textbook_convnet(config.image_size, config.dropout, run.num_classes)
            sizes = None  # its dense layer takes images of one size only

        # Compile. The copy shares the model's variables; batch normalisation is faster in it.
        trained = training_copy(model)
        trained.compile(
            optimizer=build_optimizer(config, config.epochs * steps_per_epoch),
            loss=build_loss(run.num_classes, config.label_smoothing),
            metrics=build_metrics(run.num_classes),
        )

        # Fit
        batches = image_batches(
            images,
            encode_labels(labels, run.num_classes),
            batch_size=config.batch_size,
            epochs=config.epochs,
            seed=config.seed,
            initial_epoch=run.epoch,
            augmentation=config.augmentation,
            crop_sizes=sizes,
            mixup=config.mixup,
            cutmix=config.cutmix,
        )
        validation = evaluation_batches(
            validation_images, encode_labels(validation_labels, run.num_classes)
        )
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
            model, trained, validation, validation_labels, image_size=config.image_size
        )
