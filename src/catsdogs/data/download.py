"""Downloads that resume, retry and verify: of photographs and of weights."""

import hashlib
import os
import pathlib

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from catsdogs.console import Progress
from catsdogs.errors import InputError, shorten
from catsdogs.files import lock

__all__ = ["download"]

TIMEOUT = 5, 20
"""Seconds to connect, and without a byte after that."""

_RETRIES = Retry(
    total=3, connect=1, backoff_factor=0.3, status_forcelist=(429, 500, 502, 503, 504),
    raise_on_status=False, respect_retry_after_header=False,
)  # fmt: skip
_BLOCK = 1 << 16  # bytes


def download(url, path, *, size, digest, algorithm="sha256"):
    """Downloads a file, unless it is there already, and verifies it.

    What has arrived so far is kept in a `.part` file beside the result, from which the next call
    resumes. Proxies are taken from the usual environment variables.

    Args:
        url: Address of the file.
        path: Where to put it, `str` or `Path`; its folder is made if missing.
        size: Its size in bytes.
        digest: Its digest, hexadecimal.
        algorithm: Of the digest, as `hashlib` calls it.

    Raises:
        InputError: If the network fails or the file is not the one expected; the message is the
            bare reason.
    """
    path = pathlib.Path(path)
    part = path.with_name(path.name + ".part")
    with lock(path.parent, wait=True):  # what another process downloads is not downloaded twice
        if _size(path) == size and _digest(path, algorithm) == digest:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with requests.Session() as session, Progress("Downloading", size, "MB", 10**6) as progress:
            for scheme in ("http://", "https://"):
                session.mount(scheme, HTTPAdapter(max_retries=_RETRIES))
            while (have := _size(part)) < size:
                reason = "the connection broke off"
                try:
                    _fetch(session, url, part, have, size, progress)
                except requests.RequestException as error:
                    reason = getattr(error.args[0], "reason", error) if error.args else error
                if _size(part) <= have:  # otherwise another attempt is worth it
                    raise InputError(f"{shorten(reason)}; {have:,} of {size:,} bytes are here")
        received = _digest(part, algorithm)
        if received != digest:
            part.unlink()
            raise InputError(
                f"expected a file with {algorithm} {digest}, received one with {received}, which "
                "was deleted; another attempt starts over"
            )
        os.replace(part, path)


def _fetch(session, url, part, have, size, progress):
    """Appends to `part` what is missing, or starts over if the server cannot resume."""
    headers = {"Range": f"bytes={have}-", "Accept-Encoding": "identity"}
    with session.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        response.raise_for_status()
        start = have if response.status_code == 206 else 0
        offered = start + int(response.headers.get("Content-Length", 0))
        if offered != size:  # the page of a network that wants a login, for example
            raise requests.RequestException(f"{offered:,} bytes offered, {size:,} expected")
        with part.open("ab" if start else "wb") as output:
            for block in response.iter_content(_BLOCK):
                output.write(block)
                progress.update(output.tell())


def _size(path):
    return path.stat().st_size if path.is_file() else 0


def _digest(path, algorithm):
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()
