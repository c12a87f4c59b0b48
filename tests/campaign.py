"""Counting injected faults: a few of each in the tests, many in `make torture`.

A test that injects faults takes the fixture `campaign`, asks it how many there are to be, and
injects each within `campaign.fault`. With `--torture=PATH` only those tests run, at full size; what
came of it is printed as a table and written to PATH.
"""

import contextlib
import json
import os
import pathlib
import random
import time

import hypothesis
import pytest


class Campaign:
    """What is injected and what becomes of it.

    Args:
        torture: Whether to inject many faults at new random places.
        seed: Decides these places.
    """

    def __init__(self, torture=False, seed=0):
        self.torture, self._seed = torture, seed
        self.rows = {}

    def size(self, fast, full):
        """How many faults to inject: `fast` in the tests, `full` in `make torture`."""
        return full if self.torture else fast

    def random(self, name):
        """A `random.Random` for a test: the same in every `make test`, new in `make torture`."""
        return random.Random(f"{name} {self._seed}")

    @contextlib.contextmanager
    def fault(self, promise):
        """Injects one fault within the block, which raises if what was promised does not hold.

        Args:
            promise: The row of the table that it counts in.
        """
        row = self.rows.setdefault(promise, {"injected": 0, "survived": 0})
        row["injected"] += 1
        yield
        row["survived"] += 1


class Table:
    """Sums up what the tests report, from all processes of pytest-xdist, and writes it."""

    def __init__(self, path, seed):
        self.path, self.seed, self.rows = path, seed, {}
        self.started = time.monotonic()

    def pytest_runtest_logreport(self, report):
        for name, rows in report.user_properties:
            if name == "faults" and report.when == "teardown":
                for promise, row in rows.items():
                    total = self.rows.setdefault(promise, {"injected": 0, "survived": 0})
                    for key, number in row.items():
                        total[key] += number

    def pytest_terminal_summary(self, terminalreporter, exitstatus):
        terminalreporter.section("faults")
        for promise, row in self.rows.items():
            line = f"{row['injected']:>7,} injected, {row['survived']:>7,} survived: {promise}"
            terminalreporter.write_line(line)
        if exitstatus:  # a test that failed may not have come to all its faults
            terminalreporter.write_line(f"Not written to {self.path}, since something failed.")
            return
        from catsdogs.stages.run import describe_environment

        content = {
            "environment": describe_environment(),
            "minutes": round((time.monotonic() - self.started) / 60, 1),
            "seed": self.seed,
            "campaigns": [
                {"promise": promise, **row, "lost": row["injected"] - row["survived"]}
                for promise, row in self.rows.items()
            ],
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        terminalreporter.write_line(f"Written to {self.path}")


_KEY = pytest.StashKey[Campaign]()


def pytest_addoption(parser):
    parser.addoption("--torture", metavar="PATH", type=pathlib.Path, help="see tests/campaign.py")


def pytest_configure(config):
    path, seed = config.getoption("--torture"), 0
    if path:  # the processes of pytest-xdist inherit the seed
        seed = int(os.environ.setdefault("TORTURE_SEED", str(time.time_ns())))
        config.pluginmanager.register(Table(path, seed))
    config.stash[_KEY] = Campaign(bool(path), seed)
    hypothesis.settings.register_profile(
        "campaign",
        max_examples=500 if path else 20,
        derandomize=not path,
        deadline=None,
        database=None,
        suppress_health_check=[hypothesis.HealthCheck.too_slow],
    )
    hypothesis.settings.load_profile("campaign")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--torture"):
        items[:] = [item for item in items if "campaign" in item.fixturenames]
        # The longest first, so that two processes end at about the same time.
        items.sort(key=lambda item: item.path.name != "test_interruptions.py")


def pytest_runtest_teardown(item):
    campaign = item.config.stash[_KEY]
    item.user_properties.append(("faults", campaign.rows))
    campaign.rows = {}


@pytest.fixture(scope="session")
def campaign(pytestconfig):
    """The session's `Campaign`."""
    return pytestconfig.stash[_KEY]
