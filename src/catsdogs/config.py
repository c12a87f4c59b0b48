"""Every setting of every stage: one class a stage, and its presets.

The `best` presets are the defaults: this project's own recipes, chosen on the validation split,
with VGG16 where there is a backbone. `light` takes a minute, with a light backbone; `record` aims
at the highest accuracy. The `textbook` presets follow chapter 5 of the first edition of *Deep
Learning with Python* (F. Chollet, 2017): architecture, optimizer, learning rate and epochs, in
batches of 20. The docstring under a field is its help text on the command line.
"""

import dataclasses
import pathlib
from typing import Annotated, Literal

import pydantic
from pydantic import Field

__all__ = [
    "FEATURE_EXTRACT",
    "FINETUNE",
    "SCRATCH",
    "FeatureExtractConfig",
    "FinetuneConfig",
    "PrepareConfig",
    "ScratchConfig",
    "changed_settings",
    "head_config",
    "run_name",
    "shrink",
]

Count = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, le=0.95)]
Pixels = Annotated[int, Field(ge=32, le=2048)]

_NO_OTHERS = pydantic.ConfigDict(extra="forbid")  # or a misspelt setting would be ignored


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=_NO_OTHERS)
class PrepareConfig:
    """Where the pictures come from and how many of them are used."""

    archive: str | None = None
    """Zip file: Microsoft's kagglecatsanddogs, or Kaggle's dogs-vs-cats.zip or train.zip."""
    folder: str | None = None
    """Folder of pictures with one sub-folder for each class."""
    sketches: bool = False
    """Draw sketches of cats and dogs instead of using photographs; needs no network."""
    rabbits: bool = False
    """With --sketches: draw rabbits too, as a third class."""
    train: Count = 2000
    """Pictures to train on, all classes together: a multiple of the number of classes."""
    validation: Count = 1000
    """Pictures to choose settings and epochs with."""
    test: Count = 1000
    """Pictures for the final figures only."""
    data_dir: str | None = None
    """Folder to write; by default data/NAME, where NAME is the dataset's name."""
    overwrite: bool = False
    """Replace a different dataset that is already in the folder."""
    preview: bool = False
    """Also save a picture that shows one image augmented in many ways."""


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=_NO_OTHERS)
class _TrainingConfig:
    """What all training stages have in common."""

    preset: Literal["best", "textbook"] = "best"
    """Recipe to start from; every other flag changes one of its settings."""
    optimizer: Literal["adamw", "rmsprop"] = "adamw"
    """AdamW with warm-up, cosine decay and weight decay; or plain RMSprop."""
    learning_rate: Annotated[float, Field(gt=0, le=10)] = 1e-3
    """Learning rate; the peak of the schedule, if there is one."""
    weight_decay: Annotated[float, Field(ge=0, le=10)] = 0.05
    """Decoupled weight decay; biases and normalisation are exempt."""
    warmup: Annotated[float, Field(ge=0, le=1)] = 0.04
    """Fraction of the steps in which the learning rate warms up, linearly."""
    label_smoothing: Fraction = 0.04
    """Label smoothing factor, in training only."""
    batch_size: Count = 32
    """Images per step."""
    epochs: Count = 30
    """Passes over the training images."""
    precision: Literal["auto", "float32", "mixed_bfloat16"] = "auto"
    """Numeric precision; `auto` uses bfloat16 where this CPU has instructions for it."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Random seed of initial weights, shuffling, augmentation and dropout."""
    smoke: bool = False
    """Shrink images, data and epochs so that the command ends in seconds."""


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=_NO_OTHERS)
class ScratchConfig(_TrainingConfig):
    """Settings of a small convnet trained from random weights."""

    preset: Literal["best", "record", "textbook"] = "best"
    """Recipe to start from; every other flag changes one of its settings."""
    augmentation: Literal["none", "basic", "strong"] = "strong"
    """None; rotation, shift, shear, zoom and flip; or random crops, colour and erasing."""
    architecture: Literal["residual", "textbook"] = "residual"
    """Small residual network, or four convolutions and one wide dense layer."""
    image_size: Pixels = 192
    """Side of the square images in pixels, for training and for evaluation."""
    crop_size: Annotated[Pixels, Field(validate_default=True)] = 160
    """Side of the random crops of `strong`: objects look larger in training than in evaluation,
    for which the larger evaluation image makes up (Touvron et al. 2019)."""
    first_crop_size: Pixels = 96
    """Side of these crops at first; it grows to `crop_size` over three quarters of the epochs,
    which saves time and regularises."""
    mixup: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Fraction of training images that are blended with another one, and their labels alike,
    whatever the augmentation; training accuracy then stays below validation accuracy."""
    cutmix: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Fraction of training images that get a square of another one pasted in, their labels mixed by
    its area; at most what --mixup leaves, since an image is mixed in one way only."""
    dropout: Fraction = 0.3
    """Dropout rate before the last layers."""
    optimizer: Literal["adamw", "muon", "rmsprop"] = "muon"
    """AdamW or Muon with warm-up, cosine decay and weight decay; or plain RMSprop. AdamW needs a
    lower --learning-rate, about 1e-3, and --weight-decay, about 0.05."""
    learning_rate: Annotated[float, Field(gt=0, le=10)] = 4e-3
    """Learning rate; the peak of the schedule, if there is one."""
    weight_decay: Annotated[float, Field(ge=0, le=10)] = 0.2
    """Decoupled weight decay; biases and normalisation are exempt."""
    epochs: Count = 110
    """Passes over the training images."""

    @pydantic.field_validator("crop_size")
    @classmethod
    def _check_crop_size(cls, crop_size, others):
        settings = others.data
        uses_crops = settings.get("augmentation"), settings.get("architecture")
        if uses_crops == ("strong", "residual") and crop_size > settings.get("image_size", 2048):
            raise ValueError("should be at most --image-size")
        return crop_size


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=_NO_OTHERS)
class _BackboneConfig(_TrainingConfig):
    """What the stages with a pretrained backbone have in common."""

    preset: Literal["best", "light", "record", "textbook"] = "best"
    """Recipe to start from. `best`: VGG16; `light`: a light backbone, in a minute; `record`: the
    most accurate; `textbook`: the textbook's. Every other flag changes one of its settings."""
    backbone: str = "vgg16"
    """Pretrained backbone, out of those of --list-backbones; or a .keras file of your own: a
    functional model without head that takes RGB images in [0, 255]."""
    cut: Annotated[str | None, Field(validate_default=True)] = None
    """Last layer that fine-tuning leaves frozen, by default the backbone's own choice; a .keras
    file of your own needs one."""
    engine: Literal["auto", "tensorflow", "onnxruntime"] = "auto"
    """Inference engine; `auto`: onnxruntime for EfficientNet-Lite in float32, else TensorFlow."""
    backbone_weights: str | None = None
    """Path to the base's ImageNet weights, found or downloaded if not given; `none`: random."""

    @pydantic.field_validator("cut")
    @classmethod
    def _check_cut(cls, cut, others):
        if cut is None and others.data.get("backbone", "").endswith(".keras"):
            raise ValueError("should name a layer of your --backbone")
        return cut


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=_NO_OTHERS)
class FeatureExtractConfig(_BackboneConfig):
    """Settings of a new head on a frozen pretrained base."""

    variant: Literal["cached", "augmented", "end_to_end"] = "cached"
    """Features of each image, computed once; of several augmented views of it; or the frozen base
    run in every epoch on freshly augmented images."""
    image_size: Pixels | None = None
    """Side of the square images in pixels, by default the backbone's own; larger images are
    more accurate and slower."""
    views: Count = 3
    """Views of each training image for `augmented`: itself, its horizontal flip, then random
    warps."""
    pooled_only: bool = False
    """Do not keep the activations that fine-tuning trains on (for VGG16 0.4 MB an image at 320
    pixels): saves disk, but fine-tuning then computes them."""
    pooling: Literal["average", "none"] = "average"
    """Global average pooling of the last feature map, or none."""
    normalize: bool = True
    """Layer normalisation of the features, which speeds up learning; --no-normalize omits it."""
    units: Annotated[int, Field(ge=1, le=65_536)] = 256
    """Units of the hidden dense layer."""
    dropout: Fraction = 0.5
    """Dropout rate after the dense layer."""
    batch_size: Count = 64
    """Images per step."""


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=_NO_OTHERS)
class FinetuneConfig(_BackboneConfig):
    """Settings of training the base's last block together with a trained head."""

    variant: Literal["cached", "augmented", "end_to_end"] = "augmented"
    """Train on stored activations of each image; of several views of it; or run the complete
    network in every epoch on freshly augmented images."""
    start: str | None = None
    """Run folder of the feature extraction to start from; found or made if not given."""
    views: Count = 2
    """Views of each training image for `augmented`: itself, its horizontal flip, then random
    warps."""
    learning_rate: Annotated[float, Field(gt=0, le=10)] = 2e-5
    """Learning rate: small, since the weights are good already."""
    warmup: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Fraction of the steps in which the learning rate warms up, linearly."""
    epochs: Count = 4
    """Passes over the training images."""
    precision: Literal["auto", "float32", "mixed_bfloat16"] = "auto"
    """Numeric precision, which must be that of the run to start from; `auto` follows that run."""


SCRATCH = {
    "best": ScratchConfig(),
    "record": ScratchConfig(preset="record", image_size=224, crop_size=192, epochs=260),
    "textbook": ScratchConfig(
        preset="textbook",
        augmentation="basic",
        architecture="textbook",
        image_size=150,
        mixup=0.0,
        cutmix=0.0,
        dropout=0.5,
        optimizer="rmsprop",
        learning_rate=1e-4,
        weight_decay=0.05,
        label_smoothing=0.0,
        batch_size=20,
        epochs=100,
    ),
}

FEATURE_EXTRACT = {
    "best": FeatureExtractConfig(),
    "light": FeatureExtractConfig(preset="light", backbone="efficientnet-lite0", normalize=False),
    "record": FeatureExtractConfig(
        preset="record",
        backbone="efficientnet-lite2",
        image_size=380,
        normalize=False,
        units=64,
        learning_rate=1e-4,
    ),
    "textbook": FeatureExtractConfig(
        preset="textbook",
        image_size=150,
        pooling="none",
        normalize=False,
        optimizer="rmsprop",
        learning_rate=2e-5,
        label_smoothing=0.0,
        batch_size=20,
    ),
}

FINETUNE = {
    "best": FinetuneConfig(),
    "light": FinetuneConfig(
        preset="light", backbone="efficientnet-lite0", views=4, learning_rate=1e-4, epochs=8
    ),
    "record": FinetuneConfig(preset="record", backbone="efficientnet-lite2"),
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


def run_name(stage, config, variant):
    """Name of a run's folder; a backbone that is not the preset's is part of it."""
    parts = [stage, config.preset, variant, f"seed{config.seed}"]
    usual = FEATURE_EXTRACT[config.preset].backbone
    if (backbone := getattr(config, "backbone", usual)) != usual:
        parts.insert(2, pathlib.Path(backbone).stem)
    return "-".join(parts)


def shrink(config):
    """The same settings cut down so that the stage runs in seconds (`--smoke`).

    Images have 64 or 96 pixels and there are at most two epochs; the stage itself takes a subset of
    the images.
    """
    small = {"epochs": min(config.epochs, 2)}
    if hasattr(config, "image_size"):
        small["image_size"] = 96 if hasattr(config, "backbone") else 64  # InceptionV3 needs 75
    if hasattr(config, "crop_size"):
        small["crop_size"], small["first_crop_size"] = 56, 40
    if hasattr(config, "views"):
        small["views"] = min(config.views, 3)
    return dataclasses.replace(config, **small)


def head_config(config):
    """The feature extraction that a fine-tuning starts from unless another is named.

    Args:
        config: A `FinetuneConfig`.

    Returns:
        A `FeatureExtractConfig`, shrunk already with `--smoke`.
    """
    preset = FEATURE_EXTRACT[config.preset]
    variant = "cached"
    if config.variant == "end_to_end":  # the textbook's network has no dropout here
        variant, preset = "end_to_end", dataclasses.replace(preset, dropout=0.0)
    head = dataclasses.replace(
        preset,
        variant=variant,
        backbone=config.backbone,
        cut=config.cut,
        backbone_weights=config.backbone_weights,
        precision=config.precision,
        engine=config.engine,
        seed=config.seed,
        smoke=config.smoke,
    )
    return shrink(head) if head.smoke else head


def changed_settings(recorded, config):
    """The settings of a run that differ from a config, as far as its figures depend on them.

    Args:
        recorded: The run's settings, `config` in its `metrics.json`.
        config: A stage's config.

    Returns:
        A dictionary of the recorded values that differ.
    """
    without_effect = {"start", "pooled_only"}
    if isinstance(config, FeatureExtractConfig):
        without_effect.add("cut")
    if "none" not in (recorded.get("backbone_weights"), getattr(config, "backbone_weights", None)):
        without_effect.add("backbone_weights")  # wherever the ImageNet weights came from
    if recorded.get("variant") != "augmented":
        without_effect.add("views")
    if recorded.get("augmentation") != "strong":
        without_effect |= {"crop_size", "first_crop_size"}
    return {
        name: value
        for name, value in recorded.items()
        if name not in without_effect and value != getattr(config, name, None)
    }
