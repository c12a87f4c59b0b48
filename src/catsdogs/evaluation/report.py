"""Pages about evaluated runs, each one file that needs nothing else but a browser."""

import base64
import html
import io
import os
import pathlib
import urllib.parse

import numpy as np
from PIL import Image

from catsdogs.files import atomic_path

__all__ = ["write_comparison", "write_report"]

_SHOWN = 12  # pictures in a gallery
_THUMBNAIL = 176  # pixels
_SLICES = {
    "brightness": ("Brightness", "mean grey level, 0 to 255"),
    "sharpness": ("Sharpness", "deviation of the Laplacian, grey levels"),
    "size": ("Picture size", "megapixels of the file"),
}
_STYLE = """
:root { color-scheme: light dark; --ink: #222; --paper: #fdfdfc; --faint: #767676; --line: #ddd;
  --card: #fff; --accent: #0072b2; --bad: #b3470a; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e6e3; --paper: #17181a; --faint: #a3a3a3;
  --line: #3a3c40; --card: #222428; --accent: #6cb8e6; --bad: #f0a070; } }
* { box-sizing: border-box; }
body { font: 16px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  margin: 0 auto; max-width: 62rem; padding: 1.5rem 1.2rem 4rem; }
h1 { font-size: 1.5rem; margin: 0; overflow-wrap: anywhere; } h2 { font-size: 1.15rem;
  margin: 2.6rem 0 .6rem; } p { margin: .4rem 0; max-width: 46rem; overflow-wrap: anywhere; }
a { color: var(--accent); }
.faint, figcaption, td.unit { color: var(--faint); font-size: .9rem; }
.headline { font-size: 3.2rem; font-weight: 700; color: var(--accent); line-height: 1.1;
  margin: 1rem 0 0; }
.figures { display: flex; flex-wrap: wrap; gap: 1rem; align-items: flex-start; }
.figures .figure { flex: 1 1 18rem; min-width: 0; max-width: 29rem; }
.figure { background: #fff; border: 1px solid var(--line); border-radius: 8px; padding: .5rem;
  max-width: 100%; height: auto; display: block; } /* charts are drawn for white paper */
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(8.5rem, 1fr));
  gap: .8rem; } figure { margin: 0; } .gallery img { width: 100%; border-radius: 6px;
  display: block; } figcaption { overflow-wrap: anywhere; line-height: 1.35; margin-top: .25rem; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; } .scroll { overflow-x: auto; }
th, td { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; overflow-wrap: anywhere; } th { font-weight: 600; }
.bar { background: linear-gradient(90deg, var(--accent) var(--share), var(--line) 0);
  height: .55rem; min-width: 7rem; border-radius: 3px; margin-top: .5rem; }
.bad { color: var(--bad); } .slices :is(th, td) { white-space: nowrap; }
.settings th { width: 13rem; }
@media (max-width: 44rem) {
  .slices :is(th, td):is(:nth-child(3), :nth-child(7)) { display: none; }
  .slices :is(th, td) { padding-right: .4rem; font-size: .8rem; } }
"""


def write_report(folder, run_dir, metrics, *, files, labels, probabilities, images):
    """Writes `report.html` about an evaluated run, its pictures included.

    Args:
        folder: Where to write it, with `confusion.png`, `reliability.png` and, if there are
            pictures of at least two classes, `roc.png`.
        run_dir: The run folder, with `curves.png`.
        metrics: Its `metrics.json` with `"test"`.
        files: Names of the test pictures.
        labels: int (n,).
        probabilities: float (n, num_classes) in [0, 1].
        images: uint8 (n, side, side, 3), the test pictures as the model saw them.
    """
    folder, run_dir = pathlib.Path(folder), pathlib.Path(run_dir)
    name = run_dir.name
    test, classes = metrics["test"], metrics["classes"]
    low, high = test["accuracy_interval95"]
    kind = "drawings" if metrics.get("sketches") else "pictures"
    wrong = probabilities.argmax(axis=1) != labels
    confidence = probabilities.max(axis=1)
    by_confidence = np.argsort(-confidence, kind="stable")
    mistakes = [index for index in by_confidence if wrong[index]]

    def gallery(indices):
        return "".join(
            _picture(images[i], files[i], classes[labels[i]], dict(zip(classes, probabilities[i],
                     strict=True))) for i in indices
        ) or "<p class=faint>None.</p>"  # fmt: skip

    sections = [
        f"<h1>{html.escape(name)}</h1>"
        f"<p class=faint>{html.escape(metrics['dataset'])}, {kind}; "
        f"{', '.join(map(html.escape, classes))}</p>"
        f"<p class=headline>{test['accuracy']:.1%}</p>"
        f"<p>of {test['num_images']:,} test pictures right; 95 % interval {low:.1%} to "
        f"{high:.1%}. {_mirror(metrics)}{int(wrong.sum()):,} mistakes.</p>",
        _section("Training", _figure(run_dir / "curves.png", "Accuracy and loss by epoch")),
        _section(
            "What is taken for what",
            "<div class=figures>"
            + _figure(folder / "confusion.png", "Confusion matrix")
            + _figure(folder / "roc.png", "ROC curve")
            + "</div>",
        ),
        _section(
            "Do the probabilities mean what they say?",
            f"<p>Expected calibration error {test['calibration_error']:.1%}; before dividing the "
            f"logits by the temperature {metrics['temperature']:.2f}, which was fitted on the "
            f"validation pictures, {test['calibration_error_unscaled']:.1%}.</p>"
            f"<div class=figures>{_figure(folder / 'reliability.png', 'Reliability')}</div>",
        ),
        _section(
            "The most confident mistakes",
            f"<div class=gallery>{gallery(mistakes[:_SHOWN])}</div>",
        ),
        _section(
            "The least sure answers",
            f"<div class=gallery>{gallery(by_confidence[::-1][:_SHOWN])}</div>",
        ),
        _section("Where it is right", _slices(test["slices"])),
        _section("Settings", _table(metrics["config"])),
        _section("Environment", _table(_environment(metrics))),
    ]
    _write_page(folder / "report.html", f"{name}: {test['accuracy']:.1%}", sections)


def write_comparison(metrics, comparisons):
    """Writes a page about several runs: their figures in a table, and what the differences mean.

    Args:
        metrics: `{run folder: metrics with "test"}`, two or more.
        comparisons: From `catsdogs.evaluation.comparison.compare_runs`.

    Returns:
        Its `Path`: `comparison.html` in the innermost folder that holds all these runs.
    """
    path = pathlib.Path(os.path.commonpath(map(os.path.abspath, metrics))) / "comparison.html"
    rows = []
    for run, found in sorted(metrics.items(), key=lambda item: -item[1]["test"]["accuracy"]):
        low, high = found["test"]["accuracy_interval95"]
        report = os.path.relpath(os.path.join(run, "report.html"), path.parent)
        link = html.escape(urllib.parse.quote(pathlib.PurePath(report).as_posix()))
        rows.append(
            f"<tr><th><a href='{link}'>{html.escape(pathlib.PurePath(run).name)}</a></th>"
            f"<td>{found['test']['accuracy']:.1%}</td>"
            f"<td class=unit>{low:.1%} to {high:.1%}</td>"
            f"<td>{found['test']['loss']:.3f}</td><td>{found['wall_seconds'] / 60:.1f}</td></tr>"
        )
    head = (
        "<tr><th>run</th><th>right</th><th>95 % interval</th><th>loss</th><th>minutes of "
        "training</th></tr>"
    )
    sentences = "".join(f"<p>{html.escape(one['sentence'])}</p>" for one in comparisons)
    sections = [
        f"<h1>{len(metrics)} runs</h1>",
        _section("On the test pictures", f"<table>{head}{''.join(rows)}</table>"),
        _section("Is the best one really better?", sentences),
    ]
    _write_page(path, f"{len(metrics)} runs compared", sections)
    return path


def _write_page(path, title, sections):
    page = (
        "<!doctype html><html lang=en><head><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width, initial-scale=1'>"
        f"<title>{html.escape(title)}</title><link rel=icon href='data:,'>"
        f"<style>{_STYLE}</style></head><body>{''.join(sections)}</body></html>\n"
    )
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _section(title, content):
    return f"<section><h2>{title}</h2>{content}</section>"


def _figure(path, description):
    if not path.is_file():  # no ROC curve without pictures of at least two classes
        return ""
    encoded = base64.b64encode(path.read_bytes()).decode()
    return f"<img class=figure alt='{description}' src='data:image/png;base64,{encoded}'>"


def _picture(image, file, label, probabilities):
    stream = io.BytesIO()
    picture = Image.fromarray(image).resize((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BICUBIC)
    picture.save(stream, "jpeg", quality=80)
    found = max(probabilities, key=probabilities.get)
    verdict = "" if found == label else " class=bad"
    name = html.escape(pathlib.PurePath(file).name)
    return (
        f"<figure><img alt='{name}' loading=lazy src='data:image/jpeg;base64,"
        f"{base64.b64encode(stream.getvalue()).decode()}'><figcaption><b{verdict}>"
        f"{html.escape(found)} {probabilities[found]:.1%}</b><br>is {html.escape(label)}<br>"
        f"{name}</figcaption></figure>"
    )


def _mirror(metrics):
    flip = metrics.get("test_tta")
    return f"With each mirror image averaged {flip['accuracy']:.1%}. " if flip else ""


def _slices(slices):
    rows = []
    for name, parts in slices.items():
        title, unit = _SLICES[name]
        for part in parts:
            low, high = part["accuracy_interval95"]
            rows.append(
                f"<tr><th title='{unit}'>{title}</th>"
                f"<td>{part['from']:.3g} to {part['to']:.3g}</td>"
                f"<td class=unit>{unit}</td><td>{part['num_images']}</td>"
                f"<td>{part['accuracy']:.1%}</td><td class=unit>{low:.1%} to {high:.1%}</td>"
                f"<td><div class=bar style='--share:{100 * part['accuracy']:.1f}%'></div></td></tr>"
            )
            title = unit = ""
    head = (
        "<tr><th>by</th><th>from, to</th><th></th><th>pictures</th><th>right</th>"
        "<th>95 % interval</th><th></th></tr>"
    )
    return f"<div class=scroll><table class=slices>{head}{''.join(rows)}</table></div>"


def _environment(metrics):
    environment = {**metrics["environment"]}
    packages = environment.pop("packages")
    for number, changed in enumerate(environment.pop("resumed", []), start=1):
        words = ", ".join(f"{name} {value}" for name, value in changed.items())
        environment[f"resumed in another environment, {number}"] = words
    return {
        **environment,
        "packages": ", ".join(f"{name} {version}" for name, version in packages.items()),
        "precision": metrics["precision"],
        "minutes of training": f"{metrics['wall_seconds'] / 60:.1f}",
        "peak memory": f"{metrics['peak_rss_mb'] / 1024:.1f} GiB",
        "parameters": f"{metrics['num_parameters']:,}, of which {metrics['num_trainable']:,} "
        "trained",
    }


def _table(content):
    rows = "".join(
        f"<tr><th>{html.escape(str(name).replace('_', ' '))}</th>"
        f"<td>{html.escape(str(value))}</td></tr>"
        for name, value in content.items()
    )
    return f"<table class=settings>{rows}</table>"


from catsdogs.evaluation.comparison import compare_runs  # noqa
