"""From candidate files to a prepared data set: checked, without leaks, balanced, written whole."""

import collections
import contextlib
import dataclasses
import functools
import hashlib
import pathlib
import re

from catsdogs.data.progress import Progress
from catsdogs.data.selection import select_pictures
from catsdogs.fields import CLASSES, NAME, TEXT, Field, one_of, whole
from catsdogs.files import (
    InputError,
    atomic_folder,
    hold,
    read_json,
    sha256_of,
    write_json,
)

__all__ = ["SPLITS", "ImageFile", "Manifest", "find_data_dir", "load_manifest", "prepare"]

SPLITS = ("train", "validation", "test")

_FORMAT = 1  # raised when the manifest's meaning changes
_SHA256 = Field("a SHA-256", lambda value: re.fullmatch("[0-9a-f]{64}", str(value)) is not None)
_FILE_NAME = Field(
    "split/class/file",
    lambda value: isinstance(value, str) and list(map(NAME.fits, value.split("/"))) == [True] * 3,
)
_TABLE = {
    "format": whole(_FORMAT, _FORMAT),
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
    is_drawing: bool
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
        if self.is_drawing:
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


def prepare(source, data_dir, *, train=2000, validation=1000, test=1000, overwrite=False):
    """Builds a data set from the first usable pictures of each class, by file index.

    Which ones, and which goes where, `catsdogs.data.selection.select_pictures` decides. The folder
    appears whole or not at all. If it holds the same data set already, nothing is done. It is not
    replaced while another process uses it.

    Args:
        source: An open `catsdogs.data.sources.Source`.
        data_dir: Folder to write, `str` or `Path`.
        train: Number of training pictures, all classes together.
        validation: Number of validation pictures.
        test: Number of test pictures.
        overwrite: Whether to replace a different data set in `data_dir`.

    Returns:
        The `Manifest`.

    Raises:
        InputError: If there are too few usable pictures, a size is not a multiple of the number of
            classes, or `data_dir` holds something else or is in use.
    """
    sizes = dict(zip(SPLITS, (train, validation, test), strict=True))
    if any(size < 1 or size % source.num_classes for size in sizes.values()):
        raise InputError(
            f"Expected split sizes above zero that {source.num_classes} classes can share equally. "
            f"Received: --train {train} --validation {validation} --test {test}. Take multiples of "
            f"{source.num_classes}."
        )
    data_dir = pathlib.Path(data_dir).resolve()
    found = _find_prepared(source, data_dir, sizes, overwrite)
    if found is not None:
        return found
    with hold(data_dir):
        # Once more: another process may have prepared it in the meantime.
        found = _find_prepared(source, data_dir, sizes, overwrite)
        return found or _prepare(source, data_dir, sizes)


def _find_prepared(source, data_dir, sizes, overwrite):
    """The manifest if `data_dir` holds just this data set; refuses to replace another one."""
    existing = _existing_manifest(data_dir, overwrite)
    if existing is None:
        return None
    if (existing.source, existing.sizes) == (source.fingerprint, sizes):
        return existing if _is_intact(data_dir, existing) else None
    if not overwrite:  # runs may refer to it, drawings or photographs
        raise InputError(
            f"Expected {data_dir} to be free, received another data set there "
            f"({existing.dataset}: {_list_sizes(existing.sizes)}). Replace it with "
            "--overwrite, or choose another folder with --data-dir."
        )
    return None


def _prepare(source, data_dir, sizes):
    candidates = source.list_candidates()
    selection = select_pictures(
        candidates, {split: size // len(candidates) for split, size in sizes.items()}
    )
    files, names = [], {}
    with (
        atomic_folder(data_dir) as folder,
        Progress("Writing pictures", sum(sizes.values())) as progress,
    ):
        for split in SPLITS:
            for label in candidates:
                (folder / split / label).mkdir(parents=True)
                for picture in selection.splits[split][label]:
                    files.append(_write(picture, folder, split))
                    names[picture.name] = files[-1]["name"]
                    progress.update(len(files))
        content = {
            "format": _FORMAT,
            "dataset": source.name,
            "kind": "drawings" if source.is_drawing else "photographs",
            "classes": list(candidates),
            "splits": sizes,
            "source": source.fingerprint,
            "files": files,
            "look_alikes": [
                [names[picture.name] for picture in group] for group in selection.look_alikes
            ],
            "dropped": [{"name": name, "reason": reason} for name, reason in selection.dropped],
        }
        write_json(folder / "manifest.json", content)  # last: without it, nothing reads the rest
    return load_manifest(data_dir)


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
    content = read_json(path, remedy, _TABLE)
    try:
        files = tuple(_file_from_entry(entry, content["classes"]) for entry in content["files"])
    except ValueError as error:
        raise InputError(
            f"Expected the manifest of a data set in {path}. Received: something else ({error}). "
            + remedy
        ) from None
    return Manifest(
        dataset=content["dataset"],
        is_drawing=content["kind"] == "drawings",
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


def _list_sizes(sizes):
    return ", ".join(f"{size:,} {split}" for split, size in sizes.items())


def _existing_manifest(data_dir, overwrite):
    """The manifest of the data set in `data_dir`, or `None` if there is nothing to respect."""
    nearest = next(place for place in (data_dir, *data_dir.parents) if place.exists())
    if nearest != data_dir and nearest.is_dir():
        return None
    if (data_dir / "manifest.json").is_file():
        try:
            return load_manifest(data_dir)
        except InputError:
            if overwrite:
                return None
            raise
    if not nearest.is_dir() or any(nearest.iterdir()):
        # Whatever this is, it was not made here, so not even --overwrite deletes it.
        raise InputError(
            f"Expected a new or empty folder or a prepared data set at {data_dir}, received "
            "something else. Choose another folder with --data-dir."
        )
    return None


def _is_intact(data_dir, manifest):
    with contextlib.suppress(OSError):
        return all(sha256_of(data_dir / file.name) == file.sha256 for file in manifest.files)
    return False


def _write(picture, folder, split):
    """Copies a picture's bytes as they are; returns the copy's entry in the manifest."""
    content = picture.candidate.read()
    if hashlib.sha256(content).hexdigest() != picture.sha256:
        raise InputError(f"Expected {picture.name} to stay as it is, but it changed meanwhile.")
    name = f"{split}/{picture.name}"
    if (folder / name).exists():  # where a file system takes `A.jpg` and `a.jpg` for the same
        raise InputError(
            f"Expected one file called {name}, whatever the case of its letters, received two."
        )
    (folder / name).write_bytes(content)
    return {
        "name": name,
        "sha256": picture.sha256,
        "bytes": len(content),
        "width": picture.width,
        "height": picture.height,
        "class": picture.label,
        "split": split,
    }


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
