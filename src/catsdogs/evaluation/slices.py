"""Accuracy on parts of the test pictures: the dark ones, the blurred ones, the small ones."""

import numpy as np

from catsdogs.evaluation.significance import wilson_interval

__all__ = ["accuracy_by_slices", "measure_pictures"]


def measure_pictures(images, files):
    """Numbers of each picture that may make it easy or hard.

    Args:
        images: uint8 (n, side, side, 3), as the model sees them.
        files: n entries of the manifest, with `width` and `height` in pixels.

    Returns:
        A dictionary of float64 (n,): `brightness`, mean grey in [0, 255]; `sharpness`, standard
        deviation of the Laplacian in grey levels, small where all is blurred; `size`, megapixels of
        the file.
    """
    found = {"brightness": [], "sharpness": [], "size": []}
    for image, file in zip(images, files, strict=True):
        grey = image.astype(np.float32) @ np.float32([0.299, 0.587, 0.114])  # ITU-R BT.601
        laplacian = (
            grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
            - 4 * grey[1:-1, 1:-1]
        )  # fmt: skip
        found["brightness"].append(grey.mean())
        found["sharpness"].append(laplacian.std())
        found["size"].append(file.width * file.height / 1e6)
    return {name: np.array(values, dtype=np.float64) for name, values in found.items()}


def accuracy_by_slices(measured, right, num_slices=4):
    """Accuracy in equally large parts, from the smallest values to the greatest.

    Args:
        measured: From `measure_pictures`.
        right: bool (n,), whether each picture was predicted right.
        num_slices: Parts of each measure; fewer where values are equal.

    Returns:
        `{name: [{"from", "to", "num_images", "accuracy", "accuracy_interval95"}, ...]}`.
    """
    right = np.asarray(right)
    found = {}
    for name, values in measured.items():
        edges = np.unique(np.quantile(values, np.linspace(0, 1, num_slices + 1)))
        # An edge belongs to the part that it begins, the last one to the last part.
        parts = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2)
        found[name] = [
            {
                "from": float(values[parts == part].min()),
                "to": float(values[parts == part].max()),
                "num_images": int((parts == part).sum()),
                "accuracy": float(right[parts == part].mean()),
                "accuracy_interval95": list(
                    wilson_interval(int(right[parts == part].sum()), int((parts == part).sum()))
                ),
            }
            for part in np.unique(parts)
        ]
    return found
