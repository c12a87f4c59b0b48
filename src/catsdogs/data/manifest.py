"""The manifest of a prepared dataset: its pictures, their classes and splits, their origin."""

import collections
import hashlib
import pathlib
from typing import Annotated, Literal

import pydantic
from pydantic import Field, PositiveInt

from catsdogs.errors import InputError
from catsdogs.files import read_json

__all__ = ["SPLITS", "DroppedFile", "ImageFile", "Manifest", "find_data_dir", "load_manifest"]

SPLITS = ("train", "validation", "test")

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Name = Annotated[str, Field(min_length=1, max_length=255)]  # of a file or folder

_MAX_LISTED = 10  # files in a description


class _Entry(pydantic.BaseModel, frozen=True, validate_by_name=True):
    """A part of the file `manifest.json`; aliases are its keys."""


class ImageFile(_Entry):
    """One picture of a prepared dataset."""

    name: str
    """Path below the dataset's folder, with forward slashes."""
    sha256: Sha256
    width: PositiveInt
    """Pixels, after the EXIF orientation is applied."""
    height: PositiveInt
    label: Name = Field(alias="class")
    split: Literal[SPLITS]

    @pydantic.model_validator(mode="after")
    def _check_name(self):
        # The name is joined to a folder and opened: it must not lead anywhere else.
        *folders, file = self.name.split("/")
        if folders != [self.split, self.label] or {self.label, file} & {".", ".."}:
            raise ValueError(f"the file name should be {self.split}/{self.label}/FILE")
        return self


class DroppedFile(_Entry):
    """A file of the source that is not used."""

    name: str
    reason: str


class Manifest(_Entry):
    """What a prepared dataset consists of."""

    format: Literal[1] = 1
    dataset: Name
    kind: Literal["sketches", "photographs"]
    classes: Annotated[tuple[Name, ...], Field(min_length=2)]
    source: Sha256
    """Fingerprint of the source."""
    files: tuple[ImageFile, ...]
    """By split, then class, then file index."""
    near_duplicates: tuple[tuple[str, ...], ...] = Field(alias="look_alikes")
    """Groups of files, each within one split."""
    dropped: tuple[DroppedFile, ...]

    @pydantic.model_validator(mode="after")
    def _check_classes(self):
        if len(set(self.classes)) < len(self.classes):
            raise ValueError("the classes should differ")
        if not {file.label for file in self.files} <= set(self.classes):
            raise ValueError("every file should belong to one of the classes")
        return self

    @property
    def is_sketches(self):
        """Whether the pictures were drawn by this program."""
        return self.kind == "sketches"

    @property
    def digest(self):
        """SHA-256 of what matters to a model: names, contents, classes and splits."""
        index = self.classes.index
        lines = [f"{f.split} {index(f.label)} {f.sha256} {f.name}" for f in self.files]
        return hashlib.sha256("\n".join([*self.classes, *lines]).encode()).hexdigest()

    @property
    def sizes(self):
        """Number of pictures of each split, `{split: number}`."""
        return {split: len(self.split(split)) for split in SPLITS}

    def split(self, name):
        """The files of `"train"`, `"validation"` or `"test"`, a tuple of `ImageFile`."""
        if name not in SPLITS:
            raise ValueError(f"Expected a split of {', '.join(SPLITS)}. Received: {name!r}")
        return tuple(file for file in self.files if file.split == name)

    def describe(self):
        """Lines of text: how many pictures there are of each class, which ones were dropped."""
        lines = [f"{self.dataset}: {len(self.files):,} {self.kind}"]
        for split in SPLITS:
            counts = collections.Counter(file.label for file in self.split(split))
            classes = ", ".join(f"{label} {counts[label]:,}" for label in self.classes)
            lines.append(f"  {split:<11}{counts.total():>6,}  {classes}")
        for group in self.near_duplicates[:_MAX_LISTED]:
            lines.append(f"  near-duplicates, kept in one split: {', '.join(group[:_MAX_LISTED])}")
        lines.append(f"  dropped    {len(self.dropped):>6,}")
        lines += [f"    {file.name}: {file.reason}" for file in self.dropped[:_MAX_LISTED]]
        if max(len(self.dropped), len(self.near_duplicates)) > _MAX_LISTED:
            lines.append("  manifest.json lists them all")
        return "\n".join(lines)


def load_manifest(data_dir):
    """Reads the `Manifest` of a prepared dataset.

    Raises:
        InputError: If there is no prepared dataset or its manifest cannot be used.
    """
    return read_json(
        pathlib.Path(data_dir) / "manifest.json",
        Manifest,
        "Prepare it with python scripts/prepare_data.py (--overwrite if it is damaged), or name "
        "another one with --data-dir.",
    )


def find_data_dir(data_dir=None):
    """The dataset to use: the one given, or the photographs, or the sketches.

    Raises:
        InputError: If nothing has been prepared.
    """
    if data_dir is not None:
        return pathlib.Path(data_dir)
    for name in ("dogs-vs-cats", "sketches"):
        if (pathlib.Path("data") / name / "manifest.json").exists():
            return pathlib.Path("data") / name
    raise InputError(
        "Expected a prepared dataset in data/, found none. Run python scripts/prepare_data.py, "
        "with --sketches for sketches, drawn by this program without a network."
    )
