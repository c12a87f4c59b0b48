"""Two processes at once in the same place: one waits for the other, or says that it is in use."""

import shutil
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
from attempts import ROOT, left_in
from other_process import holding, release_soon
from tiny_backbone import TINY

from catsdogs.config import ScratchConfig
from catsdogs.data.download import download
from catsdogs.data.images import load_split
from catsdogs.data.manifest import load_manifest
from catsdogs.data.sources import open_source
from catsdogs.data.splits import prepare
from catsdogs.errors import InputError
from catsdogs.models.backbones import BACKBONES, build_base
from catsdogs.stages.evaluate import evaluate
from catsdogs.stages.features import FeatureStore
from catsdogs.stages.run import is_complete, load_run
from catsdogs.stages.scratch import train_scratch

WAITING = "Waiting for another process"
IN_USE = "to be free, but another process is using it"
SMALL = ScratchConfig(architecture="textbook", image_size=48, epochs=1, precision="float32")


@pytest.fixture
def data(data_dir, tmp_path):
    """A prepared dataset of which nothing is decoded."""
    ignored = shutil.ignore_patterns("decoded", "features", ".*")
    return shutil.copytree(data_dir, tmp_path / "data", ignore=ignored)


def start(name, *arguments):
    """Starts a script and does not wait for it."""
    command = [sys.executable, ROOT / "scripts" / name, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def ended(*processes):
    """(exit code, lines on standard error) of each process, once it has ended."""
    said = [process.communicate()[1].splitlines() for process in processes]
    return [(process.returncode, lines) for process, lines in zip(processes, said, strict=True)]


def test_two_prepare_one_folder(pictures, tmp_path, campaign):
    sizes = {"train": 64, "validation": 32, "test": 32}
    with open_source(pictures) as source:
        prepare(source, tmp_path / "alone", **sizes)
    flags = [word for split, size in sizes.items() for word in (f"--{split}", size)]
    random = campaign.random("two prepare")
    for number in range(campaign.size(1, 12)):
        with campaign.fault("two prepare one folder: one does, the other finds it or is told"):
            data_dir = tmp_path / f"both-{number}"
            arguments = ["prepare_data.py", "--folder", pictures, "--data-dir", data_dir, *flags]
            first = start(*arguments)
            time.sleep(random.uniform(0, 0.6))
            found = ended(first, start(*arguments))
            assert 0 in dict(found)
            assert all(code == 0 or (code == 2 and IN_USE in lines[-1]) for code, lines in found)
            assert left_in(data_dir) == left_in(tmp_path / "alone")


def test_a_folder_that_is_being_prepared_is_not_replaced(pictures, data):
    before = left_in(data)
    with holding(data), open_source(pictures) as source:
        assert prepare(source, data, train=64, validation=32, test=32) == load_manifest(data)
        with pytest.raises(InputError, match=IN_USE):
            prepare(source, data, train=48, validation=32, test=32, overwrite=True)
    assert left_in(data) == before


def test_what_another_process_downloads_is_not_downloaded_twice(tmp_path, capsys):
    (tmp_path / "elsewhere").write_bytes(b"pictures")
    path = tmp_path / "data" / "pets.zip"
    path.parent.mkdir()
    with holding(path.parent, create=path, source=tmp_path / "elsewhere") as other:
        release_soon(other)
        digest = "9ed98e5c3e9685aa3de82c99009a2ed3"
        download("http://127.0.0.1:9/", path, size=8, digest=digest, algorithm="md5")
    assert WAITING in capsys.readouterr().err


def test_what_another_process_decodes_is_not_decoded_twice(data, tmp_path, capsys):
    manifest = load_manifest(data)
    expected = np.array(load_split(data, manifest, "train", 32)[0])
    (path,) = (data / "decoded").iterdir()
    path.rename(tmp_path / path.name)
    shutil.rmtree(data / "train")  # now it could not decode them
    with holding(path.parent, create=path, source=tmp_path / path.name) as other:
        release_soon(other)
        found, _ = load_split(data, manifest, "train", 32)
    assert WAITING in capsys.readouterr().err
    np.testing.assert_array_equal(found, expected)


def test_features_of_another_process_are_used(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(BACKBONES, "tiny", TINY)
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    conv_base = build_base("tiny", 32, "average")

    def open_store():
        return FeatureStore(
            tmp_path / "features", conv_base, TINY.cut, dataset_digest="d", precision="float32"
        )

    expected = np.array(open_store().features(images, "train"))
    (folder,) = (path for path in (tmp_path / "features").iterdir() if path.name[0] != ".")
    folder.rename(tmp_path / folder.name)
    monkeypatch.setattr(keras.Model, "predict_on_batch", None)  # now it could not compute them
    store = open_store()
    with holding(folder.parent, create=folder, source=tmp_path / folder.name) as other:
        release_soon(other)
        found = store.features(images, "train")
    assert WAITING in capsys.readouterr().err
    np.testing.assert_array_equal(found, expected)
    # Its seconds are neither those of computing everything nor those of finding everything.
    assert store.reused and store.computed


def test_a_run_folder_has_one_process(data, tmp_path, capsys):
    run_dir = tmp_path / "runs" / "run"
    with holding(run_dir):
        for resume in (False, True):
            with pytest.raises(InputError, match=IN_USE):
                train_scratch(SMALL, data, run_dir, resume=resume)
        assert not run_dir.exists()
    train_scratch(SMALL, data, run_dir)
    with holding(run_dir) as other:  # evaluations take seconds, so they wait
        release_soon(other)
        evaluate(run_dir)
    assert WAITING in capsys.readouterr().err
    assert "test" in load_run(run_dir)[1]


# The same run folder; the same head; features of the same dataset.
AT_ONCE = {
    "one run": ("train_scratch.py", ["--preset", "textbook"], ["--preset", "textbook"], [0, 2], 1),
    "one head": ("finetune.py", ["--run-dir", "runs/a"], ["--run-dir", "runs/b"], [0, 0], 3),
    "two heads": ("finetune.py", ["--seed", "1"], ["--seed", "2"], [0, 0], 4),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", AT_ONCE)
def test_two_trainings_at_once(case, data, vgg16_weights, tmp_path, campaign, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name, *flags, codes, number = AT_ONCE[case]
    with campaign.fault("two trainings at once: both end well, or one is told"):
        found = ended(*(start(name, "--smoke", "--data-dir", data, *words) for words in flags))
        assert sorted(code for code, _ in found) == codes, found
        assert all(IN_USE in lines[-1] for code, lines in found if code)
        if name == "finetune.py":
            assert any(WAITING in line for _, lines in found for line in lines)
        runs = [path.parent for path in tmp_path.glob("runs/**/config.json")]
        assert len(runs) == number and all(map(is_complete, runs))
        left_in(tmp_path)  # nothing unfinished
