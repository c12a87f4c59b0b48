"""Parts of the test pictures: every picture in one part of each measure, and the right numbers."""

import types

import numpy as np
import pytest

from catsdogs.evaluation.significance import wilson_interval
from catsdogs.evaluation.slices import accuracy_by_slices, measure_pictures


def test_measures_of_known_pictures():
    dark, bright = np.full((8, 8, 3), 10, np.uint8), np.full((8, 8, 3), 240, np.uint8)
    checkered = (np.indices((8, 8)).sum(axis=0) % 2 * 100).astype(np.uint8)
    images = [dark, bright, np.repeat(checkered[..., None], 3, axis=2)]
    files = [types.SimpleNamespace(width=1000, height=k * 1000) for k in (1, 2, 3)]
    found = measure_pictures(images, files)
    np.testing.assert_allclose(found["brightness"], [10, 240, 50], rtol=1e-5)
    np.testing.assert_allclose(found["sharpness"], [0, 0, 400], atol=1e-2)
    np.testing.assert_array_equal(found["size"], [1, 2, 3])


def test_quarters_and_their_accuracy():
    values = np.random.default_rng(0).permutation(100).astype(float)
    right = values >= 30
    parts = accuracy_by_slices({"size": values}, right)["size"]
    assert [part["num_images"] for part in parts] == [25, 25, 25, 25]
    assert [part["accuracy"] for part in parts] == [0, 0.8, 1, 1]
    assert [part["from"] for part in parts] == [0, 25, 50, 75] and parts[-1]["to"] == 99
    assert parts[1]["accuracy_interval95"] == pytest.approx(wilson_interval(20, 25))


def test_equal_values_stay_together():
    values = np.array([5.0] * 30 + [7.0] * 10)
    parts = accuracy_by_slices({"size": values}, np.ones(40, bool))["size"]
    assert sum(part["num_images"] for part in parts) == 40
    assert all(part["from"] == part["to"] or len(parts) == 1 for part in parts)
    (only,) = accuracy_by_slices({"size": np.ones(6)}, np.ones(6, bool))["size"]
    assert only["num_images"] == 6
