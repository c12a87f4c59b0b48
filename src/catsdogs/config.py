"""Every setting of every stage: one flat frozen dataclass a stage, and its presets.

The `best` presets are this project's own recipes, chosen on the validation split; `record` takes
longer for more. The `textbook` presets follow chapter 5 of the first edition of *Deep Learning with
Python* (F. Chollet, 2017): architecture, optimizer, learning rate, batch size and epochs. The
comment under a field is its help text on the command line.
"""

import dataclasses
from typing import Literal

from catsdogs.errors import InputError

__all__ = [
    "FEATURE_EXTRACT",
    "FINETUNE",
    "SCRATCH",
    "FeatureExtractConfig",
    "FinetuneConfig",
    "PrepareConfig",
    "ScratchConfig",
    "check",
    "shrink",
]

Preset = Literal["best", "textbook"]
Precision = Literal["auto", "float32", "mixed_bfloat16"]


@dataclasses.dataclass(frozen=True)
class PrepareConfig:
    """Where the pictures come from and how many of them are used."""

    archive: str | None = None
    """Zip file: Microsoft's kagglecatsanddogs, or Kaggle's dogs-vs-cats.zip or train.zip."""
    folder: str | None = None
    """Folder of pictures with one sub-folder a class."""
    sketches: bool = False
    """Draw cats and dogs instead of using photographs; needs no network."""
    rabbits: bool = False
    """With --sketches: draw rabbits too, a third class."""
    train: int = 2000
    """Pictures to train on, all classes together."""
    validation: int = 1000
    """Pictures to choose settings and epochs with."""
    test: int = 1000
    """Pictures for the final figures only."""
    data_dir: str | None = None
    """Folder to write; by default data/NAME, where NAME is the data set's name."""
    overwrite: bool = False
    """Replace a different data set that is already in the folder."""
    preview: bool = False
    """Also save a picture that shows one image augmented many ways."""


@dataclasses.dataclass(frozen=True)
class ScratchConfig:
    """Settings of a small convnet trained from random weights."""

    preset: Literal["best", "record", "textbook"] = "best"
    """Recipe to start from; every other flag changes one setting of it."""
    augmentation: Literal["none", "book", "strong"] = "strong"
    """How training images are varied: not at all, as in the book, or by random crops and colour."""
    architecture: Literal["residual", "textbook"] = "residual"
    """Small residual network, or the book's four convolutions and one wide dense layer."""
    image_size: int = 192
    """Side of the square images, in pixels, for training and for evaluation."""
    crop_size: int = 160
    """Side of the random crops of `strong`: objects look larger in training than in evaluation,
    which the larger evaluation image makes up for (Touvron et al. 2019)."""
    first_crop_size: int = 96
    """Side of these crops at first; over three quarters of the epochs it grows to `crop_size`
    if that is larger, which saves time and keeps a young network from learning details by heart."""
    mixup: float = 0.5
    """Share of training images that are blended with another one, and their labels alike; training
    accuracy then counts the one that shows more, and stays below that of validation."""
    dropout: float = 0.3
    """Share of activations dropped before the last layers, in training only."""
    optimizer: Literal["adamw", "rmsprop"] = "adamw"
    """AdamW with warm-up and cosine decay, or RMSprop at a constant rate."""
    learning_rate: float = 1e-3
    """Learning rate: the peak of the schedule for AdamW."""
    weight_decay: float = 0.05
    """Decoupled weight decay of AdamW; never applied to biases and normalisation."""
    warmup: float = 0.04
    """Share of all steps in which the rate climbs from zero; AdamW only."""
    label_smoothing: float = 0.04
    """Share by which targets move towards one over the number of classes, in training only."""
    batch_size: int = 32
    """Images a step."""
    epochs: int = 110
    """Passes over the training images."""
    precision: Precision = "auto"
    """Arithmetic; `auto` takes bfloat16 where this CPU has instructions for it."""
    seed: int = 0
    """Decides initial weights, order, augmentation and dropout."""
    smoke: bool = False
    """Shrink images, data and epochs so that the script ends in seconds."""


@dataclasses.dataclass(frozen=True)
class FeatureExtractConfig:
    """Settings of a new head on the frozen VGG16 base."""

    preset: Preset = "best"
    """Recipe to start from; every other flag changes one setting of it."""
    variant: Literal["cached", "augmented", "end_to_end"] = "cached"
    """Features of each image computed once; of several augmented views of it; or the frozen base
    run anew on a fresh augmentation in every epoch, as in the book."""
    image_size: int = 320
    """Side of the square images, in pixels: the cheapest way to more accuracy."""
    views: int = 3
    """Views of each training image for `augmented`: itself, its mirror image, then random warps."""
    pooled_only: bool = False
    """Store no block4_pool activations (0.4 MB an image at 320 pixels): saves disk, but fine-tuning
    then has to run the first four blocks once more."""
    pooling: Literal["average", "none"] = "average"
    """Average the last feature map over positions, or keep every position as the book does."""
    normalize: bool = True
    """Each image's features are normalised first, which speeds up learning; --no-normalize does
    without."""
    units: int = 256
    """Width of the dense layer."""
    dropout: float = 0.5
    """Share of the dense layer dropped, in training only."""
    optimizer: Literal["adamw", "rmsprop"] = "adamw"
    """AdamW with warm-up and cosine decay, or RMSprop at a constant rate."""
    learning_rate: float = 1e-3
    """Learning rate: the peak of the schedule for AdamW."""
    weight_decay: float = 0.05
    """Decoupled weight decay of AdamW."""
    warmup: float = 0.04
    """Share of all steps in which the rate climbs from zero; AdamW only."""
    label_smoothing: float = 0.04
    """Share by which targets move towards one over the number of classes, in training only."""
    batch_size: int = 64
    """Images a step."""
    epochs: int = 30
    """Passes over the training images."""
    weights: str | None = None
    """File with the VGG16 ImageNet tensors; found or downloaded by itself when not given."""
    precision: Precision = "auto"
    """Arithmetic; `auto` takes bfloat16 where this CPU has instructions for it."""
    seed: int = 0
    """Decides initial weights, order, augmentation and dropout."""
    smoke: bool = False
    """Shrink images, data and epochs so that the script ends in seconds."""


@dataclasses.dataclass(frozen=True)
class FinetuneConfig:
    """Settings of training VGG16's last convolutional block together with a trained head."""

    preset: Preset = "best"
    """Recipe to start from; every other flag changes one setting of it."""
    variant: Literal["cached", "augmented", "end_to_end"] = "augmented"
    """Train on block4_pool activations of each image; of several views of it; or run the whole
    network on a fresh augmentation in every epoch, as in the book."""
    start: str | None = None
    """Run folder of the feature extraction to start from; found or made when not given."""
    views: int = 2
    """Views of each training image for `augmented`: itself, its mirror image, then random warps."""
    optimizer: Literal["adamw", "rmsprop"] = "adamw"
    """AdamW with warm-up and cosine decay, or RMSprop at a constant rate."""
    learning_rate: float = 2e-5
    """Learning rate: small, since the weights are good already; the peak for AdamW."""
    weight_decay: float = 0.05
    """Decoupled weight decay of AdamW."""
    warmup: float = 0.1
    """Share of all steps in which the rate climbs from zero; AdamW only."""
    label_smoothing: float = 0.04
    """Share by which targets move towards one over the number of classes, in training only."""
    batch_size: int = 32
    """Images a step."""
    epochs: int = 4
    """Passes over the training images."""
    weights: str | None = None
    """File with the VGG16 ImageNet tensors; found or downloaded by itself when not given."""
    precision: Precision = "auto"
    """Arithmetic, which must be that of the run to start from; `auto` takes that one's."""
    seed: int = 0
    """Decides order and dropout; also picks the run to start from."""
    smoke: bool = False
    """Shrink images, data and epochs so that the script ends in seconds."""


SCRATCH = {
    "best": ScratchConfig(),
    # All that an hour or two can buy.
    "record": ScratchConfig(preset="record", image_size=224, crop_size=192, epochs=260),
    "textbook": ScratchConfig(
        preset="textbook",
        augmentation="book",
        architecture="textbook",
        image_size=150,
        mixup=0.0,
        dropout=0.5,
        optimizer="rmsprop",
        learning_rate=1e-4,
        label_smoothing=0.0,
        batch_size=20,
        epochs=100,
    ),
}

FEATURE_EXTRACT = {
    "best": FeatureExtractConfig(),
    "textbook": FeatureExtractConfig(
        preset="textbook",
        image_size=150,
        pooling="none",
        normalize=False,
        optimizer="rmsprop",
        learning_rate=2e-5,
        label_smoothing=0.0,
        batch_size=20,
        epochs=30,
    ),
}

FINETUNE = {
    "best": FinetuneConfig(),
    "textbook": FinetuneConfig(
        preset="textbook",
        variant="end_to_end",
        optimizer="rmsprop",
        learning_rate=1e-5,
        label_smoothing=0.0,
        batch_size=20,
        epochs=100,
    ),
}


def check(config):
    """Refuses settings that cannot be trained with, before anything is made.

    Args:
        config: A stage's config.

    Raises:
        InputError: If a number is out of its range.
    """
    ranges = {
        "image_size": (32, 2048), "crop_size": (32, 2048), "first_crop_size": (32, 2048),
        "views": (1, 1000), "units": (1, 65_536), "mixup": (0, 1), "dropout": (0, 0.95),
        "label_smoothing": (0, 0.95), "epochs": (1, 100_000), "batch_size": (1, 65_536),
        "learning_rate": (1e-12, 10), "weight_decay": (0, 10), "warmup": (0, 1),
        "seed": (0, 2**31 - 1),
    }  # fmt: skip
    for name, (low, high) in ranges.items():
        value = getattr(config, name, low)
        if not low <= value <= high:  # false for NaN too
            flag = "--" + name.replace("_", "-")
            raise InputError(f"Expected {flag} from {low:g} to {high:g}. Received: {value}.")


def shrink(config):
    """The same settings cut down so that the stage runs in seconds (`--smoke`).

    Args:
        config: A stage's config.

    Returns:
        A config of the same class with one or two epochs on images of 64 pixels; the stage itself
        then takes a few images of each split.
    """
    small = {"epochs": min(config.epochs, 2)}
    if hasattr(config, "image_size"):
        small["image_size"] = 64
    if hasattr(config, "crop_size"):
        small["crop_size"], small["first_crop_size"] = 56, 40
    if hasattr(config, "views"):
        small["views"] = min(config.views, 3)
    return dataclasses.replace(config, **small)
