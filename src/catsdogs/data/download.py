"""Fetch the Microsoft archive of 25,000 photographs, surviving breaks and checking what arrived."""

import pathlib

from catsdogs.errors import InputError
from catsdogs.network import download

__all__ = ["MICROSOFT_SHA256", "MICROSOFT_SIZE", "MICROSOFT_URL", "download_archive"]

MICROSOFT_URL = (
    "https://download.microsoft.com/download/3/E/1/3E1C3F21-ECDB-4869-8368-6DEBA77B919F/"
    "kagglecatsanddogs_5340.zip"
)
MICROSOFT_SIZE = 824_887_076  # bytes
MICROSOFT_SHA256 = "b7974bd00a84a99921f36ee4403f089853777b5ae8d151c76a86e64900334af9"


def download_archive(folder, url=MICROSOFT_URL, sha256=MICROSOFT_SHA256, size=MICROSOFT_SIZE):
    """Downloads an archive, as `catsdogs.network.download` does.

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
    failure = download(url, path, size=size, digest=sha256)
    if failure:
        raise InputError(
            f"Expected to download {url}. Received: {failure}. "
            "Other ways: --archive PATH with Kaggle's dogs-vs-cats.zip or train.zip; --folder PATH "
            "with one sub-folder a class; --sketches, drawings that need no network."
        )
    return path
