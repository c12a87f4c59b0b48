"""Cross-validation: no head is measured on what it was trained on."""

import dataclasses
import itertools

import keras
import numpy as np
import pytest
from tiny_stages import HEAD, tiny_networks

from catsdogs.data.manifest import load_manifest
from catsdogs.errors import InputError
from catsdogs.files import read_json
from catsdogs.stages import cross_validate as stage
from catsdogs.stages.cross_validate import add_result, cross_validate

FOLDS = 4


@pytest.fixture(autouse=True)
def tiny():
    with tiny_networks():
        keras.utils.set_random_seed(0)
        yield


@pytest.fixture
def seen(monkeypatch):
    """The pictures that each head was trained on and measured on, in turn: their numbers."""
    seen = []

    def number(store, images, split):
        start = {"train": 0, "validation": 64, "test": 96}[split]
        return np.arange(start, start + len(images), dtype=np.float16)[:, None]

    def watch(function):
        def watched(features, *arguments, **options):
            rows = features[0] if isinstance(features, list) else features
            seen.append(rows[:, 0].astype(int).tolist())
            return function(features, *arguments, **options)

        return watched

    monkeypatch.setattr(stage.FeatureStore, "features", number)
    for name in ("feature_batches", "evaluation_batches"):
        monkeypatch.setattr(stage, name, watch(getattr(stage, name)))
    return seen


@pytest.mark.parametrize(("include_test", "num_pictures"), [(False, 96), (True, 128)])
def test_every_picture_is_in_one_fold_together_with_its_near_duplicates(
    data_dir, seen, monkeypatch, include_test, num_pictures
):
    manifest = load_manifest(data_dir)
    names = [file.name for file in manifest.split("train")]
    pairs = tuple(zip(names[0:32:2], names[1:32:2], strict=True))
    manifest = manifest.model_copy(update={"near_duplicates": pairs})
    monkeypatch.setattr(stage, "load_manifest", lambda _: manifest)
    result = cross_validate(HEAD, data_dir, folds=FOLDS, include_test=include_test)
    assert result["n"] == num_pictures and len(seen) == 2 * FOLDS
    trained, held_out = seen[0::2], seen[1::2]
    assert sorted(itertools.chain(*held_out)) == [*range(num_pictures)]
    for rows, others in zip(trained, held_out, strict=True):
        assert sorted(rows + others) == [*range(num_pictures)]
        assert all((one in others) == (one + 1 in others) for one in range(0, 32, 2))


def test_accuracy_is_the_mean_of_the_repeats(data_dir):
    result = cross_validate(dataclasses.replace(HEAD, epochs=20), data_dir, folds=2, repeats=3)
    accuracies = result["accuracies"]
    assert result["accuracy"] == np.mean(accuracies) > 0.8  # dark and bright pictures
    assert result["std"] == pytest.approx(np.std(accuracies, ddof=1))
    low, high = result["interval95"]
    assert low < result["accuracy"] <= high


def test_more_than_two_classes(three_classes):
    result = cross_validate(dataclasses.replace(HEAD, epochs=20), three_classes, folds=2)
    assert result["accuracy"] > 0.6 and result["std"] is None


def test_more_folds_than_pictures_of_a_class_are_one_line(data_dir):
    with pytest.raises(InputError, match=r"--folds of at most 48.* Received: 49"):
        cross_validate(HEAD, data_dir, folds=49)


def test_only_cached_features_are_cross_validated(data_dir):
    with pytest.raises(InputError, match=r"--variant cached\. Received: augmented"):
        cross_validate(dataclasses.replace(HEAD, variant="augmented"), data_dir)


def test_a_result_replaces_that_of_the_same_settings(tmp_path):
    first = dict.fromkeys(("config", "folds", "repeats", "n", "cold", "processor"), 1)
    path = tmp_path / "results.json"
    for changes in ({"accuracy": 0.5}, {"folds": 2, "accuracy": 0.6}, {"accuracy": 0.7}):
        add_result(path, first | changes)
    assert [one["accuracy"] for one in read_json(path, list)] == [0.6, 0.7]
