"""Every kind of picture becomes the right RGB pixels, and each split is decoded once."""

import dataclasses
import errno
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from catsdogs.data import images, manifest, sources, splits
from catsdogs.data.images import decode_image, load_split
from catsdogs.errors import InputError

# Left to right dark to light, and a red corner: no two of its rotations are alike.
RAMP = np.broadcast_to(np.linspace(0, 255, 48).astype(np.uint8)[:, None], (32, 48, 3)).copy()
RAMP[:12, :12] = (200, 20, 20)


def encode(image, file_format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def grey_of(array):
    return np.asarray(Image.fromarray(array).convert("L")).astype(int)


@pytest.mark.parametrize("file_format", ["PNG", "BMP", "TIFF", "GIF", "JPEG", "WEBP"])
def test_formats(tmp_path, file_format):
    # All under one misleading name: content decides, not the suffix.
    path = tmp_path / "picture.jpg"
    path.write_bytes(encode(Image.fromarray(RAMP), file_format))
    pixels = decode_image(path)
    assert pixels.shape == (32, 48, 3) and pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - RAMP).mean() < (0.01 if file_format in "PNG BMP TIFF" else 8)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "YCbCr", "HSV"])
def test_modes(mode):
    file_format = "TIFF" if mode in ("CMYK", "YCbCr", "HSV") else "PNG"
    image = Image.fromarray(RAMP)
    if mode == "HSV":  # no format stores it; a palette TIFF takes its place
        image, mode = image.quantize(64), "P"
    # Pillow 12 cannot read a YCbCr TIFF without compression.
    options = {"compression": "tiff_lzw"} if mode == "YCbCr" else {}
    pixels = decode_image(encode(image.convert(mode), file_format, **options))
    expected = np.asarray(image.convert(mode).convert("RGB")).astype(int)
    assert np.abs(pixels - expected).max() <= 2


def test_cmyk_jpeg():
    # Pillow writes CMYK as Adobe does, inverted, and must read it back so.
    pixels = decode_image(encode(Image.fromarray(RAMP).convert("CMYK"), "JPEG", quality=95))
    assert np.abs(pixels.astype(int) - RAMP).mean() < 4
    assert pixels[20, 2].max() < 40 and pixels[20, -2].min() > 215


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
@pytest.mark.parametrize("dtype", ["<u2", ">u2"])
def test_16_bit_grey_is_scaled_not_clipped(file_format, dtype):
    deep = (np.arange(64 * 64).reshape(64, 64) * 16).astype(dtype)
    image = Image.fromarray(deep.astype("<u2"))
    if dtype == ">u2":
        image = Image.frombytes("I;16B", (64, 64), deep.tobytes())
        file_format = "TIFF"
    pixels = decode_image(encode(image, file_format))
    assert np.abs(pixels[..., 0] - deep / 257).max() <= 0.51
    assert (pixels[..., 0] == pixels[..., 2]).all()


@pytest.mark.parametrize(("colour_type", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_16_bit_png_in_colour_or_transparent(colour_type, channels):
    deep = np.full((40, 40, channels), 65535, ">u2")  # opaque where there is an alpha channel
    deep[..., 0] = np.arange(40) * 1600

    def chunk(name, body):
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    rows = b"".join(b"\0" + row.tobytes() for row in deep)
    header = struct.pack(">IIBBBBB", 40, 40, 16, colour_type, 0, 0, 0)
    file = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows))
    pixels = decode_image(file + chunk(b"IEND", b""))
    assert np.abs(pixels[..., 0] - deep[..., 0] / 257).max() <= 1
    assert (pixels[..., 1] == (pixels[..., 0] if channels == 2 else 255)).all()


@pytest.mark.parametrize(
    ("values", "white"),
    [
        (np.linspace(0, 1, 64, dtype=np.float32), 1),
        (np.linspace(0, 200, 64, dtype=np.float32), 255),
        (np.linspace(0, 60000, 64).astype(np.int32), 65535),
        (np.linspace(0, 250, 64).astype(np.int32), 255),
    ],
)
def test_deeper_grey(values, white):
    deep = np.broadcast_to(values, (64, 64)).copy()
    pixels = decode_image(encode(Image.fromarray(deep), "TIFF"))
    assert np.abs(pixels[..., 0] - deep * (255 / white)).max() <= 0.51


def test_transparent_pictures_are_laid_on_white():
    clear = np.zeros((40, 40, 4), np.uint8)
    clear[:20] = (10, 20, 30, 255)
    image = Image.fromarray(clear)
    for file in (encode(image), encode(image, "WEBP", lossless=True), encode(image, "GIF")):
        pixels = decode_image(file)
        assert (pixels[30, 30] == 255).all() and np.abs(pixels[5, 5] - [10, 20, 30]).max() <= 4
    grey = encode(image.convert("LA"))
    assert (decode_image(grey)[30, 30] == 255).all() and decode_image(grey)[5, 5, 0] < 40
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
    stored = Image.fromarray(RAMP)
    if orientation in undo:
        stored = stored.transpose(undo[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = encode(stored, "JPEG", exif=exif, quality=95, subsampling=0)
    pixels = decode_image(file)
    assert pixels.shape == RAMP.shape
    assert np.abs(pixels.astype(int) - RAMP).mean() < 4
    small = decode_image(file, 16).astype(int)
    assert np.abs(small - decode_image(encode(Image.fromarray(RAMP)), 16)).mean() < 6


@pytest.mark.parametrize("junk", [b"Exif\0\0II*\0\x08\0\0\0\xff\xff", b"Exif\0\0junk", b"Exif\0\0"])
def test_broken_exif_is_no_reason_to_lose_a_picture(junk):
    assert decode_image(encode(Image.fromarray(RAMP), "JPEG", exif=junk)).shape == RAMP.shape


@pytest.mark.parametrize("file_format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_first_frame_of_an_animation(file_format):
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "lime", "blue")]
    file = encode(frames[0], file_format, save_all=True, append_images=frames[1:])
    assert np.abs(decode_image(file)[20, 20].astype(int) - (255, 0, 0)).max() <= 4


def test_resizing_squashes_and_antialiases():
    noise = np.random.default_rng(0).integers(0, 256, (600, 400, 3), dtype=np.uint8)
    small = decode_image(encode(Image.fromarray(noise)), 10)
    assert small.shape == (10, 10, 3)
    assert np.abs(small.astype(int) - 127).max() < 30  # an average of many, not a sample of few


def test_fast_jpeg_decoding_looks_the_same():
    smooth = Image.fromarray(RAMP).resize((1200, 800), Image.Resampling.BICUBIC)
    fast = decode_image(encode(smooth, "JPEG", quality=90), 64).astype(int)
    exact = np.asarray(smooth.resize((64, 64), Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(fast - exact).mean() < 2


def unusable():
    jpeg = encode(Image.fromarray(RAMP), "JPEG")
    png = encode(Image.fromarray(RAMP))
    return {
        "empty": (b"", "an empty file"),
        "text": (b"this is not a picture", "not a JPEG"),
        "truncated jpeg": (jpeg[: len(jpeg) // 2], "broken picture"),
        "truncated png": (png[: len(png) // 2], "broken picture"),
        "header only": (jpeg[:20], "not a JPEG|broken"),
        "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a JPEG"),
        "icon": (encode(Image.fromarray(RAMP), "ICO"), "not a JPEG"),
    }


@pytest.mark.parametrize("kind", unusable())
def test_unusable_files(tmp_path, kind):
    content, complaint = unusable()[kind]
    path = tmp_path / "cat.1.jpg"
    path.write_bytes(content)
    with pytest.raises(InputError, match=complaint) as caught:
        decode_image(path)
    assert "cat.1.jpg" in str(caught.value) and "\n" not in str(caught.value)


def test_names_that_no_file_can_have():
    listed = "\0".join(f"photos/{index}.jpg" for index in range(1000))  # find -print0
    with pytest.raises(InputError, match=r"null byte.*one name a line") as caught:
        decode_image(listed)
    assert "photos/0.jpg" in str(caught.value) and len(str(caught.value)) < 250
    assert "\0" not in str(caught.value)


def test_missing_and_too_large_files(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="No such file"):
        decode_image(tmp_path / "cat.1.jpg")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(InputError, match="more than 1,000"):
        decode_image(encode(Image.fromarray(RAMP)))  # 1,536 pixels: Pillow itself only warns
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    with pytest.raises(InputError, match="decompression bomb"):
        decode_image(encode(Image.fromarray(RAMP)))


def test_map_pictures_keeps_order_and_looks_only_a_little_ahead():
    taken = []

    def items():
        for item in range(10_000):
            taken.append(item)
            yield item

    results = images.map_pictures(lambda item: item * item, items())
    assert [next(results) for _ in range(50)] == [item * item for item in range(50)]
    results.close()
    assert len(taken) < 200


@pytest.fixture
def prepared(tmp_path):
    """A prepared data set of 12 pictures of 48x40 pixels: (folder, manifest)."""
    for index in range(12):
        label = ("cat", "dog")[index % 2]
        noise = np.random.default_rng(index).integers(0, 256, (5, 6, 3), dtype=np.uint8)
        picture = Image.fromarray(noise).resize((48, 40), Image.Resampling.BICUBIC)
        folder = tmp_path / "pets" / label
        folder.mkdir(parents=True, exist_ok=True)
        picture.save(folder / f"{index}.png")
    with sources.open_source(tmp_path / "pets") as source:
        splits.prepare(source, tmp_path / "data", train=6, validation=4, test=2)
    return tmp_path / "data", manifest.load_manifest(tmp_path / "data")


def decoded_files(data_dir):
    return sorted(path.name for path in (data_dir / "decoded").glob("*"))


def test_load_split(prepared, monkeypatch):
    data_dir, manifest = prepared
    pixels, labels = load_split(data_dir, manifest, "train", 24)
    assert isinstance(pixels, np.memmap) and pixels.shape == (6, 24, 24, 3)
    assert pixels.dtype == np.uint8 and not pixels.flags.writeable
    assert labels.dtype == np.int32 and labels.tolist() == [0, 0, 0, 1, 1, 1]
    for row, file in zip(pixels, manifest.split("train"), strict=True):
        assert (row == decode_image(data_dir / file.name, 24)).all()

    def fail(*_):
        raise AssertionError("decoded again")

    monkeypatch.setattr(images, "decode_image", fail)
    again, _ = load_split(data_dir, manifest, "train", 24)
    assert (again == pixels).all()
    with pytest.raises(AssertionError, match="decoded again"):
        load_split(data_dir, manifest, "train", 32)
    with pytest.raises(AssertionError, match="decoded again"):
        load_split(data_dir, manifest, "test", 24)
    assert decoded_files(data_dir) == [f"train-24-{manifest.digest[:12]}.npy"]


@pytest.mark.parametrize("left", [0, 1, 127, 128, 200, -1])
def test_load_split_remakes_a_damaged_cache(prepared, left):
    data_dir, manifest = prepared
    pixels = np.array(load_split(data_dir, manifest, "test", 16)[0])
    cache = data_dir / "decoded" / decoded_files(data_dir)[0]
    cache.write_bytes(cache.read_bytes()[:left])
    assert (load_split(data_dir, manifest, "test", 16)[0] == pixels).all()


def test_load_split_is_keyed_by_the_manifest(prepared):
    data_dir, manifest = prepared
    first = np.array(load_split(data_dir, manifest, "train", 16)[0])
    changed = dataclasses.replace(manifest, files=manifest.files[1:])
    assert changed.digest != manifest.digest
    assert (load_split(data_dir, changed, "train", 16)[0] == first[1:]).all()
    assert len(decoded_files(data_dir)) == 2


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_load_split_notices_changed_files(prepared, damage):
    data_dir, manifest = prepared
    file = data_dir / manifest.split("validation")[2].name
    if damage == "changed":
        file.write_bytes(file.read_bytes() + b"\0")
    else:
        file.unlink()
    with pytest.raises(InputError, match=r"another content|no file"):
        load_split(data_dir, manifest, "validation", 16)
    assert decoded_files(data_dir) == []


def test_full_disk_leaves_no_cache(prepared, monkeypatch):
    data_dir, manifest = prepared
    calls = []

    def decode(content, image_size):
        calls.append(content)
        if len(calls) == 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        return decode_image(content, image_size)

    monkeypatch.setattr(images, "decode_image", decode)
    with pytest.raises(OSError, match="No space"):
        load_split(data_dir, manifest, "train", 16)
    assert decoded_files(data_dir) == []
