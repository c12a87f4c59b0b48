"""Settings: presets, ranges, help texts, the cuts of `--smoke`, and which changes matter."""

import ast
import dataclasses
import inspect

import pydantic
import pytest

from catsdogs import config

STAGES = {"scratch": config.SCRATCH, "extract": config.FEATURE_EXTRACT, "tune": config.FINETUNE}
CLASSES = [getattr(config, name) for name in config.__all__ if name.endswith("Config")]
PRESETS = [preset for presets in STAGES.values() for preset in presets.values()]

every_preset = pytest.mark.parametrize("preset", PRESETS, ids=lambda p: f"{type(p).__name__}")


@pytest.mark.parametrize("presets", STAGES.values(), ids=STAGES)
def test_presets_are_named_and_the_defaults_are_the_best_one(presets):
    assert all(preset.preset == name for name, preset in presets.items())
    assert presets["best"] == type(presets["best"])()


@pytest.mark.parametrize("config_class", CLASSES)
def test_every_setting_has_a_help_text_and_cannot_be_changed(config_class):
    body = ast.parse(inspect.getsource(config_class)).body[0].body
    for field, following in zip(body, [*body[1:], None], strict=True):
        if isinstance(field, ast.AnnAssign):
            assert isinstance(following, ast.Expr), f"{field.target.id} has no docstring below it"
            assert following.value.value.endswith(".")
    with pytest.raises(dataclasses.FrozenInstanceError):
        config_class().seed = 1


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("epochs", 0), ("batch_size", -1), ("image_size", 20), ("image_size", 10**6),
        ("dropout", 1.0), ("learning_rate", float("nan")), ("learning_rate", 0.0), ("mixup", 1.5),
        ("seed", 2**31), ("augmentation", "heavy"),
        ("epoch", 5),  # misspelt
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused_by_name(setting, value):
    with pytest.raises(pydantic.ValidationError, match=setting):
        config.ScratchConfig(**{setting: value})


@every_preset
def test_smoke_only_shrinks(preset):
    small = config.shrink(dataclasses.replace(preset, smoke=True))
    changed = {name for name, value in vars(preset).items() if getattr(small, name) != value}
    assert changed <= {"epochs", "image_size", "crop_size", "first_crop_size", "views", "smoke"}
    assert small.epochs <= 2 and getattr(small, "image_size", 64) in (64, 96)
    assert all(
        getattr(small, name) <= (getattr(preset, name) or 96) for name in changed - {"smoke"}
    )
    assert config.shrink(dataclasses.replace(preset, epochs=1)).epochs == 1


def test_fine_tuning_starts_from_a_head_of_its_own_backbone_precision_and_seed():
    tune = config.FinetuneConfig(seed=3, precision="float32", backbone_weights="w.h5")
    assert config.head_config(tune) == config.FeatureExtractConfig(
        seed=3, precision="float32", backbone_weights="w.h5"
    )
    end_to_end = dataclasses.replace(config.FINETUNE["textbook"], smoke=True)
    head = config.head_config(end_to_end)
    assert (head.preset, head.variant, head.dropout) == ("textbook", "end_to_end", 0)
    assert head == config.shrink(head) and head.image_size == 96


def test_only_settings_that_change_the_figures_count_as_changed():
    best = config.SCRATCH["best"]
    recorded = dataclasses.asdict(best)
    assert config.changed_settings(recorded, best) == {}
    assert config.changed_settings({**recorded, "epochs": 7}, best) == {"epochs": 7}
    # Crops are those of the strong augmentation only; where weights lie changes nothing.
    crops = {**recorded, "crop_size": 64, "first_crop_size": 40, "backbone_weights": "elsewhere.h5"}
    assert config.changed_settings(crops, best) == {"crop_size": 64, "first_crop_size": 40}
    none = dataclasses.replace(best, augmentation="none")
    assert config.changed_settings({**crops, "augmentation": "none"}, none) == {}
