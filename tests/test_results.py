"""The evidence: made-up metrics become the right table, and the committed tables are current."""

import json
import shutil
import statistics

import pytest
from conftest import MEASURED, METRICS, ROOT

import results
from catsdogs import config
from catsdogs.evaluation.significance import wilson_interval
from catsdogs.files import read_history, read_json
from catsdogs.stages.run import Metrics

EVIDENCE = sorted((ROOT / "results").glob("*/*/metrics.json"))
PRESETS = {
    "scratch": config.SCRATCH,
    "feature_extract": config.FEATURE_EXTRACT,
    "finetune": config.FINETUNE,
}


def write_metrics(
    folder, accuracy, *, stage="scratch", preset="best", seed=0, cold=True, seconds=60.0,
    head_changes=None, **changes,
):  # fmt: skip
    """Writes one run's metrics as `scripts/evaluate.py` leaves them."""
    settings = {**vars(PRESETS[stage][preset]), "seed": seed, **changes}
    metrics = {
        **METRICS,
        "stage": stage,
        "preset": preset,
        "variant": settings["augmentation"] if stage == "scratch" else settings["variant"],
        "image_size": settings.get("image_size", 320),
        "config": settings,
        "validation": {**MEASURED, "accuracy": accuracy - 0.01},
        "test": {**MEASURED, "accuracy": accuracy, "num_images": 1000},
        "cold": cold,
        "warm": not cold,
        "wall_seconds": seconds,
    }
    if stage == "finetune":
        metrics["start"] = {"changes": head_changes or {}}
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps(metrics))


def test_seeds_of_one_recipe_are_one_row(tmp_path):
    values = [0.98, 0.99, 0.985]
    for seed, (accuracy, seconds) in enumerate(zip(values, (600, 40, 50), strict=True)):
        write_metrics(
            tmp_path / f"tuned-seed{seed}", accuracy, stage="finetune", seed=seed,
            seconds=seconds, cold=seed == 0,
        )  # fmt: skip
    (row,) = results.summarize(tmp_path)
    assert row["accuracy"]["values"] == values
    assert row["accuracy"]["std"] == pytest.approx(statistics.stdev(values))
    assert row["accuracy"]["interval95"] == pytest.approx(wilson_interval(985, 1000))
    assert (row["cold_seconds"], row["cached_seconds"]) == (600, 45)
    assert row["hardware"] == "2 cores, A Processor"
    (line,) = results.full_table([row]).splitlines()[2:]
    for text in ("**98.5 %** ± 0.5 (3 seeds)", "97.5 %", "10.0", "/tuned-seed2/metrics.json"):
        assert text in line


def test_recipes_are_kept_apart_and_in_order(tmp_path):
    write_metrics(tmp_path / "a", 0.99, stage="finetune")
    write_metrics(tmp_path / "b", 0.97, stage="finetune", seed=1, head_changes={"epochs": 2})
    write_metrics(tmp_path / "c", 0.92)
    write_metrics(tmp_path / "d", 0.93, seed=1, epochs=50)
    write_metrics(tmp_path / "e", 0.83, preset="record")
    write_metrics(tmp_path / "f", 0.95, augmentation="none", crop_size=8)
    rows = results.summarize(tmp_path)
    assert [row["runs"] for row in rows] == [("e",), ("c",), ("d",), ("f",), ("b",), ("a",)]
    assert [row["label"].partition(", ")[2] for row in rows] == [
        "", "", "epochs 50", "", "head epochs 2", "",
    ]  # fmt: skip
    assert rows[0]["label"].endswith("(record)")


def test_only_evaluated_runs_are_added(tmp_path, capsys):
    for name, metrics in (("seen", {**METRICS, "test": MEASURED}), ("unseen", METRICS)):
        run_dir = tmp_path / name
        run_dir.mkdir()
        (run_dir / "metrics.json").write_text(json.dumps(metrics))
        (run_dir / "history.csv").write_text("epoch,loss\n1,0.5\n")
        (run_dir / "curves.png").write_bytes(b"png")
    results.add_runs([tmp_path / "seen", tmp_path / "unseen"], tmp_path / "results")
    assert capsys.readouterr().out == f"Left out, not evaluated: {tmp_path / 'unseen'}\n"
    (added,) = (tmp_path / "results" / "tiny").iterdir()
    assert {path.name for path in added.iterdir()} == {"metrics.json", "history.csv", "curves.png"}


@pytest.mark.parametrize("path", EVIDENCE, ids=lambda path: path.parent.name)
def test_evidence_is_read_like_any_run(path):
    read_json(path, Metrics)
    history = read_history(path.parent)
    assert len(history["val_loss"]) == read_json(path)["config"]["epochs"]


def test_committed_tables_agree_with_the_evidence(tmp_path):
    """Fails when a figure is changed by hand; `python benchmarks/results.py` makes it right."""
    for name in ("results", "docs"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "README.md", tmp_path)
    figures = [tmp_path / "results" / f"{name}.png" for name in ("ladder", "frontier", "growth")]
    for path in figures:
        path.unlink()
    results.update(tmp_path)
    for name in ("README.md", "docs/results.md"):
        assert (tmp_path / name).read_text() == (ROOT / name).read_text()
    assert all(path.stat().st_size > 1000 for path in figures)
