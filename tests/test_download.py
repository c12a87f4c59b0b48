"""Downloads from a server that breaks off, stalls or lies: the verified file or one clear line."""

import contextlib
import dataclasses
import hashlib
import http.server
import random
import threading
import time

import pytest

from catsdogs.data import download as module
from catsdogs.data.download import download
from catsdogs.errors import InputError

CONTENT = random.Random(0).randbytes(200_000)  # no two parts of it are equal
OTHER = random.Random(1).randbytes(200_000)
SIZE = len(CONTENT)


@dataclasses.dataclass(frozen=True)
class Answer:
    """How the server answers one request: by default as it should."""

    content: bytes = CONTENT
    status: int | None = None
    ranges: bool = True
    """Whether the part that was asked for is sent, instead of everything."""
    stop: int | None = None
    """Bytes that are sent before the connection breaks off."""
    stall: bool = False
    """Whether nothing happens at `stop`, instead."""
    headers: dict | None = None
    """Sent instead of the usual ones of the same name; `None` leaves one out."""


class Server(http.server.BaseHTTPRequestHandler):
    """Gives `server.answers` one after the other, then good ones."""

    def do_GET(self):
        answer = self.server.answers.pop(0) if self.server.answers else Answer()
        start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        self.server.starts.append(start)
        partial = answer.ranges and answer.status is None
        body = answer.content[start if partial else 0 :]
        self.send_response(answer.status or (206 if partial else 200))
        for name, value in ({"Content-Length": str(len(body))} | (answer.headers or {})).items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(ConnectionError):  # the client has had enough
            self.wfile.write(body[: answer.stop])
            if answer.stall:
                self.server.closing.wait(30)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    """A server of this machine; `answers` are still to come, `starts` is what was asked for."""
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    monkeypatch.setattr(module, "TIMEOUT", (5, 0.5))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        server.answers, server.starts, server.closing = [], [], threading.Event()
        server.url = f"http://127.0.0.1:{server.server_port}/cats.zip"
        # Polling often makes shutdown() quick.
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.closing.set()
        server.shutdown()
        thread.join()


def fetch(folder, server):
    digest = hashlib.md5(CONTENT).hexdigest()
    download(server.url, folder / "cats.zip", size=SIZE, digest=digest, algorithm="md5")


def assert_complete(folder):
    assert [path.name for path in folder.iterdir()] == ["cats.zip"]
    assert (folder / "cats.zip").read_bytes() == CONTENT


def test_download(tmp_path, server, capsys):
    fetch(tmp_path / "new", server)
    assert_complete(tmp_path / "new")
    assert "Downloading" in capsys.readouterr().err
    fetch(tmp_path / "new", server)
    assert server.starts == [0]  # the second call found it


def moved(where):
    return Answer(status=302, content=b"", headers={"Location": where})


LOGIN_PAGE = Answer(ranges=False, content=b"<html>Please log in</html>")
# What the server does in turn, after 5,000 bytes have arrived earlier; the complaint, if any.
FAULTS = {
    "breaks off again and again": ([Answer(stop=70_000), Answer(stop=70_000)], None),
    "stalls": ([Answer(stop=70_000, stall=True)], None),
    "ignores ranges": ([Answer(ranges=False)], None),
    "ignores ranges and breaks off": ([Answer(ranges=False, stop=100_000)], None),
    "is busy": ([Answer(status=503), Answer(status=429)], None),
    "redirects": ([moved("/dogs.zip")], None),
    "breaks off at once": ([Answer(stop=0)], "Connection broken.*5,000 of 200,000 bytes are here"),
    "stalls at once": ([Answer(stop=0, stall=True)], "timed out"),
    "stays busy": ([Answer(status=503)] * 9, "503 Server Error"),
    "has no such file": ([Answer(status=404)], "404 Client Error"),
    "redirects in a loop": ([moved("/cats.zip")] * 40, "redirects"),
    "redirects to a file of this computer": ([moved("file:///etc/passwd")], "file:///etc/passwd"),
    "wants a login": ([LOGIN_PAGE], "26 bytes offered, 200,000 expected"),
    "wants a login, in a page without a length": (
        [dataclasses.replace(LOGIN_PAGE, headers={"Content-Length": None})], "0 bytes offered",
    ),
    "has another file of this size": ([Answer(content=OTHER)], "which was deleted"),
    "changes the file between attempts": (
        [Answer(stop=70_000), Answer(content=OTHER)], "which was deleted",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_server_that_fails(fault, tmp_path, server, campaign):
    server.answers, complaint = list(FAULTS[fault][0]), FAULTS[fault][1]
    part = tmp_path / "cats.zip.part"
    part.write_bytes(CONTENT[:5000])
    with campaign.fault("a server that fails: the verified file or one clear line, then the file"):
        if complaint:
            with pytest.raises(InputError, match=complaint) as caught:
                fetch(tmp_path, server)
            assert str(caught.value).isprintable()
            assert not (tmp_path / "cats.zip").exists()
            assert "deleted" in complaint or part.read_bytes() == CONTENT[:5000]
            server.answers.clear()
        fetch(tmp_path, server)
        assert_complete(tmp_path)
        assert server.starts[0] == 5000


def test_what_has_arrived_is_not_downloaded_again(tmp_path, server):
    server.answers = [Answer(stop=100_000), Answer(stop=70_000, stall=True)]
    fetch(tmp_path, server)
    assert_complete(tmp_path)
    first, second, third = server.starts
    block = 2**16  # bytes: less than that may be lost with a connection
    assert first == 0 and 100_000 - block < second <= 100_000
    assert second + 70_000 - block < third <= second + 70_000


def test_breaks_at_random_places(tmp_path, server, campaign):
    rng = campaign.random("breaks")
    for number in range(campaign.size(5, 100)):
        server.answers = [
            Answer(ranges=rng.random() < 0.9, stop=rng.randrange(2**16, SIZE))
            for _ in range(rng.randrange(1, 6))
        ]  # fmt: skip
        with campaign.fault("a download that breaks off at random places: the verified file"):
            for _ in range(6):  # a server that starts over may bring nothing new
                with contextlib.suppress(InputError):
                    fetch(tmp_path / str(number), server)
            assert_complete(tmp_path / str(number))


@pytest.mark.parametrize("content", [b"", CONTENT[:-1], OTHER, CONTENT + b"more"])
def test_another_file_under_the_final_name_is_replaced(tmp_path, server, content):
    (tmp_path / "cats.zip").write_bytes(content)
    fetch(tmp_path, server)
    assert_complete(tmp_path)


@pytest.mark.parametrize("content", [OTHER[:9000], OTHER, CONTENT + b"more"])
def test_a_damaged_part_is_thrown_away(tmp_path, server, content):
    (tmp_path / "cats.zip.part").write_bytes(content)
    with pytest.raises(InputError, match="which was deleted"):
        fetch(tmp_path, server)
    fetch(tmp_path, server)
    assert_complete(tmp_path)


def test_a_complete_part_needs_no_server(tmp_path, server):
    (tmp_path / "cats.zip.part").write_bytes(CONTENT)
    fetch(tmp_path, server)
    assert_complete(tmp_path)
    assert server.starts == []


def test_a_full_disk(tmp_path, server):
    (tmp_path / "cats.zip.part").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        fetch(tmp_path, server)
    (tmp_path / "cats.zip.part").unlink()
    fetch(tmp_path, server)
    assert_complete(tmp_path)


def test_no_network_is_reported_within_seconds(tmp_path, server):
    server.url = "http://127.0.0.1:9/cats.zip"
    begin = time.monotonic()
    with pytest.raises(InputError, match="refused"):
        fetch(tmp_path, server)
    assert time.monotonic() - begin < 5
