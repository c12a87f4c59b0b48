"""The counting of injected faults itself: a fault that is not survived must be seen."""

import json
import os
import subprocess
import sys

import pytest
from campaign import Campaign
from conftest import ROOT

TWICE = """
import datetime

import pytest

@pytest.mark.parametrize("number", range(2))
def test_both(campaign, number):
    campaign.note(f"seeds {number}", campaign.seed)
    campaign.note("time", datetime.datetime.now(datetime.UTC).isoformat())
    with campaign.fault("p"):
        pass
"""


def test_what_is_lost_is_counted_and_raised(tmp_path):
    campaign = Campaign(tmp_path / "sub" / "torture.json", environment={"commit": "abc"})
    with campaign.fault("disk full"):
        pass
    with pytest.raises(AssertionError), campaign.fault("disk full"):
        raise AssertionError
    campaign.write()
    written = json.loads(campaign.report.read_text())
    assert written["campaigns"] == [
        {"promise": "disk full", "injected": 2, "survived": 1, "lost": 1}
    ]
    header, *_, total = campaign.describe()
    assert header.split() == ["injected", "survived", "lost"]
    assert total.split() == ["all", "2", "1", "1"]
    campaign.survive("disk full", 3)
    campaign.note("answers", "p50 1 s")
    *_, total, note = campaign.describe()
    assert total.split() == ["all", "5", "4", "1"] and note == "answers: p50 1 s"
    together = Campaign(None)
    for _ in range(2):
        together.add(campaign.rows, campaign.notes)
    assert together.table() == [{"promise": "disk full", "injected": 10, "survived": 8, "lost": 2}]
    assert together.notes == campaign.notes


def test_what_several_processes_count_is_written_together(tmp_path):
    """In processes of their own, since this one has its campaign already."""
    (tmp_path / "test_twice.py").write_text(TWICE)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "campaign", "-c", os.devnull]
    command += ["-n", "2", "--torture", "torture.json", f"--rootdir={tmp_path}"]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "tests")}
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
    written = json.loads((tmp_path / "torture.json").read_text())
    assert written["campaigns"] == [{"promise": "p", "injected": 2, "survived": 2, "lost": 0}]
    assert written["environment"]["started"] < written["notes"].pop("time")
    assert written["notes"] == {"seeds 0": written["seed"], "seeds 1": written["seed"]}


def test_make_torture_starts_where_a_table_lies_already():
    """Without the equals sign pytest takes a file that exists for a test, and knows no option."""
    lines = (ROOT / "Makefile").read_text(encoding="utf-8").splitlines()
    (words,) = [line.split() for line in lines if "--torture" in line]
    command = [sys.executable, *words[1:], "--collect-only"]
    collected = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    assert "test_kill_and_resume.py" in collected.stdout


def test_the_readme_says_what_the_last_table_says():
    found = json.loads((ROOT / "results" / "torture.json").read_text(encoding="utf-8"))
    injected = sum(row["injected"] for row in found["campaigns"])
    assert not any(row["lost"] for row in found["campaigns"])
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert f"(results/torture.json) {injected:,}, none with a loss" in readme
    (latency,) = found["notes"].values()  # "p50 1.0 s, p99 2.0 s"
    _, half, _, _, almost_all, _ = latency.split()
    assert f"within {half} seconds and 99 % within {almost_all}," in readme


def test_sizes_and_moments_of_the_two_commands(tmp_path):
    fast, full = Campaign(None), Campaign(tmp_path / "torture.json", seed=1)
    assert (fast.size(1, 20), full.size(1, 20)) == (1, 20)
    assert fast.random("a").random() == fast.random("a").random() != fast.random("b").random()
    assert full.random("a").random() == full.random("a").random() != fast.random("a").random()
