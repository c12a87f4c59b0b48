"""Every kind of picture becomes the right RGB pixels, and each split is decoded once."""

import errno
import functools
import os
import pathlib
import random
import shutil
import subprocess
import sys
import time
import warnings
import zlib

import numpy as np
import pytest
from hostile_files import png
from pictures import encode, noise_picture
from PIL import Image, PngImagePlugin

from catsdogs.data import decode, images
from catsdogs.data.images import decode_image, load_split, map_pictures
from catsdogs.data.manifest import load_manifest
from catsdogs.errors import InputError

# Left to right dark to light, and a red corner: no two of its rotations are equal.
RAMP = np.broadcast_to(np.linspace(0, 255, 48).astype(np.uint8)[:, None], (32, 48, 3)).copy()
RAMP[:12, :12] = (200, 20, 20)
PICTURE = Image.fromarray(RAMP)


def difference(pixels, expected):
    """Mean absolute difference in [0, 255]."""
    assert pixels.shape == np.shape(expected) and pixels.dtype == np.uint8
    return np.abs(pixels.astype(int) - np.asarray(expected).astype(int)).mean()


# ---- Formats and modes ----


@pytest.mark.parametrize("file_format", decode.FORMATS)
def test_formats(tmp_path, file_format):
    path = tmp_path / "picture.jpg"  # content decides, not the suffix
    path.write_bytes(encode(PICTURE, file_format))
    assert difference(decode_image(path), RAMP) < (0.01 if file_format in "PNG BMP TIFF" else 8)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_modes(mode):
    file_format = "TIFF" if mode in ("CMYK", "YCbCr") else "PNG"
    # Pillow 12 cannot read a YCbCr TIFF without compression.
    options = {"compression": "tiff_lzw"} if mode == "YCbCr" else {}
    pixels = decode_image(encode(PICTURE.convert(mode), file_format, **options))
    assert difference(pixels, PICTURE.convert(mode).convert("RGB")) <= 2


def test_cmyk_jpeg():
    # Pillow writes CMYK as Adobe does, inverted, and must read it back so.
    assert difference(decode_image(encode(PICTURE.convert("CMYK"), "JPEG", quality=95)), RAMP) < 4


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "big-endian TIFF"])
def test_16_bit_grey_is_scaled_not_clipped(file_format):
    deep = (np.arange(64 * 64).reshape(64, 64) * 16).astype("<u2")
    image = Image.fromarray(deep)
    if file_format == "big-endian TIFF":
        image = Image.frombytes("I;16B", (64, 64), deep.astype(">u2").tobytes())
    pixels = decode_image(encode(image, file_format.split()[-1]))
    assert np.abs(pixels - deep[..., None] / 257).max() <= 0.51


@pytest.mark.parametrize(
    ("values", "white"),
    [
        (np.linspace(0, 1, 64, dtype=np.float32), 1),
        (np.linspace(0, 200, 64, dtype=np.float32), 255),
        (np.linspace(0, 60000, 64).astype(np.int32), 65535),
        (np.linspace(0, 250, 64).astype(np.int32), 255),
    ],
)
def test_deeper_grey_is_scaled_by_the_least_usual_white(values, white):
    deep = np.broadcast_to(values, (64, 64)).copy()
    pixels = decode_image(encode(Image.fromarray(deep), "TIFF"))
    assert np.abs(pixels - deep[..., None] * (255 / white)).max() <= 0.51


@pytest.mark.parametrize(("colour", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_16_bit_png_in_colour_or_transparent(colour, channels):
    pixels = decode_image(png(40, 40, depth=16, colour=colour, channels=channels))
    assert (pixels == (0 if channels == 3 else 255)).all()  # black, or transparent


def test_transparent_pictures_are_laid_on_white():
    clear = np.zeros((600, 40, 4), np.uint8)  # decoded in several bands
    clear[:300] = (10, 20, 30, 255)
    image = Image.fromarray(clear)
    expected = np.where(clear[..., 3:] == 255, clear[..., :3], 255)
    for file in (encode(image), encode(image, "WEBP", lossless=True), encode(image, "GIF")):
        assert difference(decode_image(file), expected) < 2
    keyed = encode(Image.fromarray(np.full((40, 40), 7, np.uint8)), transparency=7)
    assert (decode_image(keyed) == 255).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation):
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    stored = PICTURE.transpose(undo[orientation]) if orientation in undo else PICTURE
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = encode(stored, "JPEG", exif=exif, quality=95, subsampling=0)
    assert difference(decode_image(file), RAMP) < 4
    assert difference(decode_image(file, 16), decode_image(encode(PICTURE), 16)) < 6


@pytest.mark.parametrize("junk", [b"Exif\0\0II*\0\x08\0\0\0\xff\xff", b"Exif\0\0junk", b"Exif\0\0"])
def test_unreadable_exif_is_ignored_without_a_warning(junk):
    filters = list(warnings.filters)
    assert difference(decode_image(encode(PICTURE, "JPEG", exif=junk)), RAMP) < 4
    assert warnings.filters == filters


@pytest.mark.parametrize("file_format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_first_frame_of_an_animation(file_format):
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "lime", "blue")]
    file = encode(frames[0], file_format, save_all=True, append_images=frames[1:])
    assert difference(decode_image(file), frames[0]) <= 4


def test_resizing_squashes_and_antialiases():
    noise = np.random.default_rng(0).integers(0, 256, (600, 400, 3), dtype=np.uint8)
    small = decode_image(encode(Image.fromarray(noise)), 10)
    assert small.shape == (10, 10, 3)
    assert np.abs(small.astype(int) - 127).max() < 30  # a mean of 2,400 pixels, not one of them


def test_fast_jpeg_decoding_looks_the_same():
    smooth = PICTURE.resize((1200, 800), Image.Resampling.BICUBIC)
    exact = smooth.resize((64, 64), Image.Resampling.BICUBIC)
    assert difference(decode_image(encode(smooth, "JPEG", quality=90), 64), exact) < 2


def test_the_decoder_works_alone(tmp_path):
    """It is copied beside exported models, where there is no catsdogs."""
    shutil.copy(decode.__file__, tmp_path)
    (tmp_path / "a.png").write_bytes(encode(noise_picture(1)))
    code = "import decode; print(decode.decode_picture(open('a.png', 'rb').read(), 9).tolist())"
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    finished = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert finished.stdout.strip() == str(decode_image(tmp_path / "a.png", 9).tolist())
    assert "catsdogs" not in pathlib.Path(decode.__file__).read_text()


# ---- Odd, broken and hostile pictures ----


@functools.cache
def odd_pictures():
    exif, text = Image.Exif(), PngImagePlugin.PngInfo()
    exif[0x010E] = "x" * 60_000
    text.add_text("comment", "x" * 10**6)
    return {
        "1x1": encode(PICTURE.resize((1, 1))),
        "30,000x10": encode(PICTURE.resize((30_000, 10))),
        "10x30,000": encode(PICTURE.resize((10, 30_000)), "JPEG"),
        "much EXIF": encode(PICTURE, "JPEG", exif=exif),
        "much text": encode(PICTURE, pnginfo=text),
        "broken profile": encode(PICTURE, icc_profile=b"no profile"),
        "trailing bytes": encode(PICTURE, "JPEG") + b"trailing bytes",
        "many frames": encode(PICTURE, "GIF", save_all=True, append_images=[PICTURE] * 200),
        "lab": encode(Image.new("LAB", (40, 40), (90, 128, 128)), "TIFF"),
        "fax": encode(PICTURE.convert("1"), "TIFF", compression="group4"),
    }


@pytest.mark.parametrize("name", odd_pictures())
def test_odd_pictures_are_pictures(name):
    content = odd_pictures()[name]
    pixels = decode_image(content)
    assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
    assert decode_image(content, 16).shape == (16, 16, 3)


@functools.cache
def unusable():
    jpeg, whole, webp = encode(PICTURE, "JPEG"), encode(PICTURE), encode(PICTURE, "WEBP")
    bomb = b"a\0\0" + zlib.compress(bytes(2**26))
    return {
        "empty": (b"", "an empty file"),
        "text": (b"this is not a picture", "not a JPEG"),
        "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a JPEG"),
        "icon": (encode(PICTURE, "ICO"), "not a JPEG"),
        "no pixels": (png(0, 40, rows=0), "not a JPEG"),
        "jpeg cut": (jpeg[: len(jpeg) // 2], "a broken picture"),
        "png cut": (whole[: len(whole) // 2], "a broken picture"),
        "webp cut": (webp[: len(webp) // 2], "a broken picture"),
        "bmp cut": (encode(PICTURE, "BMP")[:200], "a broken picture"),
        "webp without an end": (b"RIFF\xff\xff\xff\x7fWEBPVP8X", "a broken picture"),
        "400 megapixels": (png(20_000, 20_000, rows=1), "too large a picture"),
        "a petapixel": (png(2**31 - 1, 2**31 - 1, rows=0), "too large a picture"),
        "a huge canvas": (
            b"GIF89a\xff\xff\xff\xff" + encode(PICTURE, "GIF")[10:], "too large a picture",
        ),
        "a text bomb": (png(40, 40, chunks=[(b"zTXt", bomb)]), "a broken picture"),
        "a profile bomb": (png(40, 40, chunks=[(b"iCCP", bomb)]), "a broken picture"),
    }  # fmt: skip


@pytest.mark.parametrize("name", unusable())
def test_unusable_pictures(tmp_path, name):
    content, complaint = unusable()[name]
    with pytest.raises(InputError, match=f"^{complaint}"):
        decode_image(content, 16)
    (tmp_path / "cat.1.jpg").write_bytes(content)
    with pytest.raises(InputError, match=rf"cat\.1\.jpg\. Received: {complaint}") as caught:
        decode_image(tmp_path / "cat.1.jpg")
    assert str(caught.value).isprintable() and len(str(caught.value)) < 300


def test_pictures_over_pillows_limit_are_refused(monkeypatch):
    # Pillow itself only warns up to twice its limit.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(InputError, match="48x32 pixels"):
        decode_image(encode(PICTURE))


@pytest.mark.parametrize("kind", ["missing", "pipe", "device", "folder", "giant", "no name"])
def test_what_is_no_file_is_not_read(kind, tmp_path):
    place = tmp_path / "cat.jpg"
    if kind == "pipe":
        os.mkfifo(place)
    elif kind == "device":
        place = pathlib.Path("/dev/zero")
    elif kind == "folder":
        place.mkdir()
    elif kind == "giant":
        with place.open("wb") as file:
            file.truncate(2**40)  # takes no space on the disk
    elif kind == "no name":
        place = "cat.jpg\0dog.jpg"
    complaint = r"No such file|a folder, a pipe or a device|larger than 256 MB|null byte"
    with pytest.raises(InputError, match=complaint):
        decode_image(place, 32)


# ---- Many pictures ----


def test_map_pictures_keeps_the_order_and_reads_only_a_little_ahead():
    taken, delays = [], random.Random(0)

    def items():
        for item in range(10_000):
            taken.append(item)
            yield item

    def square_slowly(item):
        time.sleep(0.002 * delays.random())
        return item * item

    results = map_pictures(square_slowly, items())
    assert [next(results) for _ in range(50)] == [item * item for item in range(50)]
    results.close()
    assert len(taken) < 200


@pytest.fixture
def prepared(data_dir, tmp_path):
    """A copy of the tiny dataset in which nothing is decoded: (folder, manifest)."""
    ignored = shutil.ignore_patterns("decoded", "features")
    folder = shutil.copytree(data_dir, tmp_path / "data", ignore=ignored)
    return folder, load_manifest(folder)


def decoded_files(folder):
    return sorted(path.name for path in (folder / "decoded").glob("*"))


@pytest.mark.parametrize("workers", [1, 2, 7])
def test_labels_and_order_are_the_manifests(workers, prepared, monkeypatch):
    folder, manifest = prepared
    delays = random.Random(workers)

    def decode_slowly(content, image_size):
        time.sleep(0.003 * delays.random())
        return decode_image(content, image_size)

    monkeypatch.setattr(images, "decode_image", decode_slowly)
    monkeypatch.setattr(os, "cpu_count", lambda: workers)
    pixels, labels = load_split(folder, manifest, "train", 24)
    assert isinstance(pixels, np.memmap) and not pixels.flags.writeable
    assert (pixels.dtype, pixels.shape, labels.dtype) == (np.uint8, (64, 24, 24, 3), np.int32)
    for row, label, file in zip(pixels, labels, manifest.split("train"), strict=True):
        np.testing.assert_array_equal(row, decode_image(folder / file.name, 24))
        assert manifest.classes[label] == file.name.split("/")[1]


def test_a_split_is_decoded_once(prepared, monkeypatch):
    folder, manifest = prepared
    pixels, _ = load_split(folder, manifest, "train", 24)
    monkeypatch.setattr(images, "decode_image", lambda *_: pytest.fail("decoded again"))
    np.testing.assert_array_equal(load_split(folder, manifest, "train", 24)[0], pixels)
    assert decoded_files(folder) == [f"train-24-{manifest.digest[:12]}.npy"]


def test_another_data_set_is_decoded_again(prepared):
    folder, manifest = prepared
    pixels, _ = load_split(folder, manifest, "train", 16)
    changed = manifest.model_copy(update={"files": manifest.files[1:]})
    np.testing.assert_array_equal(load_split(folder, changed, "train", 16)[0], pixels[1:])
    assert len(decoded_files(folder)) == 2


@pytest.mark.parametrize("damage", ["other content", "no file"])
def test_changed_pictures_are_noticed(prepared, damage):
    folder, manifest = prepared
    path = folder / manifest.split("validation")[2].name
    path.unlink()
    if damage == "other content":
        path.write_bytes(encode(noise_picture(1)))
    with pytest.raises(InputError, match=rf"{path.name} .*Received: {damage}\. Run python"):
        load_split(folder, manifest, "validation", 16)
    assert decoded_files(folder) == []


def test_a_full_disk_leaves_no_pixels(prepared, monkeypatch):
    folder, manifest = prepared
    calls = []

    def decode_until_full(content, image_size):
        calls.append(content)
        if len(calls) == 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        return decode_image(content, image_size)

    monkeypatch.setattr(images, "decode_image", decode_until_full)
    with pytest.raises(OSError, match="No space"):
        load_split(folder, manifest, "train", 16)
    assert decoded_files(folder) == []
