"""Full and read-only disks, real ones: one line, and what was there is there still.

The test starts this file as a program in a mount namespace of its own, with a small disk in memory,
where commands run with too little room of random size.
"""

import contextlib
import functools
import json
import os
import pathlib
import random
import re
import shutil
import subprocess
import sys

import pytest
from attempts import ROOT, finish, left_in, start

RUN = ["--data-dir", "data", "--run-dir", "run", "--resume"]
SIZES = ["--validation", "32", "--test", "32", "--data-dir", "data"]
PREPARE = ["prepare_data.py", "--folder", "pictures", *SIZES]
SCRATCH = ["train_scratch.py", *RUN, "--smoke", "--architecture", "textbook"]
EXTRACT = ["train_feature_extract.py", *RUN, "--smoke"]
EVALUATE = ["evaluate.py", "run"]
EXPORT = ["export.py", "run", "--output", "exported"]
# What is there before, what meets the fault, and which files and folders it may leave unfinished.
COMMANDS = {
    "prepare": ([[*PREPARE, "--train", "64"]], [*PREPARE, "--train", "32", "--overwrite"], ()),
    "scratch": ([], SCRATCH, ("data/decoded", "run")),
    "extraction": ([], EXTRACT, ("data/decoded", "data/features", "run")),
    "evaluate": ([SCRATCH, EVALUATE], [*EVALUATE, "--tta"], ()),
    "export": (
        [SCRATCH, [*EXPORT, "--format", "litert"]], [*EXPORT, "--format", "savedmodel"], (),
    ),
}  # fmt: skip
MEGABYTES = {"extraction": 150}  # of the disk: its model has VGG16 within
slow = pytest.mark.slow


@functools.cache
def namespace():
    """The words that start a program in a mount namespace of its own, or `None`."""
    for words in (["unshare", "--mount"], ["unshare", "--user", "--map-root-user", "--mount"]):
        with contextlib.suppress(OSError):
            trial = [*words, "mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", "/mnt"]
            if subprocess.run(trial, capture_output=True).returncode == 0:
                return words
    return None


@pytest.mark.parametrize(
    "name", ["prepare", *(pytest.param(name, marks=slow) for name in [*COMMANDS][1:])]
)
def test_full_and_read_only_disks(name, pictures, data_dir, vgg16_weights, campaign, tmp_path):
    if namespace() is None:
        pytest.skip("neither root nor a user namespace may mount a disk here")
    disk = tmp_path / "disk"
    disk.mkdir()
    if name != "prepare":
        ignored = shutil.ignore_patterns("decoded", "features", ".*")
        shutil.copytree(data_dir, tmp_path / "fresh" / "data", ignore=ignored)
    number = campaign.size(2, 20 if name == "prepare" else 8)
    seed = campaign.random(name).random()
    mount = f'mount -t tmpfs -o size={MEGABYTES.get(name, 24)}m tmpfs "$0" && exec "$@"'
    program = [sys.executable, __file__, name, pictures, str(seed), str(number)]
    done = subprocess.run(
        [*namespace(), "bash", "-c", mount, disk, *program],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    for kind in json.loads(done.stdout):
        with campaign.fault(f"{kind} disk: one line, nothing lost, the next attempt succeeds"):
            pass


def inside(name, pictures, seed, number):
    """Runs in the namespace, beside `disk`.

    Args:
        name: A key of `COMMANDS`.
        pictures: Folder of pictures.
        seed: Decides how much room there is.
        number: How often there is too little.

    Returns:
        The kinds of the faults that were injected.
    """
    earlier, command, may_be_left = COMMANDS[name]
    disk, before, rng = pathlib.Path("disk"), pathlib.Path("before"), random.Random(seed)
    work, ballast = disk / "work", disk / "ballast"
    if pathlib.Path("fresh").exists():
        shutil.copytree("fresh", work)
    work.mkdir(exist_ok=True)
    (work / "pictures").symlink_to(pictures)
    for one in earlier:
        assert attempt(work, one)[0] == 0
    shutil.copytree(work, before, symlinks=True)
    at_first = free(disk)
    code, said = attempt(work, command)
    assert code == 0, said
    expected, needed = comparable(work), at_first - free(disk)

    faults = []
    while len(faults) < number:
        restore(before, work)
        # Unfinished files may need more room than what is left in the end: then it is enough.
        room = rng.randrange(max(1, needed)) if len(faults) != 1 else 0
        with ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, free(disk) - room))
        code, said = attempt(work, command)
        ballast.unlink()
        if code:
            check_refusal(command, code, said, "No space left on device")
            now = left_in(work)
            assert {path: now.get(path) for path in left_in(before)} == left_in(before)
            new = now.keys() - left_in(before).keys()
            assert all(path.startswith(may_be_left) for path in new), new
            faults.append("full")
            code, said = attempt(work, command)
        assert code == 0, said
        assert comparable(work) == expected

    restore(before, work)
    # A mount of the same folder over itself, since root may write whatever the permissions say.
    subprocess.run(["mount", "--bind", disk, disk], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", disk], check=True)
    check_refusal(command, *attempt(work, command), "Read-only file system")
    assert left_in(work) == left_in(before)
    subprocess.run(["umount", "--lazy", disk], check=True)
    return [*faults, "read-only"]


def attempt(work, command):
    """Exit code of a command, and what it printed."""
    os.chdir(work)
    try:
        return finish(*start(command))
    finally:
        os.chdir("../..")


def restore(before, work):
    shutil.rmtree(work)
    shutil.copytree(before, work, symlinks=True)


def comparable(work):
    """What a command leaves, but for the bytes of exported models, which hold addresses."""
    return {
        name: None if name.startswith("exported") else content
        for name, content in left_in(work).items()
    }


def check_refusal(command, code, said, problem):
    *_, line = said.splitlines()
    assert code == 2 and "Traceback" not in said, said
    assert re.match(rf"{command[0].removesuffix('.py')}: .*{problem}", line), said


def free(disk):
    """Bytes."""
    found = os.statvfs(disk)
    return found.f_bavail * found.f_bsize


def test_output_that_cannot_be_written_is_reported(data_dir, tmp_path):
    """`> answers.csv` on a full disk: Python itself would notice only at its end."""
    command = [sys.executable, ROOT / "scripts" / "prepare_data.py", "--sketches"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*command, "--train", "2", "--validation", "2", "--test", "2"],
            cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    assert done.returncode == 2, done.stderr
    check_refusal(["prepare_data.py"], done.returncode, done.stderr, "No space left on device")


if __name__ == "__main__":
    name, pictures, seed, number = sys.argv[1:]
    if name != "prepare":
        import catsdogs.stages.finetune
    import catsdogs.cli  # noqa: F401

    print(json.dumps(inside(name, pictures, float(seed), int(number))))
