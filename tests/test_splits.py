"""Unusable files are dropped, duplicates never straddle, a data set is written whole or not."""

import dataclasses
import errno
import io
import json
import pathlib
import subprocess
import sys
import warnings
import zipfile

import numpy as np
import pytest
from PIL import Image

from catsdogs.data import selection, sources, splits
from catsdogs.data.duplicates import group_look_alikes, look_of
from catsdogs.data.manifest import load_manifest
from catsdogs.data.sources import open_source
from catsdogs.data.splits import prepare
from catsdogs.errors import InputError

SIZES = {"train": 6, "validation": 4, "test": 2}


def picture(seed, size=(60, 48)):
    """Smooth noise; two seeds give pictures that do not look alike."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 7, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


def encode(image, file_format="JPEG", **options):
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def pets(cats=range(1, 7), dogs=range(101, 107)):
    """Files of a small data set, {name: content}."""
    files = {f"cat/cat.{seed}.jpg": encode(picture(seed)) for seed in cats}
    return files | {f"dog/dog.{seed}.jpg": encode(picture(seed)) for seed in dogs}


def write(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def build(tmp_path, files, **options):
    """Prepares `files`, in tmp_path/data."""
    with open_source(write(tmp_path / "pets", files)) as source:
        return prepare(source, tmp_path / "data", **(SIZES | options))


def names(manifest, split):
    return [file.name.rpartition("/")[2] for file in manifest.split(split)]


def everything(folder):
    return {p.relative_to(folder): p.is_file() and p.read_bytes() for p in folder.rglob("*")}


def test_splits_by_file_index(tmp_path):
    files = pets(cats=(10, 9, 8, 1, 2, 30, 31, 32))
    manifest = build(tmp_path, files)
    assert names(manifest, "train")[:3] == ["cat.1.jpg", "cat.2.jpg", "cat.8.jpg"]
    assert names(manifest, "validation")[:2] == ["cat.9.jpg", "cat.10.jpg"]
    assert names(manifest, "test") == ["cat.30.jpg", "dog.106.jpg"]
    assert manifest.sizes == SIZES and manifest.classes == ("cat", "dog")
    assert manifest.dataset == "pets" and not manifest.is_drawing and manifest.dropped == ()
    for file in manifest.files:
        content = (tmp_path / "data" / file.name).read_bytes()
        label = manifest.classes[file.class_index]
        assert file.name == f"{file.split}/{label}/{file.name.rpartition('/')[2]}"
        assert content == files[file.name.partition("/")[2]] and len(content) == file.num_bytes
        assert (file.width, file.height) == (60, 48)
    on_disk = sorted(p.relative_to(tmp_path / "data") for p in (tmp_path / "data").rglob("*.jpg"))
    assert on_disk == sorted(pathlib.Path(file.name) for file in manifest.files)
    with pytest.raises(InputError, match="Received: holdout"):
        manifest.split("holdout")


def test_unusable_files_are_dropped_with_a_reason(tmp_path):
    good = encode(picture(1))
    files = {
        "cat/0.jpg": b"",
        "cat/1.jpg": good[: len(good) // 2],
        "cat/2.jpg": b"a text file",
        "cat/3.jpg": encode(picture(2, (200, 20))),
        "cat/4.jpg": encode(picture(3), "ICO"),
        "cat/5.jpg": encode(picture(4), "BMP"),  # a good picture, JPEG in name only
        "cat/6.jpg": good + b"trailing bytes",
        "cat/7.jpg": good + b"trailing bytes",
        "dog/0.jpg": encode(picture(5)),
        "dog/1.jpg": encode(picture(6)),
        "dog/2.jpg": encode(picture(7)),
        "cat/8.jpg": encode(picture(8)),
    }
    manifest = build(tmp_path, files, train=2, validation=2, test=2)
    kept = [name for split in SIZES for name in names(manifest, split)]
    assert kept == ["5.jpg", "0.jpg", "6.jpg", "1.jpg", "8.jpg", "2.jpg"]
    assert (tmp_path / "data/train/cat/5.jpg").read_bytes() == files["cat/5.jpg"]
    reasons = dict(manifest.dropped)
    assert list(reasons) == [f"cat/{i}.jpg" for i in (0, 1, 2, 3, 4, 7)]
    for name, reason in {
        0: "empty", 1: "broken", 2: "not a JPEG", 3: "tiny, 200x20", 4: "not a JPEG",
        7: "the same as cat/6.jpg",
    }.items():  # fmt: skip
        assert reason in reasons[f"cat/{name}.jpg"]
    assert (
        "dropped         6" in manifest.describe() and "cat/7.jpg: the same" in manifest.describe()
    )


def test_damaged_archive_entries_are_dropped(tmp_path):
    with zipfile.ZipFile(tmp_path / "pets.zip", "w") as archive:
        for name, content in pets(cats=range(1, 8)).items():
            archive.writestr(name, content)
    damaged = bytearray((tmp_path / "pets.zip").read_bytes())
    damaged[200] ^= 255  # within the first file
    (tmp_path / "pets.zip").write_bytes(damaged)
    with open_source(tmp_path / "pets.zip") as source:
        manifest = prepare(source, tmp_path / "data", **SIZES)
    assert [name for name, _ in manifest.dropped] == ["cat/cat.1.jpg"]
    assert "cannot be read from the archive" in manifest.dropped[0][1]


def test_giant_files_are_not_even_read(tmp_path, monkeypatch):
    monkeypatch.setattr(selection, "MAX_PICTURE_BYTES", 5000)
    files = pets(cats=range(1, 8)) | {"cat/cat.2.jpg": encode(picture(2, (200, 200)), "BMP")}
    assert build(tmp_path, files).dropped[0][0] == "cat/cat.2.jpg"


def variants():
    """Ways in which the same picture comes back as another file."""
    image = picture(1, (300, 240))
    return {
        "resaved": encode(image, quality=30),
        "smaller": encode(image.resize((150, 120))),
        "grey": encode(image.convert("L")),
        "png": encode(image, "PNG"),
        "mirrored": encode(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)),
        "brighter": encode(image.point(lambda value: min(255, value + 12))),
    }


@pytest.mark.parametrize("variant", variants())
@pytest.mark.parametrize("place", ["cat/cat.4.jpg", "cat/cat.6.jpg", "dog/dog.106.jpg"])
def test_near_duplicates_never_straddle(tmp_path, variant, place):
    # The first picture trains; its double would validate, or test, under either label.
    double = {"cat/cat.1.jpg": encode(picture(1, (300, 240))), place: variants()[variant]}
    manifest = build(tmp_path, pets() | double)
    group = ("train/cat/cat.1.jpg", f"train/{place}")
    assert manifest.look_alikes == (group,)
    assert set(group) <= {file.name for file in manifest.split("train")}
    # Nothing was lost: the last of the training pictures made room.
    assert manifest.sizes == SIZES and manifest.dropped == ()
    assert f"one split: {', '.join(group)}" in manifest.describe()


def test_near_duplicates_across_a_cut_move_on_together(tmp_path):
    double = {"cat/cat.3.jpg": encode(picture(3)), "cat/cat.4.jpg": encode(picture(3), quality=40)}
    manifest = build(tmp_path, pets() | double)
    # No room for both as the third training picture: the next single picture takes the place.
    assert names(manifest, "train")[:3] == ["cat.1.jpg", "cat.2.jpg", "cat.5.jpg"]
    assert names(manifest, "validation")[:2] == ["cat.3.jpg", "cat.4.jpg"]


def test_a_group_too_large_for_any_split_gives_up_files(tmp_path):
    series = {f"cat/cat.{i}.jpg": encode(picture(1), quality=50 + i) for i in range(1, 10)}
    manifest = build(tmp_path, pets(cats=range(10, 14)) | series)
    assert names(manifest, "train")[:3] == ["cat.1.jpg", "cat.2.jpg", "cat.3.jpg"]
    assert names(manifest, "validation")[:2] == ["cat.10.jpg", "cat.11.jpg"]
    assert [name for name, _ in manifest.dropped] == [f"cat/cat.{i}.jpg" for i in range(4, 10)]
    assert "looks like cat/cat.1.jpg" in manifest.dropped[0][1]


def test_exact_duplicates_across_classes_are_dropped(tmp_path):
    files = pets(dogs=range(101, 108)) | {"dog/dog.103.jpg": encode(picture(2))}
    manifest = build(tmp_path, files)
    assert manifest.dropped == (("dog/dog.103.jpg", "the same as cat/cat.2.jpg"),)


def test_flat_pictures_do_not_look_alike():
    """Plain and nearly plain pictures have no gradients to compare: the thumbnails must decide."""
    plain = [np.full((64, 64, 3), shade, np.uint8) for shade in (0, 60, 120, 180, 255)]
    dots = []
    for row in (4, 40):
        for column in (8, 44):
            drawing = np.full((64, 64, 3), 255, np.uint8)
            drawing[row : row + 12, column : column + 12] = 0
            dots.append(drawing)
    looks = [look_of(image) for image in plain + dots]
    groups = group_look_alikes(looks).tolist()
    assert groups[:5] == [0, 1, 2, 3, 4]
    # Mirror images of each other, and only they.
    assert groups[5:] == [5, 5, 7, 7]


def test_different_pictures_do_not_look_alike():
    looks = [look_of(np.asarray(picture(seed))) for seed in range(600)]
    assert (group_look_alikes(looks) == np.arange(600)).all()
    looks[550], looks[3] = looks[20], looks[530]  # within a block of rows and across two
    expected = np.arange(600)
    expected[550], expected[530] = 20, 3
    assert (group_look_alikes(looks) == expected).all()
    assert group_look_alikes([]).shape == (0,)


def test_groups_are_joined_by_whatever_links_them():
    middle = look_of(np.asarray(picture(1)))
    left, right = middle.copy(), middle.copy()
    left[:10] *= -1
    right[10:20] *= -1
    other = look_of(np.asarray(picture(2)))
    assert group_look_alikes([left, other, right]).tolist() == [0, 1, 2]
    assert group_look_alikes([left, other, right, middle]).tolist() == [0, 1, 0, 0]


def test_too_few_pictures(tmp_path):
    files = pets(cats=range(1, 6)) | {"cat/cat.9.jpg": b"", "cat/cat.10.jpg": b""}
    with pytest.raises(InputError) as caught:
        build(tmp_path, files)
    message = str(caught.value)
    for part in ("Expected 6 usable", "cat 5 of 7 files", "dog enough", "2 dropped", "empty file",
                 "--train", "--validation", "--test"):  # fmt: skip
        assert part in message
    assert "\n" not in message
    assert [path.name for path in tmp_path.iterdir()] == ["pets"]


@pytest.mark.parametrize("size", [0, -2, 3])
def test_sizes_that_cannot_be_shared(tmp_path, size):
    with pytest.raises(InputError, match=f"2 classes can share.*--validation {size}"):
        build(tmp_path, pets(), validation=size)


def test_three_classes(tmp_path):
    files = pets() | {f"owl/{seed}.png": encode(picture(seed), "PNG") for seed in range(200, 204)}
    manifest = build(tmp_path, files, train=6, validation=3, test=3)
    assert [file.class_index for file in manifest.split("train")] == [0, 0, 1, 1, 2, 2]


def test_twice_gives_the_same_bytes_without_work(tmp_path, monkeypatch):
    build(tmp_path, pets())
    (tmp_path / "data" / "decoded").mkdir()
    before = everything(tmp_path / "data")
    with open_source(tmp_path / "pets") as source:
        again = prepare(source, tmp_path / "other", **SIZES)
    assert everything(tmp_path / "other") | {pathlib.Path("decoded"): False} == before
    monkeypatch.setattr(splits, "select_pictures", None)  # would fail if it were called
    with open_source(tmp_path / "pets") as source:
        assert prepare(source, tmp_path / "data", **SIZES) == again
    assert everything(tmp_path / "data") == before
    assert str(tmp_path) not in (tmp_path / "data" / "manifest.json").read_text()


def test_damage_is_repaired(tmp_path):
    manifest = build(tmp_path, pets())
    before = everything(tmp_path / "data")
    (tmp_path / "data" / manifest.files[0].name).unlink()
    (tmp_path / "data" / manifest.files[1].name).write_bytes(b"changed")
    build(tmp_path, pets())
    assert everything(tmp_path / "data") == before


def test_another_data_set_is_replaced_only_when_asked(tmp_path):
    build(tmp_path, pets())
    write(tmp_path / "data", {"decoded/old.npy": b"old"})
    before = everything(tmp_path / "data")
    with pytest.raises(InputError, match="--overwrite"):
        build(tmp_path, pets(), train=4)
    assert everything(tmp_path / "data") == before
    manifest = build(tmp_path, pets(), train=4, overwrite=True)
    assert manifest.sizes["train"] == 4
    assert not (tmp_path / "data" / "decoded").exists()


def test_drawings_are_replaced_only_when_asked(tmp_path):
    """Runs may refer to them, as to photographs."""

    def draw(seed, **options):
        write(tmp_path / "drawn", pets(cats=range(seed, seed + 6)))
        with open_source(tmp_path / "drawn") as source:
            drawings = dataclasses.replace(source, name="sketches", is_drawing=True)
            return prepare(drawings, tmp_path / "data", **(SIZES | options))

    manifest = draw(seed=20)
    assert manifest.is_drawing and "drawings" in manifest.describe()
    assert draw(seed=20) == manifest
    before = everything(tmp_path / "data")
    for other in ({"seed": 10}, {"seed": 20, "train": 4}):
        with pytest.raises(InputError, match="--overwrite"):
            draw(**other)
        assert everything(tmp_path / "data") == before
    assert draw(seed=10, overwrite=True).digest != manifest.digest
    with pytest.raises(InputError, match="--overwrite"):
        build(tmp_path, pets())


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_was_not_made_here_is_never_deleted(tmp_path, overwrite):
    write(tmp_path / "data", {"thesis.txt": b"years of work"})
    with pytest.raises(InputError, match="--data-dir"):
        build(tmp_path, pets(), overwrite=overwrite)
    assert (tmp_path / "data" / "thesis.txt").read_bytes() == b"years of work"


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_file_in_the_way(tmp_path, place):
    (tmp_path / "file").write_text("in the way")
    write(tmp_path / "pets", pets())
    with (
        open_source(tmp_path / "pets") as source,
        pytest.raises(InputError, match="--data-dir"),
    ):
        prepare(source, tmp_path / place, **SIZES)


@pytest.mark.parametrize("folder, data_dir", [("pets", "link/data/new"), ("pets/in/it", "pets")])
def test_no_data_set_in_or_around_the_pictures_it_is_made_from(tmp_path, folder, data_dir):
    """They would become a class of the next one, or be replaced by this one."""
    before = everything(write(tmp_path / folder, pets()))
    (tmp_path / "link").symlink_to(tmp_path / "pets")
    with (
        open_source(tmp_path / folder) as source,
        pytest.raises(InputError, match=f"--data-dir apart from the pictures in .*{folder}, "),
    ):
        prepare(source, tmp_path / data_dir, **SIZES, overwrite=True)
    assert everything(tmp_path / folder) == before


def test_an_empty_folder_is_free(tmp_path):
    (tmp_path / "data").mkdir()
    assert build(tmp_path, pets()).sizes == SIZES


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_full_disk_changes_nothing(tmp_path, monkeypatch, overwrite):
    if overwrite:
        build(tmp_path, pets(), train=4)
    before = everything(tmp_path)
    real, calls = pathlib.Path.write_bytes, []

    def fill(path, content):
        calls.append(path)
        if "pets" not in path.parts and len(calls) > 17:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return real(path, content)

    monkeypatch.setattr(pathlib.Path, "write_bytes", fill)
    with pytest.raises(OSError, match="No space left"):
        build(tmp_path, pets(), overwrite=overwrite)
    assert len(calls) == 18
    after = everything(tmp_path)
    assert {k: v for k, v in after.items() if k.parts[0] != "pets"} == {
        k: v for k, v in before.items() if k.parts[0] != "pets"
    }


def test_a_source_that_changes_meanwhile(tmp_path, monkeypatch):
    real = splits.select_pictures

    def select_and_change(*arguments):
        result = real(*arguments)
        write(tmp_path / "pets", {"dog/dog.103.jpg": encode(picture(999))})
        return result

    monkeypatch.setattr(splits, "select_pictures", select_and_change)
    with pytest.raises(InputError, match=r"dog\.103\.jpg to stay as it is"):
        build(tmp_path, pets())
    assert not (tmp_path / "data").exists()


def test_load_manifest_reads_what_was_written(tmp_path):
    manifest = build(tmp_path, pets())
    assert load_manifest(tmp_path / "data") == manifest
    assert len(manifest.digest) == 64
    content = json.loads((tmp_path / "data" / "manifest.json").read_text())
    assert content["splits"] == SIZES and content["kind"] == "photographs"
    assert set(content["files"][0]) == {
        "name", "sha256", "bytes", "width", "height", "class", "split",
    }  # fmt: skip


def test_digest_tells_contents_labels_and_splits_apart(tmp_path):
    manifest = build(tmp_path, pets())
    first = manifest.files[0]
    for change in ({"sha256": "0" * 64}, {"class_index": 1}, {"split": "test"}, {"name": "x"}):
        files = (dataclasses.replace(first, **change), *manifest.files[1:])
        assert dataclasses.replace(manifest, files=files).digest != manifest.digest
    assert dataclasses.replace(manifest, dropped=(("a", "b"),)).digest == manifest.digest


def test_unusable_manifests(tmp_path):
    with pytest.raises(InputError, match=r"python scripts/prepare_data\.py"):
        load_manifest(tmp_path / "nowhere")
    build(tmp_path, pets())
    path = tmp_path / "data" / "manifest.json"
    good = json.loads(path.read_text())

    def damaged(**changes):
        return json.dumps(good | changes)

    def with_file(**changes):
        return damaged(files=[good["files"][0] | changes])

    bad = [
        "", "[]", "7", '{"format": 1}', damaged(format=2), damaged(kind="paintings"),
        damaged(files=3), damaged(files=[{}]), damaged(files=["a"]), damaged(dropped=[1]),
        damaged(classes=7), with_file(name="train/cat/../../../etc/passwd"),
        with_file(name="train/cat/.."), with_file(name="test/cat/cat.1.jpg"),
        with_file(name=5), with_file(bytes="many"), with_file(**{"class": "owl"}),
    ]  # fmt: skip
    for text in bad:
        path.write_text(text)
        with pytest.raises(InputError) as caught:
            load_manifest(tmp_path / "data")
        assert "\n" not in str(caught.value), text
    with pytest.raises(InputError), open_source(tmp_path / "pets") as source:
        prepare(source, tmp_path / "data", **SIZES)
    with open_source(tmp_path / "pets") as source:
        assert prepare(source, tmp_path / "data", **SIZES, overwrite=True).sizes == SIZES


def test_warnings_of_pillow_stay_inside(tmp_path):
    exif = b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + bytes(10)
    files = {name: encode(picture(i), exif=exif) for i, name in enumerate(pets())}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        filters = list(warnings.filters)
        build(tmp_path, files)
        assert warnings.filters == filters
    assert [str(warning.message) for warning in caught] == []


def run_script(folder, *arguments):
    script = pathlib.Path(__file__).parents[1] / "scripts" / "prepare_data.py"
    return subprocess.run(
        [sys.executable, "-W", "error", script, *arguments],
        cwd=folder, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_script(tmp_path):
    write(tmp_path / "pets", pets() | {"cat/cat.0.jpg": b""})
    sizes = [part for split, size in SIZES.items() for part in (f"--{split}", str(size))]
    done = run_script(tmp_path, "--folder", "pets", *sizes)
    assert done.returncode == 0, done.stderr
    for part in ("validation      4  cat 2, dog 2", "cat/cat.0.jpg: an empty file", "data/pets"):
        assert part in done.stdout
    assert load_manifest(tmp_path / "data" / "pets").sizes == SIZES


def test_script_on_a_truncated_archive(tmp_path):
    (tmp_path / "train.zip").write_bytes(b"PK\x03\x04 and no more")
    failed = run_script(tmp_path, "--archive", "train.zip")
    assert failed.returncode == 2 and failed.stdout == ""
    assert failed.stderr.startswith("prepare_data.py: Expected a whole zip archive")
    assert failed.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["train.zip"]


def test_sketches_are_drawn_only_when_needed(tmp_path, monkeypatch):
    from catsdogs.data import sketch_files

    def draw(folder, *, per_class, seed, animals):
        files = pets(cats=range(seed, seed + per_class))
        write(folder, files)

    monkeypatch.setattr(sketch_files, "write_sketches", draw)
    with sources.open_sketches(6, seed=3) as source:
        first = prepare(source, tmp_path / "data", **SIZES)
    assert first.is_drawing and first.dataset == "sketches"
    monkeypatch.setattr(sketch_files, "write_sketches", None)  # would fail if it were called
    with sources.open_sketches(6, seed=3) as source:
        assert prepare(source, tmp_path / "data", **SIZES) == first
    with sources.open_sketches(6, seed=4) as other:
        assert other.fingerprint != first.source


@pytest.mark.parametrize("place", ["notes.txt", "run-seed0/model.keras", "train/cat/mine.jpg"])
@pytest.mark.parametrize("manifest", ["damaged picture", "foreign"])
def test_what_lies_beside_the_pictures_is_not_lost(tmp_path, place, manifest):
    """Neither when damage is repaired nor when a manifest that is none of ours is overwritten."""
    build(tmp_path, pets())
    data_dir = tmp_path / "data"
    (data_dir / place).parent.mkdir(parents=True, exist_ok=True)
    (data_dir / place).write_text("precious")
    if manifest == "foreign":
        (data_dir / "manifest.json").write_text('{"name": "a web page"}')
        if place.startswith("train"):
            return  # nothing tells whose that is, and it was asked to be overwritten
    else:
        next((data_dir / "train" / "cat").glob("cat*")).write_bytes(b"")
    before = everything(data_dir)
    with pytest.raises(InputError, match=f"received {place.split('/')[0]}.*would be lost"):
        build(tmp_path, pets(), overwrite=True)
    assert everything(data_dir) == before
