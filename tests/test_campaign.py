"""The counting of injected faults itself: a fault that is not survived must be seen."""

import json

import pytest
from campaign import Campaign


def test_what_is_lost_is_counted_and_raised(tmp_path):
    campaign = Campaign(tmp_path / "sub" / "torture.json")
    with campaign.fault("disk full"):
        pass
    with pytest.raises(AssertionError), campaign.fault("disk full"):
        raise AssertionError
    campaign.write({"commit": "abc"})
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


def test_sizes_and_moments_of_the_two_commands(tmp_path):
    fast, full = Campaign(None), Campaign(tmp_path / "torture.json")
    assert (fast.size(1, 20), full.size(1, 20)) == (1, 20)
    assert fast.random("a").random() == fast.random("a").random() != fast.random("b").random()
    assert full.random("a").random() == full.random("a").random() != fast.random("a").random()
