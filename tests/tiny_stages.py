"""Every variant of the training stages, on networks so small that each trains in seconds."""

import contextlib
import dataclasses
import functools

import pytest
from tiny_backbone import TINY

from catsdogs.config import FeatureExtractConfig, FinetuneConfig, ScratchConfig
from catsdogs.models.backbones import BACKBONES
from catsdogs.models.convnets import build_residual_convnet
from catsdogs.stages import scratch
from catsdogs.stages.feature_extract import train_feature_extract
from catsdogs.stages.finetune import finetune
from catsdogs.stages.scratch import train_scratch

__all__ = ["HEAD", "VARIANTS", "tiny_networks", "train"]

COMMON = {"epochs": 3, "batch_size": 24, "precision": "float32"}  # the last batch has 16 images
HEAD = FeatureExtractConfig(backbone="tiny", image_size=32, **COMMON)
VARIANTS = {
    "textbook": ScratchConfig(
        architecture="textbook", augmentation="basic", optimizer="rmsprop", image_size=48, **COMMON
    ),
    "residual": ScratchConfig(image_size=48, crop_size=40, first_crop_size=32, **COMMON),
    "cached": HEAD,
    "augmented": dataclasses.replace(HEAD, variant="augmented"),
    "end_to_end": dataclasses.replace(HEAD, variant="end_to_end"),
    # Makes the head that it starts from.
    "finetune": FinetuneConfig(backbone="tiny", smoke=True, precision="float32"),
    "finetune_end_to_end": FinetuneConfig(
        backbone="tiny", variant="end_to_end", learning_rate=1e-3, **COMMON
    ),
}


@contextlib.contextmanager
def tiny_networks():
    """Adds the tiny backbone; the residual convnet has two blocks, since compiling takes long."""
    small = functools.partial(build_residual_convnet, widths=(8, 16), blocks=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BACKBONES, "tiny", TINY)
        patch.setattr(scratch, "build_residual_convnet", small)
        yield


def train(config, *arguments, **options):
    """Runs the stage that a config is for."""
    stages = {ScratchConfig: train_scratch, FeatureExtractConfig: train_feature_extract}
    return stages.get(type(config), finetune)(config, *arguments, **options)
