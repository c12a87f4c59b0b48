"""Every layout of archives and folders is read; what cannot be used gives one clear line."""

import errno
import hashlib
import io
import os
import re
import tracemalloc
import zipfile
import zlib

import pytest
from hostile_files import raw_zip
from pictures import pets, write_files

from catsdogs.data import download, sources
from catsdogs.data.sources import open_pictures, open_source
from catsdogs.data.splits import prepare
from catsdogs.errors import InputError


def zip_bytes(names):
    """A zip whose files contain their own names."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, b"" if name.endswith("/") else name.encode())
    return buffer.getvalue()


def make_source(tmp_path, kind, names):
    if kind == "archive":
        (tmp_path / "pets.zip").write_bytes(zip_bytes(names))
        return tmp_path / "pets.zip"
    for name in names:
        if name.endswith("/"):
            (tmp_path / "pets" / name).mkdir(parents=True, exist_ok=True)
        else:
            write_files(tmp_path / "pets", {name: name.encode()})
    return tmp_path / "pets"


def listing(path):
    """What a source offers: ({class: file names}, dataset name); all of it can be read."""
    with open_source(path) as source:
        candidates = source.list_candidates()
        assert source.num_classes == len(candidates)
        for files in candidates.values():
            assert all(len(file.read()) == file.num_bytes for file in files)
        return {label: [file.name for file in files] for label, files in candidates.items()}, (
            source.name
        )


CATS_AND_DOGS = {"cat": ["cat.9.jpg", "cat.10.jpg"], "dog": ["dog.0.jpg"]}
LAYOUTS = {
    "kaggle": (
        ["train/cat.10.jpg", "train/cat.9.jpg", "train/dog.0.jpg"], CATS_AND_DOGS, "dogs-vs-cats",
    ),
    "kaggle without a folder": (
        ["cat.10.jpg", "cat.9.jpg", "dog.0.jpg", "sampleSubmission.csv"], CATS_AND_DOGS,
        "dogs-vs-cats",
    ),
    "kaggle with its unlabelled pictures": (
        ["train/cat.10.jpg", "train/cat.9.jpg", "train/dog.0.jpg", "test1/1.jpg"], CATS_AND_DOGS,
        "dogs-vs-cats",
    ),
    "microsoft": (
        ["PetImages/Cat/10.jpg", "PetImages/Cat/9.jpg", "PetImages/Dog/0.jpg",
         "PetImages/Cat/Thumbs.db", "readme[1].txt"], CATS_AND_DOGS, "dogs-vs-cats",
    ),
    "a folder for each class": (
        ["Owl/b10.png", "Owl/b9.png", "Owl/.hidden.png", "Emu/x.jpg", "Emu/young/x.jpg",
         "notes.txt", ".Trashes/1.jpg", "__MACOSX/Owl/b9.png"],
        {"emu": ["x.jpg", "young-x.jpg"], "owl": ["b9.png", "b10.png"]}, "pets",
    ),
    "folders around the classes": (
        ["all/birds/owl/1.png", "all/birds/emu/2.png"], {"emu": ["2.png"], "owl": ["1.png"]},
        "pets",
    ),
    "a class called test1": (
        ["test1/1.jpg", "test2/2.jpg"], {"test1": ["1.jpg"], "test2": ["2.jpg"]}, "pets",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", ["archive", "folder"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(tmp_path, kind, layout):
    names, classes, dataset = LAYOUTS[layout]
    assert listing(make_source(tmp_path, kind, names)) == (classes, dataset)


def test_backslashes_in_an_archive(tmp_path):
    names = ["PetImages\\Cat\\10.jpg", "PetImages\\Cat\\9.jpg", "PetImages\\Dog\\0.jpg"]
    assert listing(make_source(tmp_path, "archive", names)) == (CATS_AND_DOGS, "dogs-vs-cats")


def test_nested_kaggle_archive(tmp_path):
    path = tmp_path / "dogs-vs-cats.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("test1.zip", zip_bytes(["test1/1.jpg"]))
        archive.writestr("train.zip", zip_bytes(["train/cat.1.jpg", "train/dog.2.jpg"]))
    with open_source(path) as source:
        assert source.fingerprint == hashlib.sha256(path.read_bytes()).hexdigest()
        assert source.list_candidates()["dog"][0].read() == b"train/dog.2.jpg"


@pytest.mark.parametrize("kind", ["archive", "folder"])
@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        (["cat/1.jpg", "dog/"], "cat 1, dog 0"),
        (["cat/1.jpg"], "none, and 1 files"),
        (["readme.txt"], "none, and 1 files"),
        (["train/cat/1.jpg", "validation/cat/2.jpg"], "train, validation: .* split already"),
        (["cat/a/1.jpg", "cat/a-1.jpg", "dog/1.jpg"], r"one file called cat/a-1\.jpg"),
    ],
)
def test_unusable_layouts(tmp_path, kind, names, complaint):
    with pytest.raises(InputError, match=complaint) as caught:
        listing(make_source(tmp_path, kind, names))
    assert "\n" not in str(caught.value)


def test_damaged_archives(tmp_path):
    good = zip_bytes(["cat.1.jpg", "dog.1.jpg"])
    contents = {"cut": good[: len(good) // 2], "text": b"not a zip", "empty": b""}
    with zipfile.ZipFile(tmp_path / "nested.zip", "w") as archive:
        archive.writestr("train.zip", good[: len(good) // 2])
    for name, content in contents.items():
        (tmp_path / f"{name}.zip").write_bytes(content)
    for name in (*contents, "nested"):
        with pytest.raises(InputError, match="Expected a complete zip archive") as caught:
            listing(tmp_path / f"{name}.zip")
        assert "\n" not in str(caught.value)


def test_neither_archive_nor_folder(tmp_path):
    os.mkfifo(tmp_path / "pipe.zip")  # would be waited for
    for path in (tmp_path / "pipe.zip", tmp_path / "missing.zip", "~nosuchuser/a.zip"):
        with pytest.raises(InputError, match="Expected an archive or a folder at"):
            listing(path)


def test_a_folder_that_cannot_be_read_is_not_left_out(tmp_path, monkeypatch):
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("/b"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scandir(path)

    folder = make_source(tmp_path, "folder", ["a/1.jpg", "b/1.jpg", "c/1.jpg"])
    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError):
        listing(folder)


def test_links_are_followed_once(tmp_path):
    elsewhere = write_files(tmp_path / "elsewhere", {"dog/1.jpg": b"d", "cat/1.jpg": b"c"})
    pets = write_files(tmp_path / "pets", {"cat/2.jpg": b"c"})
    (pets / "cat" / "1.jpg").symlink_to(elsewhere / "cat" / "1.jpg")
    (pets / "dog").symlink_to(elsewhere / "dog")
    (pets / "cat" / "back").symlink_to(pets)  # in circles
    (elsewhere / "dog" / "round").symlink_to(pets)
    (pets / "cat" / "broken.jpg").symlink_to(tmp_path / "gone")
    os.mkfifo(pets / "cat" / "pipe.jpg")
    assert listing(pets) == ({"cat": ["1.jpg", "2.jpg"], "dog": ["1.jpg"]}, "pets")


def test_names_that_are_not_text(tmp_path):
    for label in (b"cat\xff\n", b"dog"):
        os.makedirs(os.path.join(os.fsencode(tmp_path), b".pets\xfe", label))
        with open(os.path.join(os.fsencode(tmp_path), b".pets\xfe", label, b"1\xff.png"), "wb"):
            pass
    found = listing(os.fsdecode(os.fsencode(tmp_path) + b"/.pets\xfe"))
    # Nor is the dataset's folder hidden.
    assert found == ({"cat__": ["1_.png"], "dog": ["1_.png"]}, "pets_")


def test_a_folders_fingerprint_is_its_content(tmp_path):
    def fingerprint(folder):
        with open_source(folder) as source:
            return source.fingerprint

    folder = write_files(tmp_path / "pets", {"cat/1.jpg": b"cat", "dog/1.jpg": b"dog"})
    # Written in another order, in another place.
    copy = write_files(tmp_path / "copy", {"dog/1.jpg": b"dog", "cat/1.jpg": b"cat"})
    assert fingerprint(folder) == fingerprint(copy)
    (copy / "dog" / "1.jpg").write_bytes(b"god")
    assert fingerprint(folder) != fingerprint(copy)


def test_one_source_at_a_time():
    with pytest.raises(InputError, match="received several"):
        open_pictures(archive="a.zip", sketches=True)
    with pytest.raises(InputError, match="--rabbits together with --sketches"):
        open_pictures(rabbits=True)


def test_the_microsoft_archive_is_downloaded_only_when_needed(tmp_path, monkeypatch):
    def fail(url, path, *, size, digest):
        assert (url, size, digest) == (
            sources.MICROSOFT_URL, sources.MICROSOFT_SIZE, sources.MICROSOFT_SHA256,
        )  # fmt: skip
        assert path == tmp_path / "kagglecatsanddogs_5340.zip"
        raise InputError("the network is down")

    monkeypatch.setattr(download, "download", fail)
    with sources.open_microsoft(tmp_path) as source:
        assert (source.name, source.fingerprint) == ("dogs-vs-cats", sources.MICROSOFT_SHA256)
        with pytest.raises(InputError, match="the network is down") as caught:
            source.list_candidates()
    for part in ("--archive PATH", "--folder PATH", "--sketches"):
        assert part in str(caught.value)


def test_sketches_are_drawn_only_when_needed(monkeypatch):
    from catsdogs.data import sketches

    drawn = []

    def draw(folder, *, per_class, seed, animals):
        drawn.append((per_class, seed, animals))
        write_files(folder, {f"{animal}/{animal}.0.jpg": b"drawn" for animal in animals})

    monkeypatch.setattr(sketches, "write_sketches", draw, raising=False)
    with open_pictures(sketches=True, num_pictures=12) as source:
        assert source.is_sketches and source.name == "sketches" and drawn == []
        assert source.list_candidates()["dog"][0].read() == b"drawn"
    assert drawn == [(6, 0, sketches.CATS_AND_DOGS)]
    with open_pictures(sketches=True, rabbits=True, num_pictures=12) as with_rabbits:
        assert with_rabbits.num_classes == 3 and with_rabbits.fingerprint != source.fingerprint


# ---- Archives from strangers ----

FILES = [
    {"name": name.encode(), "data": data} for name, data in pets(range(3), range(9, 12)).items()
]
ZEROS = zlib.compress(bytes(10**6), wbits=-15)
LINK = 0o120777  # mode of a symbolic link


def prepare_archive(tmp_path, entries):
    """The manifest of an archive, of which three pictures a class are needed."""
    (tmp_path / "pets.zip").write_bytes(raw_zip(entries))
    with open_source(tmp_path / "pets.zip") as source:
        return prepare(source, tmp_path / "data", train=2, validation=2, test=2)


@pytest.mark.parametrize(
    ("entries", "complaint"),
    [
        ([*FILES, {"name": b"cat/9.jpg", "data": ZEROS, "method": 8, "size": 2**32 - 2}], "bomb"),
        ([{"name": b"train.zip", "data": ZEROS, "method": 8, "size": 2**32 - 2}], "zip bomb"),
        ([{"name": b"train.zip", "data": b"x" * 30, "flags": 1}], "encrypted"),
        ([{"name": b"train.zip", "data": b"x" * 30, "method": 14}], "compression method 14"),
        ([*FILES, {"name": b"cat/9.jpg", "version": 99}], "zip file version"),
        ([*FILES, FILES[0]], "Expected one file called cat/cat.0.jpg .*received two"),
    ],
    ids=["bomb", "bomb inside", "encrypted", "another method", "another version", "same name"],
)
def test_hostile_archives_are_refused_in_one_line(entries, complaint, tmp_path):
    with pytest.raises(InputError, match=complaint) as caught:
        prepare_archive(tmp_path, entries)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 500
    assert [path.name for path in tmp_path.iterdir()] == ["pets.zip"]


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"data": b"x" * 30, "flags": 1}, "encrypted"),
        ({"data": b"x" * 30, "method": zipfile.ZIP_LZMA}, "compression method 14"),
        ({"data": b"x", "method": 77}, "compression method 77"),
        ({"data": FILES[1]["data"], "crc": 7}, "CRC"),
        ({"data": ZEROS, "method": 8, "size": 100}, "CRC"),
        ({"data": b"abc", "size": 5000}, "cannot be read|not a JPEG"),
        ({"offset": 10**8}, "cannot be read"),
        ({"data": ZEROS, "method": 8, "size": 300 * 2**20}, "larger than 256 MB"),
        ({"data": b"/etc/passwd", "mode": LINK}, "not a JPEG"),
    ],
    ids=["encrypted", "lzma", "method", "checksum", "longer", "shorter", "beyond", "huge", "link"],
)
def test_hostile_members_are_dropped_with_a_reason(claims, reason, tmp_path):
    # The first file of its class, so it is examined.
    manifest = prepare_archive(tmp_path, [{"name": b"cat/a.-1.jpg", **claims}, *FILES])
    ((name, found),) = [(file.name, file.reason) for file in manifest.dropped]
    assert name == "cat/a.-1.jpg" and re.search(reason, found) and len(manifest.files) == 6


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("../../cat/7.jpg", "7.jpg"), ("/cat/7.jpg", "7.jpg"), ("..\\..\\cat\\7.jpg", "7.jpg"),
        ("cat/../../../7.jpg", "7.jpg"), ("cat/7\n.jpg", "7_.jpg"),
        ("cat/7\x1b[2J.jpg", "7_[2J.jpg"), ("cat/7.jpg\0.exe", "7.jpg"), ("cat/ж7.jpg", "ж7.jpg"),
        ("cat/\u202egnp.7.jpg", "_gnp.7.jpg"), ("cat/C:7.jpg", "C:7.jpg"),
    ],
)  # fmt: skip
def test_hostile_names_stay_names_in_their_class(name, expected, tmp_path):
    entry = {"name": name.encode(), "data": FILES[0]["data"], "flags": 0x800}
    manifest = prepare_archive(tmp_path, [entry, *FILES[1:]])
    assert expected in {
        file.name.rpartition("/")[2] for file in manifest.files if "cat" in file.name
    }
    assert all(line.isprintable() for line in manifest.describe().splitlines())
    pictures = [path for path in tmp_path.rglob("*") if path.suffix in (".jpg", ".exe")]
    assert len(pictures) == 6
    assert all(path.parts[-3] in ("train", "validation", "test") for path in pictures)


def test_a_member_that_unpacks_to_more_than_it_says_takes_no_memory(tmp_path):
    zeros = zlib.compress(bytes(100 * 2**20), wbits=-15)
    lying = {"name": b"cat/a.-1.jpg", "data": zeros, "method": 8, "size": 1000}
    tracemalloc.start()
    manifest = prepare_archive(tmp_path, [lying, *FILES])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert manifest.dropped[0].name == "cat/a.-1.jpg" and peak < 10 * 2**20
