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

# Who may import whom inside the package: each module only those named here, none in a circle.
# `errors` holds what everybody needs: the error a user can act on.
ALLOWED = {
    "fields": "",
    "errors": "",
    "locks": "errors",
    "files": "errors fields locks",
    "tables": "fields",
    "config": "errors",
    "recipe": "config",
    "stops": "",
    "cli": "errors runs stages stops",  # stages late, in a function: loading takes seconds
    "data.progress": "",
    "network": "data.progress locks",
    "data.download": "errors network",
    "caches": "data.download data.manifest errors files locks",
    "data.sketches": "errors",
    "data.sketch_files": "data.sketches errors",
    "data.archives": "errors",
    "data.folders": "",
    "data.sources": "data.archives data.download data.folders data.sketch_files data.sketches "
    "errors files",
    "data.images": "data.folders data.progress errors files",
    "data.duplicates": "",
    "data.selection": "data.duplicates data.folders data.images data.progress data.sources errors",
    "data.manifest": "errors fields files",
    "data.splits": "data.manifest data.progress data.selection errors files locks",
    "data.augment": "",
    "data.pipeline": "data.augment",
    "weights": "errors network",
    "fused_norm": "",
    "models": "weights",
    "features": "data.augment data.pipeline data.progress files locks models weights",
    "environment": "",
    "runs": "environment errors fields files locks tables",
    "follow": "errors runs",
    "run_state": "errors files runs",
    "training": "errors run_state",
    "significance": "",
    "calibration": "",
    "evaluation": "calibration errors significance",
    "figures": "errors files",
    "plots": "figures",
    "history_plot": "errors figures",
    "array_plot": "figures",
    "ladder_plot": "figures",
    "frontier_plot": "figures",
    "processes": "errors",
    "book": "data.manifest models",
    "flops": "",
    "measure": "book data.augment data.images data.manifest data.pipeline features flops "
    "fused_norm models saved_model training",
    "benchmark": "config data.manifest environment files processes",
    "growth": "cli config data.images data.manifest data.sketch_files data.sources data.splits "
    "environment errors figures files processes tables",
    "preview": "config data.augment data.images data.manifest figures plots",
    "start": "errors files run_state runs",
    "stage_run": "calibration config data.images data.manifest data.pipeline environment errors "
    "evaluation features figures files fused_norm history_plot locks models recipe run_state runs "
    "saved_model start training",
    "model_check": "errors",
    "saved_model": "errors fields files model_check",
    "stages": "config data.augment errors features locks models recipe runs saved_model stage_run "
    "start weights",
    "prediction": "data.images errors evaluation",
    "export": "data.images errors files models prediction",
    "demo_choices": "data.images errors prediction runs saved_model",
    "demo_page": "",
    "demo": "data.images demo_choices demo_page errors explain explain_plot prediction saved_model",
    "onnx_example": "",  # copied beside an exported model, where there is no catsdogs
    "explain": "errors models",
    "explain_plot": "figures",
    "explain_run": "data.images data.progress errors explain explain_plot figures prediction",
    "console": "data.progress errors",
    "slices": "significance",
    "comparison": "errors files significance",
    "report": "files",
    "evaluate_run": "calibration data.images data.manifest data.pipeline errors evaluation "
    "features figures files locks models plots report runs saved_model slices stage_run weights",
    "results_table": "",
    "results": "config errors figures files frontier_plot growth ladder_plot recipe results_table "
    "runs significance tables",
    "ladder": "cli config data.manifest errors figures files history_plot recipe runs",
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
            # one imports a module, `from catsdogs.stages.run import x` a name.
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
