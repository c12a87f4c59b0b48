"""Fetch the Microsoft archive of 25,000 photographs, surviving breaks and checking what arrived."""

import http.client
import os
import pathlib
import urllib.request

from catsdogs.data.progress import Progress
from catsdogs.files import InputError, hold, sha256_of
from catsdogs.network import why_unreachable

__all__ = ["MICROSOFT_SHA256", "MICROSOFT_SIZE", "MICROSOFT_URL", "download_archive"]

MICROSOFT_URL = (
    "https://download.microsoft.com/download/3/E/1/3E1C3F21-ECDB-4869-8368-6DEBA77B919F/"
    "kagglecatsanddogs_5340.zip"
)
MICROSOFT_SIZE = 824_887_076  # bytes
MICROSOFT_SHA256 = "b7974bd00a84a99921f36ee4403f089853777b5ae8d151c76a86e64900334af9"

_TIMEOUT = 8  # seconds without a byte before a network counts as failing
_OTHER_WAYS = (
    "Other ways: --archive PATH with Kaggle's dogs-vs-cats.zip or train.zip; --folder PATH with "
    "one sub-folder a class; --sketches, drawings that need no network"
)


def download_archive(folder, url=MICROSOFT_URL, sha256=MICROSOFT_SHA256, size=MICROSOFT_SIZE):
    """Downloads an archive, going on where an earlier attempt stopped.

    Proxies are taken from the usual environment variables. What has arrived so far is kept in a
    `.part` file beside the result.

    Args:
        folder: Where to put it, `str` or `Path`; made if missing.
        url: Address of the file.
        sha256: Its SHA-256, 64 hexadecimal digits.
        size: Its size in bytes.

    Returns:
        `Path` of the complete, verified file. One that is already there is not fetched again.

    Raises:
        InputError: If the network fails, within seconds, or the file is not the one expected. The
            message names the other ways to get pictures.
    """
    path = pathlib.Path(folder) / url.rpartition("/")[2]
    with hold(folder, wait=True):  # what another process is fetching need not be fetched twice
        _complete(path, url, sha256, size)
    return path


def _complete(path, url, sha256, size):
    if path.is_file() and path.stat().st_size == size and sha256_of(path) == sha256:
        return
    part = path.with_name(path.name + ".part")
    reason = why_unreachable(url)
    if reason:
        raise InputError(f"Could not reach {url}: {reason}. {_OTHER_WAYS}.")
    while (have := _size(part)) < size:
        reason = "the connection broke off"
        try:
            _fetch(url, part, have, size)
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = getattr(error, "reason", None) or error
        # A break is answered by another attempt, but only while attempts bring something.
        if _size(part) <= have:
            raise InputError(
                f"Could not download {url}: {reason}; {have:,} of {size:,} bytes are here, and "
                f"another try goes on from there. {_OTHER_WAYS}."
            )
    received = sha256_of(part)
    if received != sha256:
        part.unlink()
        raise InputError(
            f"Expected SHA-256 {sha256} of {url}, received {received}; deleted. Run again to "
            f"download it anew. {_OTHER_WAYS}."
        )
    os.replace(part, path)


def _fetch(url, part, have, size):
    """Adds to `part` what is missing; returns early when the server breaks off."""
    # Ranges count bytes as they are sent, so no compression on the way.
    headers = {"User-Agent": "catsdogs", "Accept-Encoding": "identity", "Range": f"bytes={have}-"}
    request = urllib.request.Request(url, headers=headers)
    with urllib.request.urlopen(request, timeout=_TIMEOUT) as response:
        # 206 goes on at `have`; 200 means that the server ignores ranges and starts over.
        content_range = response.headers.get("Content-Range", "")
        total = (content_range or response.headers.get("Content-Length", "")).rpartition("/")[2]
        if total.isdigit() and int(total) != size:
            raise ValueError(f"the server offers {int(total):,} bytes, {size:,} were expected")
        done = have if response.status == 206 else 0
        if done and not content_range.startswith(f"bytes {have}-"):
            raise ValueError(f"the server sends {content_range}, from {have} was asked for")
        part.parent.mkdir(parents=True, exist_ok=True)
        with (
            part.open("ab" if done else "wb") as output,
            Progress("Downloading", size, "MB", scale=10**6) as progress,
        ):
            while block := response.read(1 << 16):
                output.write(block)
                done += len(block)
                progress.update(done)


def _size(path):
    return path.stat().st_size if path.exists() else 0
