"""What makes the evidence: tables and figures of results, the ladder, benchmark and growth."""

import pathlib
import re
import shutil
import types

import benchmark
import growth
import keras
import ladder
import pytest
from conftest import MEASURED, METRICS, ROOT

import results
from catsdogs import cli, config
from catsdogs.evaluation.significance import summarize_seeds
from catsdogs.files import read_history, read_json, write_json
from catsdogs.stages.run import Metrics

PRESETS = {
    "scratch": config.SCRATCH,
    "feature_extract": config.FEATURE_EXTRACT,
    "finetune": config.FINETUNE,
}


# ---- Tables and figures ----


def write_metrics(folder, accuracy, stage="scratch", preset="best", settings=None, **changes):
    """Writes the metrics of an evaluated run; `settings` and `changes` replace some."""
    settings = vars(PRESETS[stage][preset]) | (settings or {})
    metrics = METRICS | {
        "stage": stage,
        "preset": preset,
        "variant": settings["augmentation"] if stage == "scratch" else settings["variant"],
        "image_size": settings.get("image_size", 320),
        "config": settings,
        "validation": MEASURED | {"accuracy": accuracy - 0.01},
        "test": MEASURED | {"accuracy": accuracy, "num_images": 1000},
    }
    write_json(folder / "metrics.json", metrics | changes)


def test_seeds_of_one_recipe_are_one_row(tmp_path):
    for seed, (accuracy, seconds) in enumerate([(0.98, 600), (0.99, 40), (0.985, 50)]):
        write_metrics(
            tmp_path / f"run-seed{seed}", accuracy, settings={"seed": seed}, wall_seconds=seconds,
            cold=seed == 0, warm=seed > 0, test_tta={"accuracy": 0.9 + seed / 50},
        )  # fmt: skip
    (row,) = results.summarize(tmp_path)
    assert row["accuracy"] == summarize_seeds([0.98, 0.99, 0.985], 1000)
    (line,) = results.full_table([row]).splitlines()[2:]
    for text in (
        "| **98.5 %** ± 0.5 (3 seeds) | 97.5 to 99.1 | 92.0 % | 97.5 % | 10.0 | 0.8 | 0.9 GiB |",
        "[2](../results/dogs-vs-cats/run-seed2/metrics.json)",
    ):
        assert text in line


def test_recipes_are_rows_of_their_own_from_scratch_first_then_by_accuracy(tmp_path):
    head = {"changes": {"epochs": 2, "seed": 1}}
    write_metrics(tmp_path / "tuned", 0.99, "finetune")
    write_metrics(tmp_path / "other-head", 0.97, "finetune", start=head)
    write_metrics(tmp_path / "best", 0.92)
    write_metrics(tmp_path / "shorter", 0.93, settings={"epochs": 50})
    write_metrics(tmp_path / "record", 0.83, preset="record")
    # Without augmentation there are no crops.
    write_metrics(tmp_path / "plain", 0.95, settings={"augmentation": "none", "crop_size": 8})
    rows = results.summarize(tmp_path)
    assert [(*row["runs"], row["label"]) for row in rows] == [
        ("record", "strong augmentation (record)"),
        ("best", "strong augmentation"),
        ("shorter", "strong augmentation, epochs 50"),
        ("plain", "no augmentation"),
        ("other-head", "vgg16, augmented views, head epochs 2"),
        ("tuned", "vgg16, augmented views"),
    ]


def test_runs_that_were_not_evaluated_are_left_out_unless_they_are_of_the_sweep(tmp_path):
    evaluated = {**METRICS, "test": MEASURED}
    runs = {"tiny/seen": evaluated, "tiny/unseen": METRICS, "tiny-sweep/unseen": METRICS}
    for run, metrics in runs.items():
        write_json(tmp_path / run / "metrics.json", metrics)
        (tmp_path / run / "history.csv").write_text("epoch,loss\n1,0.5\n")
        (tmp_path / run / "curves.png").write_bytes(b"png")
    added = tmp_path / "results"
    results.add_runs([tmp_path / run for run in runs], added)
    kept = {str(path.parent.relative_to(added)) for path in added.glob("*/*/metrics.json")}
    assert kept == {"tiny/seen", "tiny-sweep/unseen"}
    assert len(list(added.glob("*/*/*"))) == 6  # history and curves too


def test_the_evidence_is_what_the_code_reads():
    """Fails where a recorded name changes and the files under `results/` were not migrated."""
    paths = sorted((ROOT / "results").glob("*/*/metrics.json"))
    assert paths
    for path in paths:
        metrics, history = read_json(path, Metrics), read_history(path.parent)
        assert {len(values) for values in history.values()} == {metrics["config"]["epochs"]}


def test_committed_tables_are_made_from_the_evidence(tmp_path):
    """Fails when a table is changed by hand; `python benchmarks/results.py` restores it."""
    committed = {
        name: (ROOT / name).read_text("utf-8")
        for name in ("README.md", "docs/results.md", "docs/speed.md")
    }
    shutil.copytree(ROOT / "results", tmp_path / "results")
    (tmp_path / "docs").mkdir()
    for name, text in committed.items():
        changed = re.sub("\\|\n(<!-- .*: end)", r"by hand |\n\1", text)
        assert changed != text
        (tmp_path / name).write_text(changed, "utf-8")
    figures = [tmp_path / "results" / f"{name}.png" for name in ("ladder", "frontier", "growth")]
    for path in figures:
        path.unlink()
    results.update(tmp_path)
    for name, text in committed.items():
        assert (tmp_path / name).read_text("utf-8") == text
    assert all(path.is_file() for path in figures)


# ---- Ladder ----

STEPS = [ladder.Step("train_scratch", f"run-{i}", ("--seed", str(i))) for i in range(2)]


@pytest.fixture
def commands(monkeypatch):
    """Replaces the scripts: notes each command and leaves what a run would leave."""
    seen = []

    def run(command):
        script, *flags = command[1:]
        seen.append((pathlib.Path(script).stem, *flags))
        if "--run-dir" in flags:
            path = pathlib.Path(flags[flags.index("--run-dir") + 1], "metrics.json")
            if not path.exists():
                write_json(path, METRICS)
        for run_dir in flags if script.endswith("evaluate.py") else ():
            if run_dir != "--tta":
                write_json(pathlib.Path(run_dir, "metrics.json"), {**METRICS, "test": MEASURED})
        return types.SimpleNamespace(returncode=0)

    monkeypatch.setattr(ladder.subprocess, "run", run)
    return seen


def test_the_ladder_resumes_every_step_and_evaluates_each_once(commands, tmp_path):
    run_dirs = ladder.climb(STEPS, "data", tmp_path, tta=True)
    assert run_dirs == [tmp_path / "run-0", tmp_path / "run-1"]
    train = [
        (step.script, *step.flags, "--data-dir", "data", "--run-dir", str(run_dir), "--resume")
        for step, run_dir in zip(STEPS, run_dirs, strict=True)
    ]
    assert commands == [*train, ("evaluate", "--tta", *map(str, run_dirs))]
    commands.clear()
    ladder.climb(STEPS, "data", tmp_path)
    assert commands == train


def test_a_search_for_settings_does_not_open_the_test_split(commands, tmp_path):
    steps = [*STEPS, ladder.Step("finetune", "tuned", start="run-0")]
    ladder.climb(steps, "data", tmp_path, evaluate=False)
    assert [command[0] for command in commands] == ["train_scratch", "train_scratch", "finetune"]
    assert commands[-1][1:3] == ("--start", str(tmp_path / "run-0"))


def test_a_failed_step_ends_the_ladder_with_its_exit_code(tmp_path):
    with pytest.raises(SystemExit) as caught:
        ladder.climb([ladder.Step("train_scratch", "run", ("--no-such-flag",))], "data", tmp_path)
    assert caught.value.code == 2


@pytest.mark.parametrize("steps", [ladder.SMALL, ladder.FULL, ladder.SWEEP])
def test_every_step_has_known_flags_and_starts_from_an_earlier_one(steps, monkeypatch):
    seen = set()
    for step in steps:
        monkeypatch.setattr("sys.argv", [step.script, *step.flags])
        cli.parse_training(PRESETS[step.script.removeprefix("train_")], "")
        assert step.name not in seen and (step.start is None or step.start in seen)
        seen.add(step.name)


# ---- Benchmark and growth ----


def test_flops_of_a_convnet_by_hand():
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, padding="valid")(inputs)  # 6 x 6 x 4 outputs of 27 products
    x = keras.layers.Conv2D(2, 1, strides=2)(x)  # 3 x 3 x 2 outputs of 4
    assert benchmark.count_flops(keras.Model(inputs, x), 8) == 2 * (36 * 4 * 27 + 9 * 2 * 4)


@pytest.mark.slow
def test_growth_measures_every_step_by_itself(vgg16_weights):
    (row,) = growth.measure_growth([16])["rows"]
    assert row["num_images"] == 16
    assert all(row[step]["seconds"] > 0 for step in growth.STEPS)
    # Each process counts its own memory: this one and those with TensorFlow have far more.
    assert 20 < row["decode"]["peak_rss_mb"] < 200 < row["head"]["peak_rss_mb"]


@pytest.mark.slow
def test_the_quick_benchmark_runs(data_dir, vgg16_weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # In this process: starting others takes longer than what they measure here.
    monkeypatch.setattr(benchmark, "run_alone", lambda function, *args, **kw: function(*args, **kw))
    found = benchmark.run_benchmark(data_dir, quick=True)
    assert all(ratio > 0 for ratio in found["ratios"].values())
    assert found["augmentation"]["ratio"] > 2  # the fused warp is much faster than random layers
    assert not [*(tmp_path / "runs").iterdir()]
