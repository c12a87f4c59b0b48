"""From candidate files to a prepared dataset: checked, without leaks, balanced, complete.

Files are judged by whether they decode. Files that do not, tiny pictures and exact duplicates are
dropped. Near-duplicates may stay, but never in two splits.
"""

import collections
import contextlib
import dataclasses
import hashlib
import os
import pathlib

import numpy as np

from catsdogs.console import Progress
from catsdogs.data.decode import MAX_BYTES
from catsdogs.data.duplicates import group_near_duplicates, perceptual_hash
from catsdogs.data.images import decode_image, map_pictures
from catsdogs.data.manifest import SPLITS, DroppedFile, ImageFile, Manifest, load_manifest
from catsdogs.data.sources import Candidate
from catsdogs.errors import InputError, shorten
from catsdogs.files import atomic_folder, lock, sha256_of, write_json

__all__ = ["prepare"]

_MIN_SIDE = 32  # pixels; below it there is no animal to see
_DERIVED = {"manifest.json", "decoded", "features", "augmentation.jpg"}  # beside the pictures


@dataclasses.dataclass(frozen=True)
class _Picture:
    """A candidate that decodes."""

    candidate: Candidate
    label: str
    position: int
    """Position among the files of its class, in the order of their index."""
    sha256: str
    width: int
    height: int
    hash: np.ndarray
    """From `perceptual_hash`."""

    @property
    def name(self):
        return f"{self.label}/{self.candidate.name}"


def prepare(source, data_dir, *, train=2000, validation=1000, test=1000, overwrite=False):
    """Builds a dataset from the first usable pictures of each class, by file index.

    The folder appears complete or not at all. If it holds the same dataset already, nothing is
    done. It is not replaced while another process prepares it.

    Args:
        source: An open `catsdogs.data.sources.Source`.
        data_dir: Folder to write, `str` or `Path`.
        train: Number of training pictures, all classes together.
        validation: Number of validation pictures.
        test: Number of test pictures.
        overwrite: Whether to replace a different dataset in `data_dir`.

    Returns:
        The `Manifest`.

    Raises:
        InputError: If there are too few usable pictures, a size is not a multiple of the number of
            classes, or `data_dir` holds something else, is in use, or contains the pictures' folder
            or is in it.
    """
    sizes = dict(zip(SPLITS, (train, validation, test), strict=True))
    if any(size < 1 or size % source.num_classes for size in sizes.values()):
        raise InputError(
            f"Expected positive split sizes that are multiples of {source.num_classes}, the number "
            f"of classes. Received: --train {train} --validation {validation} --test {test}."
        )
    data_dir = pathlib.Path(os.path.realpath(data_dir))
    if source.folder and (source.folder in data_dir.parents or data_dir in source.folder.parents):
        # The next dataset would be made from this one, or this one replace what it is made from.
        raise InputError(
            f"Expected --data-dir apart from the pictures in {source.folder}, received {data_dir}. "
            "Choose another folder."
        )
    manifest = _find_prepared(source, data_dir, sizes, overwrite)
    if manifest is None:
        with lock(data_dir):
            # Another process may have prepared it in the meantime.
            manifest = _find_prepared(source, data_dir, sizes, overwrite)
            manifest = manifest or _prepare(source, data_dir, sizes)
    return manifest


def _find_prepared(source, data_dir, sizes, overwrite):
    """The manifest if `data_dir` holds just this dataset; raises if something would be lost."""
    manifest = None
    if (data_dir / "manifest.json").is_file():
        try:
            manifest = load_manifest(data_dir)
        except InputError:
            if not overwrite:
                raise
    if manifest and (manifest.source, manifest.sizes) == (source.fingerprint, sizes):
        with contextlib.suppress(OSError):
            if all(sha256_of(data_dir / file.name) == file.sha256 for file in manifest.files):
                return manifest
    elif manifest and not overwrite:  # runs may refer to it
        counts = ", ".join(f"{size:,} {split}" for split, size in manifest.sizes.items())
        raise InputError(
            f"Expected no other dataset in {data_dir}, received {manifest.dataset} ({counts}). "
            "Replace it with --overwrite, or choose another folder with --data-dir."
        )
    foreign = _find_foreign(data_dir, manifest)
    if foreign:
        raise InputError(
            f"Expected {data_dir} to hold nothing but a prepared dataset, received {foreign}, "
            "which would be lost. Move it elsewhere, or choose another folder with --data-dir."
        )
    return None


def _find_foreign(data_dir, manifest):
    """A file in `data_dir` that `prepare` did not put there, or `None`; not even `--overwrite`
    deletes it."""
    if data_dir.is_file():
        return data_dir
    pictures = {data_dir / file.name for file in manifest.files} if manifest else set()
    derived = _DERIVED
    if manifest is None and (data_dir / "manifest.json").is_file():
        derived = _DERIVED | {*SPLITS}  # an unusable manifest does not list the pictures
    for path in sorted(data_dir.rglob("*")):
        top = path.relative_to(data_dir).parts[0]
        is_ours = path in pictures or top in derived or top.startswith((".decoded", ".features"))
        if path.is_file() and not is_ours:
            return path
    return None


def _prepare(source, data_dir, sizes):
    candidates = source.list_candidates()
    per_class = {split: size // len(candidates) for split, size in sizes.items()}
    splits, groups, dropped = _select_pictures(candidates, per_class)
    files = {}  # {name in the source: ImageFile}
    with (
        atomic_folder(data_dir) as folder,
        Progress("Writing pictures", sum(sizes.values())) as progress,
    ):
        for split in SPLITS:
            for label in candidates:
                (folder / split / label).mkdir(parents=True)
                for picture in splits[split][label]:
                    files[picture.name] = _write_picture(picture, folder, split)
                    progress.update(len(files))
        manifest = Manifest(
            dataset=source.name,
            kind="sketches" if source.is_sketches else "photographs",
            classes=tuple(candidates),
            source=source.fingerprint,
            files=tuple(files.values()),
            near_duplicates=tuple(
                tuple(files[picture.name].name for picture in group) for group in groups
            ),
            dropped=tuple(dropped),
        )
        # Last: without it, nothing reads the rest.
        write_json(folder / "manifest.json", manifest.model_dump(mode="json", by_alias=True))
    return manifest


def _write_picture(picture, folder, split):
    """Copies a picture's bytes as they are; returns its entry in the manifest."""
    content = picture.candidate.read()
    if hashlib.sha256(content).hexdigest() != picture.sha256:
        raise InputError(f"Expected {picture.name} to stay as it is, but it was changed.")
    name = f"{split}/{picture.name}"
    with open(folder / name, "xb") as file:  # fails where `A.jpg` and `a.jpg` are one file
        file.write(content)
    return ImageFile(
        name=name,
        sha256=picture.sha256,
        width=picture.width,
        height=picture.height,
        label=picture.label,
        split=split,
    )


def _select_pictures(candidates, per_class):
    """Takes the first usable pictures of each class, by file index, and divides them into splits.

    Args:
        candidates: For each class its files in the order of their index, `{label: [Candidate]}`.
        per_class: For each split, in order, its number of pictures of each class.

    Returns:
        `{split: {label: pictures by file index}}`; groups of near-duplicates, each within one
        split; `DroppedFile`s.

    Raises:
        InputError: If there are too few usable pictures.
    """
    wanted = sum(per_class.values())
    pictures, dropped, seen = [], [], {}
    num_examined = dict.fromkeys(candidates, 0)
    missing = dict.fromkeys(candidates, wanted)
    with Progress("Checking pictures", wanted * len(candidates)) as progress:
        while any(missing.values()):
            before = len(pictures)
            for label, number in missing.items():
                for picture in _usable(candidates, label, num_examined, number, seen, dropped):
                    pictures.append(picture)
                    progress.update(len(pictures))
            splits, groups, crowded = _divide(pictures, per_class)
            for label in missing:
                missing[label] = wanted - sum(len(classes[label]) for classes in splits.values())
            if len(pictures) == before and any(missing.values()):
                raise _too_few(candidates, per_class, missing, dropped + crowded)
    return splits, groups, dropped + crowded


def _usable(candidates, label, num_examined, number, seen, dropped):
    """Yields up to `number` further usable pictures of a class, noting what was examined."""
    rest = list(enumerate(candidates[label]))[num_examined[label] :] if number else []
    with contextlib.closing(map_pictures(lambda item: _examine(label, *item), rest)) as results:
        for (_, candidate), picture in zip(rest, results, strict=True):
            num_examined[label] += 1
            reason = picture if isinstance(picture, str) else None
            if not reason and picture.sha256 in seen:
                reason = f"the same as {seen[picture.sha256]}"
            if reason:
                dropped.append(DroppedFile(name=f"{label}/{candidate.name}", reason=reason))
                continue
            seen[picture.sha256] = picture.name
            yield picture
            number -= 1
            if not number:
                return


def _examine(label, position, candidate):
    """A `_Picture`, or why the file cannot be used."""
    if candidate.num_bytes > MAX_BYTES:
        return f"larger than {MAX_BYTES >> 20} MB"
    try:
        content = candidate.read()
        image = decode_image(content)
    except (InputError, OSError) as error:
        return shorten(error)
    height, width, _ = image.shape
    if min(width, height) < _MIN_SIDE:
        return f"tiny, {width}x{height} pixels"
    sha256 = hashlib.sha256(content).hexdigest()
    return _Picture(candidate, label, position, sha256, width, height, perceptual_hash(image))


def _divide(pictures, per_class):
    """Divides pictures into splits, in file order, each group of near-duplicates into one.

    A group goes, when its first file is reached, into the first split that has room for all of it.

    Returns:
        `{split: {label: pictures}}`; groups; `DroppedFile`s for which there was no room.
    """
    pictures = sorted(pictures, key=lambda picture: (picture.position, picture.label))
    groups = collections.defaultdict(list)
    firsts = group_near_duplicates([picture.hash for picture in pictures])
    for picture, first in zip(pictures, firsts, strict=True):
        groups[first].append(picture)

    splits = {split: collections.defaultdict(list) for split in per_class}
    near_duplicates, crowded = [], []

    def room(split, label):
        return per_class[split] - len(splits[split][label])

    for group in groups.values():
        counts = collections.Counter(picture.label for picture in group)
        fitting = [s for s in splits if all(room(s, label) >= n for label, n in counts.items())]
        # A group that is too large for any split gives up its last files.
        fitting = fitting or [s for s in splits if room(s, group[0].label)]
        placed = []
        for picture in group:
            if fitting and room(fitting[0], picture.label):
                splits[fitting[0]][picture.label].append(picture)
                placed.append(picture)
            elif picture is not group[0]:
                reason = f"a near-duplicate of {group[0].name}, no room in the same split"
                crowded.append(DroppedFile(name=picture.name, reason=reason))
        if len(placed) > 1:
            near_duplicates.append(placed)
    for classes in splits.values():
        for files in classes.values():
            files.sort(key=lambda picture: picture.position)
    return splits, near_duplicates, crowded


def _too_few(candidates, per_class, missing, dropped):
    wanted = sum(per_class.values())
    usable = ", ".join(
        f"{label} {wanted - number:,} of {len(candidates[label]):,} files"
        for label, number in missing.items()
        if number
    )
    example = f" (such as {dropped[0].name}: {dropped[0].reason})" if dropped else ""
    return InputError(
        f"Expected {wanted:,} usable pictures of each class "
        f"({', '.join(f'{number:,} {split}' for split, number in per_class.items())}). "
        f"Received: {shorten(usable, 500)}; {len(dropped):,} dropped{example}. "
        "Add pictures, or ask for fewer with --train, --validation and --test."
    )
