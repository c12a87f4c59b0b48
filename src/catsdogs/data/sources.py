"""Obtain pictures: archives (Microsoft's, Kaggle's, others), folders with one a class, sketches."""

import contextlib
import dataclasses
import hashlib
import os
import pathlib
import re
import tempfile
from collections.abc import Callable

from catsdogs.data.archives import files_in_archive
from catsdogs.data.download import MICROSOFT_SHA256, download_archive
from catsdogs.data.folders import MAX_PICTURE_BYTES, files_in_folder, is_passed_over
from catsdogs.errors import InputError, say_briefly
from catsdogs.files import sha256_of

__all__ = [
    "Candidate", "Source", "open_microsoft", "open_pictures", "open_sketches", "open_source",
]  # fmt: skip

_KAGGLE_NAME = re.compile(r"(cat|dog)\.\d+\.jpg", re.IGNORECASE)
_UNLABELLED = {"test1", "test1.zip"}  # Kaggle's, beside `train`
_MAX_NAME = 150  # bytes: room for what file systems, most with 255, are asked to put before it
_SPLIT_NAMES = {"train", "training", "valid", "val", "validation", "test"}


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A file that may turn out to be a usable picture."""

    name: str
    """File name in the prepared data set, unique within the class."""
    num_bytes: int
    read: Callable[[], bytes]


@dataclasses.dataclass(frozen=True)
class Source:
    """Where pictures come from; opened by the functions of this module."""

    name: str
    """Name of the data set: `dogs-vs-cats`, `sketches`, or that of the folder or archive."""
    is_drawing: bool
    fingerprint: str
    """SHA-256 that stands for the source's content, known before any of it is drawn or fetched."""
    num_classes: int
    list_candidates: Callable[[], dict[str, list[Candidate]]]
    """Returns, for each class in lower case and sorted, its files in the order of their index."""
    folder: pathlib.Path | None = None
    """Where the files lie, if they lie in a folder of the user's."""


def open_pictures(*, archive=None, folder=None, sketches=False, rabbits=False, num_pictures=4000):
    """Opens what the command line asks for: one of the three, or else the Microsoft archive.

    Args:
        archive, folder: Paths for `open_source`, or `None`.
        sketches: Whether to draw.
        rabbits: Whether to draw rabbits besides cats and dogs.
        num_pictures: Number of drawings, all classes together.

    Returns:
        A context manager that yields a `Source`.
    """
    if sum(map(bool, (archive, folder, sketches))) > 1:
        raise InputError("Expected one of --archive, --folder and --sketches, received several.")
    if rabbits and not sketches:
        raise InputError("Expected --rabbits together with --sketches, received it alone.")
    if sketches:
        return open_sketches(num_pictures // (3 if rabbits else 2), rabbits=rabbits)
    if archive and pathlib.Path(archive).is_dir():
        raise InputError(
            f"Expected --archive to be a zip, received {archive}. Use --folder for it."
        )
    if archive or folder:
        return open_source(archive or folder)
    return open_microsoft("data")


@contextlib.contextmanager
def open_source(path):
    """Opens an archive or a folder of pictures.

    Args:
        path: The Microsoft zip, Kaggle's `train.zip` or `dogs-vs-cats.zip`, a zip or folder with
            one folder a class, or a folder of Kaggle's files; `str` or `Path`.

    Yields:
        A `Source`.

    Raises:
        InputError: If there is nothing at `path`, the archive is broken, no classes can be told
            apart or a class has no files.
    """
    path = pathlib.Path(os.path.realpath(os.path.expanduser(path)))
    with contextlib.ExitStack() as stack:
        if path.is_dir():
            files, name = files_in_folder(path), path.name
        elif path.is_file():  # a pipe would be waited for
            files, name = files_in_archive(path, stack), path.stem
        else:
            found = "something else" if path.exists() else "nothing"
            raise InputError(f"Expected an archive or a folder at {path}, found {found}.")
        classes, layout = _sort_into_classes(files, path)
        fingerprint = _fingerprint(classes) if path.is_dir() else sha256_of(path)
        # A name that begins with a dot would be hidden, or taken for what is half-written.
        name = layout or _plain_name(name.lstrip(".")) or "pictures"
        folder = path if path.is_dir() else None
        yield Source(name, False, fingerprint, len(classes), lambda: classes, folder)


@contextlib.contextmanager
def open_microsoft(folder):
    """Opens the Microsoft archive of 25,000 photographs, downloading it only if it is needed.

    Args:
        folder: Where the archive is or will be, `str` or `Path`.

    Yields:
        A `Source`; its `list_candidates` raises `InputError` as `download_archive` does.
    """
    with contextlib.ExitStack() as stack:

        def download_and_list():
            return stack.enter_context(open_source(download_archive(folder))).list_candidates()

        # A file's fingerprint is its SHA-256, which is published: no need to have it to know it.
        yield Source("dogs-vs-cats", False, MICROSOFT_SHA256, 2, download_and_list)


@contextlib.contextmanager
def open_sketches(per_class, seed=0, rabbits=False):
    """Opens the built-in drawings of cats and dogs, drawn only if they are needed.

    Args:
        per_class: Number of drawings of each class.
        seed: Integer that decides them.
        rabbits: Whether there are rabbits too, a third class.

    Yields:
        A `Source` whose pictures exist until the block ends.
    """
    from catsdogs.data import sketches  # only here: it needs numpy

    animals = sketches.ANIMALS if rabbits else sketches.CATS_AND_DOGS
    with contextlib.ExitStack() as stack:

        def draw_and_list():
            folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
            sketches.write_sketches(folder, per_class=per_class, seed=seed, animals=animals)
            return stack.enter_context(open_source(folder)).list_candidates()

        # Other code draws other pictures.
        origin = f"{sha256_of(sketches.__file__)} seed={seed} per_class={per_class} {animals}"
        fingerprint = hashlib.sha256(origin.encode()).hexdigest()
        name = "sketches-with-rabbits" if rabbits else "sketches"
        yield Source(name, True, fingerprint, len(animals), draw_and_list)


def _sort_into_classes(files, path):
    """Finds the layout and returns ({class: candidates in order}, data set name or `None`)."""
    kept = []
    for parts, num_bytes, read in files:
        # '..' and '' at the front are how a hostile archive points outside; they mean nothing here.
        parts = (*(part for part in parts[:-1] if part.strip(".")), parts[-1])
        if not any(map(is_passed_over, parts)):
            kept.append((parts, num_bytes, read))
    if any("train" in map(str.lower, parts[:-1]) for parts, *_ in kept):
        kept = [file for file in kept if not _UNLABELLED & {part.lower() for part in file[0]}]
    wrapper = path.name
    while len(folders := {parts[0] for parts, _, _ in kept if len(parts) > 1}) == 1:
        wrapper = folders.pop()
        kept = [(parts[1:], *rest) for parts, *rest in kept if len(parts) > 1]
    if lower := {folder.lower() for folder in folders} & _SPLIT_NAMES:
        raise InputError(
            f"Expected one folder a class in {path}, received {', '.join(sorted(lower))}: these "
            "pictures are split already. Pass a folder that holds one of the splits, or, if that "
            "is a class, give it another name."
        )
    is_microsoft = wrapper.lower() == "petimages"
    classes = {_plain_name(folder.lower()): {} for folder in sorted(folders)}
    if len(classes) < len(folders):
        raise InputError(
            f"Expected the class folders in {path} to differ in more than capital letters, "
            f"received {say_briefly(', '.join(sorted(folders)), 500)}. Rename or merge them."
        )
    for parts, num_bytes, read in kept:
        label = _plain_name(parts[0].lower())
        if not folders and (kaggle := _KAGGLE_NAME.fullmatch(parts[0])):
            label = kaggle[1].lower()
            classes.setdefault(label, {})
        elif len(parts) == 1 or not parts[-1]:
            continue  # a file beside the class folders, or a folder
        # Sub-folders of a class become part of the name, or `a/1.jpg` would meet `b/1.jpg`.
        name = "-".join(parts[1:] or parts)
        if is_microsoft:
            name = f"{label}.{name}"
        name = _plain_name(name)
        if name in classes[label]:
            raise InputError(f"Expected one file called {label}/{name} in {path}, received two.")
        classes[label][name] = Candidate(name, num_bytes, read)
    if len(classes) < 2 or not all(classes.values()):
        counts = ", ".join(f"{label} {len(names)}" for label, names in classes.items())
        counts = say_briefly(counts, 500) or f"none, and {len(kept)} files in one folder"
        raise InputError(
            f"Expected two or more folders in {path}, one a class, pictures in each, or Kaggle's "
            f"files such as cat.0.jpg. Received (folder and number of files): {counts}."
        )
    is_known = is_microsoft or not folders
    ordered = {label: _in_order(classes[label].values()) for label in sorted(classes)}
    return ordered, "dogs-vs-cats" if is_known else None


def _plain_name(name):
    """A name that every file system takes and every terminal shows, the same if it is one already.

    Half characters, line breaks and the like become `_`; of a name that is too long a digest stays,
    and the end, which has the number.
    """
    plain = "".join(c if c.isprintable() and c not in "/\\" else "_" for c in name)
    if len(plain.encode()) <= _MAX_NAME:
        return plain
    digest = hashlib.sha256(plain.encode()).hexdigest()[:16]
    return f"{digest}-{plain.encode()[-100:].decode(errors='ignore')}"


def _in_order(candidates):
    """Orders by the number that ends each name, if all have one, else by name as people count."""

    def natural(candidate):
        pieces = re.split(r"(\d+)", candidate.name)
        # Numbers as numbers; the name itself decides between '1' and '01'.
        return [int(p) if p.isdecimal() else p.lower() for p in pieces], candidate.name

    numbers = {c.name: re.search(r"(\d+)$", c.name.rpartition(".")[0]) for c in candidates}
    if all(numbers.values()):
        return sorted(candidates, key=lambda c: (int(numbers[c.name][1]), natural(c)))
    return sorted(candidates, key=natural)


def _fingerprint(classes):
    digest = hashlib.sha256()
    for label, candidates in classes.items():
        for candidate in candidates:
            # What is too large to be a picture is never read, and is not read for this either.
            small = candidate.num_bytes <= MAX_PICTURE_BYTES
            content = hashlib.sha256(candidate.read() if small else b"").hexdigest()
            digest.update(f"{label}/{candidate.name} {content}\n".encode())
    return digest.hexdigest()
