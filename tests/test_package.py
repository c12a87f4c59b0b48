"""The package as a whole: what `import catsdogs` offers, and how light it is."""

import ast
import importlib
import resource
import runpy
import subprocess
import sys

import pytest
from conftest import ROOT

import catsdogs
from catsdogs import cli

SCRIPTS = sorted((ROOT / "scripts").glob("*.py"))


def run_python(code):
    """Runs code in a new process.

    Returns:
        What it printed, and its seconds of processor time, which other processes do not change.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    finished = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout, sum(after[:2]) - sum(before[:2])


def test_import_is_light():
    heavy = "{'tensorflow', 'keras', 'numpy', 'matplotlib', 'PIL', 'pydantic'}"
    loaded, seconds = run_python(f"import sys, catsdogs; print({heavy} & set(sys.modules))")
    assert loaded == "set()\n" and seconds < 0.5


def test_public_names_are_those_that_editors_see():
    tree = ast.parse((ROOT / "src" / "catsdogs" / "__init__.py").read_text(encoding="utf-8"))
    (checking,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name: node.module for node in checking.body for alias in node.names}
    assert seen.keys() == set(catsdogs.__all__) == set(dir(catsdogs))
    for name, module in seen.items():
        assert getattr(catsdogs, name) is getattr(importlib.import_module(module), name)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        catsdogs.nothing  # noqa: B018


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_calls_the_command_of_its_name(path, monkeypatch):
    called = []
    for name in cli.__all__:
        monkeypatch.setattr(cli, name, lambda name=name: called.append(name))
    runpy.run_path(str(path), run_name="__main__")
    assert called == [path.stem]


def test_every_command_has_a_script():
    assert [path.stem for path in SCRIPTS] == cli.__all__
