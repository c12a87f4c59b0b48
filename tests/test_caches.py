"""Caches and leftovers: found, told apart from what is kept, cleared only where nobody works."""

import os
import shutil
import signal
import subprocess
import sys

import pytest
from conftest import ROOT
from other_process import start

from catsdogs import caches
from catsdogs.data.download import MICROSOFT_URL
from catsdogs.data.images import load_split
from catsdogs.data.manifest import load_manifest
from catsdogs.errors import InputError
from catsdogs.files import atomic_path, write_json
from catsdogs.locks import PART


@pytest.fixture
def place(data_dir, tmp_path, monkeypatch):
    """A working folder with two data sets, one with caches and leftovers, and a run."""
    monkeypatch.chdir(tmp_path)
    for name in ("big", "small"):
        shutil.copytree(data_dir, f"data/{name}", ignore=shutil.ignore_patterns("decoded", "feat*"))
    big = tmp_path / "data" / "big"
    manifest = load_manifest(big)
    for size in (16, 24):
        load_split(big, manifest, "train", size)
    load_split(big, manifest, "test", 24)
    (big / "features").mkdir()
    for name in ("train-view0-block4_pool-320-0a", "train-view1-block4_pool-320-0b"):
        (big / "features" / f"{name}.npy").write_bytes(bytes(1000))
    (big / "features" / "test-view0-average_pool-64-0c.npy.partial").write_bytes(bytes(300))
    write_json("runs/big/run/config.json", {})
    (tmp_path / "data" / "cats.zip").write_bytes(b"an archive")
    (tmp_path / "data" / DOWNLOAD).write_bytes(bytes(70))
    return tmp_path


def kill_while_writing(code):
    """Runs Python code that stops itself in the middle of a write, and kills it there."""
    prelude = "import os, signal\nfrom catsdogs.files import atomic_folder, atomic_path\n"
    code += "\n    os.kill(os.getpid(), signal.SIGKILL)"
    killed = subprocess.run([sys.executable, "-c", prelude + code])
    assert killed.returncode == -signal.SIGKILL


DOWNLOAD = MICROSOFT_URL.rpartition("/")[2] + ".part"


def is_temporary(path):
    return path.name.startswith(PART)


def kept(folder):
    """Everything that is neither cache nor leftover, with content."""
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not {"decoded", "features"} & set(path.parts)
        and path.name != DOWNLOAD and not any(map(is_temporary, (path, *path.parents)))
    }  # fmt: skip


def found():
    return {(cache.folder.name, cache.kind, cache.name): cache for cache in caches.list_caches()}


def test_what_there_is_is_listed(place):
    listed = found()
    assert {key: (c.num_files, c.num_bytes) for key, c in listed.items()} == {
        ("big", "decoded", "pixels 16²"): (1, 128 + 64 * 16 * 16 * 3),
        ("big", "decoded", "pixels 24²"): (2, 2 * 128 + 96 * 24 * 24 * 3),
        ("big", "features", "block4_pool 320²"): (2, 2000),
        ("big", "leftovers", "average_pool 64², unfinished, goes on"): (1, 300),
        ("data", "leftovers", "unfinished download, goes on"): (1, 70),
    }
    text = "\n".join(caches.describe_caches(caches.list_caches()))
    assert "2 files" in text and "pixels 24²" in text
    last = text.splitlines()[-1].split()
    total = sum(cache.num_bytes for cache in listed.values())
    assert last == ["all", f"{total / 1e6:.1f}", "MB", "7", "files"]


@pytest.mark.parametrize(
    "kinds", [["decoded"], ["features"], ["leftovers"], ["decoded", "features"]]
)
def test_only_what_is_named_is_cleared(place, kinds):
    before, listed = kept(place), found()
    freed, in_use = caches.clear_caches(caches.list_caches(), kinds)
    assert freed == sum(c.num_bytes for c in listed.values() if c.kind in kinds) > 0
    assert in_use == [] and kept(place) == before
    assert found().keys() == {key for key in listed if key[1] not in kinds}


def test_what_killed_processes_leave_is_swept(place, campaign):
    writes = (
        "with atomic_path('data/big/decoded/train-48-0d.npy') as path:\n    path.touch()",
        "with atomic_path('data/big/manifest.json') as path:\n    path.write_bytes(b'{')",
        "with atomic_path('runs/big/run/state/best.npz') as path:\n    path.write_bytes(b'PK')",
        "with atomic_folder('data/new') as path:\n    (path / 'train').mkdir()",
        "with atomic_folder('data/small') as path:\n    (path / 'manifest.json').touch()",
        "with atomic_folder('runs/big/run/export-onnx') as path:\n    (path / 'x').touch()",
    )
    before = kept(place)
    for write in writes:
        with campaign.fault("killed while writing: the rest is found and swept"):
            listed = found()
            kill_while_writing(write)
            (left,) = found().keys() - listed.keys()
            assert left[1] == "leftovers" and "half-written" in left[2]
            caches.clear_caches([found()[left]], ["leftovers"])
            assert found().keys() == listed.keys()
            assert kept(place) == before
    left = [path for path in place.rglob("*") if is_temporary(path)]
    assert left == []


def test_the_last_copy_is_no_leftover(place):
    """Killed after the old data set was taken away and before the new one had its place."""
    os.rename("data/small", "data/.part-.old-small")
    assert not any("small" in str(cache.paths) for cache in caches.list_caches())
    shutil.copytree("data/.part-.old-small", "data/small")
    assert any("old-small" in str(cache.paths) for cache in caches.list_caches())


def test_hidden_things_of_others_are_no_leftovers(place):
    (place / "data" / ".part-2").mkdir()
    (place / "data" / ".part-2" / "letter.txt").write_text("dear")
    (place / "data" / ".my-settings").mkdir()
    (place / "data" / ".gitignore").touch()
    (place / "data" / "cats.zip.part").touch()  # a browser's
    (place / "data" / "holiday.part").mkdir()
    (place / "data" / "holiday.part" / "cat.jpg").touch()
    listed = str([cache.paths for cache in caches.list_caches()])
    assert ".part-2" not in listed and "my-settings" not in listed and "gitignore" not in listed
    assert "cats.zip" not in listed and "holiday" not in listed


def test_what_is_in_use_is_left_alone(place):
    listed = found()
    with start("hold", "data/big", "shared"):
        freed, in_use = caches.clear_caches(caches.list_caches(), ["decoded", "leftovers"])
    assert [path.name for path in in_use] == ["big"] and freed == 70
    assert found().keys() == {key for key in listed if key[0] == "big"}


def test_what_is_being_written_is_left_alone(place):
    """Also by who holds nothing but what it writes, as an export does and a notebook."""
    listed = found()
    with atomic_path("runs/big/run/model.onnx") as path, start("write", "runs/big/run/export"):
        path.write_text("half a model")
        assert len(found()) > len(listed)
        freed, in_use = caches.clear_caches(caches.list_caches(), ["leftovers"])
        assert freed == 370 and [folder.name for folder in in_use] == ["run"]
        assert path.read_text() == "half a model"
        assert (place / "runs" / "big" / "run" / f"{PART}export").is_dir()


def test_script(place):
    command = [sys.executable, "-W", "error", ROOT / "scripts" / "caches.py"]

    def run(*arguments):
        return subprocess.run([*command, *arguments], capture_output=True, text=True)

    before = kept(place)
    plain = run()
    assert (
        plain.returncode == 0 and "block4_pool 320²" in plain.stdout and "Freed" not in plain.stdout
    )
    one = run("--data-dir", "data/small", "--clear", "decoded", "features", "leftovers")
    assert one.stdout.endswith("Freed 0 bytes.\n") and len(found()) == 5
    with start("hold", "data/big", "shared"):
        busy = run("--clear", "features")
    assert busy.returncode == 0 and "another process uses it: data/big" in busy.stderr
    cleared = run("--clear", "features", "decoded", "leftovers")
    number = sum(cache.num_bytes for cache in caches.list_caches())
    assert number == 0 and "Freed 0 bytes" not in cleared.stdout
    assert kept(place) == before
    wrong = run("--data-dir", "nowhere")
    assert wrong.returncode == 2 and len(wrong.stderr.splitlines()) == 1
    assert "Expected a prepared data set" in wrong.stderr and not (place / "nowhere").exists()
    with pytest.raises(InputError, match="--data-dir"):
        caches.list_caches(data_dir=place)
