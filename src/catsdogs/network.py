"""Files from a server: whole and verified, or told within seconds why not."""

import contextlib
import hashlib
import http.client
import os
import pathlib
import queue
import threading
import time
import urllib.error
import urllib.request

from catsdogs.console import Progress
from catsdogs.files import lock

__all__ = ["download", "why_unreachable"]

_TIMEOUT = 8  # seconds without a byte before a network counts as failing
_LEAST_RATE = 1000  # bytes a second; what is slower would take days
_BLOCK = 1 << 16
_WAITING = 16  # blocks on their way to the disk


def download(url, path, *, size, digest, algorithm="sha256"):
    """Downloads a file, going on where an earlier attempt stopped.

    Proxies are taken from the usual environment variables. What has arrived so far is kept in a
    `.part` file beside the result, which appears only once it is verified. A file that is there
    already is not fetched again.

    Args:
        url: Address of the file.
        path: Where to put it, `str` or `Path`; its folder is made if missing.
        size: Its size in bytes.
        digest: Hexadecimal digits that it must have.
        algorithm: What they are made with, as `hashlib` calls it.

    Returns:
        Why it failed, in a few words on one line, or `None` if the file is there.
    """
    path = pathlib.Path(path)
    try:
        with lock(path.parent, wait=True):  # what another process fetches is not fetched twice
            return _download(url, path, size, digest, algorithm)
    except OSError as error:  # a folder in the way, no permission
        return _in_words(error)


def why_unreachable(url, seconds=5):
    """Asks for the head of a file; proxies are taken from the usual environment variables.

    Args:
        url: Address of the file.
        seconds: How long to wait at most, name look-up included.

    Returns:
        Why there is no answer, in a few words, or `None` if there is one, of whatever kind.
    """
    outcome = [f"no answer within {seconds} s"]

    def ask():
        try:
            request = urllib.request.Request(url, method="HEAD")
            urllib.request.urlopen(request, timeout=seconds).close()
            outcome[0] = None
        except urllib.error.HTTPError:
            outcome[0] = None  # there is a server; what it gives is for the download to find out
        except (OSError, ValueError, http.client.HTTPException) as error:
            outcome[0] = _in_words(error)

    # The socket's time-out does not cover the name look-up, which alone can take half a minute.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return outcome[0]


def _download(url, path, size, digest, algorithm):
    part = path.with_name(path.name + ".part")
    if _size(path) == size and _digest(path, algorithm) == digest:
        return None
    reason = why_unreachable(url) if _size(part) < size else None
    reason = reason or _complete(url, part, size)
    if reason:
        return reason
    received = _digest(part, algorithm)
    if received != digest:
        part.unlink()
        return (
            f"expected a file with {algorithm} {digest}, received one with {received}, now "
            "deleted; another try downloads it anew"
        )
    os.replace(part, path)
    return None


def _complete(url, part, size):
    """Fetches what is missing of `part`; returns why it is still incomplete, or `None`."""
    with Progress("Downloading", size, "MB", scale=10**6) as progress:
        while (have := _size(part)) < size:
            began, reason = time.monotonic(), "the connection broke off"
            try:
                _fetch(url, part, have, size, progress)
            except OSError as error:
                reason = _in_words(error)
            # A break is answered by another attempt, but only while attempts bring something.
            found, seconds = _size(part), time.monotonic() - began
            if found < size and found - have <= _LEAST_RATE * seconds:
                return (
                    f"{reason}; {found:,} of {size:,} bytes are here, and another try goes on "
                    "from there"
                )
    return None


def _fetch(url, part, have, size, progress):
    """Adds to `part` what is missing; returns early when the server breaks off."""
    arriving, enough = queue.Queue(_WAITING), threading.Event()
    # In a thread of its own, since a socket's time-out begins anew with every byte, and a server
    # may send headers, or lengths of chunks, byte by byte and without end.
    threading.Thread(target=_read, args=(url, have, size, arriving, enough), daemon=True).start()
    try:
        done = _next(arriving)
        with part.open("ab") as output:
            mark, since = done, time.monotonic()
            # No more than is missing, however much the server sends.
            while done < size and (block := _next(arriving)):
                block = block[: size - done]
                # A server that starts over sends what is here already; nothing is given up for it.
                output.write(block[max(0, have - done) :])
                done += len(block)
                progress.update(done)
                if (seconds := time.monotonic() - since) > _TIMEOUT:
                    if done - mark < _LEAST_RATE * seconds:
                        raise TimeoutError(f"no more than {done - mark:,} bytes in {seconds:.0f} s")
                    mark, since = done, time.monotonic()
    finally:
        enough.set()
        with contextlib.suppress(queue.Empty):  # the thread may wait for room, and then ends
            while True:
                arriving.get_nowait()


def _read(url, have, size, arriving, enough):
    """Puts into a queue the byte that the answer starts with, blocks, and `b""` or an error."""
    # Ranges count bytes as they are sent, so no compression on the way.
    headers = {"User-Agent": "catsdogs", "Accept-Encoding": "identity", "Range": f"bytes={have}-"}
    try:
        request = urllib.request.Request(url, headers=headers)
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as response:
            arriving.put(_start_of(response, have, size))
            block = True
            while block and not enough.is_set():
                # What has come at once, or a slow server would keep a whole block from the disk.
                arriving.put(block := response.read1(_BLOCK))
    except (OSError, http.client.HTTPException, ValueError) as error:
        arriving.put(OSError(_in_words(error)))  # an error of its own would keep the socket open


def _next(arriving):
    """What comes next from the thread that reads; its error is raised here."""
    try:
        found = arriving.get(timeout=2 * _TIMEOUT)
    except queue.Empty:
        raise TimeoutError(f"nothing of the file within {2 * _TIMEOUT} s") from None
    if isinstance(found, OSError):
        raise found
    return found


def _start_of(response, have, size):
    """The byte that an answer starts with, once it is known to be the file that was asked for.

    Raises:
        ValueError: If it is not.
    """
    kind, coding = response.headers.get_content_type(), response.headers.get("Content-Encoding")
    if kind == "text/html" or coding not in (None, "identity"):  # a page to log in at, say
        raise ValueError(f"the server sends {kind}, {coding or 'plain'}, instead of the file")
    # 206 goes on at `have`; 200 means that the server ignores ranges and starts over.
    parts = response.headers.get("Content-Range", "an unknown part")
    if response.status == 206 and not parts.startswith(f"bytes {have}-"):
        raise ValueError(f"the server sends {parts}, from byte {have} was asked for")
    if response.status not in (200, 206):
        raise ValueError(f"the server answers with status {response.status}")
    length = response.headers.get("Content-Length", "") if response.status == 200 else parts
    total = length.rpartition("/")[2]
    if total.isdigit() and int(total) != size:
        raise ValueError(f"the server offers {int(total):,} bytes, {size:,} were expected")
    return have if response.status == 206 else 0


def _digest(path, algorithm):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def _size(path):
    return path.stat().st_size if path.is_file() else 0


def _in_words(error):
    return " ".join(str(error).split()).strip("<>") or type(error).__name__
