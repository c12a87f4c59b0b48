"""Where pictures come from: archives, folders with one sub-folder for each class, sketches.

Archives may be anybody's. Nothing is ever unpacked by the paths in one: its names are only read, to
learn each picture's class and file name, and what it claims of itself bounds what is read of it.
"""

import contextlib
import dataclasses
import functools
import hashlib
import os
import pathlib
import re
import shutil
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable

from catsdogs.data.decode import MAX_BYTES
from catsdogs.errors import InputError, shorten
from catsdogs.files import sha256_of

__all__ = [
    "MICROSOFT_SHA256", "MICROSOFT_SIZE", "MICROSOFT_URL", "Candidate", "Source", "open_microsoft",
    "open_pictures", "open_sketches", "open_source",
]  # fmt: skip

MICROSOFT_URL = (
    "https://download.microsoft.com/download/3/E/1/3E1C3F21-ECDB-4869-8368-6DEBA77B919F/"
    "kagglecatsanddogs_5340.zip"
)
MICROSOFT_SIZE = 824_887_076  # bytes
MICROSOFT_SHA256 = "b7974bd00a84a99921f36ee4403f089853777b5ae8d151c76a86e64900334af9"

_KAGGLE_NAME = re.compile(r"(cat|dog)\.\d+\.jpg", re.IGNORECASE)
_UNLABELLED = {"test1", "test1.zip"}  # Kaggle's, beside `train`
_SPLIT_NAMES = {"train", "training", "valid", "val", "validation", "test"}
_LEFT_BY_FILE_MANAGERS = {"__macosx", "thumbs.db", "desktop.ini"}

# An archive may hold a gibibyte, and a hundred times its own size above that.
_MAX_UNPACKED, _MAX_RATIO = 2**30, 100
# What zipfile raises on damaged archives, besides OSError.
_ZIP_ERRORS = (
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, RuntimeError, ValueError, LookupError,
    OverflowError,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A file that may turn out to be a usable picture."""

    name: str
    """File name in the prepared dataset, unique within the class."""
    num_bytes: int
    read: Callable[[], bytes]


@dataclasses.dataclass(frozen=True)
class Source:
    """Where pictures come from; opened by the functions of this module."""

    name: str
    """Name of the dataset: `dogs-vs-cats`, `sketches`, or that of the folder or archive."""
    fingerprint: str
    """SHA-256 that stands for the content, known before any of it is drawn or downloaded."""
    num_classes: int
    list_candidates: Callable[[], dict[str, list[Candidate]]]
    """Returns, for each class in lower case and sorted, its files in the order of their index."""
    folder: pathlib.Path | None = None
    """Where the files are, if they are in a folder of the user's."""
    is_sketches: bool = False


def open_pictures(*, archive=None, folder=None, sketches=False, rabbits=False, num_pictures=4000):
    """Opens what the command line asks for: one of the three, or else the Microsoft archive.

    Args:
        archive, folder: Paths for `open_source`, or `None`.
        sketches: Whether to draw.
        rabbits: Whether to draw rabbits besides cats and dogs.
        num_pictures: Number of sketches, all classes together.

    Returns:
        A context manager that yields a `Source`.
    """
    if sum(map(bool, (archive, folder, sketches))) > 1:
        raise InputError("Expected one of --archive, --folder and --sketches, received several.")
    if rabbits and not sketches:
        raise InputError("Expected --rabbits together with --sketches, received it alone.")
    if sketches:
        return open_sketches(num_pictures // (3 if rabbits else 2), rabbits=rabbits)
    if archive or folder:
        return open_source(archive or folder)
    return open_microsoft("data")


@contextlib.contextmanager
def open_source(path):
    """Opens an archive or a folder of pictures.

    Args:
        path: The Microsoft zip, Kaggle's `train.zip` or `dogs-vs-cats.zip`, a zip or folder with
            one folder for each class, or a folder of Kaggle's files; `str` or `Path`.

    Yields:
        A `Source`.

    Raises:
        InputError: If there is nothing at `path`, the archive is damaged or hostile, or there are
            no two classes with files.
    """
    path = pathlib.Path(os.path.realpath(os.path.expanduser(path)))
    with contextlib.ExitStack() as stack:
        if path.is_dir():
            files, name, folder = _files_in_folder(path), path.name, path
        elif path.is_file():
            files, name, folder = _files_in_archive(path, stack), path.stem, None
        else:
            raise InputError(f"Expected an archive or a folder at {path}, found none.")
        classes, known_name = _sort_into_classes(files, path)
        fingerprint = _fingerprint(classes) if folder else sha256_of(path)
        name = known_name or _plain_name(name).lstrip(".") or "pictures"  # never a hidden folder
        yield Source(name, fingerprint, len(classes), lambda: classes, folder)


@contextlib.contextmanager
def open_microsoft(folder):
    """Opens the Microsoft archive of 25,000 photographs, downloaded only when it is needed.

    Args:
        folder: Where the archive is or will be, `str` or `Path`.

    Yields:
        A `Source`; its `list_candidates` raises `InputError` if the download fails.
    """
    from catsdogs.data.download import download  # slow to import

    path = pathlib.Path(folder) / MICROSOFT_URL.rpartition("/")[2]
    with contextlib.ExitStack() as stack:

        def download_and_list():
            try:
                download(MICROSOFT_URL, path, size=MICROSOFT_SIZE, digest=MICROSOFT_SHA256)
            except InputError as error:
                raise InputError(
                    f"Expected to download {MICROSOFT_URL}. Received: {error}. The same command "
                    "resumes. Other ways: --archive PATH with Kaggle's dogs-vs-cats.zip or "
                    "train.zip; --folder PATH with one sub-folder for each class; --sketches, "
                    "which needs no network."
                ) from None
            return stack.enter_context(open_source(path)).list_candidates()

        # An archive's fingerprint is its SHA-256, which is known without having the archive.
        yield Source("dogs-vs-cats", MICROSOFT_SHA256, 2, download_and_list)


@contextlib.contextmanager
def open_sketches(per_class, seed=0, rabbits=False):
    """Opens sketches of cats and dogs, drawn by this program only when they are needed.

    Args:
        per_class: Number of sketches of each class.
        seed: Integer that decides them.
        rabbits: Whether there are rabbits too, as a third class.

    Yields:
        A `Source` whose pictures exist until the block ends.
    """
    from catsdogs.data import sketches

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
        yield Source(name, fingerprint, len(animals), draw_and_list, is_sketches=True)


def _files_in_folder(folder):
    """Yields (parts of the path, size in bytes, function that reads it) of all files below.

    For each folder, so that an empty one is known, the parts end in '' and there is no function.
    """

    def refuse(error):  # otherwise the files of an unreadable folder would be missing unnoticed
        raise error

    seen = set()  # links may lead in circles
    for parent, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        status = os.stat(parent)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not _is_hidden(name))
        parts = pathlib.Path(parent).relative_to(folder).parts
        yield (*parts, ""), 0, None
        for file in (pathlib.Path(parent, name) for name in names):
            if file.is_file():  # not a pipe, nor a link to nothing
                yield (*parts, file.name), file.stat().st_size, file.read_bytes


def _files_in_archive(path, stack):
    """As `_files_in_folder`, for a zip; of Kaggle's `dogs-vs-cats.zip`, the `train.zip` within."""
    try:
        archive = _open_zip(stack.enter_context(path.open("rb")), stack)
        nested = [entry for entry in archive.infolist() if entry.filename.endswith("train.zip")]
        if nested:
            # On disk, since it may not fit in memory; nameless, so a killed process leaves nothing.
            inner = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
            with _open_entry(archive, nested[0]) as packed:
                shutil.copyfileobj(packed, inner, 1 << 20)
            archive = _open_zip(inner, stack)
    except _ZIP_ERRORS as error:
        raise InputError(
            f"Expected a complete zip archive at {path}. Received: {shorten(error)}. "
            "Nothing was unpacked. Download it again."
        ) from None
    for entry in archive.infolist():
        parts = tuple(entry.filename.replace("\\", "/").split("/"))
        yield parts, entry.file_size, functools.partial(_read_entry, archive, entry)


def _open_zip(file, stack):
    archive = stack.enter_context(zipfile.ZipFile(file))
    size = file.seek(0, os.SEEK_END)
    unpacked = sum(entry.file_size for entry in archive.infolist())
    if unpacked > _MAX_UNPACKED + _MAX_RATIO * size:
        raise zipfile.BadZipFile(f"a zip bomb, {size:,} bytes that would unpack to {unpacked:,}")
    return archive


def _open_entry(archive, entry):
    # The other methods unpack everything at once, whatever number of bytes is asked for.
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise zipfile.BadZipFile(f"compression method {entry.compress_type}, expected deflate")
    return archive.open(entry)


def _read_entry(archive, entry):
    try:
        with _open_entry(archive, entry) as file:
            # Not read(): that would unpack everything and only then cut it to the size claimed.
            return file.read(entry.file_size + 1)
    except _ZIP_ERRORS as error:
        raise InputError(f"cannot be read from the archive ({shorten(error)})") from None


def _is_hidden(name):
    return name.startswith(".") or name.lower() in _LEFT_BY_FILE_MANAGERS


def _sort_into_classes(files, path):
    """Finds the layout; returns {class: candidates in order} and the dataset's name if known."""
    kept = []
    for parts, num_bytes, read in files:
        # '..' and '' at the front are how a hostile archive points outside; they mean nothing here.
        parts = (*(part for part in parts[:-1] if part.strip(".")), parts[-1])
        if not any(map(_is_hidden, parts)):
            kept.append((parts, num_bytes, read))
    if any("train" in map(str.lower, parts[:-1]) for parts, *_ in kept):
        kept = [file for file in kept if not _UNLABELLED & {part.lower() for part in file[0]}]
    # Folders around the folders of the classes.
    wrapper = path.name
    while len(folders := {parts[0] for parts, *_ in kept if len(parts) > 1}) == 1:
        wrapper = folders.pop()
        kept = [(parts[1:], *rest) for parts, *rest in kept if len(parts) > 1]
    if split_names := {folder.lower() for folder in folders} & _SPLIT_NAMES:
        raise InputError(
            f"Expected one folder for each class in {path}, received "
            f"{', '.join(sorted(split_names))}: these pictures are split already. Pass a folder "
            "that holds one of the splits, or, if that is a class, rename it."
        )
    is_microsoft = wrapper.lower() == "petimages"
    classes = {_plain_name(folder.lower()): {} for folder in sorted(folders)}
    for parts, num_bytes, read in kept:
        label = _plain_name(parts[0].lower())
        if not folders and (kaggle := _KAGGLE_NAME.fullmatch(parts[0])):
            label = kaggle[1].lower()
            classes.setdefault(label, {})
        elif len(parts) == 1 or not parts[-1]:
            continue  # a file beside the class folders, or a folder
        # Sub-folders of a class become part of the name, or `a/1.jpg` would meet `b/1.jpg`.
        name = "-".join(parts[1:] or parts)
        name = _plain_name(f"{label}.{name}" if is_microsoft else name)
        if name in classes[label]:
            raise InputError(f"Expected one file called {label}/{name} in {path}, received two.")
        classes[label][name] = Candidate(name, num_bytes, read)
    if len(classes) < 2 or not all(classes.values()):
        counts = ", ".join(f"{label} {len(names)}" for label, names in classes.items())
        num_files = sum(parts[-1] != "" for parts, *_ in kept)
        raise InputError(
            f"Expected two or more folders in {path}, one for each class, pictures in each, or "
            "Kaggle's files such as cat.0.jpg. Received (folder and number of files): "
            f"{shorten(counts, 500) or f'none, and {num_files} files in one folder'}."
        )
    ordered = {label: _in_order(classes[label].values()) for label in sorted(classes)}
    return ordered, "dogs-vs-cats" if is_microsoft or not folders else None


def _plain_name(name):
    """The name with line breaks, lone surrogates and the like replaced by `_`."""
    return "".join(c if c.isprintable() and c not in "/\\" else "_" for c in name)


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
            content = candidate.read() if candidate.num_bytes <= MAX_BYTES else b""
            sha256 = hashlib.sha256(content).hexdigest()
            digest.update(f"{label}/{candidate.name} {sha256}\n".encode())
    return digest.hexdigest()
