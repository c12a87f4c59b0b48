"""What is kept to save time and what killed processes left: how much it is, and a broom for it.

Nothing that is swept is the only copy of anything: pictures, manifests and runs are left alone.
"""

import collections
import contextlib
import dataclasses
import datetime
import pathlib
import re

from catsdogs.data.download import MICROSOFT_URL
from catsdogs.data.manifest import CONTENT
from catsdogs.errors import InputError
from catsdogs.files import OLD, sweep
from catsdogs.locks import PART, hold

__all__ = ["Cache", "clear_caches", "describe_caches", "list_caches"]

_DECODED = re.compile(r"[a-z]+-(\d+)-[0-9a-f]+\.npy")
_FEATURES = re.compile(r"[a-z]+-view\d+-(\w+)-(\d+)-[0-9a-f]+\.npy(\.partial)?")
_DOWNLOAD = MICROSOFT_URL.rpartition("/")[2] + ".part"
_LATEST = 253_402_214_400  # seconds: 9999-12-31 in UTC, the last day of Python's calendar
_TEMPORARY = "half-written by a process that was killed"


@dataclasses.dataclass(frozen=True)
class Cache:
    """Files of one kind that belong to one folder."""

    folder: pathlib.Path
    """The data set, run or other folder: a process that works there holds it."""
    kind: str
    """`"decoded"`, `"features"` or `"leftovers"`."""
    name: str
    """What they are, in a few words."""
    paths: tuple[pathlib.Path, ...]
    """Files, and temporary folders."""
    num_files: int
    num_bytes: int
    last_used: datetime.date
    """When one was last read or written, as far as the file system tells."""


def list_caches(data_dir=None):
    """Finds caches and leftovers in `data/` and `runs/`.

    Args:
        data_dir: A prepared data set to look at instead, `str` or `Path`.

    Returns:
        A list of `Cache`.

    Raises:
        InputError: If `data_dir` is no prepared data set.
    """
    if data_dir is not None:
        if not (pathlib.Path(data_dir) / "manifest.json").is_file():
            raise InputError(
                f"Expected a prepared data set in {data_dir}, found no manifest.json. "
                "Correct --data-dir, or leave it out to see all of data/."
            )
        return _of_data_set(pathlib.Path(data_dir))
    found, half_written = [], collections.defaultdict(list)
    for path in _inside(pathlib.Path("data")):
        if origin := _data_set_of(path):
            half_written[origin].append(path)
        elif (path / "manifest.json").is_file():
            found += _of_data_set(path)
        elif path.name == _DOWNLOAD and path.is_file() and not path.is_symlink():
            found += _measure(path.parent, "leftovers", "unfinished download, goes on", [path])
    for origin, paths in half_written.items():
        found += _measure(origin, "leftovers", _TEMPORARY, paths)
    for run_dir in sorted(pathlib.Path("runs").glob("*/*/")):
        left = [path for place in (run_dir, run_dir / "state") for path in _temporary(place)]
        found += _measure(run_dir, "leftovers", _TEMPORARY, left)
    return found


def clear_caches(caches, kinds):
    """Deletes caches, except where a running process uses the folder that they belong to.

    Args:
        caches: From `list_caches`.
        kinds: Which kinds of them.

    Returns:
        A pair: number of bytes freed, and a list of the folders that were passed over.
    """
    freed, in_use = 0, []
    for cache in caches:
        if cache.kind not in kinds:
            continue
        try:
            with hold(cache.folder):
                for path in cache.paths:
                    freed += _delete(path)
        except InputError:
            in_use += [cache.folder] * (cache.folder not in in_use)
    return freed, in_use


def describe_caches(caches):
    """Yields lines for people: what there is by folder, and the total."""
    folder = None
    for cache in caches:
        if cache.folder != folder:
            folder = cache.folder
            yield str(folder)
        yield (
            f"  {cache.kind:<9}  {_megabytes(cache.num_bytes)}  {_files(cache.num_files)}  "
            f"used {cache.last_used}  {cache.name}"
        )
    num_bytes, num_files = (sum(getattr(c, n) for c in caches) for n in ("num_bytes", "num_files"))
    yield f"{'all':<11}  {_megabytes(num_bytes)}  {_files(num_files)}"


def _of_data_set(folder):
    groups = collections.defaultdict(list)
    for path in _inside(folder / "decoded"):
        if match := _DECODED.fullmatch(path.name):
            groups["decoded", f"pixels {match[1]}²"].append(path)
    for path in _inside(folder / "features"):
        if match := _FEATURES.fullmatch(path.name):
            layer = f"{match[1]} {match[2]}²"
            if match[3]:
                groups["leftovers", f"{layer}, unfinished, goes on"].append(path)
            else:
                groups["features", layer].append(path)
    for place in (folder, folder / "decoded", folder / "features"):
        groups["leftovers", _TEMPORARY] += _temporary(place)
    return [cache for key, paths in groups.items() for cache in _measure(folder, *key, paths)]


def _inside(folder):
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _temporary(folder):
    return [path for path in _inside(folder) if path.name.startswith(PART)]


def _data_set_of(path):
    """The data set that a temporary folder was meant to be or has been, `None` if it is neither."""
    name = path.name.removeprefix(PART)
    if name == path.name or not {inside.name for inside in _inside(path)} <= CONTENT:
        return None
    is_old = name.startswith(OLD)
    replaced = path.with_name(name.removeprefix(OLD))
    if is_old and not (replaced / "manifest.json").is_file():
        return None  # killed between taking it away and putting the new one there: the only copy
    return replaced


def _measure(folder, kind, name, paths):
    """A list of one `Cache`, or of none if there are no such files."""
    sizes, times = [], []
    for path in paths:
        for file in (path, *path.rglob("*")):
            with contextlib.suppress(FileNotFoundError):  # just finished by another process
                status = file.stat()
                times.append(max(status.st_atime, status.st_mtime))
                sizes += [status.st_size] * file.is_file()
    if not times:
        return []
    used = datetime.date.fromtimestamp(min(max(times), _LATEST))
    return [Cache(folder, kind, name, tuple(paths), len(sizes), sum(sizes), used)]


def _delete(path):
    """Deletes a file, or a folder with all that is in it; returns how many bytes that were."""
    num_bytes = sum(file.stat().st_size for file in (path, *path.rglob("*")) if file.is_file())
    if path.name.startswith(PART):
        sweep(path)
    else:
        path.unlink(missing_ok=True)
    return num_bytes


def _files(number):
    return f"{number:>6,} file" + ("s" if number != 1 else " ")


def _megabytes(num_bytes):
    return f"{num_bytes / 1e6:>10,.1f} MB"
