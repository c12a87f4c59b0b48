"""Small pictures for the tests, and folders of them."""

import io

import numpy as np
from PIL import Image

__all__ = ["contents", "encode", "noise_picture", "pets", "write_files"]


def noise_picture(seed, size=(60, 48)):
    """Smooth noise, a `PIL.Image`; pictures of two seeds are no near-duplicates."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 7, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


def encode(image, file_format="PNG", **options):
    """The bytes of a picture's file."""
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def pets(cats=range(1, 7), dogs=range(101, 107)):
    """Files of a small dataset, `{name: content}`; the seeds are the file indices."""
    seeds = [("cat", seed) for seed in cats] + [("dog", seed) for seed in dogs]
    return {f"{n}/{n}.{seed}.jpg": encode(noise_picture(seed), "JPEG") for n, seed in seeds}


def write_files(folder, files):
    """Writes `{name: content}` below a folder; returns it."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def contents(folder):
    """`{relative path: content}` of all files below a folder."""
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
