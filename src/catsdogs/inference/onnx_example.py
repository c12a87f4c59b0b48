"""Predicts pictures with an exported ONNX model and onnxruntime alone: no Keras, no catsdogs.

    python predict_onnx.py photo.jpg ...

`model.onnx` and `model.json` lie beside this file. Needs: pip install onnxruntime numpy pillow
"""

import contextlib
import json
import os
import pathlib
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

__all__ = ["predict"]

_FOLDER = pathlib.Path(__file__).parent
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF")


def predict(pictures, folder=_FOLDER):
    """Yields, for each file, a dictionary from class name to probability; `None` if unreadable."""
    card = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    size = card["image_size"]
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    for picture in pictures:
        if not os.path.isfile(picture):  # a pipe would be waited for
            yield None
            continue
        try:
            batch = _decode(picture, size)[None]  # (1, size, size, 3) in [0, 255]
        except Exception:  # Pillow raises errors of every kind on damaged files
            yield None
            continue
        (found,) = session.run(None, {session.get_inputs()[0].name: batch})[0].tolist()
        # A model of two classes returns the probability of the second alone.
        found = [1 - found[0], found[0]] if len(found) == 1 else found
        yield dict(zip(card["classes"], found, strict=True))


def _decode(picture, size):
    """What the model was trained on: see "resize" in `model.json`."""
    with Image.open(picture, formats=_FORMATS) as image:
        image.draft(None, (2 * size, 2 * size))  # JPEG at a half, quarter or eighth
        image.load()
        with contextlib.suppress(Exception):  # EXIF data that cannot be read says nothing
            image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I") or image.mode == "F":
            image = _from_deep_grey(np.asarray(image).astype(np.float64), image.mode)
        elif image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        image = image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
        return np.asarray(image, np.float32)


def _from_deep_grey(values, mode):
    """Grey of more than 8 bits, scaled to 8 by the least usual white that no pixel exceeds."""
    whites = {"I": (255.0, 65535.0), "F": (1.0, 255.0, 65535.0)}.get(mode, (65535.0,))
    white = next((white for white in whites if values.max() <= white), 2.0**32 - 1)
    return Image.fromarray(np.clip(np.rint(values * (255 / white)), 0, 255).astype(np.uint8))


if __name__ == "__main__":
    if not sys.argv[1:]:
        sys.exit("Usage: python predict_onnx.py PICTURE...")
    for name, answer in zip(sys.argv[1:], predict(sys.argv[1:]), strict=True):
        if answer is None:
            print(f"{name}: no picture that can be read", file=sys.stderr)
            continue
        best = max(answer, key=answer.get)
        print(f"{name}: {best} {answer[best]:.1%}")
