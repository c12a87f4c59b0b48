"""Counting injected faults: a few of each in `make test`, many in `make torture`.

A test that injects faults takes the fixture `campaign`, asks it how many there are to be, and
injects each within `campaign.fault`. With `--torture=PATH` only those tests run, at full size, and
what came of it is printed as a table and written to PATH.
"""

import contextlib
import json
import pathlib
import random
import time

import hypothesis
import pytest

from catsdogs.stages.run import describe_environment

_FAST = 20  # examples of a property in `make test`
_FULL = 1000  # and in `make torture`


class Campaign:
    """What was injected and what became of it.

    Args:
        report: Where to write the table, or `None` outside `make torture`.
        seed: Integer that decides what is random.
        environment: What the report says of the machine and the commit.
    """

    def __init__(self, report, seed=0, environment=None):
        self.report = report
        self.rows, self.notes = {}, {}
        self.seed, self.environment = seed, environment
        self._started = time.monotonic()

    def size(self, fast, full):
        """How many faults to inject: `fast` in `make test`, `full` in `make torture`."""
        return full if self.report else fast

    def random(self, name):
        """A `random.Random` of its own for a test: fixed in `make test`, new in `make torture`."""
        return random.Random(f"{name} {self.seed}")

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

    def survive(self, promise, number):
        """Counts further faults that were injected into what a `fault` has just judged."""
        for key in ("injected", "survived"):
            self.rows[promise][key] += number

    def note(self, name, text):
        """Keeps a figure that belongs to the campaign: a latency, say."""
        self.notes[name] = text

    def add(self, rows, notes):
        """Adds what another process has counted and noted."""
        for promise, row in rows.items():
            total = self.rows.setdefault(promise, {"injected": 0, "survived": 0})
            for key, number in row.items():
                total[key] += number
        self.notes |= notes

    def table(self):
        """A list of dictionaries: promise, injected, survived, lost."""
        return [
            {"promise": name, **row, "lost": row["injected"] - row["survived"]}
            for name, row in self.rows.items()
        ]

    def describe(self):
        """The table as lines for people."""
        rows = self.table()
        keys = ("injected", "survived", "lost")
        rows.append({"promise": "all", **{key: sum(row[key] for row in rows) for key in keys}})
        width = max(len(row["promise"]) for row in rows)
        yield f"{'':<{width}}" + "".join(f"{key:>10}" for key in keys)
        for row in rows:
            yield f"{row['promise']:<{width}}" + "".join(f"{row[key]:>10,}" for key in keys)
        yield from (f"{name}: {text}" for name, text in self.notes.items())

    def write(self):
        """Writes the table as JSON."""
        minutes = round((time.monotonic() - self._started) / 60, 1)
        content = {
            "environment": self.environment, "minutes": minutes, "seed": self.seed,
            "campaigns": self.table(), "notes": self.notes,
        }  # fmt: skip
        self.report.parent.mkdir(parents=True, exist_ok=True)
        self.report.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


_KEY = pytest.StashKey[Campaign]()


def pytest_addoption(parser):
    parser.addoption("--torture", metavar="PATH", type=pathlib.Path, help="see tests/campaign.py")


def pytest_configure(config):
    report = config.getoption("--torture")
    seed = time.time_ns() if report else 0
    seed = getattr(config, "workerinput", {}).get("campaign_seed", seed)
    leads = report and not hasattr(config, "workerinput")
    config.stash[_KEY] = Campaign(report, seed, describe_environment() if leads else None)
    hypothesis.settings.register_profile(
        "campaign",
        max_examples=_FULL if report else _FAST,
        derandomize=not report,
        deadline=None,
        database=None,
        suppress_health_check=[hypothesis.HealthCheck.too_slow],
    )
    hypothesis.settings.load_profile("campaign")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--torture"):
        items[:] = [item for item in items if "campaign" in item.fixturenames]
        # The longest first, so that two processes end at about the same time.
        items.sort(key=lambda item: item.path.name != "test_kill_and_resume.py")


# With pytest-xdist the tests run in other processes, which count for themselves.


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node):
    node.workerinput["campaign_seed"] = node.config.stash[_KEY].seed


def pytest_sessionfinish(session):
    if hasattr(session.config, "workeroutput"):
        campaign = session.config.stash[_KEY]
        session.config.workeroutput["campaign"] = campaign.rows, campaign.notes


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    if counted := getattr(node, "workeroutput", {}).get("campaign"):  # none of one that crashed
        node.config.stash[_KEY].add(*counted)


def pytest_terminal_summary(terminalreporter, exitstatus, config):
    campaign = config.stash[_KEY]
    if not campaign.report or not campaign.rows:
        return
    terminalreporter.section("faults injected")
    for line in campaign.describe():
        terminalreporter.write_line(line)
    if exitstatus:  # a test that failed may not have come to its faults
        terminalreporter.write_line(f"Not written to {campaign.report}, since something failed.")
        return
    campaign.write()
    terminalreporter.write_line(f"Written to {campaign.report}")


@pytest.fixture(scope="session")
def campaign(pytestconfig):
    """The session's `Campaign`."""
    return pytestconfig.stash[_KEY]
