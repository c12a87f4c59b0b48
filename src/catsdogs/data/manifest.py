"""The manifest of a prepared data set: its pictures, their classes and splits, their origin."""

import collections
import dataclasses
import functools
import hashlib
import pathlib
import re

from catsdogs.errors import InputError
from catsdogs.fields import CLASSES, NAME, TEXT, Field, one_of, whole
from catsdogs.files import read_json

__all__ = ["CONTENT", "FORMAT", "SPLITS", "ImageFile", "Manifest", "find_data_dir", "load_manifest"]

SPLITS = ("train", "validation", "test")
CONTENT = {*SPLITS, "manifest.json", "decoded", "features", "augmentation.jpg"}
"""Names of all that this project puts into a data set's folder."""

FORMAT = 1  # raised when the manifest's meaning changes
_SHA256 = Field("a SHA-256", lambda value: re.fullmatch("[0-9a-f]{64}", str(value)) is not None)
_FILE_NAME = Field(
    "split/class/file",
    lambda value: isinstance(value, str) and list(map(NAME.fits, value.split("/"))) == [True] * 3,
)
_TABLE = {
    "format": whole(FORMAT, FORMAT),
    "dataset": NAME,
    "kind": one_of("drawings", "photographs"),
    "classes": CLASSES,
    "source": _SHA256,
    "files": [
        {
            "name": _FILE_NAME,
            "sha256": _SHA256,
            "bytes": whole(1),
            "width": whole(1),
            "height": whole(1),
            "class": NAME,
            "split": one_of(*SPLITS),
        }
    ],
    "look_alikes": [[_FILE_NAME]],
    "dropped": [{"name": TEXT, "reason": TEXT}],
}
_SHOWN = 10  # dropped files that are listed for people


@dataclasses.dataclass(frozen=True)
class ImageFile:
    """One picture of a prepared data set."""

    name: str
    """Path below the data set's folder, with forward slashes."""
    sha256: str
    num_bytes: int
    width: int
    """Pixels, as it is seen: after the EXIF orientation."""
    height: int
    class_index: int
    split: str


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a prepared data set consists of."""

    dataset: str
    is_sketches: bool
    classes: tuple[str, ...]
    source: str
    """Fingerprint of the source, SHA-256."""
    files: tuple[ImageFile, ...]
    """By split, then class, then file index."""
    look_alikes: tuple[tuple[str, ...], ...]
    """Groups of near duplicates, each within one split."""
    dropped: tuple[tuple[str, str], ...]
    """Pairs of file and reason."""

    @functools.cached_property
    def digest(self):
        """SHA-256 of what matters to a model: names, contents, classes and splits."""
        lines = [f"{f.split} {f.class_index} {f.sha256} {f.name}" for f in self.files]
        return hashlib.sha256("\n".join([*self.classes, *lines]).encode()).hexdigest()

    @property
    def sizes(self):
        """Number of pictures of each split, `{split: number}`."""
        return {split: len(self.split(split)) for split in SPLITS}

    def describe(self):
        """A few lines for people: what there is, what was dropped."""
        lines = [f"{self.dataset}: {len(self.files):,} pictures"]
        if self.is_sketches:
            lines[0] += " (drawings made by this program, not photographs)"
        for split in SPLITS:
            counts = collections.Counter(file.class_index for file in self.split(split))
            classes = ", ".join(f"{label} {counts[i]:,}" for i, label in enumerate(self.classes))
            lines.append(f"  {split:<11}{counts.total():>6,}  {classes}")
        for group in self.look_alikes[:_SHOWN]:
            lines.append(f"  look alike, so in one split: {', '.join(group[:_SHOWN])}")
        lines.append(f"  dropped    {len(self.dropped):>6,}")
        lines += [f"    {name}: {reason}" for name, reason in self.dropped[:_SHOWN]]
        if len(self.dropped) > _SHOWN:
            lines.append("    and so on; manifest.json lists them all")
        return "\n".join(lines)

    def split(self, name):
        """The files of `"train"`, `"validation"` or `"test"`, a tuple of `ImageFile`."""
        if name not in SPLITS:
            raise InputError(f"Expected a split out of {', '.join(SPLITS)}. Received: {name}.")
        return tuple(file for file in self.files if file.split == name)


def load_manifest(data_dir):
    """Reads the manifest of a prepared data set.

    Args:
        data_dir: Its folder, `str` or `Path`.

    Returns:
        A `Manifest`.

    Raises:
        InputError: If there is no prepared data set or its manifest cannot be understood.
    """
    path = pathlib.Path(data_dir) / "manifest.json"
    if not path.is_file():
        raise InputError(
            f"Expected a prepared data set in {data_dir}, found no manifest.json. "
            "Run python scripts/prepare_data.py first."
        )
    remedy = "Make it again: python scripts/prepare_data.py with the same flags and --overwrite."
    content = read_json(path, remedy=remedy)
    try:
        files = tuple(_file_from_entry(entry, content["classes"]) for entry in content["files"])
    except ValueError as error:
        raise InputError(
            f"Expected the manifest of a data set in {path}. Received: something else ({error}). "
            + remedy
        ) from None
    return Manifest(
        dataset=content["dataset"],
        is_sketches=content["kind"] == "drawings",
        classes=tuple(content["classes"]),
        source=content["source"],
        files=files,
        look_alikes=tuple(map(tuple, content["look_alikes"])),
        dropped=tuple((drop["name"], drop["reason"]) for drop in content["dropped"]),
    )


def find_data_dir(data_dir=None):
    """The data set to use: the one given, or the photographs, or the sketches.

    Raises:
        InputError: If nothing has been prepared.
    """
    if data_dir is not None:
        return pathlib.Path(data_dir)
    for name in ("dogs-vs-cats", "sketches"):
        if (pathlib.Path("data") / name / "manifest.json").exists():
            return pathlib.Path("data") / name
    raise InputError(
        "Expected a prepared data set in data/, found none. Run scripts/prepare_data.py, "
        "or scripts/prepare_data.py --sketches for drawings that need no network."
    )


def _file_from_entry(entry, classes):
    # A name is joined to a folder and opened: it must not lead anywhere else.
    if entry["name"].split("/")[:2] != [entry["split"], entry["class"]]:
        raise ValueError(f"the file name {entry['name']}")
    return ImageFile(
        name=entry["name"],
        sha256=entry["sha256"],
        num_bytes=entry["bytes"],
        width=entry["width"],
        height=entry["height"],
        class_index=classes.index(entry["class"]),
        split=entry["split"],
    )
