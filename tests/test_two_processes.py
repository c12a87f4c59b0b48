"""Two processes at once in the same place: they share it, or one waits, or one is told."""

import fcntl
import http.server
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading
import time
import types

import numpy as np
import other_process
import pytest
from conftest import ROOT
from other_process import CONTENT, start

from catsdogs.config import FinetuneConfig, ScratchConfig
from catsdogs.data.batches import image_view
from catsdogs.data.manifest import load_manifest
from catsdogs.data.sources import open_source
from catsdogs.data.splits import prepare
from catsdogs.errors import InputError
from catsdogs.inference import export
from catsdogs.files import lock
from catsdogs.models import networks as models
from catsdogs.models.model_file import load_saved_model
from catsdogs.stages import evaluate as evaluate_run
from catsdogs.stages import features
from catsdogs.stages import run as runs
from catsdogs.stages import training_stages as stages

TOLD = "that another process uses"


def script(name, *arguments):
    """Starts a script and does not wait for it."""
    command = [sys.executable, ROOT / "scripts" / name, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(*processes):
    """(exit code, lines on standard error) of each process, once it has ended."""
    said = [process.communicate()[1].splitlines() for process in processes]
    return [(process.returncode, lines) for process, lines in zip(processes, said, strict=True)]


@pytest.fixture
def let_go(monkeypatch):
    """Lets a process go on as soon as this one begins to wait for it."""
    flock = fcntl.flock

    def make(process):
        def wait(handle, kind):
            if not kind & fcntl.LOCK_NB:
                process.stdin.close()
            flock(handle, kind)

        monkeypatch.setattr(fcntl, "flock", wait)

    return make


def test_one_folder_one_process(tmp_path):
    with start("hold", tmp_path / "x"):
        for shared in (False, True):
            with (
                pytest.raises(InputError, match=f"x to be free, received .* {TOLD}.* Wait") as told,
                hold(tmp_path / "x", shared=shared),
            ):
                pass
            assert "\n" not in str(told.value)
    (tmp_path / "y").mkdir()
    with start("hold", tmp_path / "y", "shared"):
        with hold(tmp_path / "y"):
            pass
        with pytest.raises(InputError, match=TOLD), hold(tmp_path / "y"):
            pass
    # What was made for the lock alone is taken away, what was there is not.
    assert list(tmp_path.iterdir()) == [tmp_path / "y"]


def test_held_twice_by_one_process_and_free_afterwards(tmp_path):
    with hold(tmp_path), hold(tmp_path):
        pass
    with start("hold", tmp_path):
        pass


def test_a_lock_ends_with_the_process_however_it_ends(tmp_path, campaign):
    for _ in range(campaign.size(1, 20)):
        fault = campaign.fault("a killed process holds nothing any more")
        with fault, start("hold", tmp_path / "x") as process:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            with hold(tmp_path / "x"):
                pass


def test_never_two_at_once(tmp_path, campaign):
    """The folder is made, replaced and taken away all the time, as prepare and export do."""
    number = campaign.size(40, 400)
    with campaign.fault("many processes, one folder that comes and goes: never two at once"):
        counts = [
            subprocess.Popen(
                [sys.executable, other_process.__file__, "count", tmp_path, str(number)],
                stderr=subprocess.DEVNULL,
            )
            for _ in range(4)
        ]  # fmt: skip
        assert [process.wait() for process in counts] == [0] * 4
        assert (tmp_path / "number").read_text() == str(4 * number)
        assert [path.name for path in (tmp_path / "a").glob("*")] in ([], ["b"])


def everything(folder):
    return {path.relative_to(folder): path.is_file() and path.read_bytes()
            for path in folder.rglob("*")}  # fmt: skip


def test_two_prepare_one_folder(pictures, tmp_path, campaign):
    sizes = {"train": 64, "validation": 32, "test": 32}
    with open_source(pictures) as source:
        prepare(source, tmp_path / "alone", **sizes)
    flags = [word for split, size in sizes.items() for word in (f"--{split}", size)]
    random = campaign.random("two prepare")
    for number in range(campaign.size(1, 12)):
        with campaign.fault("two prepare one folder: one does it, the other finds it or is told"):
            work = tmp_path / str(number)
            arguments = ["prepare_data.py", "--folder", pictures, "--data-dir", work / "d", *flags]
            first = script(*arguments)
            time.sleep(random.random() * 0.6)
            found = ended(first, script(*arguments))
            assert {code for code, _ in found} <= {0, 2} and (0 in dict(found))
            assert all(TOLD in lines[-1] for code, lines in found if code)
            assert everything(work / "d") == everything(tmp_path / "alone")
            assert [path.name for path in work.iterdir()] == ["d"]


def test_data_in_use_is_not_replaced(pictures, data_dir, tmp_path):
    data = shutil.copytree(data_dir, tmp_path / "d")
    before = everything(data)
    with start("hold", data, "shared"), open_source(pictures) as source:
        same = prepare(source, data, train=64, validation=32, test=32)
        assert same == load_manifest(data_dir)
        with pytest.raises(InputError, match=TOLD):
            prepare(source, data, train=48, validation=32, test=32, overwrite=True)
    assert everything(data) == before


class Server(http.server.BaseHTTPRequestHandler):
    """Sends the archive, slowly, and keeps count."""

    def do_GET(self):
        self.server.asked.append(self.headers["Range"])
        start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        for at in range(start, len(CONTENT), 1 << 14):
            self.wfile.write(CONTENT[at : at + (1 << 14)])
            time.sleep(0.05)

    def log_message(self, *_):
        pass


def test_two_downloads_are_one(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        server.asked = []
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/cats.zip"
        command = [sys.executable, other_process.__file__, "download", tmp_path / "data", url]
        found = ended(*[
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for _ in range(2)
        ])  # fmt: skip
        server.shutdown()
        thread.join()
    assert [code for code, _ in found] == [0, 0]
    assert sum("Waiting for another process" in "".join(lines) for _, lines in found) == 1
    assert len(server.asked) == 1
    assert everything(tmp_path / "data") == {pathlib.Path("cats.zip"): CONTENT}


def test_features_of_another_process_are_waited_for_and_used(
    vgg16_weights, tmp_path, monkeypatch, capsys, let_go
):
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    base = models.build_vgg16_base(32, "average", vgg16_weights)

    def open_store():
        return features.FeatureStore(
            tmp_path / "features", base, dataset_digest="d", precision="float32"
        )

    whole = np.array(open_store().features(images, "train"))
    (path,) = (tmp_path / "features").iterdir()
    away = path.rename(tmp_path / path.name)
    computed = []
    monkeypatch.setattr(
        features,
        "image_view",
        lambda *rows, **view: computed.append(1) or image_view(*rows, **view),
    )
    store = open_store()
    with start("hold", path.parent, "exclusive", away, path) as other:
        let_go(other)
        found = store.features(images, "train")
    assert "Waiting for another process" in capsys.readouterr().err
    np.testing.assert_array_equal(found, whole)
    # Its seconds are neither those of computing everything nor those of finding everything.
    assert computed == [] and store.reused and store.computed


@pytest.fixture(scope="module")
def run_dir(data_dir, tmp_path_factory):
    """A finished run."""
    config = ScratchConfig(
        architecture="textbook", image_size=48, epochs=1, batch_size=16, precision="float32"
    )
    return stages.train_scratch(config, data_dir, tmp_path_factory.mktemp("runs") / "r")[0]


def test_a_run_folder_has_one_process(run_dir, data_dir, tmp_path, capsys, let_go):
    new = tmp_path / "runs" / "new"
    with start("hold", new):
        for resume in (False, True):
            with pytest.raises(InputError, match=TOLD):
                stages.train_scratch(ScratchConfig(smoke=True), data_dir, new, resume=resume)
        assert list(new.iterdir()) == []
    assert not new.exists()
    # Evaluating and exporting take seconds, so they wait for each other.
    copy = shutil.copytree(run_dir, tmp_path / "copy")
    with start("hold", copy) as other:
        let_go(other)
        evaluate_run.evaluate(copy)
    assert "Waiting for another process" in capsys.readouterr().err
    with start("hold", copy / "out") as other:
        let_go(other)
        pictures = [str(data_dir / "test")]
        export.export_model(load_saved_model(copy), "savedmodel", copy / "out", pictures)
    assert "Waiting for another process" in capsys.readouterr().err
    assert (copy / "out" / "model.json").exists()
    assert not [path for path in copy.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("usable", [True, False])
def test_a_start_that_another_process_makes_is_waited_for(
    usable, run_dir, tmp_path, capsys, let_go
):
    """Two fine-tunings of one seed need the same head; here the other process has just begun it.

    If it turns out to be of other settings, say of a smoke run, the next one is looked at.
    """
    start_dir = tmp_path / "feature_extract-best-cached-seed0"
    shutil.copytree(run_dir, start_dir)
    next_dir = shutil.copytree(run_dir, start_dir.with_name(f"{start_dir.name}-2"))
    away = (start_dir / "metrics.json").rename(tmp_path / "metrics.json")
    stage = types.SimpleNamespace(
        config=FinetuneConfig(),
        run_dir=tmp_path / "tuned",
        could_reuse=lambda place, _: usable or place == next_dir,
    )
    with start("hold", start_dir, "exclusive", away, start_dir / "metrics.json") as other:
        let_go(other)
        expected = (start_dir, True) if usable else (next_dir, False)
        assert stages._make_start(stage) == expected
    assert "Waiting for another process" in capsys.readouterr().err


# The same folder; the same start; features of the same data set.
AT_ONCE = (
    ("train_scratch.py", ("--preset", "textbook"), ("--preset", "textbook"), [0, 2]),
    ("finetune.py", ("--run-dir", "runs/a"), ("--run-dir", "runs/b"), [0, 0]),
    ("finetune.py", ("--seed", "1"), ("--seed", "2"), [0, 0]),
    ("train_feature_extract.py", (), (), [0, 2]),
)


def test_two_trainings_at_once(data_dir, vgg16_weights, tmp_path, campaign, monkeypatch):
    random = campaign.random("two trainings")
    for number in range(campaign.size(1, 4)):
        name, *flags, codes = AT_ONCE[number % len(AT_ONCE)]
        with campaign.fault("two trainings at once: both end well, or one is told"):
            work = tmp_path / str(number)
            work.mkdir()
            monkeypatch.chdir(work)
            shutil.copytree(data_dir, "d", ignore=shutil.ignore_patterns("decoded", "features"))
            both = [script(name, "--smoke", "--data-dir", "d", *flags[0])]
            later = campaign.size(0, random.choice([0, 3 * random.random()]))
            time.sleep(later)
            both.append(script(name, "--smoke", "--data-dir", "d", *flags[1]))
            found = ended(*both)
            assert sorted(code for code, _ in found) == codes, found
            assert all(TOLD in lines[-1] for code, lines in found if code)
            if name == "finetune.py" and not later:  # else there may be nothing to wait for
                said = [line for _, lines in found for line in lines]
                assert any("Waiting for another process" in line for line in said)
            trained = [path.parent for path in work.glob("runs/**/config.json")]
            assert all(runs.is_complete(path) for path in trained)
            # One start for both where they want the same, and no file half-made.
            assert len(trained) == {"runs/a": 3, "1": 4}.get(flags[0][-1] if flags[0] else "", 1)
            assert not [*work.rglob("*.partial"), *work.rglob(".*")]
