"""A stopped run loses nothing, whenever it is stopped: real processes, really killed.

Every stage is run undisturbed once. Then the same command is killed, at random moments or before a
rename, and given again until it ends; what it leaves must be the same, byte for byte. The second
kind of run has another hash seed, so it tests that too: the same seed gives the same result.
"""

import contextlib
import hashlib
import http.server
import itertools
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile

import pytest
from conftest import ROOT, answer_all_signals

from catsdogs.errors import InputError
from catsdogs.files import atomic_folder, atomic_path
from catsdogs.files import PART, lock

KILL_BEFORE_RENAMES = ROOT / "tests" / "kill_before_renames.py"
SCRATCH = [
    "train_scratch.py", "--data-dir", "data", "--run-dir", "runs/scratch", "--resume",
    "--architecture", "textbook", "--image-size", "48", "--epochs", "2", "--batch-size", "16",
]  # fmt: skip
RESIDUAL = [*SCRATCH[:6], "--smoke"]  # the default recipe
EXTRACT = [
    "train_feature_extract.py", "--data-dir", "data", "--run-dir", "runs/features", "--resume",
    "--image-size", "64", "--epochs", "3", "--batch-size", "16",
]  # fmt: skip
AUGMENTED = [*EXTRACT, "--variant", "augmented"]
HEAD = [*AUGMENTED, "--epochs", "40"]
# Extracts, trains a head on that, then fine-tunes.
FINETUNE = [
    "finetune.py", "--data-dir", "data", "--run-dir", "runs/finetune", "--resume", "--smoke",
]  # fmt: skip
SIZES = ["--train", "64", "--validation", "32", "--test", "32"]
PREPARE = ["prepare_data.py", "--folder", "pictures", "--data-dir", "data/new", *SIZES]
SKETCHES = [
    "prepare_data.py", "--sketches", "--data-dir", "data/new",
    "--train", "16", "--validation", "8", "--test", "8",
]  # fmt: skip
DOWNLOAD = (
    "import sys; from catsdogs.data.download import download_archive;"
    "download_archive('data', sys.argv[1], sys.argv[2], int(sys.argv[3]))"
)


several_processors = pytest.mark.skipif(os.cpu_count() == 1, reason="draws in one process")


@pytest.fixture
def place(data_dir, tmp_path):
    """A working folder with the prepared data set in `data`; nothing is decoded or computed yet."""
    return new_place(tmp_path, data_dir)


def new_place(folder, data_dir):
    ignored = shutil.ignore_patterns("decoded", "features")
    shutil.copytree(data_dir, folder / "data", ignore=ignored)
    return folder


def start(command, place, hash_seed="0"):
    """Starts a script, or Python code after `-c`, in a process group of its own."""
    program = command if command[0] == "-c" else [ROOT / "scripts" / command[0], *command[1:]]
    return subprocess.Popen(
        [sys.executable, *map(str, program)],
        cwd=place,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=answer_all_signals,
    )


def finish(command, place, hash_seed="0"):
    """Runs a command to its end; returns its seconds."""
    began = time.monotonic()
    process = start(command, place, hash_seed)
    output, errors = process.communicate()
    assert process.returncode == 0, output + errors
    assert "Traceback" not in errors
    return time.monotonic() - began


def send(command, place, moment, number, hash_seed="0"):
    """Starts a command and sends its whole group a signal after so many seconds.

    Returns:
        Exit code, standard output and standard error.
    """
    process = start(command, place, hash_seed)
    with contextlib.suppress(subprocess.TimeoutExpired):
        output, errors = process.communicate(timeout=moment)
        return process.returncode, output, errors
    if number != signal.SIGKILL:
        # Until Python has loaded the first modules, nobody can answer.
        while process.poll() is None and not catches(process.pid, signal.SIGTERM):
            time.sleep(0.01)
    with contextlib.suppress(ProcessLookupError):  # it has just ended
        os.killpg(process.pid, number)
    return process.returncode or process.wait(120), *process.communicate()


def catches(process, number):
    """Whether a process has a handler of its own for a signal, as `cli.run` gives it."""
    status = pathlib.Path(f"/proc/{process}/status").read_text()
    return bool(int(re.search(r"SigCgt:\s*(\w+)", status)[1], 16) >> (number - 1) & 1)


@contextlib.contextmanager
def stopped_at_random(campaign, random, name, command, place, seconds, signals):
    """Stops a command at random moments, lets it finish, and counts if the block within raises.

    Args:
        random: Decides the moments.
        name: What it does.
        seconds: How long it takes undisturbed.
        signals: What it is sent, one after the other, resumed attempts too.

    Yields:
        How many of them found it at work: it may be done sooner.
    """
    with contextlib.ExitStack() as faults:
        number = 0
        for kind in signals:
            moment = random.uniform(0, seconds)
            code, output, errors = send(command, place, moment, kind, hash_seed=str(number))
            if code == 0:
                break
            faults.enter_context(campaign.fault(f"{kind.name} at a random moment: {name}"))
            if kind == signal.SIGKILL:
                assert code == -kind, output + errors
            else:
                assert code == 130, output + errors
                line = errors.splitlines()[-1]
                assert re.fullmatch(rf"{command[0]}: Stopped( after .*)?\. (Go on|Give) .*\.", line)
                assert "Traceback" not in errors and "KeyboardInterrupt" not in errors
            number += 1
        finish(command, place, hash_seed="random")
        yield number


def killed_before_renames(pattern, command, place):
    """Runs a command in `place/undisturbed`, and in `place/killed` with a kill before every rename.

    Args:
        pattern: Which files' names it is killed at, a regular expression.

    Returns:
        Their names.
    """
    script, *flags = command
    done = subprocess.run(
        [sys.executable, KILL_BEFORE_RENAMES, pattern, ROOT / "scripts" / script, *flags],
        cwd=place, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert left_in(place / "killed") == left_in(place / "undisturbed")
    return done.stdout.split()


def left_in(place):
    """Everything that lies in a folder and does not tell the time, `{name: content}`."""
    found = {}
    for path in sorted(place.rglob("*")):
        name = str(path.relative_to(place))
        assert PART not in name and "partial" not in name, f"left behind: {name}"
        if path.is_dir() or path.name == "environment.json":
            found[name] = None
        elif path.suffix == ".keras":
            with zipfile.ZipFile(path) as archive:
                members = set(archive.namelist()) - {"metadata.json"}  # holds the date
                content = {member: archive.read(member) for member in members}
            # Addresses in memory, by which Keras tells which layers share a dtype policy.
            address = rb'"shared_object_id": \d+'
            content["config.json"] = re.sub(address, b"", content["config.json"])
            found[name] = content
        elif path.name == "metrics.json":
            metrics = json.loads(path.read_text())
            kept = metrics.keys() - {"cold", "warm", "wall_seconds", "peak_rss_mb", "environment"}
            found[name] = {key: metrics[key] for key in kept - {"start"}}
        else:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def stop_campaign(campaign, name, command, make_place, **counts):
    """Compares what a command leaves when it is stopped again and again with what it leaves if not.

    Args:
        name: What it does.
        make_place: Makes a working folder, given its path.
        counts: How often it is sent each signal; up to five stops are of one run.
    """
    folder = make_place("undisturbed")
    seconds, expected = finish(command, folder), left_in(folder)
    signals = [signal.Signals[kind] for kind, count in counts.items() for _ in range(count)]
    random = campaign.random(name)
    random.shuffle(signals)
    attempts = itertools.count(1)
    while signals:
        folder = make_place(f"stopped-{next(attempts)}")
        with stopped_at_random(
            campaign, random, name, command, folder, seconds, signals[:5]
        ) as number:
            assert left_in(folder) == expected
        del signals[:number]
        if not number:  # other work may have slowed the undisturbed run down
            seconds *= 0.8
            assert seconds > 0.1, f"never stopped: {name}"


@pytest.mark.parametrize("command", [PREPARE, SKETCHES], ids=["folder", "sketches"])
def test_prepare_stopped_at_random(campaign, pictures, tmp_path, command):
    def make_place(name):
        (tmp_path / name).mkdir()
        (tmp_path / name / "pictures").symlink_to(pictures)
        return tmp_path / name

    counts = {"SIGKILL": campaign.size(1, 10), "SIGINT": campaign.size(1, 10)}
    stop_campaign(campaign, "preparing", command, make_place, **counts)


def test_prepare_killed_before_every_rename(campaign, pictures, tmp_path):
    """Another data set lies there, with which the new one changes places in one step."""
    for name in ("undisturbed", "killed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "pictures").symlink_to(pictures)
        finish([*PREPARE, "--train", "32"], tmp_path / name)
    with campaign.fault("SIGKILL before a rename: preparing"):
        targets = killed_before_renames(".*", [*PREPARE, "--overwrite"], tmp_path)
        assert targets == ["manifest.json"]


def test_prepared_folder_does_not_depend_on_the_order_of_the_files(pictures, tmp_path):
    found = []
    for seed in ("0", "1"):
        place = tmp_path / seed
        files = sorted(pictures.rglob("*.png"), reverse=seed == "1")
        for name in sorted("ab", reverse=seed == "1"):  # of two, the first decides the class
            for label in ("cat", "dog"):
                (place / "pictures" / label).mkdir(parents=True, exist_ok=True)
            link = place / "pictures" / {"a": "cat", "b": "dog"}[name] / name
            link.symlink_to("../../more")
        (place / "more").mkdir()
        linked = sorted(files)[:3]
        for path in linked:
            shutil.copy(path, place / "more")
        for path in (path for path in files if path not in linked):
            copy = place / "pictures" / path.relative_to(pictures)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)
        finish([*PREPARE, "--train", "32"], place, seed)
        found.append(left_in(place / "data"))
    assert found[0] == found[1]


def test_a_folder_moved_aside_by_a_killed_process_is_moved_back(tmp_path):
    (tmp_path / ".part-.old-data").mkdir()
    (tmp_path / ".part-.old-data" / "thesis").write_text("words")
    (tmp_path / ".part-data").mkdir()
    data = tmp_path / "data"
    with pytest.raises(ZeroDivisionError), hold(data), atomic_folder(data):  # as in `prepare`
        raise ZeroDivisionError
    assert left_in(tmp_path).keys() == {"data", "data/thesis"}


def test_folders_that_are_set_aside_are_no_one_elses(tmp_path):
    (tmp_path / "pets").mkdir()
    with atomic_folder(tmp_path / "old-pets") as other:
        (other / "photographs").touch()
        with atomic_folder(tmp_path / "pets") as folder:
            (folder / "new").touch()
    left = {"pets", "pets/new", "old-pets", "old-pets/photographs"}
    assert left_in(tmp_path).keys() == left


def test_a_folder_behind_a_link_is_replaced_and_the_link_stays(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to("disk")
    for name in ("first", "second"):
        with atomic_folder(tmp_path / "out") as folder:
            (folder / name).touch()
        assert [path.name for path in (tmp_path / "disk").iterdir()] == [name]
    assert {path.name for path in tmp_path.iterdir()} == {"disk", "out"}
    assert (tmp_path / "out").is_symlink()


def test_who_writes_the_same_file_at_the_same_time_waits(tmp_path):
    """Both write whole files, in turn, under one temporary name."""

    def write(number):
        for _ in range(50):
            with atomic_path(tmp_path / "file") as path, path.open("w") as file:
                for _ in range(20):
                    file.write(str(number) * 500)
                    file.flush()

    threads = [threading.Thread(target=write, args=[number]) for number in range(3)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        with contextlib.suppress(FileNotFoundError):
            content = (tmp_path / "file").read_text()
            assert len(content) == 10_000 and len(set(content)) == 1
    assert left_in(tmp_path).keys() == {"file"}


class Server(http.server.BaseHTTPRequestHandler):
    """Serves `server.content` in a second or so."""

    def do_GET(self):
        content = self.server.content
        begin = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        self.send_response(206)
        size = len(content)
        self.send_header("Content-Range", f"bytes {begin}-{size - 1}/{size}")
        self.send_header("Content-Length", str(size - begin))
        self.end_headers()
        with contextlib.suppress(ConnectionError):  # the other side was killed
            for place in range(begin, size, size // 100):
                self.wfile.write(content[place : place + size // 100])
                time.sleep(0.01)

    def log_message(self, *_):
        pass


def test_download_killed_at_random(campaign, tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    content = campaign.random("archive").randbytes(1_000_000)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        server.content = content
        threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/cats.zip"
        command = ["-c", DOWNLOAD, url, hashlib.sha256(content).hexdigest(), str(len(content))]

        def make_place(name):
            (tmp_path / name).mkdir()
            return tmp_path / name

        stop_campaign(campaign, "download", command, make_place, SIGKILL=campaign.size(2, 20))
        server.shutdown()
    assert (tmp_path / "undisturbed" / "data" / "cats.zip").read_bytes() == content


@pytest.mark.parametrize(
    "command",
    [RESIDUAL, EXTRACT, HEAD, FINETUNE],
    ids=["scratch", "extraction", "head", "finetune"],
)
def test_training_stopped_at_random(campaign, request, vgg16_weights, data_dir, tmp_path, command):
    if not campaign.report:
        pytest.skip("only in make torture")
    counts = {"SIGKILL": 20, "SIGINT": 1, "SIGTERM": 1}
    finished = new_place(tmp_path, data_dir)
    if command is HEAD:  # the features are there
        finish(AUGMENTED, finished)
        shutil.rmtree(finished / "runs")

    def make_place(name):
        return pathlib.Path(shutil.copytree(finished / "data", tmp_path / name / "data")).parent

    stage = request.node.callspec.id
    stop_campaign(campaign, stage, command, make_place, **counts)


@pytest.mark.parametrize("command", [SCRATCH, FINETUNE], ids=["scratch", "finetune"])
def test_training_killed_before_every_rename(
    campaign, request, vgg16_weights, data_dir, tmp_path, command
):
    stage = request.node.callspec.id
    if stage == "finetune" and not campaign.report:
        pytest.skip("only in make torture")
    # Those after which a careless order would lose something.
    pattern = r"history\.csv|metrics\.json"
    if campaign.report:
        pattern = ".*" if stage == "scratch" else r"(?!config|environment).*"
    for name in ("undisturbed", "killed"):
        new_place(tmp_path / name, data_dir)
    promise = f"SIGKILL before a rename: {stage}"
    with campaign.fault(promise):
        targets = killed_before_renames(pattern, command, tmp_path)
        assert {"history.csv", "metrics.json"} <= set(targets)
    campaign.survive(promise, len(targets) - 1)  # all kills are of one run: it is right or wrong


USE = {
    "evaluate": ["evaluate.py", "runs/features"],
    "predict": ["predict.py", "runs/features", "data/test"],
    "explain": ["explain.py", "runs/features", "data/test/cat/cat.48.png", "--channels", "2"],
    "export": ["export.py", "runs/features"],
}


@pytest.mark.parametrize("name", USE)
def test_use_of_a_model_stopped_at_random(campaign, vgg16_weights, data_dir, tmp_path, name):
    if not campaign.report:
        pytest.skip("only in make torture")
    finished = new_place(tmp_path / "finished", data_dir)
    finish(EXTRACT, finished)

    def make_place(name):
        return pathlib.Path(shutil.copytree(finished, tmp_path / name))

    stop_campaign(campaign, name, USE[name], make_place, SIGKILL=1, SIGINT=2)


@pytest.mark.parametrize("command", [RESIDUAL, FINETUNE], ids=["scratch", "finetune"])
def test_same_seed_same_result_beside_other_work(
    campaign, vgg16_weights, data_dir, tmp_path, command
):
    """Threads take turns in another order."""
    if not campaign.report:
        pytest.skip("only in make torture")
    found = []
    for number in range(2):
        place = new_place(tmp_path / str(number), data_dir)
        others = [start(["-c", "while True: pass"], place) for _ in range(number * os.cpu_count())]
        try:
            finish(command, place, hash_seed=str(number))
        finally:
            for other in others:
                other.kill()
                other.communicate()
        found.append(left_in(place))
    with campaign.fault("other work beside it: same seed, same result"):
        assert found[0] == found[1]


@several_processors
def test_workers_end_with_the_process_that_is_killed_alone(campaign, tmp_path):
    process = start(SKETCHES[:4], tmp_path)  # 4,000 drawings take a while
    try:
        workers_of(process)
        with campaign.fault("SIGKILL of the parent alone: workers end too"):
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            end = time.monotonic() + 60
            while in_group(process.pid):
                assert time.monotonic() < end
                time.sleep(0.1)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@several_processors
def test_a_worker_that_is_killed_is_one_line(campaign, tmp_path):
    process = start(SKETCHES[:4], tmp_path)
    workers = workers_of(process)
    with campaign.fault("SIGKILL of a worker alone: one line"):
        os.kill(workers[0], signal.SIGKILL)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 2, errors
        assert re.fullmatch(r"prepare_data\.py: Expected .* again\.\n", errors), errors
    assert not (tmp_path / "data" / "new").exists()


def workers_of(process):
    """The processes that draw, once there are some."""
    end = time.monotonic() + 60
    while not (workers := [number for number in in_group(process.pid) if is_worker(number)]):
        assert time.monotonic() < end
        time.sleep(0.1)
    return workers


def is_worker(number):
    with contextlib.suppress(OSError):
        return b"spawn_main" in pathlib.Path(f"/proc/{number}/cmdline").read_bytes()
    return False


def in_group(group):
    """The ids of a group's processes that have not ended."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, number, *_ = path.read_text().rpartition(")")[2].split()
            if int(number) == group and state != "Z":
                found.append(int(path.parent.name))
    return found


def test_no_folder_is_named_like_what_is_half_written(tmp_path):
    with pytest.raises(InputError, match="half-written"), atomic_folder(tmp_path / ".part-x"):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kinds", [[signal.SIGHUP], [signal.SIGINT] * 2], ids=["hup", "twice"])
def test_a_closed_terminal_and_two_stops_while_drawing_are_one_line(kinds, tmp_path):
    command = [
        sys.executable,
        ROOT / "scripts" / "prepare_data.py",
        "--sketches",
        "--train",
        "1200",
    ]
    with subprocess.Popen(
        [*command, "--validation", "200", "--test", "200"], cwd=tmp_path, text=True,
        stderr=subprocess.PIPE, start_new_session=True, preexec_fn=answer_all_signals,
    ) as drawing:  # fmt: skip
        time.sleep(3)  # till its workers draw
        for kind in kinds:
            os.killpg(drawing.pid, kind)
            time.sleep(0.004)
        _, errors = drawing.communicate(timeout=60)
    assert (drawing.returncode, errors.count("\n")) == (130, 1), errors
    assert not (tmp_path / "data").exists()
