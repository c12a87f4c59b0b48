"""What would make figures look better than they are: leaks between splits, and mix-ups.

`test_stages` trains every variant where there are no test pictures, and `test_splits` looks for
copies in two splits.
"""

import csv
import dataclasses
import json
import shutil

import keras
import numpy as np
import pytest
from tiny_backbone import TINY
from tiny_stages import HEAD, VARIANTS, tiny_networks, train

from catsdogs.config import FinetuneConfig, ScratchConfig
from catsdogs.data.batches import image_view
from catsdogs.data.images import decode_image
from catsdogs.data.manifest import load_manifest
from catsdogs.errors import InputError
from catsdogs.evaluation.calibration import apply_temperature
from catsdogs.evaluation.metrics import class_probabilities, evaluate_predictions
from catsdogs.models.backbones import build_base
from catsdogs.models.model_file import load_saved_model
from catsdogs.stages.evaluate import evaluate

# In which part of the network a variant caches the images' activations.
CACHED = {"cached": "average_pool", "augmented": "average_pool", "finetune": TINY.cut}


@pytest.fixture(scope="module", autouse=True)
def tiny():
    with tiny_networks():
        yield


@pytest.fixture(scope="module")
def finished(data_dir, tmp_path_factory):
    """Folders of two finished runs, a network from scratch and a head on cached features."""
    root = tmp_path_factory.mktemp("runs")
    textbook = dataclasses.replace(VARIANTS["textbook"], epochs=1)
    return {
        "scratch": train(textbook, data_dir, root / "scratch")[0],
        "head": train(HEAD, data_dir, root / "head")[0],
    }


def pictures_of(data_dir, split, side):
    """The decoded pictures of a split and their classes, both from the files themselves."""
    manifest = load_manifest(data_dir)
    files = manifest.split(split)
    images = np.stack([decode_image(data_dir / file.name, side) for file in files])
    return images, np.array([manifest.classes.index(f.name.split("/")[1]) for f in files])


class CapturedError(Exception):
    """Ends a stage where training would begin."""


@pytest.fixture
def captured(data_dir, finished, tmp_path, monkeypatch):
    """A function that returns the training batches of one epoch and all validation batches."""

    def capture(name):
        def fit(model, batches, *, steps_per_epoch, validation_data, **options):
            raise CapturedError(batches.take(steps_per_epoch), validation_data)

        config = VARIANTS[name]
        if isinstance(config, FinetuneConfig):
            config = dataclasses.replace(config, start=str(finished["head"]), smoke=False)
        elif isinstance(config, ScratchConfig):
            config = dataclasses.replace(config, mixup=0.0, cutmix=0.0)
        with monkeypatch.context() as patch, pytest.raises(CapturedError) as caught:
            patch.setattr(keras.Model, "fit", fit)
            train(config, data_dir, tmp_path / "run")
        for dataset in caught.value.args:
            images, targets = zip(*dataset.as_numpy_iterator(), strict=True)
            yield np.concatenate(images), np.concatenate(targets)[:, 0]

    return capture


# ---- What is trained and validated on ----


@pytest.mark.parametrize("name", [each for each in VARIANTS if each not in CACHED])
def test_only_training_images_are_augmented_and_all_have_their_labels(name, captured, data_dir):
    (train_images, train_targets), (images, targets) = captured(name)
    expected, labels = pictures_of(data_dir, "validation", images.shape[1])
    np.testing.assert_array_equal(images, expected)
    np.testing.assert_array_equal(targets, labels)
    # Of the training images hardly one is as it was. Dogs are bright.
    known = {image.tobytes() for image in pictures_of(data_dir, "train", images.shape[1])[0]}
    unchanged = [image.astype(np.uint8).tobytes() in known for image in train_images]
    assert len(train_images) == 64 and sum(unchanged) < 16
    brightness = train_images.mean(axis=(1, 2, 3))
    np.testing.assert_array_equal(train_targets, brightness > 110)


@pytest.mark.parametrize("name", CACHED)
def test_only_training_features_are_of_augmented_images_and_all_have_their_labels(
    name, captured, data_dir
):
    (train_rows, train_targets), (rows, targets) = captured(name)
    base = build_base("tiny", 32, "average")
    network = keras.Model(base.input, base.get_layer(CACHED[name]).output)

    def nearest(rows, split, num_views):
        """The image of which each row is an activation, of one of its views."""
        images, labels = pictures_of(data_dir, split, 32)
        views = [image_view(images, slice(None), view) for view in range(num_views)]
        known = network.predict(np.concatenate(views), verbose=0).reshape(num_views * 64, -1)
        distances = np.abs(rows.reshape(len(rows), 1, -1) - known).max(axis=2)
        assert distances.min(axis=1).max() < 0.01 * known.max()
        return distances.argmin(axis=1), labels

    images, labels = pictures_of(data_dir, "validation", 32)
    np.testing.assert_allclose(
        rows, network.predict(images.astype(np.float32), verbose=0), atol=0.01 * rows.max()
    )
    np.testing.assert_array_equal(targets, labels)
    num_views = {"cached": 1, "augmented": 3, "finetune": 2}[name]
    found, labels = nearest(train_rows, "train", num_views)
    assert sorted(found % 64) == list(range(64))  # every image once
    assert set(found // 64) == set(range(num_views))
    np.testing.assert_array_equal(train_targets, labels[found % 64])


# ---- What is measured ----


@pytest.mark.parametrize("name", ["scratch", "head"])
def test_test_figures_are_of_the_saved_model_on_the_pictures_as_they_are(
    name, finished, data_dir, tmp_path
):
    run_dir = shutil.copytree(finished[name], tmp_path / "run")
    metrics = evaluate(run_dir, tta=True)
    saved = load_saved_model(run_dir)
    images, labels = pictures_of(data_dir, "test", saved.image_size)
    views = images, images[:, :, ::-1]
    straight, flipped = (
        class_probabilities(saved.model.predict(view.astype(np.float32), verbose=0))
        for view in views
    )
    with open(run_dir / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    files = load_manifest(data_dir).split("test")
    for row, file, label, probabilities in zip(rows, files, labels, straight, strict=True):
        assert row["file"] == file.name and row["label"] == saved.classes[label]
        # The model's logits are divided by the temperature already: once is enough.
        given = [float(row[f"probability_of_{each}"]) for each in saved.classes]
        np.testing.assert_allclose(given, probabilities, atol=1e-3)
    assert len(np.unique([row["probability_of_cat"] for row in rows])) > 8  # no two are mixed up
    for key, outputs in (("test", straight), ("test_tta", (straight + flipped) / 2)):
        expected = evaluate_predictions(labels, outputs, saved.classes)
        assert metrics[key]["accuracy"] == expected["accuracy"]
        assert metrics[key]["loss"] == pytest.approx(expected["loss"], rel=0.01)
    # What the temperature has changed is measured on the same predictions without it.
    unscaled = evaluate_predictions(
        labels, apply_temperature(straight, 1 / saved.temperature), saved.classes
    )
    found = metrics["test"]["calibration_error_unscaled"]
    assert found == pytest.approx(unscaled["calibration_error"], abs=2e-3)
    assert saved.temperature != 1


def test_a_run_is_not_tested_on_pictures_that_it_may_have_seen(
    finished, data_dir, three_classes, tmp_path
):
    """Not on other data, and not on the same pictures in other splits."""
    run_dir = shutil.copytree(finished["scratch"], tmp_path / "run")
    with pytest.raises(InputError, match=r"not the dataset that .* was trained on"):
        evaluate(run_dir, three_classes)
    other = shutil.copytree(data_dir, tmp_path / "data")
    manifest = json.loads((other / "manifest.json").read_text())
    first, last = manifest["files"][0], manifest["files"][-1]
    for file, split in ((first, "test"), (last, "train")):
        file["split"], file["name"] = split, file["name"].replace(file["split"], split)
    (other / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="training pictures may be in its test split"):
        evaluate(run_dir, other)
    assert "test" not in json.loads((run_dir / "metrics.json").read_text())
