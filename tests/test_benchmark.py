"""What measures: the pieces count right, a benchmark runs whole, growth goes on after a stop."""

import json
import subprocess
import sys
import types

import benchmark
import growth
import keras
import measure
import pytest
from conftest import ROOT
from flops import count_flops
from frontier_plot import plot_frontier
from PIL import Image
from test_plots import texts_of

from catsdogs.errors import InputError
from catsdogs.files import read_json, write_json
from catsdogs.models.networks import build_textbook_convnet
from catsdogs.processes import run_python


def test_flops_of_a_convnet_counted_by_hand():
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, padding="valid")(inputs)  # 6 x 6 x 4 outputs of 27 products
    x = keras.layers.Conv2D(2, 1, strides=2)(x)  # 3 x 3 x 2 outputs of 4
    model = keras.Model(inputs, x)
    assert count_flops(model, 8) == 2 * (36 * 4 * 27 + 9 * 2 * 4)
    assert count_flops(build_textbook_convnet(150), 150) > 2e8


@pytest.mark.slow
def test_the_fused_warp_is_five_times_as_fast():
    assert measure.measure_augmentation(image_size=150, num_images=320)["ratio"] >= 5


def test_a_process_has_its_own_time_and_memory():
    code = """
import sys, time
from catsdogs.stages import environment
time.sleep(0.3)
before = environment.peak_memory_mb()
block = bytearray(200 << 20)
block[::4096] = block[::4096]
print(before, environment.peak_memory_mb())
"""
    finished = run_python("-c", code)
    before, after = map(int, finished.output.split())
    assert finished.seconds >= 0.3
    # This process holds TensorFlow: its own memory must not pass for that of one it starts.
    assert before < 100 and 200 <= after - before < 220


def test_a_process_that_fails_is_told_of(capfd):
    with pytest.raises(InputError, match="Expected that to end well, received exit code 7"):
        run_python("-c", "print('the reason'); raise SystemExit(7)", name="that")
    assert capfd.readouterr().out == "the reason\n"


def make_point(**changed):
    point = {
        "stage": "scratch", "label": "144²", "minutes": 12.0, "accuracy": 0.93,
        "interval95": (0.91, 0.94),
    }  # fmt: skip
    return {**point, **changed}


def test_frontier_shows_every_point_and_the_upper_edge():
    points = [
        make_point(),
        make_point(stage="finetune", label="dear", minutes=9, accuracy=0.99),
        make_point(stage="feature_extract", label="128²", minutes=1, accuracy=0.95),
    ]
    book = [{"label": "book's convnet", "minutes": 200.0, "accuracy": 0.835}]
    figure = plot_frontier(points, book)
    for text in ("144²", "dear", "128²", "book's convnet", "2 h", "from scratch", "99 %"):
        assert text in texts_of(figure)
    edge = figure.axes[0].lines[0].get_xdata()
    assert list(edge) == [1, 9]  # the convnet takes longer than fine-tuning for less


ENVIRONMENT = {"commit": "abc", "packages": {}, "processor": "A Processor", "cores": 2}


@pytest.fixture
def counted(monkeypatch):
    """Growth at commit abc without its slow parts: a list of the steps that were taken."""
    steps = []

    def take(*words, name):
        steps.append(name)
        return types.SimpleNamespace(output="100", seconds=1.0)

    def draw(folder, *, per_class):
        for name in ("cat", "dog"):
            (folder / name).mkdir(parents=True)
            for index in range(per_class):
                Image.new("RGB", (8, 8)).save(folder / name / f"{name}.{index}.jpg")

    monkeypatch.setattr(growth.environment, "describe_environment", lambda: ENVIRONMENT)
    monkeypatch.setattr(growth, "run_python", take)
    monkeypatch.setattr(growth, "write_sketches", draw)
    return steps


def test_growth_leaves_the_users_folders_alone(counted, tmp_path):
    mine = [tmp_path / name for name in ("pictures/cat/1.jpg", "pictures/dog/1.jpg", "16/letter")]
    for path in mine:
        path.parent.mkdir(parents=True)
        path.write_text("mine")
    growth.measure_growth(tmp_path, [16])
    assert [path.read_text() for path in mine] == ["mine"] * 3
    assert {path.name for path in tmp_path.iterdir()} == {
        "16", "pictures", "growth.json", "growth-files",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["growth-files", "growth-files/pictures/cat/1.jpg"])
def test_growth_takes_no_folder_that_it_has_not_made(name, counted, tmp_path):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("mine")
    with pytest.raises(InputError, match="growth-files, or what this command has made"):
        growth.measure_growth(tmp_path, [16])
    assert path.read_text() == "mine" and counted == []


@pytest.mark.parametrize("content", [{}, {"environment": ENVIRONMENT, "rows": [{}]}])
def test_growth_refuses_a_record_of_other_content(content, counted, tmp_path):
    write_json(tmp_path / "growth.json", content)
    with pytest.raises(InputError, match=r"growth\.json as this version.*another --folder"):
        growth.measure_growth(tmp_path, [16])
    assert read_json(tmp_path / "growth.json") == content and counted == []


@pytest.mark.parametrize("commit, times", [("abc", 1), (None, 2), ("abc+changes", 2)])
def test_growth_goes_on_only_with_figures_of_the_same_code(
    commit, times, counted, tmp_path, monkeypatch
):
    monkeypatch.setitem(ENVIRONMENT, "commit", commit)
    for _ in range(2):
        found = growth.measure_growth(tmp_path, [16])
        assert [row["num_images"] for row in found["rows"]] == [16]
    assert counted == ["prepare", "decode", "extract", "head", "convnet"] * times


@pytest.mark.slow
def test_growth_measures_each_step_and_goes_on(vgg16_weights, tmp_path, monkeypatch):
    monkeypatch.setattr(growth.environment, "describe_environment", lambda: ENVIRONMENT)
    found = growth.measure_growth(tmp_path, [16])
    rows = found["rows"]
    assert [row["num_images"] for row in rows] == [16]
    steps = set(rows[0]) - {"num_images"}
    assert steps == {"prepare", "decode", "extract", "head", "convnet"}
    each = [row[step] for row in rows for step in steps]
    assert all(one["seconds"] > 0 and one["peak_rss_mb"] > 20 for one in each)
    assert json.loads((tmp_path / "growth.json").read_text()) == found
    work = tmp_path / "growth-files"
    pictures = sorted(work.glob("pictures/*/*.jpg"))
    assert [path.parent.name for path in pictures] == ["cat"] * 12 + ["dog"] * 12
    assert not (work / "16").exists()
    text = texts_of(growth.plot_growth(rows))
    assert "Peak memory" in text and "train a head" in text
    monkeypatch.setattr(growth, "run_python", None)  # nothing is measured or drawn twice
    monkeypatch.setattr(growth, "write_sketches", None)
    assert growth.measure_growth(tmp_path, [16]) == found
    # Figures of other code are not taken for this one's.
    monkeypatch.setitem(ENVIRONMENT, "commit", "another")
    with pytest.raises(TypeError):
        growth.measure_growth(tmp_path, [16])


@pytest.mark.slow
def test_the_quick_benchmark_runs_whole(data_dir, vgg16_weights, tmp_path, capsys):
    command = [ROOT / "scripts" / "benchmark.py", "--quick", "--data-dir", data_dir]
    command += ["--output", tmp_path / "found.json", "--runs-dir", tmp_path / "runs"]
    subprocess.run([sys.executable, *map(str, command)], check=True)
    found = read_json(tmp_path / "found.json")
    assert found["quick"] and found["images"]["train"] == 64
    assert [base["precision"] for base in found["base"]][-1] == "float32"
    assert set(found["book"]) == {"scratch", "feature_extract", "finetune"}
    cold = {name for name, stage in found["stages"].items() if stage["cold"]}
    assert cold == {"fine-tuning, cold", "features, cold, within fine-tuning", "scratch"}
    assert all(ratio > 0 for ratio in found["ratios"].values())
    assert found["prediction"]["fine-tuning, cold"]["one_warm_milliseconds"] > 0
    assert not list((tmp_path / "runs").glob("*/data")), "the linked pictures are left behind"
    benchmark.print_benchmark(found)
    assert "book's features, 50 epochs" in capsys.readouterr().out
