"""Predicts pictures with an exported ONNX model and onnxruntime alone: no Keras, no catsdogs.

    python predict_onnx.py photo.jpg ...

`model.onnx` and `model.json` lie beside this file. Needs: pip install onnxruntime numpy pillow
"""

import json
import pathlib
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

__all__ = ["predict"]

_FOLDER = pathlib.Path(__file__).parent


def predict(pictures, folder=_FOLDER):
    """Yields, for each picture file, a dictionary from class name to probability."""
    card = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    for picture in pictures:
        image = ImageOps.exif_transpose(Image.open(picture)).convert("RGB")
        image = image.resize([card["image_size"]] * 2, Image.Resampling.BICUBIC)
        batch = np.asarray(image, np.float32)[None]  # (1, size, size, 3) in [0, 255]
        (found,) = session.run(None, {session.get_inputs()[0].name: batch})[0].tolist()
        # A model of two classes returns the probability of the second alone.
        found = [1 - found[0], found[0]] if len(found) == 1 else found
        yield dict(zip(card["classes"], found, strict=True))


if __name__ == "__main__":
    for name, answer in zip(sys.argv[1:], predict(sys.argv[1:]), strict=True):
        best = max(answer, key=answer.get)
        print(f"{name}: {best} {answer[best]:.1%}")
