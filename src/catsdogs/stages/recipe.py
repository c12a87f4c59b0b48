"""What a run was trained with, compared with what it should have been: names alone do not tell."""

import dataclasses

from catsdogs import config as presets

__all__ = ["changes", "default_start", "run_name"]


def changes(config, wanted):
    """The settings of a run that are not those wanted, as far as its figures depend on them.

    Args:
        config: The run's settings, `config` in its `metrics.json`.
        wanted: A stage's config.

    Returns:
        A dictionary of the run's own values. A setting that it lacks, since an earlier version
        wrote it, counts as the wanted one.
    """
    without_effect = {"weights", "start", "pooled_only"}
    if config.get("variant") != "augmented":
        without_effect |= {"views"}
    if config.get("augmentation") != "strong":
        without_effect |= {"crop_size", "first_crop_size"}
    return {
        name: value
        for name, value in config.items()
        if name not in without_effect and value != getattr(wanted, name, None)
    }


def default_start(config):
    """The feature extraction that a fine-tuning starts from if none is named.

    Args:
        config: A `FinetuneConfig`.

    Returns:
        A `FeatureExtractConfig`, cut down already with `--smoke`.
    """
    preset = presets.FEATURE_EXTRACT[config.preset]
    variant = "cached"
    if config.variant == "end_to_end":  # the book's network has no dropout here
        variant, preset = "end_to_end", dataclasses.replace(preset, dropout=0.0)
    start = dataclasses.replace(
        preset, variant=variant, weights=config.weights, precision=config.precision,
        seed=config.seed, smoke=config.smoke,
    )  # fmt: skip
    return presets.shrink(start) if start.smoke else start


def run_name(stage, preset, variant, seed):
    """Name of a run's folder."""
    return f"{stage}-{preset}-{variant}-seed{seed}"
