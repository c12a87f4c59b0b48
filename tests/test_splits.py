"""Unusable files are dropped, duplicates never stand in two splits, a dataset is complete."""

import dataclasses
import errno
import itertools
import json
import pathlib
import random
import shutil

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from pictures import contents, encode, noise_picture, pets, write_files
from PIL import Image, ImageEnhance

from catsdogs.data import splits
from catsdogs.data.duplicates import group_near_duplicates, perceptual_hash
from catsdogs.data.manifest import find_data_dir, load_manifest
from catsdogs.data.sources import open_source
from catsdogs.data.splits import prepare
from catsdogs.errors import InputError

SIZES = {"train": 6, "validation": 4, "test": 2}


def build(tmp_path, files, **options):
    """Prepares `{name: content}` in tmp_path/data."""
    with open_source(write_files(tmp_path / "pets", files)) as source:
        return prepare(source, tmp_path / "data", **(SIZES | options))


def names(manifest, split):
    return [file.name.rpartition("/")[2] for file in manifest.split(split)]


# ---- Which pictures, and where they go ----


def test_splits_by_file_index(tmp_path):
    files = pets(cats=(10, 9, 8, 1, 2, 30, 31, 32))
    manifest = build(tmp_path, files)
    assert names(manifest, "train")[:3] == ["cat.1.jpg", "cat.2.jpg", "cat.8.jpg"]
    assert names(manifest, "validation")[:2] == ["cat.9.jpg", "cat.10.jpg"]
    assert names(manifest, "test") == ["cat.30.jpg", "dog.106.jpg"]
    assert manifest.sizes == SIZES and manifest.classes == ("cat", "dog")
    assert (manifest.dataset, manifest.kind, manifest.dropped) == ("pets", "photographs", ())
    for file in manifest.files:
        content = (tmp_path / "data" / file.name).read_bytes()
        assert file.name == f"{file.split}/{file.label}/{file.name.rpartition('/')[2]}"
        assert content == files[file.name.partition("/")[2]]
        assert (file.width, file.height) == (60, 48)
    on_disk = {str(path) for path in contents(tmp_path / "data")}
    assert on_disk == {file.name for file in manifest.files} | {"manifest.json"}


def test_unusable_files_are_dropped_with_a_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(splits, "MAX_BYTES", 20_000)
    good = encode(noise_picture(1), "JPEG")
    files = {
        "cat/0.jpg": b"",
        "cat/1.jpg": good[: len(good) // 2],
        "cat/2.jpg": b"a text file",
        "cat/3.jpg": encode(noise_picture(2, (200, 20))),
        "cat/4.jpg": encode(noise_picture(4), "BMP"),  # a good picture, JPEG in name only
        "cat/5.jpg": good + b"trailing bytes",
        "cat/6.jpg": good + b"trailing bytes",
        "cat/7.jpg": encode(noise_picture(9, (90, 90)), "BMP"),
        "cat/8.jpg": encode(noise_picture(8)),
        "dog/0.jpg": encode(noise_picture(5)),
        "dog/1.jpg": good + b"trailing bytes",
        "dog/2.jpg": encode(noise_picture(6)),
        "dog/3.jpg": encode(noise_picture(7)),
    }
    manifest = build(tmp_path, files, train=2, validation=2, test=2)
    kept = [name for split in SIZES for name in names(manifest, split)]
    assert kept == ["4.jpg", "0.jpg", "5.jpg", "2.jpg", "8.jpg", "3.jpg"]
    assert (tmp_path / "data/train/cat/4.jpg").read_bytes() == files["cat/4.jpg"]
    reasons = {file.name: file.reason for file in manifest.dropped}
    expected = {
        "cat/0.jpg": "an empty file", "cat/1.jpg": "a broken picture", "cat/2.jpg": "not a JPEG",
        "cat/3.jpg": "tiny, 200x20", "cat/6.jpg": "the same as cat/5.jpg",
        "cat/7.jpg": "larger than", "dog/1.jpg": "the same as cat/5.jpg",
    }  # fmt: skip
    assert reasons.keys() == expected.keys()
    assert all(reasons[name].startswith(expected[name]) for name in expected)
    described = manifest.describe()
    assert "dropped         7" in described and "cat/6.jpg: the same as cat/5.jpg" in described


def test_too_few_pictures(tmp_path):
    files = pets(cats=range(1, 6)) | {"cat/cat.9.jpg": b"", "cat/cat.10.jpg": b""}
    with pytest.raises(InputError) as caught:
        build(tmp_path, files)
    message = str(caught.value)
    for part in ("Expected 6 usable", "cat 5 of 7 files", "2 dropped", "empty file", "--train"):
        assert part in message
    assert "\n" not in message and not (tmp_path / "data").exists()


@pytest.mark.parametrize("size", [0, -2, 3])
def test_sizes_that_the_classes_cannot_share(tmp_path, size):
    with pytest.raises(InputError, match=f"multiples of 2.*--validation {size}"):
        build(tmp_path, pets(), validation=size)


def test_three_classes(tmp_path):
    files = pets() | {f"owl/{seed}.png": encode(noise_picture(seed)) for seed in range(200, 204)}
    manifest = build(tmp_path, files, train=6, validation=3, test=3)
    assert [file.label for file in manifest.split("train")] == 2 * ["cat"] + 2 * ["dog"] + [
        "owl", "owl",
    ]  # fmt: skip


# ---- Near-duplicates ----


def copies():
    """Ways in which the same picture comes back as another file."""
    image = noise_picture(1, (300, 240))
    return {
        "resaved": encode(image, "JPEG", quality=30),
        "smaller": encode(image.resize((150, 120)), "JPEG"),
        "grey": encode(image.convert("L"), "JPEG"),
        "PNG": encode(image),
        "flipped": encode(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), "JPEG"),
        "brighter": encode(image.point(lambda value: min(255, value + 12)), "JPEG"),
    }


@pytest.mark.parametrize("copy", copies())
@pytest.mark.parametrize("place", ["cat/cat.4.jpg", "cat/cat.6.jpg", "dog/dog.106.jpg"])
def test_near_duplicates_are_kept_in_one_split(tmp_path, copy, place):
    # The first picture trains; its copy would validate or test, under either label.
    original = {"cat/cat.1.jpg": encode(noise_picture(1, (300, 240)), "JPEG")}
    manifest = build(tmp_path, pets() | original | {place: copies()[copy]})
    group = ("train/cat/cat.1.jpg", f"train/{place}")
    assert manifest.near_duplicates == (group,)
    assert set(group) <= {file.name for file in manifest.split("train")}
    # Nothing is lost: the last of the training pictures makes room.
    assert manifest.sizes == SIZES and manifest.dropped == ()
    assert f"kept in one split: {', '.join(group)}" in manifest.describe()


def test_near_duplicates_across_a_cut_move_on_together(tmp_path):
    image = noise_picture(3)
    pair = {"cat/cat.3.jpg": encode(image), "cat/cat.4.jpg": encode(image, "JPEG", quality=40)}
    manifest = build(tmp_path, pets() | pair)
    # No room for both as the third training picture: the next single picture takes the place.
    assert names(manifest, "train")[:3] == ["cat.1.jpg", "cat.2.jpg", "cat.5.jpg"]
    assert names(manifest, "validation")[:2] == ["cat.3.jpg", "cat.4.jpg"]


def test_a_group_too_large_for_any_split_gives_up_files(tmp_path):
    image = noise_picture(1)
    series = {f"cat/cat.{i}.jpg": encode(image, "JPEG", quality=50 + i) for i in range(1, 10)}
    manifest = build(tmp_path, pets(cats=range(10, 14)) | series)
    assert names(manifest, "train")[:3] == ["cat.1.jpg", "cat.2.jpg", "cat.3.jpg"]
    assert names(manifest, "validation")[:2] == ["cat.10.jpg", "cat.11.jpg"]
    assert [file.name for file in manifest.dropped] == [f"cat/cat.{i}.jpg" for i in range(4, 10)]
    assert "near-duplicate of cat/cat.1.jpg" in manifest.dropped[0].reason


def test_plain_pictures_are_no_duplicates():
    """They have no gradients to compare: the thumbnails must decide."""
    plain = [np.full((64, 64, 3), shade, np.uint8) for shade in (0, 60, 120, 180, 255)]
    dots = []
    for row, column in itertools.product((4, 40), (8, 44)):
        dots.append(np.full((64, 64, 3), 255, np.uint8))
        dots[-1][row : row + 12, column : column + 12] = 0
    groups = group_near_duplicates([perceptual_hash(image) for image in plain + dots]).tolist()
    assert groups == [0, 1, 2, 3, 4, 5, 5, 7, 7]  # only the flipped dots are


def test_other_pictures_are_no_duplicates():
    hashes = [perceptual_hash(np.asarray(noise_picture(seed))) for seed in range(600)]
    expected = np.arange(600)
    np.testing.assert_array_equal(group_near_duplicates(hashes), expected)
    hashes[550], hashes[3] = hashes[20], hashes[530]  # 512 rows are compared at a time
    expected[550], expected[530] = 20, 3
    np.testing.assert_array_equal(group_near_duplicates(hashes), expected)
    assert group_near_duplicates([]).shape == (0,)


def test_groups_are_joined_by_whatever_links_them():
    middle, other = (perceptual_hash(np.asarray(noise_picture(seed))) for seed in (1, 2))
    left, right = middle.copy(), middle.copy()
    left[:10] *= -1
    right[10:20] *= -1
    assert group_near_duplicates([left, other, right]).tolist() == [0, 1, 2]
    assert group_near_duplicates([left, other, right, middle]).tolist() == [0, 1, 0, 0]


TRANSFORMS = {
    "resaved": lambda image, rng: image,
    "resized": lambda image, rng: image.resize([int(n * rng.uniform(0.5, 2)) for n in image.size]),
    "grey": lambda image, rng: image.convert("L"),
    "flipped": lambda image, rng: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "brighter": lambda image, rng: ImageEnhance.Brightness(image).enhance(rng.uniform(0.95, 1.05)),
    "cropped": lambda image, rng: image.crop((2, 2, image.width - 2, image.height - 2)),
}  # fmt: skip


@st.composite
def plans(draw):
    """Number of classes; for every file, in order: class, subject, how it was changed; a seed."""
    num_classes = draw(st.integers(2, 3))
    change = st.sampled_from(sorted(TRANSFORMS))
    file = st.tuples(st.integers(0, num_classes - 1), st.integers(0, 9), change)
    return num_classes, draw(st.lists(file, min_size=4, max_size=14)), draw(st.integers(0, 999))


@hypothesis.settings(max_examples=max(8, hypothesis.settings.default.max_examples // 10))
@hypothesis.given(plan=plans())
def test_copies_never_straddle(plan, tmp_path_factory, campaign):
    """Copies anywhere in the order of the files, in any class, changed in any way."""
    num_classes, copied, seed = plan
    root, rng = tmp_path_factory.mktemp("copies"), random.Random(seed)
    single = [(label, 1000 * (label + 1) + i, "resaved") for label in range(num_classes)
              for i in range(14)]  # fmt: skip
    files = [*copied, *single]
    rng.shuffle(files)
    subjects = {}  # {file: what it shows}
    for number, (label, subject, change) in enumerate(files):
        image = TRANSFORMS[change](noise_picture(100_000 * seed + subject, (120, 96)), rng)
        name = f"{'abc'[label]}/{number}.jpg"
        content = encode(image, "JPEG", quality=rng.randrange(50, 96))
        write_files(root / "source", {name: content})
        subjects[name] = subject
    with campaign.fault("copies anywhere among the files: all in one split"):
        sizes = {
            split: n * num_classes for split, n in (("train", 5), ("validation", 3), ("test", 2))
        }
        with open_source(root / "source") as source:
            manifest = prepare(source, root / "data", **sizes)
        assert manifest.sizes == sizes
        found = {(subjects[file.name.partition("/")[2]], file.split) for file in manifest.files}
        assert len(found) == len({subject for subject, _ in found})
    shutil.rmtree(root)


# ---- Complete, repeatable, and nothing of the user's is lost ----


def test_order_on_disk_does_not_matter_and_twice_is_no_work(tmp_path, monkeypatch):
    manifest = build(tmp_path, pets())
    write_files(tmp_path / "data", {"decoded/kept.npy": b"kept"})
    backwards = dict(reversed(pets().items()))
    with open_source(write_files(tmp_path / "again" / "pets", backwards)) as source:
        assert prepare(source, tmp_path / "other", **SIZES) == manifest
        before = contents(tmp_path / "data")
        assert contents(tmp_path / "other") == {
            path: content for path, content in before.items() if path.parts[0] != "decoded"
        }
        monkeypatch.setattr(splits, "map_pictures", lambda *_: pytest.fail("examined again"))
        assert prepare(source, tmp_path / "data", **SIZES) == manifest
    assert contents(tmp_path / "data") == before
    assert str(tmp_path) not in (tmp_path / "data" / "manifest.json").read_text()


def test_damage_is_repaired(tmp_path):
    manifest = build(tmp_path, pets())
    before = contents(tmp_path / "data")
    (tmp_path / "data" / manifest.files[0].name).unlink()
    (tmp_path / "data" / manifest.files[1].name).write_bytes(b"changed")
    build(tmp_path, pets())
    assert contents(tmp_path / "data") == before


@pytest.mark.parametrize("change", ["sizes", "pictures"])
def test_another_data_set_is_replaced_only_when_asked(tmp_path, change):
    build(tmp_path, pets())
    write_files(tmp_path / "data", {"decoded/old.npy": b"old"})
    before = contents(tmp_path / "data")
    sizes = {"train": 4} if change == "sizes" else {}
    files = pets(cats=range(20, 26)) if change == "pictures" else {}
    with pytest.raises(InputError, match="--overwrite"):
        build(tmp_path, files, **sizes)
    assert contents(tmp_path / "data") == before
    manifest = build(tmp_path, files, **sizes, overwrite=True)
    assert manifest.sizes == SIZES | sizes and load_manifest(tmp_path / "data") == manifest
    assert not (tmp_path / "data" / "decoded").exists()


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    ("state", "place"),
    [
        ("no dataset", "thesis.txt"),
        ("damaged", "notes.txt"),
        ("damaged", "run-seed0/model.keras"),
        ("damaged", "train/cat/mine.jpg"),
        ("foreign manifest", "notes.txt"),
    ],
)
def test_what_was_not_made_here_is_never_deleted(tmp_path, state, place, overwrite):
    data_dir = tmp_path / "data"
    if state != "no dataset":
        build(tmp_path, pets())
        next((data_dir / "train" / "cat").iterdir()).write_bytes(b"")
    if state == "foreign manifest":
        (data_dir / "manifest.json").write_text('{"name": "a web page"}')
    write_files(data_dir, {place: b"precious"})
    before = contents(data_dir)
    complaint = f"{place}, which would be lost"
    if state == "foreign manifest" and not overwrite:
        complaint = "--overwrite"
    with pytest.raises(InputError, match=complaint):
        build(tmp_path, pets(), overwrite=overwrite)
    assert contents(data_dir) == before


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_file_in_the_way(tmp_path, place):
    (tmp_path / "file").write_text("in the way")
    with (
        open_source(write_files(tmp_path / "pets", pets())) as source,
        pytest.raises((InputError, OSError), match="file"),
    ):
        prepare(source, tmp_path / place, **SIZES, overwrite=True)
    assert (tmp_path / "file").read_text() == "in the way"


@pytest.mark.parametrize(("folder", "data_dir"), [("pets", "link/data/new"), ("pets/in", "pets")])
def test_no_data_set_in_or_around_the_pictures_it_is_made_from(tmp_path, folder, data_dir):
    before = contents(write_files(tmp_path / folder, pets()))
    (tmp_path / "link").symlink_to(tmp_path / "pets")
    with (
        open_source(tmp_path / folder) as source,
        pytest.raises(InputError, match=f"--data-dir apart from the pictures in .*{folder}, "),
    ):
        prepare(source, tmp_path / data_dir, **SIZES, overwrite=True)
    assert contents(tmp_path / folder) == before


def reading_again(source, answer):
    """The source, but when a picture is read a second time, to be copied, it is `answer`'s."""

    def wrap(candidate):
        reads = iter([candidate.read])
        return dataclasses.replace(candidate, read=lambda: next(reads, answer)())

    candidates = {
        label: list(map(wrap, files)) for label, files in source.list_candidates().items()
    }
    return dataclasses.replace(source, list_candidates=lambda: candidates)


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_error_while_writing_changes_nothing(tmp_path, overwrite):
    if overwrite:
        build(tmp_path, pets(), train=4)
    (tmp_path / "data").mkdir(exist_ok=True)  # an empty folder is free
    before = contents(tmp_path / "data")
    errors = iter([OSError(errno.ENOSPC, "No space left on device")])

    def fail():
        raise next(errors)

    with (
        open_source(write_files(tmp_path / "pets", pets())) as source,
        pytest.raises(OSError, match="No space left"),
    ):
        prepare(reading_again(source, fail), tmp_path / "data", **SIZES, overwrite=overwrite)
    assert contents(tmp_path / "data") == before
    assert not list(tmp_path.glob(".part-*"))


def test_a_picture_that_changes_meanwhile(tmp_path):
    with (
        open_source(write_files(tmp_path / "pets", pets())) as source,
        pytest.raises(InputError, match=r"cat\.1\.jpg to stay as it is"),
    ):
        prepare(reading_again(source, lambda: b"other"), tmp_path / "data", **SIZES)
    assert not (tmp_path / "data").exists()


# ---- The manifest ----


def test_manifests_are_read_as_they_were_written(tmp_path):
    image = noise_picture(3)
    pair = {"cat/cat.3.jpg": encode(image), "cat/cat.2.jpg": encode(image, "JPEG", quality=40)}
    manifest = build(tmp_path, pets(cats=range(1, 8)) | pair | {"dog/dog.1.jpg": b""})
    assert load_manifest(tmp_path / "data") == manifest
    assert manifest.near_duplicates and manifest.dropped
    with pytest.raises(ValueError, match="Received: 'holdout'"):
        manifest.split("holdout")


def test_the_digest_is_of_contents_labels_and_splits(data_dir):
    manifest = load_manifest(data_dir)
    first, *others = manifest.files
    for change in ({"sha256": "0" * 64}, {"label": "dog"}, {"split": "test"}, {"name": "x"}):
        files = (first.model_copy(update=change), *others)
        assert manifest.model_copy(update={"files": files}).digest != manifest.digest
    for change in ({"dropped": ("x",)}, {"dataset": "x"}, {"near_duplicates": ()}):
        assert manifest.model_copy(update=change).digest == manifest.digest


def test_unusable_manifests(tmp_path):
    with pytest.raises(InputError, match=r"python scripts/prepare_data\.py"):
        load_manifest(tmp_path / "nowhere")
    build(tmp_path, pets())
    path = tmp_path / "data" / "manifest.json"
    good = json.loads(path.read_text())

    def changed(**changes):
        return json.dumps(good | changes)

    def with_file(**changes):
        return changed(files=[good["files"][0] | changes])

    bad = [
        "", "[]", "7", '{"format": 1}', "[" * 10**5, changed(format=2), changed(kind="paintings"),
        changed(files=3), changed(files=[{}]), changed(files=["a"]), changed(dropped=[1]),
        changed(classes=7), changed(classes=["cat"]), changed(classes=["cat", "dog", "dog"]),
        changed(dataset="\ud800"), with_file(name="train/cat/../../../etc/passwd"),
        with_file(name="train/cat/.."), with_file(name="/train/cat/1.jpg"),
        with_file(name="test/cat/cat.1.jpg"), with_file(name=5), with_file(width="many"),
        with_file(sha256="0"), with_file(**{"class": "owl", "name": "train/owl/1.jpg"}),
        with_file(**{"class": "..", "name": "train/../1.jpg"}),
    ]  # fmt: skip
    for text in bad:
        path.write_text(text)
        with pytest.raises(InputError, match=r"manifest\.json.*--overwrite") as caught:
            load_manifest(tmp_path / "data")
        assert str(caught.value).isprintable() and len(str(caught.value)) < 500, text
    with pytest.raises(InputError, match="--overwrite"):
        build(tmp_path, {})
    assert build(tmp_path, {}, overwrite=True).sizes == SIZES


def test_the_photographs_are_preferred_to_the_sketches(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="--sketches"):
        find_data_dir()
    for name in ("sketches", "dogs-vs-cats"):
        write_files(tmp_path / "data" / name, {"manifest.json": b"{}"})
        assert find_data_dir() == pathlib.Path("data") / name
    assert find_data_dir("elsewhere") == pathlib.Path("elsewhere")
