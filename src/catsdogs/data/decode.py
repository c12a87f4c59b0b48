"""From the bytes of a picture file to RGB pixels, with numpy and Pillow alone.

Everything that looks at pictures uses this decoder, and a copy of this file lies beside every
exported ONNX model: a model should see the same pixels wherever it runs. The steps, in order:

1. Of an animation, the first frame; of a document, the first page.
2. A JPEG is decoded at a half, a quarter or an eighth of its size where that leaves at least twice
   the size wanted (Pillow's draft mode), which is much faster.
3. The EXIF orientation is applied.
4. Grey of more than 8 bits is scaled to 8 bits.
5. Transparent pictures are laid on white.
6. Every other mode is converted to RGB.
7. The picture is squashed to a square whatever its aspect ratio, bicubic and antialiased.
"""

import contextlib
import io

import numpy as np
from PIL import Image, ImageOps

__all__ = ["FORMATS", "MAX_BYTES", "decode_picture"]

# An explicit list: Pillow also opens PostScript, fonts and icons, none of them a photograph and
# some of them run programs.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF")
MAX_BYTES = 256 * 2**20
"""A larger file is no photograph; nobody needs to read it into memory."""

_BAND = 256  # rows


def decode_picture(content, image_size=None):
    """Decodes a picture file.

    Args:
        content: What is in the file, `bytes`.
        image_size: Side of the square result in pixels, or `None` for the picture's own size.

    Returns:
        uint8 (height, width, 3) in [0, 255].

    Raises:
        ValueError: If the file is empty, broken, in another format or too large; the message is
            the bare reason.
    """
    if not content:
        raise ValueError("an empty file")
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            # Pillow refuses twice its limit and only warns between the two.
            if image.width * image.height > (Image.MAX_IMAGE_PIXELS or float("inf")):
                raise Image.DecompressionBombError(f"{image.width}x{image.height} pixels")
            if image_size is not None:
                image.draft(None, (2 * image_size, 2 * image_size))
            image.load()
            with contextlib.suppress(Exception):  # EXIF data that cannot be read says nothing
                ImageOps.exif_transpose(image, in_place=True)
            image = _to_rgb(image)
            if image_size is not None:
                image = image.resize((image_size, image_size), Image.Resampling.BICUBIC)
            return np.asarray(image)
    except Image.UnidentifiedImageError:
        raise ValueError(f"not a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} picture") from None
    except Image.DecompressionBombError as error:
        raise ValueError(f"too large a picture ({error})") from None
    except Exception as error:  # Pillow raises errors of every kind on damaged files
        raise ValueError(f"a broken picture ({str(error) or type(error).__name__})") from None


def _to_rgb(image):
    if image.mode.startswith("I") or image.mode == "F":
        return _from_deep_grey(image)
    if image.has_transparency_data:
        return _on_white(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _from_deep_grey(image):
    """Scales grey of more than 8 bits to 8; Pillow's own conversion clips it instead."""
    values = np.asarray(image)
    # Modes `I` and `F` do not say what white is: the least of the usual values that no pixel
    # exceeds.
    whites = {"I": (255.0, 65535.0), "F": (1.0, 255.0, 65535.0)}.get(image.mode, (65535.0,))
    white = next((white for white in whites if values.max() <= white), 2.0**32 - 1)
    grey = np.empty(values.shape, np.uint8)
    for row, deep in zip(grey, values, strict=True):  # all rows at once take 24 bytes a pixel
        row[:] = np.clip(np.rint(deep.astype(np.float64) * (255.0 / white)), 0, 255)
    return Image.fromarray(grey).convert("RGB")


def _on_white(image):
    """Lays a transparent picture on white, in bands: all rows at once take three more copies."""
    opaque = Image.new("RGB", image.size)
    for top in range(0, image.height, _BAND):
        band = image.crop((0, top, image.width, min(top + _BAND, image.height))).convert("RGBA")
        white = Image.new("RGBA", band.size, "white")
        opaque.paste(Image.alpha_composite(white, band).convert("RGB"), (0, top))
    return opaque
