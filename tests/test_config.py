"""Settings: presets, the help text of every field, and the smoke test's cuts."""

import ast
import dataclasses
import inspect

import pytest

from catsdogs import config
from catsdogs.errors import InputError

STAGES = {"scratch": config.SCRATCH, "features": config.FEATURE_EXTRACT, "tune": config.FINETUNE}
CLASSES = [getattr(config, name) for name in config.__all__ if name.endswith("Config")]


@pytest.mark.parametrize("presets", STAGES.values(), ids=STAGES)
def test_presets_are_named_and_complete(presets):
    assert [name for name in presets if name != "record"] == ["best", "textbook"]
    for name, preset in presets.items():
        assert preset.preset == name
        assert not preset.smoke and preset.seed == 0 and preset.precision == "auto"
    # The class's own defaults are the best preset, so a config made by hand is one too.
    assert presets["best"] == type(presets["best"])()


def test_textbook_is_the_books():
    scratch, features, tune = (presets["textbook"] for presets in STAGES.values())
    recipes = [(c.optimizer, c.learning_rate, c.batch_size, c.epochs, c.label_smoothing)
               for c in (scratch, features, tune)]  # fmt: skip
    assert recipes == [
        ("rmsprop", 1e-4, 20, 100, 0),
        ("rmsprop", 2e-5, 20, 30, 0),
        ("rmsprop", 1e-5, 20, 100, 0),
    ]
    assert (scratch.architecture, scratch.augmentation) == ("textbook", "book")
    assert scratch.image_size == features.image_size == 150
    assert (features.pooling, features.units) == ("none", 256)
    assert scratch.dropout == features.dropout == 0.5


@pytest.mark.parametrize("config_class", CLASSES)
def test_every_field_is_explained(config_class):
    body = ast.parse(inspect.getsource(config_class)).body[0].body
    assert ast.get_docstring(ast.parse(inspect.getsource(config_class)).body[0])
    for field, following in zip(body, [*body[1:], None], strict=True):
        if isinstance(field, ast.AnnAssign):
            explained = isinstance(following, ast.Expr) and isinstance(following.value.value, str)
            assert explained, f"{config_class.__name__}.{field.target.id} has no comment below it"


@pytest.mark.parametrize("config_class", CLASSES)
def test_settings_cannot_be_changed(config_class):
    with pytest.raises(dataclasses.FrozenInstanceError):
        config_class().seed = 1


@pytest.mark.parametrize("presets", STAGES.values(), ids=STAGES)
@pytest.mark.parametrize("name", ["best", "textbook"])
def test_smoke_only_shrinks(presets, name):
    small = config.shrink(dataclasses.replace(presets[name], smoke=True))
    changed = {
        field.name
        for field in dataclasses.fields(small)
        if getattr(small, field.name) != getattr(presets[name], field.name)
    }
    assert changed <= {"epochs", "image_size", "crop_size", "first_crop_size", "views", "smoke"}
    assert small.epochs <= 2 and getattr(small, "image_size", 64) == 64
    assert config.shrink(dataclasses.replace(presets[name], epochs=1)).epochs == 1


@pytest.mark.parametrize(
    ("setting", "value"),
    [("epochs", 0), ("image_size", 20), ("dropout", 1.0), ("learning_rate", float("nan"))],
)
def test_settings_out_of_range_are_refused_by_name(setting, value):
    wrong = dataclasses.replace(config.SCRATCH["best"], **{setting: value})
    with pytest.raises(InputError, match="--" + setting.replace("_", "-")):
        config.check(wrong)


def test_every_preset_and_its_smoke_version_are_in_range():
    for presets in (config.SCRATCH, config.FEATURE_EXTRACT, config.FINETUNE):
        for preset in presets.values():
            config.check(preset)
            config.check(config.shrink(preset))
