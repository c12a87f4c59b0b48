"""Files and folders that are complete or absent, locks, and JSON that is checked when read."""

import errno
import os
import signal

import other_process
import pytest
from pydantic import BaseModel, Field

from catsdogs.errors import InputError
from catsdogs.files import (
    PART,
    atomic_folder,
    atomic_path,
    lock,
    read_json,
    write_json,
)


def names_in(folder):
    """Relative paths of everything in a folder but lock files."""
    paths = (path.relative_to(folder).as_posix() for path in folder.rglob("*"))
    return {path for path in paths if not path.endswith(".lock")}


class FullError(OSError):
    """A disk that is full in the middle of a file."""

    def __init__(self):
        super().__init__(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_file_appears_complete_or_not_at_all(tmp_path):
    path = tmp_path / "deep" / "file.txt"
    for content in ("first", "second"):
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            assert not path.exists() or path.read_text() == "first"
            temporary.write_text(content)
        assert path.read_text() == content
    with pytest.raises(FullError), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise FullError
    assert path.read_text() == "second" and names_in(tmp_path) == {"deep", "deep/file.txt"}


def test_a_folder_is_replaced_when_the_new_one_is_complete(tmp_path):
    folder = tmp_path / "deep" / "folder"
    for name in ("first", "second"):
        with atomic_folder(folder) as temporary:
            (temporary / name).touch()
            assert name not in names_in(folder)
        assert names_in(folder) == {name}
    with pytest.raises(FullError), atomic_folder(folder) as temporary:
        (temporary / "third").touch()
        raise FullError
    assert names_in(tmp_path) == {"deep", "deep/folder", "deep/folder/second"}


def test_what_a_killed_process_left_is_replaced(tmp_path):
    (tmp_path / f"{PART}file").write_text("half of something longer")
    (tmp_path / f"{PART}folder").mkdir()
    (tmp_path / f"{PART}folder" / "half").touch()
    with atomic_path(tmp_path / "file") as temporary, open(temporary, "w") as file:
        file.write("short")
    with atomic_folder(tmp_path / "folder") as temporary:
        (temporary / "new").touch()
    assert (tmp_path / "file").read_text() == "short"
    assert names_in(tmp_path) == {"file", "folder", "folder/new"}


def test_a_folder_that_was_moved_aside_is_moved_back(tmp_path):
    """Its process was killed between the two renames."""
    (tmp_path / f"{PART}old-data").mkdir()
    (tmp_path / f"{PART}old-data" / "picture").touch()
    (tmp_path / f"{PART}data").mkdir()
    with pytest.raises(FullError), atomic_folder(tmp_path / "data"):
        raise FullError
    assert names_in(tmp_path) == {"data", "data/picture"}


def test_a_folder_behind_a_link_is_replaced_and_the_link_stays(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to("disk")
    with atomic_folder(tmp_path / "link") as folder:
        (folder / "file").touch()
    assert (tmp_path / "link").is_symlink()
    assert names_in(tmp_path) == {"disk", "disk/file", "link"}


def test_a_lock_keeps_other_processes_out_until_it_ends(tmp_path):
    folder = tmp_path / "deep" / "folder"
    with other_process.holding(folder):
        message = r"folder to be free.*Wait until"
        with pytest.raises(InputError, match=message) as caught, lock(folder):
            pass
        assert "\n" not in str(caught.value)
        with lock(tmp_path / "deep" / "other"):
            pass
    (tmp_path / "link").symlink_to("deep")
    with lock(folder):
        with lock(folder):  # a process may take it twice
            pass
        other = other_process.holding(tmp_path / "link" / "folder")
        with pytest.raises(AssertionError, match="to be free"), other:
            pass
    with other_process.holding(folder):  # and then it is free again
        pass
    assert names_in(tmp_path) == {"deep", "link"}


def test_a_lock_ends_with_its_process_however_that_ends(tmp_path, campaign):
    for _ in range(campaign.size(1, 20)):
        fault = campaign.fault("a killed process locks nothing any more")
        with fault, other_process.holding(tmp_path / "folder") as process:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            with lock(tmp_path / "folder"):
                pass


def test_a_lock_is_waited_for(tmp_path, capsys):
    with other_process.holding(tmp_path / "folder", create=tmp_path / "done") as process:
        other_process.release_soon(process)
        with lock(tmp_path / "folder", wait=True):
            assert (tmp_path / "done").exists()
    assert capsys.readouterr().err == (
        f"Waiting for another process that uses {tmp_path / 'folder'}.\n"
    )


class Pet(BaseModel):
    name: str
    legs: int = Field(ge=0)


def test_json_is_read_as_it_was_written(tmp_path):
    content = {"name": "Mïtzi", "legs": 4}
    write_json(tmp_path / "pet.json", content)
    assert read_json(tmp_path / "pet.json") == content
    assert read_json(tmp_path / "pet.json", Pet) == Pet(name="Mïtzi", legs=4)
    assert names_in(tmp_path) == {"pet.json"}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "Expected a file at .*, found none"),
        (b"", "not JSON, Expecting value"),
        (b'{"name": "Mitzi", "legs"', "not JSON"),
        (b'{"name": "\xff", "legs": 4}', "not JSON.*utf-8"),
        (b"[" * 100_000, "not JSON"),
        (b'{"name": "Mitzi"}', "legs is missing"),
        (
            b'{"name": "Mitzi", "legs": -1}',
            "legs should be greater than or equal to 0, received -1",
        ),
        (b'{"name": "a\\nb", "legs": "a\\nb"}', r"legs should be a valid integer.*'a\\nb'"),
        (b"[1]", "the content should be"),
    ],
)
def test_other_json_is_one_line_with_a_remedy(content, problem, tmp_path):
    path = tmp_path / "pet.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=rf"{problem}.*Buy another\.$") as caught:
        read_json(path, Pet, "Buy another.")
    assert str(caught.value).isprintable() and str(path) in str(caught.value)
