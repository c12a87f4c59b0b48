"""A server that misbehaves: the verified file or one clear line, and never a bad file."""

import contextlib
import dataclasses
import gzip
import hashlib
import http.server
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest

from catsdogs import network
from catsdogs.data import download
from catsdogs.errors import InputError
from catsdogs.models import weights

CONTENT = random.Random(0).randbytes(200_000)  # no two parts of it are alike
SIZE = len(CONTENT)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
PROMISE = "a misbehaving server: the verified file or one clear line, then the file"


@dataclasses.dataclass(frozen=True)
class Answer:
    """How the server answers one request: by default as it should."""

    content: bytes = CONTENT
    status: int | None = None
    ranges: bool = True
    """Whether the part that was asked for is sent, instead of everything."""
    skipped: int = 0
    """Bytes left out at the front of what is sent, without saying so."""
    stop: int | None = None
    """Bytes that are sent before the connection breaks off."""
    chunked: bool = False
    headers: dict | None = None
    """Sent instead of the usual ones of the same name; `None` leaves one out."""
    stall: int | None = None
    """Bytes that are sent before nothing comes any more."""
    trickle: bool = False
    """Whether a byte is sent now and then."""
    garbage: bytes | None = None
    """Sent instead of the usual answer."""
    again: bytes | None = None
    """Sent after `garbage`, now and then, without end."""


class Server(http.server.BaseHTTPRequestHandler):
    """Gives `server.answers` one after the other, then good ones."""

    protocol_version = "HTTP/1.1"  # which has chunks

    def do_GET(self):
        answer = self.server.answers.pop(0) if self.server.answers else Answer()
        start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        self.server.starts.append(start)
        self.close_connection = True
        with contextlib.suppress(ConnectionError):  # the client has had enough
            self._give(answer, start)

    def _give(self, answer, start):
        if answer.garbage is not None:
            self.wfile.write(answer.garbage)
            while answer.again and not self.server.closing.wait(0.02):
                self.wfile.write(answer.again)
            return
        partial = answer.ranges and answer.status is None
        total = len(answer.content)
        body = answer.content[start + answer.skipped if partial else 0 :]
        headers = {"Content-Type": "application/zip", "Content-Length": str(len(body))}
        if partial:
            headers["Content-Range"] = f"bytes {start}-{total - 1}/{total}"
        if answer.chunked:
            headers |= {"Content-Length": None, "Transfer-Encoding": "chunked"}
        self.send_response(answer.status or (206 if partial else 200))
        for name, value in (headers | (answer.headers or {})).items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()
        body = body[: answer.stop]
        if answer.chunked:
            pieces = (body[i : i + 10_000] for i in range(0, len(body), 10_000))
            body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
            body += b"0\r\n\r\n" if answer.stop is None else b""
        if answer.trickle:
            for byte in body:
                self.wfile.write(bytes([byte]))
                if self.server.closing.wait(0.02):
                    return
        self.wfile.write(body[: answer.stall])
        if answer.stall is not None:
            self.wfile.flush()
            self.server.stalled.set()
            self.server.closing.wait(30)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    """A server of this machine; `answers` says what is still to come, `starts` what was asked."""
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    monkeypatch.setattr(network, "_TIMEOUT", 1)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        server.answers, server.starts = [], []
        server.closing, server.stalled = threading.Event(), threading.Event()
        server.url = f"http://127.0.0.1:{server.server_port}/cats.zip"
        # Polling often makes shutdown() quick.
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.closing.set()
        server.shutdown()
        thread.join()


def fetch(folder, server):
    return download.download_archive(folder, url=server.url, sha256=SHA256, size=SIZE)


def outcome(folder, server):
    """`"the file"`, or the error in one line; all that holds after any download is checked."""
    try:
        path = fetch(folder, server)
    except InputError as error:
        message = str(error)
        assert "\n" not in message and message.startswith("Expected to download http://")
        assert all(way in message for way in ("--archive", "--folder", "--sketches"))
        assert not (folder / "cats.zip").exists()
        return message
    assert path == folder / "cats.zip" and path.read_bytes() == CONTENT
    assert [file.name for file in folder.iterdir()] == ["cats.zip"]
    return "the file"


def test_download(tmp_path, server, capsys):
    assert outcome(tmp_path / "new", server) == "the file"
    assert "Downloading" in capsys.readouterr().err
    assert outcome(tmp_path / "new", server) == "the file"
    assert server.starts == [0]  # the second call found it


def other(number=SIZE):
    return random.Random(1).randbytes(number)


def moved(where):
    return Answer(status=302, content=b"", headers={"Location": where})


CHUNKS = (
    f"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 5000-{SIZE - 1}/{SIZE}\r\n"
    "Transfer-Encoding: chunked\r\n\r\n"
).encode()


# What the server does in turn, and what becomes of it when 5,000 bytes are there already.
FAULTS = {
    "breaks off at 10 %": ([Answer(stop=SIZE // 10)], "the file"),
    "breaks off at 50 %": ([Answer(stop=SIZE // 2)], "the file"),
    "breaks off at 99 %": ([Answer(stop=SIZE * 99 // 100 - 5000)], "the file"),
    "breaks off again and again": ([Answer(stop=9_000)] * 9, "the file"),
    "breaks off at once": ([Answer(stop=0)], "5,000 of 200,000 bytes are here"),
    "hangs up": ([Answer(garbage=b"")], "without response"),
    "speaks no HTTP": ([Answer(garbage=b"SSH-2.0-OpenSSH_9.6\r\n")], "SSH-2.0"),
    "ignores ranges": ([Answer(ranges=False)], "the file"),
    "ignores ranges and breaks off": ([Answer(ranges=False, stop=100_000)], "the file"),
    "other offset, hidden": ([Answer(skipped=1)], "expected a file with sha256"),
    "other offset, told": (
        [Answer(headers={"Content-Range": f"bytes 0-{SIZE - 1}/{SIZE}"})], "from byte 5000 was",
    ),
    "no Content-Range": ([Answer(headers={"Content-Range": None})], "an unknown part"),
    "Content-Range of another file": (
        [Answer(headers={"Content-Range": "bytes 5000-5999/6000"})], "offers 6,000 bytes",
    ),
    "Content-Range without a total": (
        [Answer(headers={"Content-Range": f"bytes 5000-{SIZE - 1}/*"})], "the file",
    ),
    "Content-Length too long": ([Answer(headers={"Content-Length": str(SIZE)})], "the file"),
    "Content-Length too short": ([Answer(headers={"Content-Length": "9000"})], "the file"),
    "Content-Length no number": ([Answer(headers={"Content-Length": "many"})], "the file"),
    "Content-Length missing": ([Answer(headers={"Content-Length": None})], "the file"),
    "Content-Length of another file": (
        [Answer(ranges=False, headers={"Content-Length": "90000"})], "offers 90,000 bytes",
    ),
    "chunks": ([Answer(chunked=True)], "the file"),
    "chunks that break off": ([Answer(chunked=True, stop=60_000)], "the file"),
    "sends without end": (
        [Answer(ranges=False, content=CONTENT * 9, headers={"Content-Length": None})], "the file",
    ),
    "other bytes": ([Answer(content=other())], "expected a file with sha256"),
    "a shorter file": ([Answer(content=other(9_000))], "offers 9,000 bytes"),
    "the file changes between two attempts": (
        [Answer(stop=50_000), Answer(content=other())], "expected a file with sha256",
    ),
    "404": ([Answer(status=404)], "HTTP Error 404"),
    "416": ([Answer(status=416)], "HTTP Error 416"),
    "500": ([Answer(status=500)], "HTTP Error 500"),
    "503 in the middle": ([Answer(stop=50_000), Answer(status=503)], "55,000 of 200,000 bytes"),
    "an odd status": ([Answer(status=203)], "status 203"),
    "redirects in a loop": ([moved("/cats.zip")] * 12, "infinite loop"),
    "redirects to a file of this computer": ([moved("file:///etc/passwd")], "not allowed"),
    "redirects to nowhere": ([moved("http://127.0.0.1:9/")], "refused"),
    "a page to log in at": (
        [Answer(ranges=False, content=b"<html>Please log in</html>",
                headers={"Content-Type": "text/html; charset=utf-8"})], "sends text/html",
    ),
    "a page to log in at, in chunks": (
        [Answer(ranges=False, chunked=True, content=b"<html>Please log in</html>",
                headers={"Content-Type": "text/html"})], "sends text/html",
    ),
    "a page that calls itself a zip": (
        [Answer(ranges=False, content=b"<html>Please log in</html>")], "offers 26 bytes",
    ),
    "stalls at once": ([Answer(stall=0)], "timed out"),
    "stalls in the middle": ([Answer(stall=100_000)], "the file"),
    "trickles": ([Answer(trickle=True)], r"no more than \d+ bytes in"),
    "promises an answer without end": (
        [Answer(garbage=b"", again=b"HTTP/1.1 100 Continue\r\n\r\n")], "nothing of the file",
    ),
    "a header without end": (
        [Answer(garbage=b"HTTP/1.1 200 OK\r\nX: ", again=b"y")], "nothing of the file",
    ),
    "a chunk's length without end": ([Answer(garbage=CHUNKS, again=b"0")], "nothing of the file"),
    "trailers without end": (
        [Answer(garbage=CHUNKS + b"0\r\n", again=b"X: y\r\n")], "nothing of the file",
    ),
    "compresses": (
        [Answer(content=gzip.compress(CONTENT), ranges=False,
                headers={"Content-Encoding": "gzip"})], "gzip",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_server_that_misbehaves(fault, tmp_path, server, campaign):
    answers, expected = FAULTS[fault]
    (tmp_path / "cats.zip.part").write_bytes(CONTENT[:5000])
    server.answers = list(answers)
    with campaign.fault(PROMISE):
        begin = time.monotonic()
        found = outcome(tmp_path, server)
        assert time.monotonic() - begin < 10
        assert re.search(expected, found)
        assert server.starts[0] == 5000
        server.answers.clear()
        assert outcome(tmp_path, server) == "the file"


def test_what_has_arrived_is_not_fetched_again(tmp_path, server):
    server.answers = [
        Answer(stop=SIZE // 2),
        Answer(chunked=True, stop=50_000),
        Answer(stall=9_000),
    ]
    assert outcome(tmp_path, server) == "the file"
    assert server.starts == [0, 100_000, 150_000, 159_000]


def test_a_server_that_starts_over_takes_nothing_away(tmp_path, server):
    part = tmp_path / "cats.zip.part"
    part.write_bytes(CONTENT[:150_000])
    server.answers = [Answer(ranges=False, stop=100_000)]
    assert "150,000 of 200,000 bytes are here" in outcome(tmp_path, server)
    assert part.read_bytes() == CONTENT[:150_000]
    server.answers = [Answer(ranges=False, stop=170_000), Answer(ranges=False)]
    assert outcome(tmp_path, server) == "the file"
    assert server.starts == [150_000, 150_000, 170_000]


def test_a_bad_part_is_thrown_away_though_the_server_starts_over(tmp_path, server):
    (tmp_path / "cats.zip.part").write_bytes(other(9_000))
    server.answers = [Answer(ranges=False)] * 2
    assert "now deleted" in outcome(tmp_path, server)
    assert outcome(tmp_path, server) == "the file"


def test_breaks_at_random_places(tmp_path, server, campaign):
    rng = campaign.random("breaks")
    for number in range(campaign.size(20, 100)):
        folder = tmp_path / str(number)
        server.answers = [
            Answer(
                ranges=rng.random() < 0.9,
                chunked=rng.random() < 0.3,
                stop=rng.randrange(SIZE) if rng.random() < 0.9 else 0,
            )
            for _ in range(rng.randrange(1, 9))
        ]  # fmt: skip
        with campaign.fault("a download that breaks off at random places: the verified file"):
            found = [outcome(folder, server)]
            while found[-1] != "the file":
                assert "broke off" in found[-1] or "Incomplete" in found[-1], found
                found.append(outcome(folder, server))
                assert len(found) < 10


def test_another_host(tmp_path, server):
    server.answers = [moved(server.url.replace("127.0.0.1", "localhost"))]
    (tmp_path / "cats.zip.part").write_bytes(CONTENT[:5000])
    assert outcome(tmp_path, server) == "the file"
    assert server.starts == [5000, 5000]  # the range goes along


def test_what_lies_there_already(tmp_path, server):
    """A bad file under the final name, and all sorts of `.part`."""
    final, part = tmp_path / "cats.zip", tmp_path / "cats.zip.part"
    for content in (b"", CONTENT[:-1], other(), CONTENT + b"more"):
        final.write_bytes(content)
        assert outcome(tmp_path, server) == "the file"
    final.unlink()
    for content in (other(), other() + b"more", CONTENT + b"more"):
        part.write_bytes(content)
        assert "now deleted" in outcome(tmp_path, server)
        assert outcome(tmp_path, server) == "the file"
        final.unlink()
    part.write_bytes(other(9_000))
    assert "now deleted" in outcome(tmp_path, server)
    part.write_bytes(CONTENT)  # complete, and stopped before it got its name
    server.url = "http://127.0.0.1:9/cats.zip"  # no server is needed for that
    assert outcome(tmp_path, server) == "the file"


@pytest.mark.parametrize("place", ["cats.zip.part", "cats.zip", "."])
def test_something_else_in_the_way(place, tmp_path, server):
    folder = tmp_path / "data"
    if place == ".":
        folder.write_text("a file")
    else:
        (folder / place / "deeper").mkdir(parents=True)
    with pytest.raises(InputError, match=r"(Is a|Not a) directory|File exists") as caught:
        fetch(folder, server)
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


def test_a_full_disk(tmp_path, server):
    (tmp_path / "cats.zip.part").symlink_to("/dev/full")
    assert "No space left" in outcome(tmp_path, server)
    (tmp_path / "cats.zip.part").unlink()
    assert outcome(tmp_path, server) == "the file"


def fetch_in_a_process(folder, server, *prefix):
    """Starts a download in another process."""
    program = (
        "import sys; from catsdogs import cli; from catsdogs.data.download import download_archive;"
        "folder, url, sha256, size = sys.argv[1:];"
        "cli.run(lambda: download_archive(folder, url, sha256, int(size)))"
    )
    return subprocess.Popen(
        [*prefix, sys.executable, "-c", program, folder, server.url, SHA256, str(SIZE)],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_a_part_that_cannot_be_written(tmp_path, server):
    # The superuser may write anything, unless that power is taken away.
    drop = ("setpriv", "--bounding-set=-all", "--inh-caps=-all") if os.geteuid() == 0 else ()
    if drop and not shutil.which("setpriv"):
        pytest.skip("needs setpriv, or not to be run as root")
    part = tmp_path / "cats.zip.part"
    part.write_bytes(CONTENT[:5000])
    part.chmod(0o444)
    process = fetch_in_a_process(tmp_path, server, *drop)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 2 and "Traceback" not in said
    assert re.search(r"Expected to download.*Permission denied.*cats\.zip\.part", said)
    part.chmod(0o644)
    assert outcome(tmp_path, server) == "the file" and server.starts[-1] == 5000


def test_killed_and_gone_on_with_by_another_process(tmp_path, server, campaign):
    rng = campaign.random("killed")
    for number in range(campaign.size(2, 30)):
        folder, arrived = tmp_path / str(number), rng.randrange(1, SIZE)
        server.stalled.clear()
        server.starts.clear()
        server.answers = [Answer(stall=arrived)]
        with campaign.fault("a killed download: the next process goes on and verifies"):
            process = fetch_in_a_process(folder, server)
            assert server.stalled.wait(60)
            time.sleep(0.05 * rng.random())  # it writes what has come
            process.send_signal(signal.SIGKILL)
            process.communicate()
            assert not (folder / "cats.zip").exists()
            part = folder / "cats.zip.part"
            there = part.stat().st_size if part.exists() else 0
            assert there <= arrived
            process = fetch_in_a_process(folder, server)
            assert process.wait(60) == 0, process.stderr.read()
            process.stderr.close()
            assert (folder / "cats.zip").read_bytes() == CONTENT and server.starts[1] == there


@pytest.mark.parametrize(
    "fault",
    [
        "404",
        "breaks off at 50 %",
        "other bytes",
        "trickles",
        "a page to log in at, in chunks",
        "redirects in a loop",
    ],
)
def test_weights_of_vgg16(fault, tmp_path, server, monkeypatch, campaign):
    """The official download: into Keras's cache once it is verified, or the next source."""
    monkeypatch.delenv("CATSDOGS_VGG16_WEIGHTS")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr(weights, "VGG16_URL", server.url.replace("zip", "h5"))
    monkeypatch.setattr(weights, "_FILE_SIZE", SIZE)
    monkeypatch.setattr(weights, "_FILE_MD5", hashlib.md5(CONTENT).hexdigest())
    monkeypatch.setattr(weights, "_find_in_wheel", lambda: None)
    server.answers, expected = list(FAULTS[fault][0]), FAULTS[fault][1].replace("sha256", "md5")
    cached = tmp_path / "models" / "cats.h5"
    with campaign.fault(PROMISE):
        if expected != "the file":
            with pytest.raises(InputError, match=expected) as caught:
                weights.find_vgg16_weights()
            assert "\n" not in str(caught.value) and "--weights PATH" in str(caught.value)
            assert not cached.exists()
            server.answers.clear()
        assert weights.find_vgg16_weights() == cached and cached.read_bytes() == CONTENT


def test_refused_connection_is_answered_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    begin = time.monotonic()
    with pytest.raises(InputError, match=r"refused.*--sketches"):
        download.download_archive(tmp_path / "new", url="http://127.0.0.1:9/cats.zip")
    assert time.monotonic() - begin < 3
    assert not (tmp_path / "new").exists()
