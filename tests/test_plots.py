"""Figures: what they say, not how they look; and the files they become."""

import subprocess
import sys
import time

import numpy as np
import PIL.Image
import pytest
from matplotlib.colors import to_hex
from plots import plot_results

from catsdogs.errors import InputError
from catsdogs.evaluation.plots import plot_arrays
from catsdogs.evaluation.plots import render_figure, save_figure, show_figure
from catsdogs.evaluation.plots import plot_history, smooth
from catsdogs.evaluation.metrics import roc_auc, roc_curve
from catsdogs.evaluation.plots import plot_confusion_matrix, plot_image_grid, plot_roc
from catsdogs.evaluation.significance import summarize_seeds


def make_history(num_epochs, seed=0):
    rng = np.random.default_rng(seed)
    progress = 1 - np.exp(-np.arange(num_epochs) / 10)
    return {
        "accuracy": list(0.5 + 0.48 * progress),
        "val_accuracy": list(0.5 + 0.4 * progress + rng.normal(0, 0.01, num_epochs)),
        "loss": list(0.7 - 0.6 * progress),
        "val_loss": list(0.75 - 0.5 * progress + rng.normal(0, 0.02, num_epochs)),
    }


def make_row(stage, variant, values, dataset="dogs-vs-cats"):
    return {
        "stage": stage,
        "preset": "best",
        "variant": variant,
        "dataset": dataset,
        "image_size": 320,
        "settings": {"image_size": 320, "epochs": 2},
        "test_accuracy": summarize_seeds(values, 1000),
        "wall_seconds": 390.0,
    }


def texts_of(figure):
    """Every piece of text that is really drawn, in one string."""
    figure.draw_without_rendering()
    found = figure.findobj(lambda artist: hasattr(artist, "get_text") and artist.get_visible())
    return "\n".join(artist.get_text() for artist in found)


def rings_of(axes):
    return [line for line in axes.lines if line.get_marker() == "o" and line.get_zorder() == 4]


def test_smooth_is_the_books_average():
    assert smooth([1, 2, 3], 0.5) == [1, 1.5, 2.25]
    assert smooth([1, 2, 3], 0) == [1, 2, 3]
    assert smooth([5.0], 0.8) == [5.0] and smooth([]) == []
    assert smooth([0.3] * 50)[-1] == pytest.approx(0.3)
    with pytest.raises(ValueError, match="below 1"):
        smooth([1, 2], 1)


def test_history_marks_the_epoch_of_least_validation_loss(tmp_path):
    history = make_history(40)
    best = int(np.argmin(history["val_loss"]))
    figure = plot_history({"scratch": history})
    save_figure(figure, tmp_path / "curves.png")
    for axes, key in zip(figure.axes, ("val_accuracy", "val_loss"), strict=True):
        (ring,) = rings_of(axes)
        assert ring.get_xydata().tolist() == [[best + 1, history[key][best]]]
    assert f"at epoch {best + 1}" in texts_of(figure)
    assert (tmp_path / "curves.png").stat().st_size < 150_000


def test_history_draws_raw_and_smoothed_training_and_validation():
    figure = plot_history({"scratch": make_history(100)})
    for axes in figure.axes:
        raw = [line for line in axes.lines if line.get_alpha()]
        bold = [line for line in axes.lines if not line.get_alpha()][:2]
        assert len(raw) == 2
        assert [line.is_dashed() for line in bold] == [True, False]  # training, validation
        for faint, line in zip(raw, bold, strict=True):
            assert smooth(faint.get_ydata(), 0.8) == pytest.approx(list(line.get_ydata()))


def test_history_of_one_epoch_and_of_many_runs():
    figure = plot_history({"smoke": make_history(1)})
    assert "at epoch 1" in texts_of(figure)
    assert all(len(rings_of(axes)) == 1 for axes in figure.axes)
    # A short run is drawn as it is: an average would only show its own lag.
    short = plot_history({"short": make_history(8)})
    assert not any(line.get_alpha() for axes in short.axes for line in axes.lines)
    many = plot_history({f"run {index}": make_history(20, index) for index in range(8)})
    colours = {to_hex(ring.get_color()) for ring in rings_of(many.axes[0])}
    assert len(colours) == 8


def test_history_survives_a_wild_and_a_missing_loss():
    history = make_history(60)
    history["val_loss"][0] = 80.0
    figure = plot_history({"wild": history})
    assert figure.axes[1].get_ylim()[1] < 3
    history["val_loss"][-1] = float("nan")
    assert "at epoch" in texts_of(plot_history({"wild": history}))


def test_confusion_matrix_states_counts_and_shares():
    text = texts_of(plot_confusion_matrix([[492, 8], [5, 495]], ["cat", "dog"]))
    for part in ("492", "98.4 %", "1.6 %", "987 of 1,000 right", "cat", "dog"):
        assert part in text
    plot_confusion_matrix([[0, 0], [1, 2]], ["cat", "dog"])  # a class without images


def test_confusion_matrix_of_two_classes_is_as_large_as_its_text():
    figure = plot_confusion_matrix([[492, 8], [5, 495]], ["cat", "dog"])
    assert list(figure.get_size_inches()) == [4.5, 4.5]
    axes = figure.axes[0]
    assert [text.get_fontsize() for text in axes.texts[:2]] == [17, 10]
    assert [label.get_rotation() for label in axes.get_xticklabels()] == [0, 0]
    assert [label.get_rotation() for label in axes.get_yticklabels()] == [90, 90]


@pytest.mark.parametrize("size, numbers", [(20, True), (100, False)])
def test_confusion_matrix_of_many_classes_stays_small(size, numbers, tmp_path):
    names = [f"breed number {index}" for index in range(size - 1)] + ["x" * 200]
    figure = plot_confusion_matrix(np.full((size, size), 10) + 90 * np.eye(size, dtype=int), names)
    assert max(figure.get_size_inches()) <= 12
    text = texts_of(figure)
    assert ("100" in text.split("\n")) == numbers
    assert "breed number 10" in text and "x" * 20 in text
    # Neither numbers nor names reach into their neighbours.
    axes = figure.axes[0]
    cell = axes.get_window_extent().width / size
    for label in (*axes.texts, *axes.get_xticklabels()):
        assert label.get_window_extent().width <= cell
    for label in axes.get_yticklabels():
        assert label.get_window_extent().height <= cell
    started = time.perf_counter()
    save_figure(figure, tmp_path / "confusion.png")
    assert time.perf_counter() - started < 30  # seconds, on a busy machine


def test_roc_names_the_area():
    labels = np.repeat([0, 1], 50)
    scores = np.random.default_rng(0).normal(2 * labels)
    area = roc_auc(labels, scores)
    figure = plot_roc({"scratch": (*roc_curve(labels, scores), area)})
    assert f"scratch: area {area:.4f}" in texts_of(figure)
    # Matplotlib leaves labels that begin so out of a legend of its own.
    figure = plot_roc({"_wild": (*roc_curve(labels, scores), area)})
    assert f"_wild: area {area:.4f}" in texts_of(figure)


def test_image_grid_fills_its_rows():
    images = np.random.default_rng(0).integers(0, 256, (10, 8, 12, 3), dtype=np.uint8)
    figure = plot_image_grid(images, [f"picture {index}" for index in range(10)])
    assert figure.axes[0].get_gridspec().get_geometry() == (2, 5)
    assert "picture 9" in texts_of(figure)
    np.testing.assert_array_equal(figure.axes[3].images[0].get_array(), images[3])
    mixed = plot_image_grid([images[0], images[1][:, :, 0], images[2][:5]], columns=2)
    assert mixed.axes[0].get_gridspec().get_geometry() == (2, 2)


def test_arrays_share_one_scale_and_show_their_numbers():
    arrays = [np.arange(20).reshape(4, 5), np.array([[-1.25]])]
    figure = plot_arrays(arrays, ["many", "one"], {0: (1, 2, 2, 3)})
    text = texts_of(figure)
    assert all(part in text.split("\n") for part in ("many", "one", "19", "-1.25"))
    boxes = [axes.get_position() * figure.get_size_inches() for axes in figure.axes]
    cells = [
        np.diff(box, axis=0)[0] / array.shape[::-1]
        for box, array in zip(boxes, arrays, strict=True)
    ]
    np.testing.assert_allclose(cells[0], cells[1])
    frame = figure.axes[0].patches[0]
    assert (frame.get_xy(), frame.get_height(), frame.get_width()) == ((1.5, 0.5), 2, 3)
    picture = np.random.default_rng(0).integers(0, 256, (30, 40), dtype=np.uint8)
    large = plot_arrays([picture, picture - 128.0], ["picture", "map"])
    assert texts_of(large).split("\n").count("128") == 0
    assert [axes.images[0].get_cmap().name for axes in large.axes] == ["gray", "signed"]


def test_results_ladder_states_every_row():
    rows = [
        make_row("finetune", "cached", [0.99, 0.992, 0.991]),
        make_row("scratch", "strong", [0.923]),
        make_row("scratch", "none", [1.0], "sketches"),
    ]
    text = texts_of(plot_results(rows, [("3rd edition, fine-tuned", 0.986)]))
    for part in ("99.1 %", "92.3 %", "100.0 %", "98.6 %", "98.3 to 99.5", "6", "3rd edition"):
        assert part in text
    assert text.index("From scratch") < text.index("Fine-tuning") < text.index("Published")
    assert (
        "strong augmentation, best, 320², epochs 2, dogs-vs-cats" in text
        and "Feature extraction" not in text
    )


def test_save_figure_is_small_and_atomic(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    for name, kind in (("new/grid.png", "PNG"), ("new/grid.jpg", "JPEG")):
        save_figure(plot_image_grid(noise.repeat(4, 1).repeat(4, 2)), tmp_path / name)
        with PIL.Image.open(tmp_path / name) as image:
            assert image.format == kind and min(image.size) > 100
        assert (tmp_path / name).stat().st_size < 150_000
    assert len(list((tmp_path / "new").iterdir())) == 2
    with pytest.raises(InputError, match=r"grid\.tiff"):
        save_figure(plot_image_grid(noise), tmp_path / "grid.tiff")


def test_render_figure_takes_what_is_smaller():
    noise = np.random.default_rng(0).integers(0, 256, (1, 96, 96, 3), dtype=np.uint8)
    assert render_figure(plot_arrays([np.eye(3)], ["ones"])).format == "png"
    assert render_figure(plot_image_grid(noise)).format == "jpeg"


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: plot_history({}), "at least one history"),
        (lambda: plot_history({"run": {}}), "'run' with lengths"),
        (lambda: plot_history({"run": {**make_history(3), "loss": [1.0]}}), "'loss': 1"),
        (lambda: plot_confusion_matrix([[1, 2]], ["cat", "dog"]), r"matrix.shape=\(1, 2\)"),
        (lambda: plot_roc({}), "at least one curve"),
        (lambda: plot_image_grid([]), "at least one image"),
        (lambda: plot_image_grid([np.zeros((4, 4, 3))]), "float64"),
        (lambda: plot_image_grid(np.zeros((2, 4, 4, 3), np.uint8), ["one"]), "1 titles"),
        (lambda: plot_arrays([np.eye(2)], []), r"0 titles, shapes \[\(2, 2\)\]"),
        (lambda: plot_arrays([np.ones(2)], ["flat"]), r"shapes \[\(2,\)\]"),
        (lambda: plot_results([]), "at least one row.*0 rows"),
        (lambda: plot_results([make_row("distil", "cached", [0.9])]), r"stages \['distil'\]"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_no_display_is_one_line(monkeypatch):
    monkeypatch.setattr("matplotlib.pyplot.get_backend", lambda: "agg")
    with pytest.raises(InputError, match="backend agg"):
        show_figure(plot_history({"run": make_history(2)}))


def test_import_opens_no_window_toolkit():
    modules = "catsdogs.evaluation.plots, catsdogs.evaluation.plots, plots"
    code = f"import sys, {modules}; sys.exit('matplotlib.pyplot' in sys.modules)"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_letters_that_the_font_lacks_are_no_warning(tmp_path, recwarn):
    classes = ("\N{CJK UNIFIED IDEOGRAPH-65E5}", "b")
    save_figure(plot_confusion_matrix([[1, 0], [0, 1]], classes), tmp_path / "a.png")
    assert not [one for one in recwarn if "Glyph" in str(one.message)]
