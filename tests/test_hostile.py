"""Archives, folders and pictures made to do harm: one line, nothing outside, little memory.

Models and JSON files of this kind are in test_hostile_models.py, random ones in test_fuzz.py.
"""

import io
import os
import pathlib
import re
import subprocess
import sys
import zipfile
import zlib

import numpy as np
import pytest
from conftest import ROOT
from hostile_files import png, raw_zip
from PIL import Image, PngImagePlugin

from catsdogs.data.images import decode_image
from catsdogs.data.manifest import load_manifest
from catsdogs.data.sources import open_source
from catsdogs.data.splits import prepare
from catsdogs.errors import InputError
from catsdogs.inference.predict import predict_pictures


def picture(seed, side=40):
    noise = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).resize((side, side), Image.Resampling.BICUBIC).save(buffer, "PNG")
    return buffer.getvalue()


def packed(data):
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


def entry(name, data=b"", **claims):
    return {"name": name, "data": data, **claims}


GOOD = [
    entry(f"{label}/{index}.png".encode(), picture(10 * number + index))
    for number, label in enumerate(("cat", "dog"))
    for index in range(3)
]
ZEROS = packed(bytes(10**6))


def prepared(path, folder):
    """Prepares an archive or folder of three pictures a class; returns the manifest."""
    with open_source(path) as source:
        return prepare(source, folder, train=2, validation=2, test=2)


# What the whole archive is refused for.
REFUSED = {
    "a member that claims 4 GB": (
        [*GOOD, entry(b"cat/9.png", ZEROS, method=8, size=2**32 - 2)],
        "zip bomb.*would unpack to 4,29",
    ),
    "a nested archive that claims 4 GB": (
        [entry(b"train.zip", ZEROS, method=8, size=2**32 - 2)],
        "zip bomb.*would unpack to 4,29",
    ),
    "members that lie over each other": (
        [*GOOD, *(entry(b"cat/%d.png" % i, offset=0, packed_size=9000) for i in range(20))],
        "lie over each other",
    ),
    "a name that is not UTF-8, though it says so": (
        [*GOOD, entry(b"cat/\xff.png", flags=0x800)],
        "truncated or other file",
    ),
    "a version of zip that nobody has": ([*GOOD, entry(b"cat/9.png", version=99)], "zip file ver"),
    "the same name twice": ([*GOOD, GOOD[0]], "one file called cat/0.png .*received two"),
    "the same class twice": ([*GOOD, entry(b"CAT/7.png", b"x")], "in more than capital letters"),
    "a nested archive that is encrypted": (
        [entry(b"train.zip", b"x" * 30, flags=1)], "encrypted",
    ),
    "a nested archive in a method of its own": (
        [entry(b"train.zip", b"x" * 30, method=14)], "compression method 14",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_archives_that_are_refused(case, campaign, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "unpacked"))
    (tmp_path / "unpacked").mkdir()
    entries, complaint = REFUSED[case]
    (tmp_path / "a.zip").write_bytes(raw_zip(entries))
    with campaign.fault("a hostile archive is refused in one line"):
        with pytest.raises(InputError, match=complaint) as caught:
            prepared(tmp_path / "a.zip", tmp_path / "data")
        assert "\n" not in str(caught.value)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zip", "unpacked"]
        assert not any(path.stat().st_size for path in (tmp_path / "unpacked").rglob("*"))


# What one file is dropped for, while the rest of the archive is used.
DROPPED = {
    "encrypted": (entry(b"cat/9.png", b"x" * 30, flags=1), "encrypted"),
    "in a method that unpacks without limit": (
        entry(b"cat/9.png", b"x" * 30, method=zipfile.ZIP_LZMA), "compression method 14",
    ),
    "in an unknown method": (entry(b"cat/9.png", b"x", method=77), "compression method 77"),
    "with a false checksum": (entry(b"cat/9.png", picture(9), crc=7), "CRC"),
    "larger than it says": (entry(b"cat/9.png", ZEROS, method=8, size=100), "CRC"),
    "smaller than it says": (entry(b"cat/9.png", b"abc", size=5000), "cannot be read|not a JPEG"),
    "beyond the end": (entry(b"cat/9.png", offset=10**8), "cannot be read"),
    "a link": (entry(b"cat/9.png", b"/etc/passwd", mode=0o120777), "not a JPEG"),
    "larger than any picture": (
        entry(b"cat/9.png", ZEROS, method=8, size=300 * 2**20), "larger than 256 MB",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", DROPPED)
def test_members_that_are_dropped(case, campaign, tmp_path):
    hostile, complaint = DROPPED[case]
    hostile = {**hostile, "name": b"cat/00.png"}  # looked at before the good ones are enough
    (tmp_path / "a.zip").write_bytes(raw_zip([*GOOD, hostile]))
    with campaign.fault("a hostile member of an archive is dropped with a reason"):
        manifest = prepared(tmp_path / "a.zip", tmp_path / "data")
        ((name, reason),) = manifest.dropped
        assert name == "cat/00.png" and len(manifest.files) == 6
        assert re.search(complaint, reason), reason


# Names that lead elsewhere, hide something or do not fit, and what becomes of them.
NAMES = {
    b"../../cat/7.png": "cat/7.png",
    b"/cat/7.png": "cat/7.png",
    b"..\\..\\cat\\7.png": "cat/7.png",
    b"cat/../../../7.png": "cat/7.png",
    b"cat/7\n.png": "cat/7_.png",
    b"cat/7\x1b[2J.png": "cat/7_[2J.png",
    b"cat/7.png\0.exe": "cat/7.png",
    b"cat/\xff7.png": "cat/_7.png",  # code page 437: a blank that does not break
    "cat/ж7.png".encode(): "cat/ж7.png",
    "cat/\u202egnp.7.png".encode(): "cat/_gnp.7.png",  # turns what follows around
    b"cat/C:7.png": "cat/C:7.png",
}


@pytest.mark.parametrize("name", NAMES)
def test_names_in_archives(name, campaign, tmp_path):
    entries = [entry(name, picture(77), flags=0 if b"\xff" in name else 0x800), *GOOD[1:]]
    (tmp_path / "a.zip").write_bytes(raw_zip(entries))
    with campaign.fault("a hostile name in an archive stays a name in its class"):
        manifest = prepared(tmp_path / "a.zip", tmp_path / "data")
        found = {file.name.partition("/")[2] for file in manifest.files}
        assert NAMES[name] in found and len(found) == 6
        assert load_manifest(tmp_path / "data") == manifest
        below = set(tmp_path.rglob("*.png"))
        assert len(below) == 6 and all(path.is_relative_to(tmp_path / "data") for path in below)
        assert all(line.isprintable() for line in manifest.describe().split("\n"))


def test_names_longer_than_any_file_system_takes(campaign, tmp_path):
    long = [entry(b"cat/" + b"x" * 60_000 + b"%d.png" % i, picture(70 + i)) for i in range(2)]
    (tmp_path / "a.zip").write_bytes(raw_zip([*long, *GOOD[1:]]))
    with campaign.fault("a hostile name in an archive stays a name in its class"):
        manifest = prepared(tmp_path / "a.zip", tmp_path / "data")
        names = [file.name for file in manifest.files if "xxx" in file.name]
        assert len(names) == 2 and all(len(name) < 160 for name in names)


def test_many_classes_and_a_long_false_name_make_no_long_line(campaign, tmp_path):
    """Found by test_fuzz.py: what is wrong was told with all the names it was wrong with."""
    many = [entry(b"class%d/" % index) for index in range(5000)]
    local = raw_zip([entry(b"cat/" + b"y" * 9000), *GOOD[1:]])
    contents = [raw_zip([*GOOD, *many]), local.replace(b"yyyy", b"zzzz", 1)]
    for content in contents:
        (tmp_path / "a.zip").write_bytes(content)
        with campaign.fault("a hostile archive is refused in one line"):
            with pytest.raises(InputError) as caught:
                prepared(tmp_path / "a.zip", tmp_path / "data")
            assert len(str(caught.value)) < 1000


def test_microsofts_folder_in_any_case(tmp_path):
    entries = [{**one, "name": b"PETIMAGES/" + one["name"].upper()} for one in GOOD]
    (tmp_path / "a.zip").write_bytes(raw_zip(entries))
    manifest = prepared(tmp_path / "a.zip", tmp_path / "data")
    assert manifest.dataset == "dogs-vs-cats"
    assert manifest.files[0].name == "train/cat/cat.0.PNG"


def test_links_in_folders_are_followed_once(campaign, tmp_path):
    for one in GOOD:
        path = tmp_path / "elsewhere" / one["name"].decode()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(one["data"])
    pets = tmp_path / "pets"
    (pets / "cat").mkdir(parents=True)
    for index in range(3):
        (pets / "cat" / f"{index}.png").symlink_to(tmp_path / "elsewhere" / "cat" / f"{index}.png")
    (pets / "dog").symlink_to(tmp_path / "elsewhere" / "dog")
    # Two that lead back would double the paths at every step, up to the system's 40 links.
    (pets / "cat" / "back").symlink_to(pets)
    (pets / "cat" / "again").symlink_to(pets / "cat")
    (tmp_path / "elsewhere" / "dog" / "round").symlink_to(pets)
    (pets / "cat" / "nothing.png").symlink_to(tmp_path / "gone")
    os.mkfifo(pets / "cat" / "pipe.png")
    with campaign.fault("links that lead in circles end"):
        manifest = prepared(pets, tmp_path / "data")
        assert [name for name, _ in manifest.dropped] == [] and len(manifest.files) == 6


def test_folders_with_names_that_are_not_text(campaign, tmp_path):
    for label in (b"cat\xff\n", b"dog"):
        os.makedirs(os.path.join(os.fsencode(tmp_path), b"pets\xfe", label))
        for index in range(3):
            path = os.path.join(os.fsencode(tmp_path), b"pets\xfe", label, b"%d\xff.png" % index)
            with open(path, "wb") as file:
                file.write(picture(index + 10 * len(label)))
    with campaign.fault("a hostile name in a folder stays a name in its class"):
        manifest = prepared(os.fsdecode(os.fsencode(tmp_path) + b"/pets\xfe"), tmp_path / "data")
        assert manifest.dataset == "pets_" and manifest.classes == ("cat__", "dog")
        assert load_manifest(tmp_path / "data") == manifest


def run_limited(code, *words, megabytes):
    """Runs Python code in a process whose memory is measured; returns what it printed."""
    code += (
        "\nstatus = open('/proc/self/status').read()\n"
        "print('peak', int(status.partition('VmHWM:')[2].split()[0]) // 1024)\n"
    )
    finished = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, timeout=300
    )
    assert finished.returncode == 0, finished.stderr
    output, _, peak = finished.stdout.rpartition("peak ")
    assert int(peak) < megabytes, f"{peak} MB"
    return output


def test_bombs_take_no_memory(campaign, tmp_path):
    if not pathlib.Path("/proc/self/status").exists():
        pytest.skip("measures memory by /proc")
    packer = zlib.compressobj(1, zlib.DEFLATED, -15)
    zeros = b"".join(packer.compress(bytes(2**20)) for _ in range(400)) + packer.flush()
    lying = entry(b"cat/00.png", zeros, method=8, size=1000)
    (tmp_path / "lying.zip").write_bytes(raw_zip([*GOOD, lying]))
    code = (
        "import sys\n"
        "from catsdogs.data.sources import open_source\n"
        "from catsdogs.data.splits import prepare\n"
        "with open_source(sys.argv[1]) as source:\n"
        "    found = prepare(source, sys.argv[2], train=2, validation=2, test=2)\n"
        "print(found.dropped)\n"
    )
    with campaign.fault("a bomb takes no memory"):
        found = run_limited(code, tmp_path / "lying.zip", tmp_path / "data", megabytes=200)
        assert "cat/00.png" in found


IMAGES = {
    "jpeg cut": lambda: encoded("JPEG")[:700],
    "png cut": lambda: encoded("PNG")[:-30],
    "gif cut": lambda: encoded("GIF")[:400],
    "webp cut": lambda: encoded("WEBP")[:300],
    "tiff cut": lambda: encoded("TIFF")[:100],
    "bmp cut": lambda: encoded("BMP")[:200],
    "png of 400 megapixels": lambda: png(20_000, 20_000, rows=1),
    "png of a petapixel": lambda: png(2**31 - 1, 2**31 - 1, rows=0),
    "png without a pixel": lambda: png(0, 40, rows=0),
    "gif with a canvas of 65,535": lambda: b"GIF89a\xff\xff\xff\xff" + encoded("GIF")[10:],
    "bmp of two gigapixels": lambda: encoded("BMP")[:18] + b"\x00\x00\x01\x00" * 2
    + encoded("BMP")[26:],
    "webp that ends": lambda: b"RIFF\xff\xff\xff\x7fWEBPVP8X",
    "text bomb in a png": lambda: png(40, 40, chunks=[
        (b"zTXt", b"a\0\0" + zlib.compress(bytes(2**26)))
    ]),
    "profile bomb in a png": lambda: png(40, 40, chunks=[
        (b"iCCP", b"a\0\0" + zlib.compress(bytes(2**26)))
    ]),
    "ten million texts": lambda: png(40, 40, chunks=[(b"tEXt", b"a\0" + bytes(10**6))] * 100),
}  # fmt: skip


def encoded(form, image=None, **options):
    image = image or Image.open(io.BytesIO(picture(3, side=64)))
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("case", IMAGES)
def test_pictures_that_cannot_be_decoded(case, campaign, tmp_path):
    content = IMAGES[case]()
    with campaign.fault("a hostile picture is decoded or refused in one line"):
        try:
            pixels = decode_image(content, 32)
        except InputError as error:
            assert str(error).isprintable() and len(str(error)) < 300
        else:  # Pillow passes over what surrounds the pixels
            assert case.partition(" ")[0] in ("text", "profile") and pixels.shape == (32, 32, 3)


def odd_pictures():
    """Pictures that are odd, and pictures all the same."""
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x010E] = "x" * 60_000
    text = PngImagePlugin.PngInfo()
    text.add_text("comment", "x" * 10**6)
    yield "1x1", encoded("PNG", small.resize((1, 1)))
    yield "30,000x10", encoded("PNG", small.resize((30_000, 10)))
    yield "10x30,000", encoded("JPEG", small.resize((10, 30_000)))
    yield "much EXIF", encoded("JPEG", small, exif=exif)
    yield "much text", encoded("PNG", small, pnginfo=text)
    yield "broken profile", encoded("JPEG", small, icc_profile=b"\xff" * 70_000)
    yield "broken profile in PNG", encoded("PNG", small, icc_profile=b"no profile")
    frames = [small.rotate(angle) for angle in range(0, 200)]
    for form in ("GIF", "TIFF", "WEBP", "PNG"):
        yield f"200 frames of {form}", encoded(form, small, save_all=True, append_images=frames)
    for compression in ("packbits", "tiff_lzw", "tiff_adobe_deflate", "jpeg", "group4"):
        image = small.convert("1") if compression == "group4" else small
        yield f"TIFF, {compression}", encoded("TIFF", image, compression=compression)
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I", "F", "I;16"):
        compression = "tiff_lzw" if mode == "YCbCr" else None
        image = small.convert("L").convert(mode) if mode == "I;16" else small.convert(
            "L" if mode in ("I", "F") else "RGB").convert(mode)  # fmt: skip
        if mode == "LAB":
            image = Image.new("LAB", (40, 40), (90, 128, 128))
        yield f"mode {mode}", encoded("TIFF", image, compression=compression)


def test_odd_pictures_are_pictures(campaign):
    for name, content in odd_pictures():
        with campaign.fault("an odd picture is decoded"):
            pixels = decode_image(content)
            assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3, name
            assert decode_image(content, 16).shape == (16, 16, 3)


def test_the_largest_picture_takes_bounded_memory(campaign, tmp_path):
    if not pathlib.Path("/proc/self/status").exists():
        pytest.skip("measures memory by /proc")
    code = (
        "import sys\n"
        "from catsdogs.data.images import decode_image\n"
        "print(decode_image(sys.argv[1], 64).shape)\n"
    )
    kinds = {"rgb": (8, 2, 3), "rgba": (8, 6, 4), "grey": (16, 0, 1)}
    side = campaign.size(3000, 9400)  # 89 million pixels are the most that Pillow takes
    for name, (depth, colour, channels) in kinds.items():
        content = png(side, side, depth=depth, colour=colour, channels=channels)
        (tmp_path / name).write_bytes(content)
        with campaign.fault("a bomb takes no memory"):
            limit = 60 + 10 * side**2 // 10**6  # 4 bytes a pixel, twice
            found = run_limited(code, tmp_path / name, megabytes=limit)
            assert found == "(64, 64, 3)\n"


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "giant"])
def test_what_is_no_file_is_not_read(kind, campaign, tmp_path):
    place = tmp_path / "cat.jpg"
    if kind == "pipe":
        os.mkfifo(place)
    elif kind == "device":
        place = pathlib.Path("/dev/zero")
    elif kind == "folder":
        place.mkdir()
    else:
        with place.open("wb") as file:
            file.truncate(2**40)  # takes no place on the disk
    with campaign.fault("what never ends is not read"):
        with pytest.raises(InputError, match=r"pipe or a device|larger than 256 MB"):
            decode_image(place, 32)
        (answer,) = predict_pictures(type("Model", (), {"image_size": 32})(), [str(place)])
        assert answer.probabilities is None and str(place) in answer.error


def test_prepare_says_one_line_of_a_bomb(campaign, tmp_path):
    (tmp_path / "a.zip").write_bytes(raw_zip(REFUSED["a nested archive that claims 4 GB"][0]))
    with campaign.fault("a hostile archive is refused in one line"):
        finished = subprocess.run(
            [sys.executable, ROOT / "scripts" / "prepare_data.py", "--archive", "a.zip"],
            cwd=tmp_path, capture_output=True, text=True,
        )  # fmt: skip
        assert finished.returncode == 2 and finished.stderr.count("\n") == 1
        assert "zip bomb" in finished.stderr and [p.name for p in tmp_path.iterdir()] == ["a.zip"]
