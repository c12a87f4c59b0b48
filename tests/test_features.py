"""The feature store: what it returns, what it reuses, and what a stop leaves behind."""

import time

import numpy as np
import pytest

from catsdogs.data.batches import image_view
from catsdogs.models import networks as models
from catsdogs.models.model_file import load_model, save_model
from catsdogs.stages import features
from catsdogs.stages.features import CUT, FeatureStore

SIZE, NUM = 32, 70  # two whole batches of 32 and a bit
IMAGES = np.random.default_rng(0).integers(0, 256, (NUM, SIZE, SIZE, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def conv_base(vgg16_weights):
    return models.build_vgg16_base(SIZE, "average", vgg16_weights)


@pytest.fixture
def open_store(conv_base, tmp_path):
    """Opens a store in the test's folder, with other keys if given."""

    def make(base=conv_base, **key):
        return FeatureStore(tmp_path, base, **{"dataset_digest": "d", "precision": "float32"} | key)

    return make


@pytest.fixture
def loaded_rows(monkeypatch):
    """Records which rows the store loads to compute with."""
    seen = []

    def record(images, rows, view):
        seen.append((view, rows.start, rows.stop))
        return image_view(images, rows, view)

    monkeypatch.setattr(features, "image_view", record)
    return seen


def test_store_holds_what_the_model_computes(open_store, conv_base, tmp_path):
    store = open_store()
    found = store.features(IMAGES, "train")
    assert found.dtype == np.float16 and found.shape == (NUM, 512)
    assert isinstance(found, np.memmap) and not found.flags.writeable
    batches = [IMAGES[start : start + 32].astype(np.float32) for start in (0, 32, 64)]
    # What passes the cut is float16 whether it is stored there or not.
    prefix, suffix = models.split_base(conv_base, CUT)
    middle = [prefix.predict_on_batch(batch).astype(np.float16) for batch in batches]
    expected = np.concatenate([suffix.predict_on_batch(np.float32(half)) for half in middle])
    whole = np.concatenate([conv_base.predict_on_batch(batch) for batch in batches])
    np.testing.assert_allclose(expected, whole, atol=0.01 * whole.max())
    np.testing.assert_array_equal(found, expected.astype(np.float16))
    assert not store.reused
    assert [path.suffix for path in tmp_path.iterdir()] == [".npy"]


def test_second_time_nothing_is_computed(open_store, loaded_rows):
    first = np.array(open_store().features(IMAGES, "train"))
    computed = len(loaded_rows)
    again = open_store()
    np.testing.assert_array_equal(again.features(IMAGES, "train"), first)
    assert again.reused and len(loaded_rows) == computed == 3
    # A run that made them on the way, by another store, has not reused them.
    same_run = open_store(since=time.time() - 3600)
    same_run.features(IMAGES, "train")
    assert not same_run.reused


def test_views_differ_and_are_as_numbered(open_store, conv_base):
    store = open_store()
    found = [np.array(store.features(IMAGES[:8], "train", view, CUT)) for view in range(3)]
    prefix, _ = models.split_base(conv_base, CUT)
    for view, stored in enumerate(found):
        batch = image_view(IMAGES[:8], slice(0, 8), view)
        expected = prefix.predict_on_batch(batch).astype(np.float16)
        np.testing.assert_array_equal(stored, expected)
    assert np.abs(found[0] - found[1]).max() > 0.1 < np.abs(found[0] - found[2]).max()


def test_stopped_extraction_goes_on_where_it_was(open_store, loaded_rows, monkeypatch, tmp_path):
    whole = np.array(open_store(dataset_digest="undisturbed").features(IMAGES, "train"))
    loaded_rows.clear()

    record = features.image_view

    def stop(images, rows, view):
        if rows.start == 64:
            raise KeyboardInterrupt
        return record(images, rows, view)

    monkeypatch.setattr(features, "image_view", stop)
    with pytest.raises(KeyboardInterrupt):
        open_store().features(IMAGES, "train")
    assert loaded_rows == [(0, 0, 32), (0, 32, 64)]
    (partial,) = tmp_path.glob("*.partial")
    # A row that was only half written when the power went.
    partial.write_bytes(partial.read_bytes()[:-100])

    loaded_rows.clear()
    monkeypatch.setattr(features, "image_view", record)
    store = open_store()
    np.testing.assert_array_equal(store.features(IMAGES, "train"), whole)
    assert loaded_rows == [(0, 32, 64), (0, 64, 70)] and store.reused
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize("left", [0, 1, 60, 127, 128, 129])
def test_any_stump_is_completed(open_store, tmp_path, left):
    whole = open_store(dataset_digest="undisturbed").features(IMAGES[:3], "train")
    path = open_store()._path(IMAGES[:3], "train", 0, "average_pool")
    content = next(tmp_path.glob("*.npy")).read_bytes()
    path.with_suffix(".npy.partial").write_bytes(content[:left])
    np.testing.assert_array_equal(open_store().features(IMAGES[:3], "train"), whole)
    assert path.read_bytes() == content


def test_partial_is_never_read_as_finished(open_store, loaded_rows, tmp_path):
    whole = open_store().features(IMAGES, "train")
    (path,) = tmp_path.glob("*.npy")
    partial = path.with_suffix(".npy.partial")
    path.rename(partial)  # all the bytes are there, but nobody has said so
    loaded_rows.clear()
    store = open_store()
    np.testing.assert_array_equal(store.features(IMAGES, "train"), whole)
    assert loaded_rows == [(0, 64, 70)]  # the last batch was not whole
    assert path.exists() and not partial.exists()


@pytest.mark.parametrize("left", [0, 1, 127, 128, 5000, -1])
def test_a_finished_file_that_was_cut_short_is_made_again(open_store, loaded_rows, tmp_path, left):
    whole = np.array(open_store().features(IMAGES, "train"))
    (path,) = tmp_path.glob("*.npy")
    content = path.read_bytes()
    path.write_bytes(content[:left])
    loaded_rows.clear()
    np.testing.assert_array_equal(open_store().features(IMAGES, "train"), whole)
    assert path.read_bytes() == content and len(loaded_rows) == 3


def test_everything_that_decides_the_content_is_in_the_name(open_store, vgg16_weights, monkeypatch):
    def name(images=IMAGES, split="train", view=0, cut=CUT, **key):
        return open_store(**key)._path(images, split, view, cut).name

    larger = models.build_vgg16_base(64, "average", vgg16_weights)
    monkeypatch.setattr(models, "_IMAGENET_MEAN", [0.0, 0.0, 0.0])
    other = models.build_vgg16_base(32, "average", vgg16_weights)
    names = [
        name(),
        name(dataset_digest="another"),
        name(precision="mixed_bfloat16"),
        name(split="validation"),
        name(view=1),
        name(view=2),
        name(cut="average_pool"),
        name(images=IMAGES[:64]),
        name(base=larger),
        name(base=other),
    ]
    assert len(set(names)) == len(names)
    assert name() == names[0]


def test_a_saved_models_own_blocks_have_the_same_name(open_store, vgg16_weights, tmp_path):
    """What `evaluate` opens the store with; its head and its last block may be anything."""
    base = models.build_vgg16_base(SIZE, "average", vgg16_weights)
    models.unfreeze_block5(base)
    head = models.build_head(base.output.shape[1:], 4, 0.5)
    path = tmp_path / "model.keras"
    model = models.build_vgg16_classifier(base, head)
    save_model(model, path, classes=("cat", "dog"), image_size=SIZE, temperature=1)
    found = {
        open_store(base=one)._path(IMAGES, "test", 0, CUT).name
        for one in (base, model, load_model(path))
    }
    assert found == {open_store()._path(IMAGES, "test", 0, CUT).name}


def test_changed_warps_make_new_files_of_warped_views_alone(open_store, monkeypatch):
    def names():
        return [open_store()._path(IMAGES, "train", view, CUT).name for view in range(4)]

    before = names()
    monkeypatch.setattr(features.augment, "__file__", __file__)  # another code of the warps
    assert [old == new for old, new in zip(before, names(), strict=True)] == [
        True,
        True,
        False,
        False,
    ]


def test_block5_from_stored_block4_is_the_same_features(open_store, loaded_rows):
    direct = np.array(open_store(dataset_digest="direct").features(IMAGES, "train"))
    store = open_store()
    block4 = store.features(IMAGES, "train", cut=CUT)
    assert block4.shape == (NUM, 2, 2, 512)
    loaded_rows.clear()
    chained = store.features(IMAGES, "train")
    assert loaded_rows == []  # the pictures were not run through blocks 1 to 4 again
    assert not store.reused
    np.testing.assert_array_equal(chained, direct)


def test_both_in_one_pass_are_the_same_features(open_store, loaded_rows, tmp_path):
    apart = open_store(dataset_digest="apart")
    expected = [np.array(apart.features(IMAGES, "train", cut=cut)) for cut in (CUT, None)]
    loaded_rows.clear()
    store = open_store()
    last = store.features(IMAGES, "train", keep_cut=True)
    at_cut = store.features(IMAGES, "train", cut=CUT)
    assert loaded_rows == [(0, 0, 32), (0, 32, 64), (0, 64, 70)]
    assert store.computed and not store.reused
    for found, one in zip((at_cut, last), expected, strict=True):
        np.testing.assert_array_equal(found, one)


def test_both_go_on_from_the_shorter_file(open_store, loaded_rows, tmp_path):
    store = open_store()
    whole = {name: np.array(store.features(IMAGES, "train", cut=name, keep_cut=True))
             for name in (CUT, None)}  # fmt: skip
    for path, num_rows in zip(sorted(tmp_path.glob("*.npy")), (64, 33), strict=True):
        row_bytes = (path.stat().st_size - 128) // NUM
        path.with_suffix(".npy.partial").write_bytes(
            path.read_bytes()[: 128 + num_rows * row_bytes]
        )
        path.unlink()
    loaded_rows.clear()
    store = open_store()
    np.testing.assert_array_equal(store.features(IMAGES, "train", keep_cut=True), whole[None])
    np.testing.assert_array_equal(store.features(IMAGES, "train", cut=CUT), whole[CUT])
    assert loaded_rows == [(0, 32, 64), (0, 64, 70)] and store.reused


def test_what_a_kill_between_two_files_left_is_completed_in_the_same_batches(
    open_store, monkeypatch, tmp_path
):
    monkeypatch.setattr(features, "_BATCH_PIXELS", 24 * SIZE**2)
    whole = np.array(open_store().features(IMAGES, "train", keep_cut=True))
    (path,) = tmp_path.glob("*average_pool*")
    path.unlink()
    seen, read_rows = [], features.read_rows
    monkeypatch.setattr(
        features, "read_rows", lambda array, rows: seen.append(rows) or read_rows(array, rows)
    )
    np.testing.assert_array_equal(open_store().features(IMAGES, "train"), whole)
    assert seen == [slice(0, 24), slice(24, 48), slice(48, 70)]
