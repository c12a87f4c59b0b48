"""Every layout is read, and broken ones give one clear line."""

import errno
import hashlib
import io
import os
import zipfile

import pytest

from catsdogs.data import download, sources
from catsdogs.data.sources import open_source
from catsdogs.errors import InputError


def zip_bytes(names):
    """A zip whose files contain their own names."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, b"" if name.endswith("/") else name.encode())
    return buffer.getvalue()


def names_in(path):
    """What a source offers: ({class: file names}, data set name)."""
    with sources.open_source(path) as source:
        candidates = source.list_candidates()
        assert source.num_classes == len(candidates) and list(candidates) == sorted(candidates)
        return {label: [c.name for c in files] for label, files in candidates.items()}, source.name


LAYOUTS = {
    "kaggle": ["train/cat.10.jpg", "train/cat.9.jpg", "train/dog.0.jpg"],
    "kaggle at the root": ["cat.10.jpg", "cat.9.jpg", "dog.0.jpg", "sampleSubmission.csv"],
    "kaggle with test1": ["train/cat.10.jpg", "train/cat.9.jpg", "train/dog.0.jpg", "test1/1.jpg"],
    "microsoft": [
        "PetImages/Cat/10.jpg", "PetImages/Cat/9.jpg", "PetImages/Dog/0.jpg",
        "PetImages/Cat/Thumbs.db", "PetImages/", "PetImages/Cat/", "readme[1].txt",
    ],
    "windows": ["PetImages\\Cat\\10.jpg", "PetImages\\Cat\\9.jpg", "PetImages\\Dog\\0.jpg"],
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_archives_of_dogs_vs_cats(tmp_path, layout):
    path = tmp_path / "some.zip"
    path.write_bytes(zip_bytes(LAYOUTS[layout]))
    expected = {"cat": ["cat.9.jpg", "cat.10.jpg"], "dog": ["dog.0.jpg"]}
    assert names_in(path) == (expected, "dogs-vs-cats")


def test_nested_kaggle_archive(tmp_path):
    path = tmp_path / "dogs-vs-cats.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("test1.zip", zip_bytes(["test1/1.jpg"]))
        archive.writestr("train.zip", zip_bytes(["train/cat.1.jpg", "train/dog.2.jpg"]))
        archive.writestr("sampleSubmission.csv", "id,label")
    with sources.open_source(path) as source:
        candidates = source.list_candidates()
        assert source.fingerprint == hashlib.sha256(path.read_bytes()).hexdigest()
        assert candidates["dog"][0].read() == b"train/dog.2.jpg"
        assert candidates["cat"][0].num_bytes == len("train/cat.1.jpg")


def test_folder_with_a_folder_a_class(tmp_path):
    for name in ["Owl/b10.png", "Owl/b9.png", "Owl/.hidden.png", "Emu/x.jpg", "Emu/young/x.jpg"]:
        file = tmp_path / "birds" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)
    (tmp_path / "birds" / "notes.txt").write_text("beside the classes")
    names, dataset = names_in(tmp_path / "birds")
    assert names == {"emu": ["x.jpg", "young-x.jpg"], "owl": ["b9.png", "b10.png"]}
    assert dataset == "birds"


def test_flat_folder_of_kaggle_files(tmp_path):
    for name in ["cat.2.jpg", "cat.1.jpg", "dog.7.JPG"]:
        (tmp_path / name).write_text(name)
    expected = {"cat": ["cat.1.jpg", "cat.2.jpg"], "dog": ["dog.7.JPG"]}
    assert names_in(tmp_path) == (expected, "dogs-vs-cats")


def test_a_folders_fingerprint_is_its_content(tmp_path):
    def fingerprint():
        with sources.open_source(tmp_path / "pets") as source:
            return source.fingerprint

    for label in ("cat", "dog"):
        (tmp_path / "pets" / label).mkdir(parents=True)
        (tmp_path / "pets" / label / "1.jpg").write_text(label)
    before = fingerprint()
    (tmp_path / "pets").rename(tmp_path / "moved")
    (tmp_path / "moved").rename(tmp_path / "pets")
    assert fingerprint() == before
    (tmp_path / "pets" / "dog" / "1.jpg").write_text("god")  # the same size
    assert fingerprint() != before


def test_hostile_names_stay_inside(tmp_path):
    path = tmp_path / "evil.zip"
    names = ["../../cat/1.jpg", "/etc/../dog/2.jpg", "cat/../../../3.jpg", "..\\..\\dog\\4.jpg"]
    path.write_bytes(zip_bytes(["cat/0.jpg", "dog/0.jpg", *names]))
    expected = {"cat": ["0.jpg", "1.jpg", "3.jpg"], "dog": ["0.jpg", "4.jpg"], "etc": ["dog-2.jpg"]}
    assert names_in(path)[0] == expected
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        (["cat/1.jpg", "dog/"], "dog 0"),
        (["cat/1.jpg"], "none"),
        (["readme.txt"], "none"),
        ([], "none"),
        (["train/cat/1.jpg", "validation/cat/2.jpg"], "split already"),
        (["cat/1.jpg", "CAT/2.jpg", "dog/1.jpg"], "differ in more than capital letters"),
        (["cat/a/1.jpg", "cat/a-1.jpg", "dog/1.jpg"], "received two"),
    ],
)
def test_unusable_layouts(tmp_path, names, complaint):
    (tmp_path / "a.zip").write_bytes(zip_bytes(names))
    with pytest.raises(InputError, match=complaint) as caught:
        names_in(tmp_path / "a.zip")
    assert "\n" not in str(caught.value)


def test_what_is_neither_archive_nor_folder_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.zip")
    with pytest.raises(InputError, match="found something else"):
        names_in(tmp_path / "pipe.zip")
    with pytest.raises(InputError, match="found nothing"):
        names_in("~nosuchuser/a.zip")


def test_a_folder_that_cannot_be_read_is_not_passed_over(tmp_path, monkeypatch):
    for name in ("a", "b", "c", ".Trashes"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.jpg").touch()
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith(locked):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    locked = "/.Trashes"  # of a disk that was used with a Mac
    assert list(names_in(tmp_path)[0]) == ["a", "b", "c"]
    locked = "/b"
    with pytest.raises(PermissionError):
        names_in(tmp_path)


def test_a_data_set_is_not_named_like_what_is_half_written(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / ".part-x" / name).mkdir(parents=True)
        (tmp_path / ".part-x" / name / "1.jpg").touch()
    with open_source(tmp_path / ".part-x") as source:
        assert source.name == "part-x"


def test_a_class_may_be_called_test1(tmp_path):
    names = [f"test{number}/{number}.jpg" for number in (1, 2, 3)]
    for name in names:
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"x")
    with sources.open_source(tmp_path) as source:
        assert list(source.list_candidates()) == ["test1", "test2", "test3"]


def test_empty_class_folder(tmp_path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "dog").mkdir()
    (tmp_path / "cat" / "1.jpg").write_text("x")
    (tmp_path / "dog" / ".DS_Store").write_text("x")
    with pytest.raises(InputError, match="cat 1, dog 0"):
        names_in(tmp_path)


def test_broken_archives(tmp_path):
    whole = zip_bytes(["train/cat.1.jpg", "train/dog.1.jpg"])
    (tmp_path / "truncated.zip").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.zip").write_text("this is no archive")
    (tmp_path / "empty.zip").write_bytes(b"")
    with zipfile.ZipFile(tmp_path / "nested.zip", "w") as archive:
        archive.writestr("train.zip", whole[: len(whole) // 2])
    for name in ("truncated", "text", "empty", "nested"):
        with pytest.raises(InputError, match="truncated or other file") as caught:
            names_in(tmp_path / f"{name}.zip")
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="found nothing"):
        names_in(tmp_path / "missing.zip")


def test_damaged_entry_is_an_input_error(tmp_path):
    damaged = bytearray(zip_bytes(["cat.1.jpg", "dog.1.jpg"]))
    damaged[30 + len("cat.1.jpg")] ^= 1  # first byte of the first file's content
    (tmp_path / "a.zip").write_bytes(damaged)
    with sources.open_source(tmp_path / "a.zip") as source:
        candidates = source.list_candidates()
        assert candidates["dog"][0].read() == b"dog.1.jpg"
        with pytest.raises(InputError, match="cannot be read"):
            candidates["cat"][0].read()


def test_only_one_source_at_a_time():
    with pytest.raises(InputError, match="received several"):
        sources.open_pictures(archive="a.zip", sketches=True)


def test_the_microsoft_archive_is_not_fetched_before_it_is_needed(tmp_path, monkeypatch):
    def fail(folder):
        raise InputError("no network")

    monkeypatch.setattr(sources, "download_archive", fail)
    with sources.open_microsoft(tmp_path) as source:
        assert (source.name, source.fingerprint) == ("dogs-vs-cats", download.MICROSOFT_SHA256)
        with pytest.raises(InputError, match="no network"):
            source.list_candidates()
