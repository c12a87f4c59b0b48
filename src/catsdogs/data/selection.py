"""Decide which files are used, by decoding them, and in which split, with look-alikes together."""

import collections
import contextlib
import dataclasses
import hashlib

import numpy as np

from catsdogs.console import Progress
from catsdogs.data.duplicates import group_look_alikes, look_of
from catsdogs.data.folders import MAX_PICTURE_BYTES
from catsdogs.data.images import decode_image, map_pictures
from catsdogs.data.sources import Candidate
from catsdogs.errors import InputError, shorten

__all__ = ["Picture", "Selection", "select_pictures"]

_MIN_SIDE = 32  # pixels; below it there is no animal to see


@dataclasses.dataclass(frozen=True)
class Picture:
    """A candidate that decodes."""

    candidate: Candidate
    label: str
    position: int
    """Place among the files of its class, in the order of their index."""
    sha256: str
    width: int
    height: int
    look: np.ndarray
    """Result of `catsdogs.data.duplicates.look_of`."""

    @property
    def name(self):
        """Class and file name, `cat/cat.1.jpg`."""
        return f"{self.label}/{self.candidate.name}"


@dataclasses.dataclass(frozen=True)
class Selection:
    """The pictures of a data set."""

    splits: dict[str, dict[str, list[Picture]]]
    """For each split and class its pictures, by file index."""
    look_alikes: list[list[Picture]]
    """Groups of near duplicates, each within one split."""
    dropped: list[tuple[str, str]]
    """Name and reason of each file that was looked at and is not used."""


def select_pictures(candidates, per_class):
    """Takes the first usable pictures of each class, by file index, and cuts them into splits.

    Files that do not decode, tiny ones and exact duplicates are dropped. Near duplicates may stay,
    but never in two splits: a group of them goes, at the place of its first file, into the first
    split that has room for all of it. Where there are none, the classes are cut in file order.

    Args:
        candidates: For each class its files in the order of their index,
            `{label: [catsdogs.data.sources.Candidate]}`.
        per_class: For each split, in order, its number of pictures of each class.

    Returns:
        A `Selection`.

    Raises:
        InputError: If there are too few usable pictures.
    """
    wanted = sum(per_class.values())
    pictures, dropped, seen = [], [], {}
    looked_at = dict.fromkeys(candidates, 0)
    missing = dict.fromkeys(candidates, wanted)
    with Progress("Checking pictures", wanted * len(candidates)) as progress:
        while any(missing.values()):
            before = len(pictures)
            for label, number in missing.items():
                for picture in _usable(candidates, label, looked_at, number, seen, dropped):
                    pictures.append(picture)
                    progress.update(len(pictures))
            splits, look_alikes, crowded = _place(pictures, per_class)
            for label in missing:
                missing[label] = wanted - sum(len(classes[label]) for classes in splits.values())
            if len(pictures) == before and any(missing.values()):
                raise _too_few(candidates, per_class, missing, dropped + crowded)
    return Selection(splits, look_alikes, dropped + crowded)


def _usable(candidates, label, looked_at, number, seen, dropped):
    """Yields up to `number` further usable pictures of a class, noting what was looked at."""
    rest = candidates[label][looked_at[label] :] if number else []
    with contextlib.closing(map_pictures(_examine, rest)) as results:
        for candidate, (reason, sha256, size, look) in zip(rest, results, strict=True):
            position = looked_at[label]
            looked_at[label] += 1
            picture = Picture(candidate, label, position, sha256, *size, look)
            if not reason and sha256 in seen:
                reason = f"the same as {seen[sha256]}"
            if reason:
                dropped.append((picture.name, reason))
                continue
            seen[sha256] = picture.name
            yield picture
            number -= 1
            if not number:
                return


def _examine(candidate):
    """Returns (why a file cannot be used or `None`, SHA-256, (width, height), look)."""
    sha256, size, look = "", (0, 0), None
    if candidate.num_bytes > MAX_PICTURE_BYTES:
        return f"larger than {MAX_PICTURE_BYTES >> 20} MB", sha256, size, look
    try:
        content = candidate.read()
        sha256 = hashlib.sha256(content).hexdigest()
        image = decode_image(content)
    except (InputError, OSError) as error:
        return shorten(error), sha256, size, look
    size = image.shape[1::-1]
    if min(size) < _MIN_SIDE:
        return f"tiny, {size[0]}x{size[1]} pixels", sha256, size, look
    return None, sha256, size, look_of(image)


def _place(pictures, per_class):
    """Returns ({split: {label: pictures}}, groups of look-alikes, dropped for lack of room)."""
    pictures = sorted(pictures, key=lambda picture: (picture.position, picture.label))
    groups = collections.defaultdict(list)
    firsts = group_look_alikes([picture.look for picture in pictures])
    for picture, first in zip(pictures, firsts, strict=True):
        groups[first].append(picture)

    splits = {split: collections.defaultdict(list) for split in per_class}
    look_alikes, crowded = [], []
    for group in groups.values():
        counts = collections.Counter(picture.label for picture in group)

        def room(split, label):
            return per_class[split] - len(splits[split][label])

        fitting = [s for s in splits if all(room(s, label) >= n for label, n in counts.items())]
        # A group that is too large for any split gives up its last files.
        fitting = fitting or [s for s in splits if room(s, group[0].label)]
        placed = []
        for picture in group:
            if fitting and room(fitting[0], picture.label):
                splits[fitting[0]][picture.label].append(picture)
                placed.append(picture)
            elif picture is not group[0]:
                crowded.append((picture.name, f"looks like {group[0].name}, no room beside it"))
        if len(placed) > 1:
            look_alikes.append(placed)
    for classes in splits.values():
        for label in classes:
            classes[label].sort(key=lambda picture: picture.position)
    return splits, look_alikes, crowded


def _too_few(candidates, per_class, missing, dropped):
    wanted = sum(per_class.values())
    usable = ", ".join(
        f"{label} {wanted - number:,} of {len(candidates[label]):,} files"
        if number
        else f"{label} enough"
        for label, number in missing.items()
    )
    example = f" (such as {dropped[0][0]}: {dropped[0][1]})" if dropped else ""
    return InputError(
        f"Expected {wanted:,} usable pictures of each class "
        f"({', '.join(f'{number:,} {split}' for split, number in per_class.items())}). "
        f"Received: {shorten(usable, 500)}; {len(dropped):,} dropped{example}. "
        "Give more pictures, or ask for fewer with --train, --validation and --test."
    )
