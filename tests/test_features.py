"""The feature store: shards are complete or absent, and never used for other content."""

import dataclasses

import keras
import numpy as np
import pytest
from tiny_backbone import TINY, build_tiny

from catsdogs.data.batches import image_view
from catsdogs.models.backbones import (
    BACKBONES,
    build_base,
    build_classifier,
    build_head,
    unfreeze_after,
)
from catsdogs.models.model_file import load_model, save_model
from catsdogs.stages import features
from catsdogs.stages.features import FeatureStore, ShardedArray

SIZE, NUM = 32, 600  # three shards of 256 at most
IMAGES = np.random.default_rng(0).integers(0, 256, (NUM, SIZE, SIZE, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(BACKBONES, "tiny", TINY)


@pytest.fixture
def open_store(tmp_path):
    """Opens a store in the test's folder, with another base or key if given."""

    def open_store(base=None, folder="features", **key):
        base = base or build_base("tiny", SIZE, "average")
        key = {"dataset_digest": "d", "precision": "float32"} | key
        return FeatureStore(tmp_path / folder, base, TINY.cut, **key)

    return open_store


@pytest.fixture
def loaded_rows(monkeypatch):
    """The first row of each batch of images that a store loads to compute with."""
    seen = []

    def record(images, rows, view):
        seen.append(rows.start)
        return image_view(images, rows, view)

    monkeypatch.setattr(features, "image_view", record)
    return seen


def files_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.npy"))


def test_a_row_is_what_the_base_computes_of_its_image(open_store, tmp_path):
    base = build_base("tiny", SIZE, "average")
    found = open_store(base).features(IMAGES, "train")
    assert found.dtype == np.float16 and found.shape == (NUM, 8)
    expected = base.predict(IMAGES.astype(np.float32), verbose=0)
    np.testing.assert_allclose(found, expected, atol=0.005 * expected.max())
    assert len(np.unique(found, axis=0)) > NUM / 2  # or a mix-up would not be noticed
    assert len(files_in(tmp_path)) == 3


def test_what_is_on_disk_is_not_computed_again(open_store, loaded_rows):
    first = open_store()
    found = np.array(first.features(IMAGES, "train"))
    assert loaded_rows == list(range(0, NUM, 32)) and first.computed and not first.reused
    loaded_rows.clear()
    again = open_store()
    np.testing.assert_array_equal(again.features(IMAGES, "train"), found)
    assert not loaded_rows and again.reused and not again.computed


def test_numbered_views(open_store):
    store, base = open_store(), build_base("tiny", SIZE, "average")
    found = [np.array(store.features(IMAGES[:8], "train", view)) for view in range(3)]
    for view, rows in enumerate(found):
        expected = base.predict(image_view(IMAGES[:8], slice(0, 8), view), verbose=0)
        np.testing.assert_allclose(rows, expected, atol=0.005 * expected.max())
    assert np.abs(found[0] - found[1]).max() > 0.1 < np.abs(found[1] - found[2]).max()


def test_an_interrupted_extraction_resumes_at_the_first_missing_shard(
    open_store, loaded_rows, monkeypatch, tmp_path
):
    complete = np.array(open_store(folder="straight").features(IMAGES, "train"))
    write_header, number = np.lib.format.write_array_header_1_0, iter((1, 2, 3, 4))

    def interrupt_second(file, header):
        write_header(file, header)
        if next(number) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(np.lib.format, "write_array_header_1_0", interrupt_second)
        open_store().features(IMAGES, "train")
    (shard,) = (tmp_path / "features").rglob("*.npy")  # no half of another
    assert len(np.load(shard)) == 256
    loaded_rows.clear()
    store = open_store()
    np.testing.assert_array_equal(store.features(IMAGES, "train"), complete)
    assert loaded_rows[0] == 256 and store.reused and store.computed


def test_whatever_decides_the_content_is_in_the_name(open_store, tmp_path, monkeypatch):
    def names(view=0, split="train", images=IMAGES[:2], cut=None, **options):
        folder = f"{len(list(tmp_path.iterdir()))}"
        open_store(folder=folder, **options).features(images, split, view, cut)
        (found,) = files_in(tmp_path / folder)
        return found

    def with_tiny(build=build_tiny):
        monkeypatch.setitem(BACKBONES, "tiny", dataclasses.replace(TINY, build=build))
        return names(base=build_base("tiny", SIZE, "average"))

    def build_other(image_size, weights):
        base = build_tiny(image_size)
        kernel, bias = base.get_layer("conv1").get_weights()
        kernel.flat[0] = np.nextafter(kernel.flat[0], np.float32(9))  # by one bit
        base.get_layer("conv1").set_weights([kernel, bias])
        return base

    def build_darker(image_size, weights):
        base = build_tiny(image_size)
        darker = keras.models.clone_model(
            base, clone_function=lambda layer: (
                keras.layers.Rescaling(1 / 255) if isinstance(layer, keras.layers.Rescaling)
                else type(layer).from_config(layer.get_config())
            )
        )  # fmt: skip
        darker.set_weights(base.get_weights())
        return keras.Model(darker.input, darker.output)

    larger = np.zeros((2, 40, 40, 3), np.uint8)
    found = [
        names(), names(view=1), names(view=2), names(split="validation"), names(cut="norm"),
        names(images=IMAGES[:3]), names(dataset_digest="another"),
        names(precision="mixed_bfloat16"), names(base=build_base("tiny", SIZE, "none")),
        names(images=larger, base=build_base("tiny", 40, "average")),
        with_tiny(build_other), with_tiny(build_darker),
    ]  # fmt: skip
    assert len(set(found)) == len(found)
    assert with_tiny() == names() == found[0]


def test_changed_augmentation_changes_the_names_of_augmented_views_only(
    open_store, tmp_path, monkeypatch
):
    def compute():
        for view in range(3):
            open_store().features(IMAGES[:2], "train", view)
        return set(files_in(tmp_path))

    before = compute()
    monkeypatch.setattr(features.augment, "__file__", __file__)  # other code
    (new,) = compute() - before
    assert "view2" in new


def test_every_classifier_on_a_base_shares_what_passes_the_cut(open_store, loaded_rows, tmp_path):
    """Evaluation opens the store with a saved model, whose last block and head may be anything."""
    expected = np.array(open_store().features(IMAGES[:8], "test", cut=TINY.cut))
    base = build_base("tiny", SIZE, "average")
    model = build_classifier(base, build_head(base.output.shape[1:], 4))
    unfreeze_after(model, TINY.cut)
    path = tmp_path / "model.keras"
    save_model(model, path, classes=("cat", "dog"), image_size=SIZE, temperature=1.0)
    loaded_rows.clear()
    for one in (model, load_model(path)):
        store = open_store(one)
        np.testing.assert_array_equal(store.features(IMAGES[:8], "test", cut=TINY.cut), expected)
        assert store.reused and not loaded_rows


def test_features_are_the_same_from_images_from_the_cut_and_in_one_pass(open_store, loaded_rows):
    direct = np.array(open_store(folder="direct").features(IMAGES, "train"))
    first = open_store(folder="cut first")
    at_cut = np.array(first.features(IMAGES, "train", cut=TINY.cut))
    assert at_cut.shape == (NUM, 4, 4, 4)
    loaded_rows.clear()
    np.testing.assert_array_equal(first.features(IMAGES, "train"), direct)
    assert not loaded_rows  # no image passed the frozen layers again

    both = open_store(folder="both")
    np.testing.assert_array_equal(both.features(IMAGES, "train", keep_cut=True), direct)
    assert len(loaded_rows) == 19 and not both.reused
    np.testing.assert_array_equal(both.features(IMAGES, "train", cut=TINY.cut), at_cut)
    assert len(loaded_rows) == 19


@pytest.mark.parametrize("lost", ["norm", "average_pool"])
def test_either_of_two_lost_shards_is_computed_alone(lost, open_store, tmp_path):
    names = {"norm": TINY.cut, "average_pool": None}
    store = open_store()
    store.features(IMAGES, "train", keep_cut=True)
    before = {layer: np.array(store.features(IMAGES, "train", cut=cut))
              for layer, cut in names.items()}  # fmt: skip
    shards = [path for path in sorted(tmp_path.rglob("*.npy")) if lost in str(path)]
    shards[1].unlink()
    open_store().features(IMAGES, "train", keep_cut=True)
    for layer, cut in names.items():
        found = open_store().features(IMAGES, "train", cut=cut)
        np.testing.assert_array_equal(found, before[layer])
    assert shards[1].exists()


def test_a_light_backbone_is_suggested_once_where_one_is_slow(open_store, monkeypatch, capsys):
    for limit in ("_SLOW", "_LONG"):
        monkeypatch.setattr(features, limit, 0)
    open_store().features(IMAGES, "train")
    assert capsys.readouterr().err.count("many times as fast: --preset light") == 1


def test_shards_are_indexed_like_one_array(tmp_path):
    rows = np.random.default_rng(0).integers(0, 100, (10, 2, 3)).astype(np.float16)
    for number, part in enumerate(np.split(rows, [4, 8])):
        np.save(tmp_path / f"{number}.npy", part)
    shards = [np.load(path, mmap_mode="r") for path in sorted(tmp_path.iterdir())]
    found = ShardedArray(shards)
    assert (len(found), found.shape, found.dtype) == (10, rows.shape, rows.dtype)
    for index in (slice(None), slice(3, 9), slice(8, 8), np.array([9, 0, 4, 3, 4, 8])):
        np.testing.assert_array_equal(found[index], rows[index])
    np.testing.assert_array_equal(np.stack([found, found]), np.stack([rows, rows]))
