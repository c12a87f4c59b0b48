"""Predicts pictures with an exported ONNX model, without Keras.

    python predict_onnx.py photo.jpg ...

Needs `model.onnx`, `model.json` and `decode.py` beside this file, and: pip install onnxruntime
numpy pillow
"""

import json
import pathlib
import sys

import numpy as np
import onnxruntime
from decode import decode_picture

__all__ = ["load_model"]


def load_model(folder):
    """Loads a model; returns a function from a picture file to `{class name: probability}`."""
    card = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    session = onnxruntime.InferenceSession(folder / "model.onnx")

    def predict(file):
        image = decode_picture(pathlib.Path(file).read_bytes(), card["image_size"])
        batch = image[None].astype(np.float32)  # (1, image_size, image_size, 3) in [0, 255]
        (row,) = session.run(None, {session.get_inputs()[0].name: batch})[0].tolist()
        if len(row) == 1:  # of two classes, the probability of the second
            row = [1 - row[0], row[0]]
        return dict(zip(card["classes"], row, strict=True))

    return predict


def main():
    if len(sys.argv) == 1:
        sys.exit("Usage: python predict_onnx.py PICTURE...")
    predict = load_model(pathlib.Path(__file__).parent)
    for file in sys.argv[1:]:
        try:
            probabilities = predict(file)
        except (OSError, ValueError) as error:
            print(f"{file}: skipped, {error}", file=sys.stderr)
            continue
        label = max(probabilities, key=probabilities.get)
        print(f"{file}: {label} {probabilities[label]:.1%}")


if __name__ == "__main__":
    main()
