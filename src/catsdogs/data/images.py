"""From picture files to pixels: one decoder for every kind of file, and each split decoded once."""

import concurrent.futures
import contextlib
import errno
import hashlib
import io
import itertools
import os
import pathlib
import stat
import struct
import warnings

import numpy as np
from PIL import Image, ImageOps

from catsdogs.console import Progress
from catsdogs.data.folders import MAX_PICTURE_BYTES
from catsdogs.errors import InputError, shorten
from catsdogs.files import atomic_path

__all__ = ["FORMATS", "decode_image", "load_split", "map_pictures"]

# An explicit list: Pillow also opens PostScript, fonts and icons, none of them a photograph and
# some of them run programs.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF")

_ROWS = 256

# What Pillow and zipfile raise on broken input, besides OSError.
_DECODE_ERRORS = (OSError, ValueError, SyntaxError, TypeError, IndexError, KeyError, EOFError)
_DECODE_ERRORS += (OverflowError, MemoryError, struct.error, Image.DecompressionBombError)


def decode_image(file, image_size=None):
    """Decodes a picture into RGB pixels.

    The EXIF orientation is applied; of an animation the first frame is taken; grey, 16-bit, palette
    and CMYK pictures become 8-bit RGB; transparent ones are laid on white.

    Args:
        file: Path (`str` or `Path`) or the file's content (`bytes`).
        image_size: Side in pixels to which the picture is squashed, antialiased, whatever its
            aspect ratio (as Keras's `target_size` does), or `None` for the picture's own size.

    Returns:
        An array, uint8 (height, width, 3) in [0, 255].

    Raises:
        InputError: If the file is missing, empty, broken, in another format or too large, or its
            name is none that a file can have.
    """
    if isinstance(file, bytes):
        return _decode(file, image_size)
    try:
        content = _read(pathlib.Path(file))
    except OSError as error:
        raise InputError(f"Expected a picture at {file}. Received: {error.strerror}.") from None
    except ValueError as error:  # a name that no file can have, or a whole list with NUL between
        raise InputError(
            f"Expected a picture at {str(file)[:80]!r}. Received: {error}, in what should be a "
            "file's name. In a list, write one name a line."
        ) from None
    try:
        return _decode(content, image_size)
    except InputError as error:
        raise InputError(f"Expected a picture at {file}. Received: {error}.") from None


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
    """Loads a split as arrays, decoding it at the first call and reading it back afterwards.

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
    labels = np.array([file.class_index for file in files], dtype=np.int32)
    shape = (len(files), image_size, image_size, 3)
    # The digest changes with any change of the data set, so old pixels are never mistaken for new.
    path = data_dir / "decoded" / f"{split}-{image_size}-{manifest.digest[:12]}.npy"
    with contextlib.suppress(OSError, ValueError, EOFError):
        images = np.load(path, mmap_mode="r")
        if images.shape == shape and images.dtype == np.uint8:
            return images, labels

    def decode(file):
        try:
            content = (data_dir / file.name).read_bytes()
        except FileNotFoundError:
            content = None
        if content is None or hashlib.sha256(content).hexdigest() != file.sha256:
            raise InputError(
                f"Expected {data_dir / file.name} as prepared. Received: "
                f"{'no file' if content is None else 'another content'}. "
                "Run python scripts/prepare_data.py again, with the same flags as before."
            )
        return decode_image(content, image_size)

    # Written one image after the other, not through a writable memory map: a full disk is then an
    # OSError and not a killed process.
    with (
        atomic_path(path) as temporary,
        temporary.open("wb") as output,
        Progress(f"Decoding {split} images at {image_size}²", len(files)) as progress,
    ):
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(output, header)
        for done, image in enumerate(map_pictures(decode, files), start=1):
            output.write(image.tobytes())
            progress.update(done)
    return np.load(path, mmap_mode="r"), labels


def _read(path):
    """Content of a file that may be a picture; a pipe or a device might never end."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "a folder, a pipe or a device")
    if status.st_size > MAX_PICTURE_BYTES:
        raise OSError(errno.EFBIG, f"a file larger than {MAX_PICTURE_BYTES >> 20} MB")
    return path.read_bytes()


def _decode(content, image_size):
    """`decode_image` on bytes, with errors that give the bare reason."""
    if not content:
        raise InputError("an empty file")
    try:
        with _quiet_pillow(), Image.open(io.BytesIO(content), formats=FORMATS) as image:
            limit = Image.MAX_IMAGE_PIXELS
            if limit is not None and image.width * image.height > limit:
                raise InputError(f"{image.width}x{image.height} pixels, more than {limit:,}")
            if image_size is not None:
                # Decodes JPEG at a half, quarter or eighth of its size, yet at least twice the
                # size wanted, so that the antialiased resize still decides how the result looks.
                image.draft(None, (2 * image_size, 2 * image_size))
            image.load()
            _turn_upright(image)
            image = _to_rgb(image)
            if image_size is not None:
                image = image.resize((image_size, image_size), Image.Resampling.BICUBIC)
            return np.asarray(image)
    except InputError:
        raise
    except Image.UnidentifiedImageError:
        raise InputError(f"not a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} picture") from None
    except _DECODE_ERRORS as error:
        reason = shorten(error) or type(error).__name__
        raise InputError(f"a broken picture ({reason})") from None


def _turn_upright(image):
    """Applies the EXIF orientation; EXIF data that cannot be read leaves a picture as it is."""
    with contextlib.suppress(*_DECODE_ERRORS):
        ImageOps.exif_transpose(image, in_place=True)  # else a copy, whatever the orientation


def _to_rgb(image):
    if image.mode.startswith("I") or image.mode == "F":
        return _from_deep_grey(image)
    if image.has_transparency_data:
        return _on_white(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _on_white(image):
    """Lays a transparent picture on white, some rows after the other: all would be held thrice."""
    opaque = Image.new("RGB", image.size)
    for top in range(0, image.height, _ROWS):
        band = image.crop((0, top, image.width, min(top + _ROWS, image.height))).convert("RGBA")
        white = Image.new("RGBA", band.size, "white")
        opaque.paste(Image.alpha_composite(white, band).convert("RGB"), (0, top))
    return opaque


def _from_deep_grey(image):
    """Scales grey of more than 8 bits to 8; Pillow's own conversion clips instead."""
    values = np.asarray(image)
    # Modes `I` and `F` do not say what white is: take the least of the usual ranges that holds all.
    white = 65535.0 if image.mode.startswith("I;16") else 2.0**32 - 1
    if not image.mode.startswith("I;16"):
        usual = (1.0, 255.0, 65535.0) if image.mode == "F" else (255.0, 65535.0)
        white = next((white for white in usual if values.max() <= white), white)
    grey = np.empty(values.shape, np.uint8)
    for row, deep in zip(grey, values, strict=True):  # all at once would take 24 bytes a pixel
        row[:] = np.clip(np.rint(deep.astype(np.float64) * (255.0 / white)), 0, 255)
    return Image.fromarray(grey).convert("RGB")


@contextlib.contextmanager
def _quiet_pillow():
    """Silences Pillow's remarks on odd metadata: pictures are judged by whether they decode.

    `warnings.catch_warnings` is not made for threads; `map_pictures` opens this around all of its
    own, so what they leave behind in any order is undone when it ends.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield
