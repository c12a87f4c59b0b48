"""From candidate files to a prepared data set: checked, without leaks, balanced, written whole."""

import contextlib
import hashlib
import os
import pathlib

from catsdogs.console import Progress
from catsdogs.data.manifest import CONTENT, FORMAT, SPLITS, load_manifest
from catsdogs.data.selection import select_pictures
from catsdogs.errors import InputError
from catsdogs.files import PART, atomic_folder, lock, sha256_of, write_json

__all__ = ["prepare"]


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
            classes, or `data_dir` holds something else, is in use, or one of it and the
            pictures' folder lies in the other.
    """
    sizes = dict(zip(SPLITS, (train, validation, test), strict=True))
    if any(size < 1 or size % source.num_classes for size in sizes.values()):
        raise InputError(
            f"Expected split sizes above zero that {source.num_classes} classes can share equally. "
            f"Received: --train {train} --validation {validation} --test {test}. Take multiples of "
            f"{source.num_classes}."
        )
    data_dir = pathlib.Path(os.path.realpath(data_dir))
    if source.folder and (source.folder in data_dir.parents or data_dir in source.folder.parents):
        # The next data set would be made from this one, or this one replace what it is made from.
        raise InputError(
            f"Expected --data-dir apart from the pictures in {source.folder}, received {data_dir}. "
            "Choose another folder."
        )
    found = _find_prepared(source, data_dir, sizes, overwrite)
    if found is not None:
        return found
    with lock(data_dir):
        # Once more: another process may have prepared it in the meantime.
        found = _find_prepared(source, data_dir, sizes, overwrite)
        if found is None:
            _check_nothing_is_lost(data_dir)
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


def _check_nothing_is_lost(data_dir):
    """Refuses to replace a folder in which there is something that was not prepared."""
    folders, known = CONTENT, set()
    with contextlib.suppress(InputError):
        names = {pathlib.Path(file.name) for file in load_manifest(data_dir).files}
        known = names.union(*(name.parents for name in names))
        folders = CONTENT - {*SPLITS}
    for place in (".", *SPLITS, *(f"{split}/*" for split in SPLITS)):
        for path in sorted(data_dir.glob(f"{place}/*")):
            name = path.relative_to(data_dir)
            is_ours = name in known or name.parts[0] in folders or name.name.startswith(PART)
            if not is_ours:
                raise InputError(
                    f"Expected {data_dir} to hold a prepared data set alone, received {name} in "
                    "it, which would be lost. Move that elsewhere, or choose another folder with "
                    "--data-dir."
                )


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
            "format": FORMAT,
            "dataset": source.name,
            "kind": "drawings" if source.is_sketches else "photographs",
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
