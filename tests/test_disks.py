"""Full and read-only disks, real ones: one line, exit code 2, and what was there is there still.

The test starts this file as a program in a mount namespace of its own, with a small tmpfs in it,
where the stages below run with too little room of random size.
"""

import contextlib
import functools
import hashlib
import http.server
import io
import json
import os
import pathlib
import random
import runpy
import shutil
import subprocess
import sys
import threading

import pytest
from conftest import ROOT


def run_script(name, *arguments, output=None):
    """Runs a script in this process; returns its exit code and the lines on standard error."""
    sys.argv = [str(ROOT / "scripts" / name), *map(str, arguments)]
    said, code = io.StringIO(), 0
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(output or io.StringIO()):
        try:
            runpy.run_path(sys.argv[0], run_name="__main__")
        except SystemExit as stop:
            code = stop.code or 0
    return code, said.getvalue().splitlines()


def run_function(function):
    """The same for a function that no script calls alone."""
    from catsdogs import cli

    said, code = io.StringIO(), 0
    sys.argv = ["script.py"]
    with contextlib.redirect_stderr(said):
        try:
            cli.run(function)
        except SystemExit as stop:
            code = stop.code
    return code, said.getvalue().splitlines()


def contents(folder):
    """SHA-256 of every file, `{path: digest}`; folders too, so that none is left empty."""
    return {
        path.relative_to(folder): path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
    }


def copy_pictures(data_dir, folder):
    """Copies a data set without what other tests have decoded in it."""
    ignored = shutil.ignore_patterns("decoded", "features")
    shutil.copytree(data_dir, folder, ignore=ignored, dirs_exist_ok=True)


class Prepare:
    """Replaces a data set by another one."""

    def __init__(self, room, given):
        self.room, self.given = room, given

    def set_up(self):
        code, said = self._prepare("--train", 64, "--validation", 32, "--test", 32)
        assert code == 0, said

    def run(self):
        return self._prepare("--train", 60, "--validation", 30, "--test", 30, "--overwrite")

    def _prepare(self, *arguments):
        arguments = ("--folder", self.given["pictures"], "--data-dir", self.room / "d", *arguments)
        return run_script("prepare_data.py", *arguments)

    def result(self):
        return contents(self.room)

    left = frozenset()  # names of what a stage that failed may leave behind


class Decode:
    """Decodes a split."""

    left = frozenset({"decoded"})

    def __init__(self, room, given):
        self.room, self.data_dir = room, room / "d"
        self.given = given

    def set_up(self):
        copy_pictures(self.given["data_dir"], self.data_dir)

    def run(self):
        from catsdogs.data.images import load_split
        from catsdogs.data.manifest import load_manifest

        manifest = load_manifest(self.data_dir)
        return run_function(lambda: load_split(self.data_dir, manifest, "train", 64))

    def result(self):
        return contents(self.room)


class Extract:
    """Computes activations, two files in one pass."""

    left = frozenset({"features", ".partial"})

    def __init__(self, room, given):
        import numpy as np

        from catsdogs.models import networks as models

        self.room = room
        self.base = models.build_vgg16_base(32, "average", given["weights"])
        shape = (70, 32, 32, 3)
        self.images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)

    def set_up(self):
        self._store("before").features(self.images[:3], "train")

    def run(self):
        store = self._store("now")
        return run_function(lambda: store.features(self.images, "train", keep_cut=True))

    def _store(self, name):
        from catsdogs.stages.features import FeatureStore

        folder = self.room / "features"
        return FeatureStore(folder, self.base, dataset_digest=name, precision="float32")

    def result(self):
        return contents(self.room)


class Train:
    """Trains a convnet: pixels, states, model, figure."""

    left = frozenset({"d/decoded", "train-", "validation-", "runs"})

    def __init__(self, room, given):
        self.room, self.given = room, given
        self.run_dir = room / "runs" / "r"

    def set_up(self):
        copy_pictures(self.given["data_dir"], self.room / "d")

    def run(self):
        resume = ["--resume"] if (self.run_dir / "config.json").exists() else []
        return run_script(
            "train_scratch.py", "--preset", "textbook", "--image-size", "48", "--epochs", "2",
            "--precision", "float32", "--data-dir", self.room / "d", "--run-dir", self.run_dir,
            *resume,
        )  # fmt: skip

    def result(self):
        """The history, and every weight."""
        from catsdogs.models.model_file import load_model

        weights = [weight.tobytes() for weight in load_model(self.run_dir).get_weights()]
        assert not (self.run_dir / "state").exists()
        return (self.run_dir / "history.csv").read_text(), weights


class Evaluate(Train):
    """Evaluates a run that has been evaluated before, this time with mirror images."""

    left = frozenset()

    def set_up(self):
        super().set_up()
        shutil.copytree(self.given["run_dir"], self.run_dir, dirs_exist_ok=True)
        code, said = run_script("evaluate.py", self.run_dir, "--data-dir", self.room / "d")
        assert code == 0, said

    def run(self):
        return run_script("evaluate.py", self.run_dir, "--data-dir", self.room / "d", "--flip")

    def result(self):
        return contents(self.room)


class Export(Train):
    """Exports a model in one format where it lies in another one already."""

    left = frozenset()
    form = "onnx"

    def set_up(self):
        shutil.copytree(self.given["run_dir"], self.run_dir, dirs_exist_ok=True)
        code, said = self._export("litert")
        assert code == 0, said

    def run(self):
        return self._export(self.form)

    def _export(self, form):
        return run_script(
            "export.py", self.run_dir, "--format", form, "--output", self.run_dir / "out",
            "--pictures", str(self.given["pictures"]),
        )  # fmt: skip

    def result(self):
        return sorted(path.relative_to(self.room).as_posix() for path in self.room.rglob("*"))


class ExportSavedModel(Export):
    """The same in TensorFlow's format, which TensorFlow writes itself."""

    form = "savedmodel"


class Predict(Train):
    """Writes answers to a file, by `> answers.csv`."""

    left = frozenset({"other-answers.csv"})

    def set_up(self):
        (self.room / "answers.csv").write_text("earlier answers")

    def run(self):
        with open(self.room / "other-answers.csv", "w") as output:
            code, said = run_script(
                "predict.py", self.given["run_dir"], self.given["pictures"], "--csv", output=output
            )
            with contextlib.suppress(OSError):
                output.close()
        return code, said

    def result(self):
        return contents(self.room)


class Download:
    """Downloads an archive."""

    left = frozenset({".part"})
    content = random.Random(0).randbytes(1_000_000)

    def __init__(self, room, given):
        del given
        self.room = room
        os.environ["no_proxy"] = "127.0.0.1"

    def set_up(self):
        (self.room / "mine.txt").write_text("mine")

    def run(self):
        from catsdogs.data.download import download

        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Server) as server:
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            try:
                return run_function(
                    lambda: download(
                        f"http://127.0.0.1:{server.server_port}/cats.zip", self.room / "cats.zip",
                        size=len(self.content), digest=hashlib.sha256(self.content).hexdigest(),
                    )
                )  # fmt: skip
            finally:
                server.shutdown()
                thread.join()

    def result(self):
        return contents(self.room)


class _Server(http.server.BaseHTTPRequestHandler):
    """Serves the archive from the byte that is asked for."""

    def do_GET(self):
        body = Download.content
        start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(body[start:])

    def do_HEAD(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(Download.content)))
        self.end_headers()

    def log_message(self, *_):
        pass


# Training comes first: what it makes is what the others work on.
STAGES = (Train, Evaluate, ExportSavedModel, Export, Predict, Extract, Prepare, Decode, Download)
QUICK = (Prepare, Decode, Download)


def inside(room, place, seed, quick, slow, given):
    """Runs in the namespace: every stage with too little room, so many times, and with no leave.

    Args:
        room: The small disk.
        place: A folder on a disk with room.
        seed: Decides how much room there is.
        quick, slow: Numbers of times.
        given: Paths that the stages need, by name.

    Prints a line of JSON for each time: the stage and how much room there was.
    """
    numbers = random.Random(seed)
    given["run_dir"] = str(place / "run")
    for kind in STAGES:
        number = quick if kind in QUICK else slow
        if kind is Export and number < 2:
            continue  # the other export is the harder one: it is not Python that writes
        stage, before = kind(room / "work", given), place / kind.__name__
        print(json.dumps({"stage": kind.__name__}), flush=True)
        stage.room.mkdir()
        stage.set_up()
        shutil.copytree(stage.room, before)
        at_first = _free(room)
        code, said = stage.run()
        assert code == 0, said
        expected, needed = stage.result(), at_first - _free(room)
        if kind is Train:
            shutil.copytree(stage.run_dir, given["run_dir"])
        for count in range(number):
            # Temporary files need more room than what is left in the end: then nothing is too much.
            free = 0 if count == 1 else numbers.randrange(max(1, needed))
            if not _survives(room, stage, before, free):
                _survives(room, stage, before, 0)
            code, said = stage.run()
            assert code == 0, said
            assert stage.result() == expected
        _start_anew(stage, before)
        # A mount of the same folder over itself, since root may write whatever the permissions say.
        subprocess.run(["mount", "--bind", room, room], check=True)
        subprocess.run(["mount", "-o", "remount,bind,ro", room], check=True)
        if kind is not Predict:
            code, said = stage.run()
            assert code == 2 and "Read-only file system" in said[-1], (code, said)
            assert contents(stage.room) == contents(before)
            print(json.dumps({"stage": kind.__name__, "disk": "read-only"}), flush=True)
        subprocess.run(["umount", "--lazy", room], check=True)
        shutil.rmtree(stage.room)


def _start_anew(stage, before):
    shutil.rmtree(stage.room)
    shutil.copytree(before, stage.room)


def _survives(room, stage, before, free):
    """Runs a stage with so many bytes free, then frees the rest; `False` if that was enough."""
    _start_anew(stage, before)
    ballast = room / "ballast"
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, _free(room) - free))
    code, said = stage.run()
    ballast.unlink()
    if not code:
        return False
    assert code == 2, (free, code, said)
    assert "No space left on device" in said[-1] and "Traceback" not in "".join(said), said
    assert sum("Expected" in line or "Could not" in line for line in said) == 1, said
    _check_nothing_lost(stage, contents(before))
    print(json.dumps({"stage": type(stage).__name__, "disk": "full", "free": free}), flush=True)
    return True


def _check_nothing_lost(stage, earlier):
    """What was there is there, byte for byte, and what is new is meant to be."""
    now = contents(stage.room)
    assert {path: now.get(path) for path in earlier} == earlier
    for path in now.keys() - earlier.keys():
        assert any(part in path.as_posix() for part in stage.left), f"left behind: {path}"
        assert not path.name.startswith("."), f"left behind: {path}"


def _free(room):
    found = os.statvfs(room)
    return found.f_bavail * found.f_bsize


@functools.cache
def namespace():
    """The words that start a program in a mount namespace of its own, or `None`."""
    ways = (["unshare", "--mount"], ["unshare", "--user", "--map-root-user", "--mount"])
    for words in ways:
        with contextlib.suppress(OSError):
            trial = [*words, "mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", "/mnt"]
            if subprocess.run(trial, capture_output=True).returncode == 0:
                return words
    return None


def test_full_and_read_only_disks(pictures, data_dir, vgg16_weights, campaign, tmp_path):
    words = namespace()
    if words is None:
        pytest.skip("neither root nor a user namespace may mount a tmpfs here")
    given = {"pictures": pictures, "data_dir": data_dir, "weights": vgg16_weights}
    given = json.dumps({name: str(path) for name, path in given.items()})
    room, place = tmp_path / "room", tmp_path / "place"
    room.mkdir()
    place.mkdir()
    numbers = campaign.size(2, 20), campaign.size(1, 6)
    arguments = (room, place, campaign.random("disks").randrange(2**32), *numbers, given)
    mount = 'mount -t tmpfs -o size=24m tmpfs "$2" && exec "$0" "$@"'
    finished = subprocess.run(
        [*words, "bash", "-c", mount, sys.executable, __file__, *map(str, arguments)],
        capture_output=True, text=True,
    )  # fmt: skip
    events = [json.loads(line) for line in finished.stdout.splitlines() if line[:2] == '{"']
    for event in events:
        if "disk" in event:
            with campaign.fault(f"{event['disk']} disk: one line, nothing lost, goes on after it"):
                pass
    if finished.returncode:
        with campaign.fault("full disk: one line, nothing lost, goes on after it"):
            raise AssertionError(f"{events[-1]}, {finished.returncode}: {finished.stderr[-3000:]}")
    stages = {kind.__name__ for kind in STAGES} - {"Export"}
    assert stages <= {event["stage"] for event in events if event.get("disk") == "full"}


def test_output_that_cannot_be_written_is_told(tmp_path):
    """`> answers.csv` on a full disk: Python itself would notice only at its end, by code 120."""
    command = [sys.executable, "-W", "error", ROOT / "scripts" / "caches.py"]
    with open("/dev/full", "w") as full:
        finished = subprocess.run(
            command, cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert finished.returncode == 2
    (line,) = finished.stderr.splitlines()
    assert line.startswith("caches.py: Expected") and "No space left on device" in line


if __name__ == "__main__":
    room, place, seed, quick, slow, given = sys.argv[1:]
    inside(
        pathlib.Path(room), pathlib.Path(place), int(seed), int(quick), int(slow),
        json.loads(given),
    )  # fmt: skip
