"""The evidence: made-up metrics become the right table, and the committed one is current."""

import json
import statistics

import pytest
from conftest import MEASURED, METRICS, ROOT

import results
from catsdogs import config
from catsdogs.errors import InputError
from catsdogs.evaluation.significance import wilson_interval

README = "# Title\n\n<!-- results table: begin -->\nold\n<!-- results table: end -->\n\nMore.\n"
KEYS = {
    "stage", "preset", "variant", "dataset", "seeds", "test_accuracy", "val_accuracy",
    "wall_seconds", "peak_rss_mb", "hardware", "commit",
}  # fmt: skip
PRESETS = {
    "scratch": config.SCRATCH,
    "feature_extract": config.FEATURE_EXTRACT,
    "finetune": config.FINETUNE,
}


def write_metrics(
    root, name, accuracy, *, stage="scratch", preset="best", dataset="dogs-vs-cats", seed=0,
    image_size=144, seconds=60.0, cold=True, memory=900, start_changes=None, **changes,
):  # fmt: skip
    """Writes one run's evidence as `scripts/evaluate.py` leaves it."""
    settings = {**vars(PRESETS[stage][preset]), "seed": seed, **changes}
    variant = settings["augmentation"] if stage == "scratch" else settings["variant"]
    folder = root / "results" / dataset / name
    folder.mkdir(parents=True)
    metrics = {
        **METRICS, "stage": stage, "preset": preset, "variant": variant, "dataset": dataset,
        "image_size": image_size, "precision": "float32", "config": settings,
        "validation": {**MEASURED, "accuracy": accuracy - 0.01},
        "test": {**MEASURED, "accuracy": accuracy, "num_images": 1000},
        "cold": cold, "warm": not cold, "wall_seconds": seconds, "peak_rss_mb": memory,
    }  # fmt: skip
    if start_changes is not None:  # earlier versions wrote none
        metrics["start_changes"] = start_changes
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder


def test_seeds_of_one_recipe_are_one_row(tmp_path):
    for seed, (accuracy, seconds, cold) in enumerate(
        [(0.98, 600.0, True), (0.99, 40.0, False), (0.985, 50.0, False)]
    ):
        write_metrics(
            tmp_path, f"f{seed}", accuracy, stage="feature_extract", seed=seed, seconds=seconds,
            cold=cold, memory=900 + seed,
        )  # fmt: skip
    (row,) = results.summarize(tmp_path / "results")
    assert row.keys() >= KEYS
    assert (row["stage"], row["preset"], row["variant"]) == ("feature_extract", "best", "cached")
    assert row["seeds"] == [0, 1, 2]
    accuracy = row["test_accuracy"]
    assert accuracy["values"] == [0.98, 0.99, 0.985]
    assert accuracy["mean"] == pytest.approx(0.985)
    assert accuracy["std"] == pytest.approx(statistics.stdev([0.98, 0.99, 0.985]))
    assert accuracy["interval95"] == pytest.approx(wilson_interval(985, 1000))
    assert row["val_accuracy"] == pytest.approx(0.975)
    assert (row["wall_seconds"], row["warm_wall_seconds"]) == (600.0, 45.0)
    assert (row["peak_rss_mb"], row["commit"]) == (902, "abc")
    assert row["hardware"] == "2 cores, A Processor"
    assert row["evidence"] == [f"dogs-vs-cats/f{seed}" for seed in range(3)]
    json.dumps(row)


def test_recipes_are_kept_apart_and_in_order(tmp_path):
    write_metrics(tmp_path, "a", 0.99, stage="finetune", image_size=256)
    write_metrics(tmp_path, "larger", 0.991, stage="finetune", image_size=320, start="elsewhere")
    write_metrics(tmp_path, "b", 0.92)
    write_metrics(tmp_path, "c", 0.93, epochs=50)  # a setting of its own: another recipe
    write_metrics(tmp_path, "d", 0.83, preset="textbook")
    write_metrics(tmp_path, "e", 0.95, dataset="sketches")
    write_metrics(tmp_path, "f", 0.91, augmentation="none")
    rows = results.summarize(tmp_path / "results")
    assert [row["evidence"][0] for row in rows] == [
        "dogs-vs-cats/d", "dogs-vs-cats/f", "dogs-vs-cats/b", "dogs-vs-cats/c", "sketches/e",
        "dogs-vs-cats/a", "dogs-vs-cats/larger",
    ]  # fmt: skip
    assert rows[3]["settings"] == {"epochs": 50} and rows[2]["settings"] == {}
    assert rows[0]["test_accuracy"]["std"] is None


def test_fine_tunings_from_heads_of_different_recipes_are_not_averaged(tmp_path):
    tune = {"stage": "finetune", "image_size": 320}
    write_metrics(tmp_path, "earlier", 0.99, **tune)
    write_metrics(tmp_path, "plain", 0.992, seed=1, start_changes={}, **tune)
    # One head for several seeds is the same recipe.
    write_metrics(tmp_path, "shared", 0.991, seed=2, start_changes={"seed": 0}, **tune)
    write_metrics(tmp_path, "poor", 0.95, seed=3, start_changes={"epochs": 2}, **tune)
    rows = results.summarize(tmp_path / "results")
    assert [row["seeds"] for row in rows] == [[0, 1, 2], [3]]
    assert [row["settings"] for row in rows] == [{}, {"start_epochs": 2}]
    assert "start epochs 2" in results.readme_with_table(README, rows)
    write_metrics(tmp_path, "broken", 0.9, start_changes=["epochs"], **tune)
    with pytest.raises(InputError, match=r"start_changes is .*, not an object"):
        results.summarize(tmp_path / "results")


def test_table_states_every_row_and_links_its_evidence(tmp_path):
    write_metrics(tmp_path, "tuned0", 0.99, stage="finetune", seed=0, memory=3210, seconds=612.0)
    write_metrics(tmp_path, "tuned1", 0.992, stage="finetune", seed=1, seconds=12.0, cold=False)
    write_metrics(tmp_path, "drawn", 0.95, dataset="sketches", batch_size=64)
    readme = results.readme_with_table(README, results.summarize(tmp_path / "results"))
    assert readme.startswith("# Title\n") and readme.endswith("\n\nMore.\n")
    assert "\nold\n" not in readme
    header, rule, drawn, tuned = [line for line in readme.splitlines() if line.startswith("|")]
    assert header.count("|") == rule.count("|") == drawn.count("|") == tuned.count("|")
    assert "on sketches" in drawn and "batch size 64" in drawn and "**95.0 %**" in drawn
    assert "**99.1 %** ± 0.1" in tuned and "10.2" in tuned and "0.2" in tuned and "3.1 GiB" in tuned
    assert "[0](results/dogs-vs-cats/tuned0/metrics.json)" in tuned
    assert "[1](results/dogs-vs-cats/tuned1/metrics.json)" in tuned
    # Making it again changes nothing.
    assert results.readme_with_table(readme, results.summarize(tmp_path / "results")) == readme


def test_a_seed_counts_once(tmp_path):
    write_metrics(tmp_path, "a", 0.9)
    write_metrics(tmp_path, "a-2", 0.9)
    with pytest.raises(InputError, match="one run a seed"):
        results.summarize(tmp_path / "results")


@pytest.mark.parametrize("readme", ["# No markers\n", README + README])
def test_readme_needs_the_markers_once(readme):
    with pytest.raises(InputError, match="once each in the README"):
        results.readme_with_table(readme, [])


def test_update_writes_all_three_even_without_a_cold_run(tmp_path):
    write_metrics(tmp_path, "warm", 0.99, stage="feature_extract", cold=False)
    write_metrics(tmp_path, "cold", 0.92)
    (tmp_path / "README.md").write_text(README)
    results.update(tmp_path)
    summary = json.loads((tmp_path / "results" / "summary.json").read_text())
    assert summary == results.summarize(tmp_path / "results")
    assert {row["wall_seconds"] for row in summary} == {None, 60.0}
    readme = (tmp_path / "README.md").read_text()
    assert results.readme_with_table(readme, summary) == readme and "99.0 %" in readme
    assert (tmp_path / "results" / "ladder.png").stat().st_size > 1000


def write_run(folder, metrics):
    """Writes a run folder, as far as it becomes evidence."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"stage": "scratch", "data_dir": "x", "smoke": false}')
    (folder / "history.csv").write_text("epoch,loss\n1,0.5\n")
    (folder / "curves.png").write_bytes(b"png")
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder


def test_two_runs_of_one_name_are_not_added(tmp_path, monkeypatch):
    metrics = {**METRICS, "test": MEASURED}
    first = write_run(tmp_path / "a" / "seed0", metrics)
    second = write_run(tmp_path / "b" / "seed0", metrics)
    elsewhere = write_run(tmp_path / "c" / "seed0", {**metrics, "dataset": "other"})
    with pytest.raises(InputError, match=r"one run a name, received .*a/seed0 and .*b/seed0\. Ren"):
        results.add_runs([first, elsewhere, second], tmp_path / "results")
    assert not (tmp_path / "results").exists()
    monkeypatch.chdir(first)
    results.add_runs([".", first, elsewhere], tmp_path / "results")  # the same one twice is one
    found = sorted(str(path.parent) for path in (tmp_path / "results").rglob("metrics.json"))
    assert found == [str(tmp_path / "results" / name / "seed0") for name in ("other", "tiny")]


def test_only_evaluated_runs_are_added(tmp_path):
    evaluated = json.loads((write_metrics(tmp_path, "x", 0.9) / "metrics.json").read_text())
    run_dir = write_run(tmp_path / "runs" / "scratch", evaluated)
    unseen = {name: value for name, value in evaluated.items() if name != "test"}
    (run_dir / "metrics.json").write_text(json.dumps(unseen))
    with pytest.raises(InputError, match=r"no test figures.*evaluate\.py"):
        results.add_runs([run_dir], tmp_path / "results")
    smoke = {**evaluated, "config": {**evaluated["config"], "smoke": True}}
    (run_dir / "metrics.json").write_text(json.dumps(smoke))
    with pytest.raises(InputError, match="made with --smoke"):
        results.add_runs([run_dir], tmp_path / "results")
    (run_dir / "metrics.json").write_text(json.dumps(evaluated))
    results.add_runs([run_dir], tmp_path / "results")
    added = tmp_path / "results" / "dogs-vs-cats" / "scratch"
    assert sorted(p.name for p in added.iterdir()) == ["curves.png", "history.csv", "metrics.json"]


def test_committed_summary_and_readme_agree_with_the_evidence():
    """Fails whenever a figure is changed by hand; `benchmarks/update_results.py` makes it right."""
    evidence = sorted((ROOT / "results").glob("*/*/metrics.json"))
    summary_path = ROOT / "results" / "summary.json"
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    if not evidence:
        assert not summary_path.exists(), "a summary of nothing"
        assert "| **" not in readme, "figures without evidence"
        return
    summary = results.summarize(ROOT / "results")
    remedy = "run python benchmarks/update_results.py"
    assert json.loads(summary_path.read_text(encoding="utf-8")) == summary, remedy
    assert results.readme_with_table(readme, summary) == readme, remedy
    for path in evidence:
        assert {"metrics.json", "history.csv", "curves.png"} <= {
            file.name for file in path.parent.iterdir()
        }
