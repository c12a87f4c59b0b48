"""Picture files decoded: one, many in parallel, or a prepared split, which is decoded once."""

import concurrent.futures
import contextlib
import hashlib
import itertools
import os
import pathlib
import stat
import warnings

import numpy as np

from catsdogs.console import Progress
from catsdogs.data.decode import MAX_BYTES, decode_picture
from catsdogs.errors import InputError, shorten
from catsdogs.files import atomic_path, lock

__all__ = ["decode_image", "load_split", "map_pictures"]


def decode_image(file, image_size=None):
    """Decodes a picture as `catsdogs.data.decode` describes.

    Args:
        file: Path (`str` or `Path`) or content (`bytes`) of the file.
        image_size: Side of the square result in pixels, or `None` for the picture's own size.

    Returns:
        uint8 (height, width, 3) in [0, 255].

    Raises:
        InputError: If the file is missing or no usable picture.
    """
    try:
        content = file if isinstance(file, bytes) else _read(pathlib.Path(file))
        with _quiet_pillow():
            return decode_picture(content, image_size)
    except (OSError, ValueError) as error:
        reason = shorten(getattr(error, "strerror", None) or error)
    if isinstance(file, bytes):
        raise InputError(reason)
    raise InputError(f"Expected a picture at {file}. Received: {reason}.")


def map_pictures(function, items):
    """Calls `function` on every item in parallel; for functions that mostly decode.

    Threads are enough, since Pillow decodes and resizes without Python's global lock.

    Args:
        function: Called with one item.
        items: Iterable, consumed only a few items ahead of what has been asked for.

    Yields:
        The results in the order of the items.
    """
    workers = os.cpu_count() or 1
    items = iter(items)
    with _quiet_pillow(), concurrent.futures.ThreadPoolExecutor(workers) as executor:
        pending = [executor.submit(function, item) for item in itertools.islice(items, 4 * workers)]
        try:
            while pending:
                result = pending.pop(0).result()
                pending += [executor.submit(function, item) for item in itertools.islice(items, 1)]
                yield result
        finally:
            for future in pending:
                future.cancel()


def load_split(data_dir, manifest, split, image_size):
    """Loads a split as arrays: decoded at the first call, read from the disk afterwards.

    Args:
        data_dir: Folder that `catsdogs.data.splits.prepare` made.
        manifest: Its manifest, from `catsdogs.data.manifest.load_manifest`.
        split: `"train"`, `"validation"` or `"test"`.
        image_size: Side of the square images in pixels.

    Returns:
        A pair `(images, labels)` in the manifest's order: a read-only `np.memmap`, uint8
        (num_images, image_size, image_size, 3) in [0, 255], and int32 (num_images,).

    Raises:
        InputError: If a file is missing or differs from the manifest.
    """
    data_dir = pathlib.Path(data_dir)
    files = manifest.split(split)
    labels = np.array([manifest.classes.index(file.label) for file in files], dtype=np.int32)
    # The digest changes with any change of the dataset, so old pixels are never mistaken for new.
    path = data_dir / "decoded" / f"{split}-{image_size}-{manifest.digest[:12]}.npy"
    if not path.exists():
        with lock(path.parent, wait=True):
            if not path.exists():  # else another process has just decoded it
                _decode_split(data_dir, files, image_size, path)
    return np.load(path, mmap_mode="r"), labels


def _decode_split(data_dir, files, image_size, path):
    def decode(file):
        picture = data_dir / file.name
        content = picture.read_bytes() if picture.is_file() else b""
        if hashlib.sha256(content).hexdigest() != file.sha256:
            raise InputError(
                f"Expected {picture} as it was prepared. Received: "
                f"{'other content' if content else 'no file'}. "
                "Run python scripts/prepare_data.py again, with the same flags as before."
            )
        return decode_image(content, image_size)

    # Written image by image, not through a writable memory map: a full disk is then an OSError
    # and does not kill the process.
    with (
        atomic_path(path) as temporary,
        temporary.open("wb") as output,
        Progress(f"Decoding {files[0].split} images at {image_size}²", len(files)) as progress,
    ):
        shape = (len(files), image_size, image_size, 3)
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(output, header)
        for done, image in enumerate(map_pictures(decode, files), start=1):
            output.write(image.tobytes())
            progress.update(done)


def _read(path):
    """Content of a file that may be a picture; a pipe or a device might never end."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("a folder, a pipe or a device")
    if status.st_size > MAX_BYTES:
        raise ValueError(f"a file larger than {MAX_BYTES >> 20} MB")
    return path.read_bytes()


@contextlib.contextmanager
def _quiet_pillow():
    """Silences Pillow's warnings about odd metadata: a picture is judged by whether it decodes.

    `warnings.catch_warnings` is not thread-safe. `map_pictures` therefore opens one around all its
    threads: in whatever order they leave theirs, the filters are restored when it ends.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield
