"""The design, as far as a machine can check it: see the table of modules in the README's layout."""

import ast
import importlib
import re

import pytest
from conftest import ROOT

PACKAGE = ROOT / "src" / "catsdogs"
SOURCES = {
    ".".join(("catsdogs", *path.relative_to(PACKAGE).with_suffix("").parts)): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.name != "__init__.py"
}
SCRIPTS = sorted((ROOT / "scripts").glob("*.py"))

# Who may import whom inside the package, read from below: each module only those named here, and
# all of them stand further up. `files` holds what everybody needs: atomic writes, the error class.
ALLOWED = {
    "fields": "",
    "files": "fields",
    "tables": "fields",
    "config": "files",
    "recipe": "config",
    "errors": "files",
    "stops": "",
    "cli": "errors files runs stages stops",  # stages late, in a function: loading takes seconds
    "data.progress": "",
    "network": "data.progress files",
    "data.download": "files network",
    "caches": "files data.download data.manifest",
    "data.sketches": "files",
    "data.sketch_files": "files data.sketches",
    "data.archives": "files",
    "data.folders": "",
    "data.sources": "files data.archives data.download data.folders data.sketch_files "
    "data.sketches",
    "data.images": "files data.progress",
    "data.duplicates": "",
    "data.selection": "files data.progress data.images data.duplicates data.sources",
    "data.manifest": "fields files",
    "data.splits": "files data.manifest data.progress data.selection",
    "data.augment": "",
    "data.pipeline": "data.augment",
    "weights": "files network",
    "fused_norm": "",
    "models": "weights",
    "features": "files data.augment data.pipeline data.progress models weights",
    "environment": "",
    "runs": "environment fields files tables",
    "follow": "files runs",
    "run_state": "files runs",
    "training": "files run_state",
    "significance": "",
    "calibration": "",
    "evaluation": "calibration files significance",
    "figures": "files",
    "plots": "figures",
    "history_plot": "figures files",
    "array_plot": "figures",
    "ladder_plot": "figures",
    "frontier_plot": "figures",
    "processes": "files",
    "book": "data.manifest models",
    "flops": "",
    "measure": "book data.augment data.images data.manifest data.pipeline features flops "
    "fused_norm models saved_model training",
    "benchmark": "config data.manifest environment files processes",
    "growth": "cli config data.images data.manifest data.sketch_files data.sources "
    "data.splits environment figures files processes tables",
    "preview": "config data.augment data.images data.manifest figures plots",
    "start": "files run_state runs",
    "stage_run": "calibration config data.images data.pipeline data.manifest environment "
    "evaluation features figures files fused_norm history_plot models recipe run_state runs "
    "saved_model start training",
    "model_check": "files",
    "saved_model": "fields files model_check",
    "stages": "config data.augment features files models recipe runs saved_model stage_run start "
    "weights",
    "prediction": "data.images evaluation files",
    "export": "data.images files models prediction",
    "demo_choices": "data.images files prediction runs saved_model",
    "demo_page": "",
    "demo": "data.images demo_choices demo_page explain explain_plot files prediction saved_model",
    "onnx_example": "",  # copied beside an exported model, where there is no catsdogs
    "explain": "files models",
    "explain_plot": "figures",
    "explain_run": "data.images data.progress explain explain_plot figures files prediction",
    "console": "data.progress files",
    "slices": "significance",
    "comparison": "files significance",
    "report": "files",
    "evaluate_run": "calibration data.images data.manifest data.pipeline evaluation features "
    "figures files models plots report runs saved_model slices stage_run weights",
    "results_table": "",
    "results": "config significance figures files frontier_plot growth ladder_plot recipe "
    "results_table runs tables",
    "ladder": "cli config data.manifest figures files history_plot recipe runs",
}
# What is heavy stays where it is needed, so that a script starts at once.
ALLOWED_TENSORFLOW = {
    "data.augment",
    "data.pipeline",
    "cli",
    "explain",
    "export",
    "flops",
    "fused_norm",
    "measure",
}
ALLOWED_KERAS = {
    "book",
    "explain",
    "export",
    "features",
    "flops",
    "fused_norm",
    "measure",
    "model_check",
    "models",
    "run_state",
    "saved_model",
    "stage_run",
    "stages",
    "training",
}

MAX_LINES = 260
LONG = {
    "files": 295,  # atomic writes and locks
    "data.sketches": 390,  # one drawing, in many strokes
    "config": 290,  # a line or two of help for every setting
    "measure": 310,  # one piece of the benchmark after the other
    "stage_run": 300,  # one run from its folder to its metrics
    "weights": 330,  # 40 lines of pinned digests
}


def imports(path):
    """Full names of the modules that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            # `from catsdogs import runs` imports a module, `from catsdogs.runs import x` a name.
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name for name in names if name in SOURCES} or {node.module}
    return found


def short(module):
    return module.removeprefix("catsdogs.")


@pytest.mark.parametrize("module", SOURCES)
def test_imports_run_one_way(module):
    allowed = set(ALLOWED[short(module)].split())
    found = imports(SOURCES[module])
    inside = {short(name) for name in found if name.startswith("catsdogs.")}
    assert inside <= allowed, f"{module} must not import {sorted(inside - allowed)}"
    outside = {name.partition(".")[0] for name in found}
    assert "tensorflow" not in outside or short(module) in ALLOWED_TENSORFLOW
    assert "keras" not in outside or short(module) in ALLOWED_KERAS


def test_the_table_has_no_circle_and_no_dead_rows():
    assert ALLOWED.keys() == {short(module) for module in SOURCES}
    left = {name: set(allowed.split()) for name, allowed in ALLOWED.items()}
    while left:
        free = {name for name, needs in left.items() if not needs & left.keys()}
        assert free, f"circle among {sorted(left)}"
        left = {name: needs for name, needs in left.items() if name not in free}


@pytest.mark.parametrize("module", SOURCES)
def test_all_is_true(module):
    tree = ast.parse(SOURCES[module].read_text(encoding="utf-8"))
    statements = [n for n in tree.body if not isinstance(n, ast.Import | ast.ImportFrom | ast.Expr)]
    first = statements[0]
    assert isinstance(first, ast.Assign) and first.targets[0].id == "__all__", "not on top"
    named = ast.literal_eval(first.value)
    assert len(set(named)) == len(named)
    loaded = importlib.import_module(module)
    assert all(hasattr(loaded, name) for name in named)
    defined = {
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
    }
    assert defined <= set(named), f"public and not in __all__: {sorted(defined - set(named))}"


@pytest.mark.parametrize("module", SOURCES)
def test_public_names_have_docstrings(module):
    tree = ast.parse(SOURCES[module].read_text(encoding="utf-8"))
    assert ast.get_docstring(tree)
    for node in tree.body:
        public = isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
        assert not public or ast.get_docstring(node), f"{module}.{node.name}"


def test_promises_name_tests_that_exist():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    named = re.findall(r"`(test_\w+)::(test_\w+)`", readme)
    assert len(named) > 10
    for module, test in named:
        tree = ast.parse((ROOT / "tests" / f"{module}.py").read_text(encoding="utf-8"))
        assert test in [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]


def test_modules_are_short():
    lengths = {short(m): len(p.read_text().splitlines()) for m, p in SOURCES.items()}
    too_long = {m: n for m, n in lengths.items() if n > LONG.get(m, MAX_LINES)}
    assert not too_long
    assert not any("util" in module or "helper" in module for module in lengths)


@pytest.mark.parametrize("path", [*SOURCES.values(), *SCRIPTS], ids=lambda path: path.stem)
def test_nothing_is_asserted_on_input(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert not [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Assert)]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_scripts_are_thin(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert f"python scripts/{path.name}" in ast.get_docstring(tree)
    functions = [node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    assert functions == ["main"]
    assert len(path.read_text().splitlines()) <= 50
