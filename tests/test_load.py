"""Many pictures: memory that does not grow with their number."""

import itertools
import os
import pathlib
import subprocess
import sys

import keras
import pytest
from conftest import ROOT
from PIL import Image

from catsdogs.files import read_json
from catsdogs.models import networks as models
from catsdogs.models.model_file import save_model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """An untrained model of small pictures, as its file."""
    keras.utils.set_random_seed(0)
    path = tmp_path_factory.mktemp("model") / "model.keras"
    small = models.build_textbook_convnet(46)
    save_model(small, path, classes=("cat", "dog"), image_size=46, temperature=1.0)
    return path


@pytest.fixture
def pictures(pictures, tmp_path):
    """Four small JPEG files."""
    (tmp_path / "originals").mkdir()
    for number, path in enumerate(sorted(pictures.glob("*/*.png"))[::32]):
        with Image.open(path) as image:
            image.save(tmp_path / "originals" / f"{number}.jpg")
    return sorted((tmp_path / "originals").iterdir())


def memory_mb(pid):
    """What a process holds now, in MiB."""
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def predict_many(number, *words, **options):
    """Runs the script; returns the answers' files, and its memory at 10 % and near the end."""
    command = [sys.executable, ROOT / "scripts" / "predict.py", *words, "--csv"]
    files, memory = [], {}
    with subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        **options,
    ) as process:  # fmt: skip
        for done, line in enumerate(process.stdout):  # the first line is the header
            files.append(line.partition(",")[0])
            if done in (number // 10, number * 95 // 100):
                memory[done] = memory_mb(process.pid)
    assert process.returncode == 0
    return files[1:], list(memory.values())


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs Linux")
def test_predicting_any_number_in_constant_memory(model, pictures, tmp_path, campaign):
    listed, linked = campaign.size((300, 100), (100_000, 25_000))
    files = list(itertools.islice(itertools.cycle(map(str, pictures)), listed))
    (tmp_path / "list").write_text("\n".join(files))
    folder = tmp_path / "many"
    for place in range(linked):
        link = folder / f"{place % 7}" / f"{place:06}.jpg"
        link.parent.mkdir(parents=True, exist_ok=True)
        os.link(pictures[place % len(pictures)], link)
    files += sorted(map(str, folder.rglob("*.jpg")))
    with campaign.fault("pictures by the ten thousand: all answered, in memory that does not grow"):
        with open(tmp_path / "list") as stdin:
            answered, (early, late) = predict_many(len(files), model, "-", folder, stdin=stdin)
        assert answered == files
        assert late - early < 40, f"{early:.0f} MiB after a tenth, {late:.0f} near the end"


def test_preparing_and_training_were_measured_not_to_grow():
    """What the README says of the committed measurement."""
    rows = {row["num_images"]: row for row in read_json(ROOT / "results" / "growth.json")["rows"]}
    most = max(rows)
    assert most >= 25_000
    # kB of each picture: its name and pooled features; `prepare` compares all with each other.
    kept = {"prepare": 30, "decode": 6, "extract": 6, "head": 6, "convnet": 6}
    for step, most_kept in kept.items():
        assert rows[most][step]["peak_rss_mb"] < 2500
        grown = rows[most][step]["peak_rss_mb"] - rows[4000][step]["peak_rss_mb"]
        assert 1024 * grown / (most - 4000) < most_kept
