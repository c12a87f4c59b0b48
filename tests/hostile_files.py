"""Files that no honest program writes: archives, models and pictures that lie about themselves."""

import io
import json
import struct
import zipfile
import zlib

__all__ = ["edit_model", "png", "raw_zip"]


def raw_zip(entries):
    """A zip with whatever is claimed in its headers.

    Args:
        entries: Dictionaries: `name` (`bytes`), `data` (as packed), and what to claim instead of
            the truth: `method`, `flags`, `version`, `crc`, `packed_size`, `size`, `offset`, `mode`.
    """
    body, directory = b"", b""
    for entry in entries:
        name, data = entry["name"], entry.get("data", b"")
        offset = entry.get("offset", len(body))
        fields = (
            entry.get("flags", 0), entry.get("method", 0), 0, 33,
            entry.get("crc", zlib.crc32(data)), entry.get("packed_size", len(data)),
            entry.get("size", len(data)), len(name), 0,
        )  # fmt: skip
        version = entry.get("version", 20)
        if "offset" not in entry:
            body += struct.pack("<4sHHHHHIIIHH", b"PK\3\4", version, *fields) + name + data
        directory += struct.pack(
            "<4sHHHHHHIIIHHHHHII", b"PK\1\2", 0x314, version, *fields, 0, 0, 0,
            entry.get("mode", 0) << 16, offset,
        ) + name  # fmt: skip
    number = len(entries) & 0xFFFF
    end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, number, number, len(directory), len(body), 0)
    return body + directory + end


def edit_model(content, target, *, config=None, card=None, weights=None, extra=()):
    """Writes a `.keras` file with some members changed.

    Args:
        content: The honest file, `bytes`.
        target: Path to write.
        config, card: Functions of the parsed JSON; what they return is written, `bytes` as it is.
        weights: A function of the bytes.
        extra: Pairs of further members, name and content.
    """

    def changed(change, data):
        found = change(json.loads(data))
        return found if isinstance(found, bytes) else json.dumps(found)

    changes = {"config.json": config, "catsdogs.json": card}
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(target, "w") as archive:
        for name in source.namelist():
            data = source.read(name)
            if changes.get(name):
                data = changed(changes[name], data)
            elif weights and name.endswith(".h5"):
                data = weights(data)
            archive.writestr(name, data)
        for name, data in extra:
            archive.writestr(name, data, zipfile.ZIP_DEFLATED)
    return target


def png(width, height, *, depth=8, colour=2, channels=3, chunks=(), rows=None):
    """A PNG of one colour and any size; its rows are packed one after the other."""

    def chunk(name, body):
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    packer = zlib.compressobj(1)
    row = bytes(1 + width * channels * depth // 8)
    data = b"".join(packer.compress(row) for _ in range(height if rows is None else rows))
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = [chunk(b"IHDR", header), *(chunk(*pair) for pair in chunks)]
    parts += [chunk(b"IDAT", data + packer.flush()), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)
