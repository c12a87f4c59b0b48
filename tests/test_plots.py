"""Figures: what they state, not how they look; and the files they become."""

import sys

import numpy as np
import PIL.Image
import pytest

from catsdogs import cli
from catsdogs.errors import InputError
from catsdogs.evaluation.plots import (
    plot_arrays,
    plot_confusion_matrix,
    plot_history,
    plot_image_grid,
    plot_reliability,
    plot_roc,
    save_figure,
    smooth,
)
from catsdogs.files import write_history


def make_history(num_epochs):
    rng = np.random.default_rng(0)
    keys = ("accuracy", "val_accuracy", "loss", "val_loss")
    return {key: list(rng.uniform(0.3, 0.7, num_epochs)) for key in keys}


def texts_of(figure):
    """Every visible text of a figure."""
    figure.draw_without_rendering()
    found = figure.findobj(lambda artist: hasattr(artist, "get_text") and artist.get_visible())
    return [artist.get_text() for artist in found]


# ---- Training ----


def test_smooth_is_an_exponential_moving_average():
    assert smooth([1, 2, 3], 0.5) == [1, 1.5, 2.25]
    assert smooth([1, 2, 3], 0) == [1, 2, 3]


@pytest.mark.parametrize("num_epochs", [1, 60])
def test_history_marks_and_names_the_epoch_of_least_validation_loss(num_epochs):
    history = make_history(num_epochs)
    if num_epochs > 1:
        history["val_loss"][0], history["val_loss"][-1] = 80.0, float("nan")
    figure = plot_history({"run": history})
    best = int(np.nanargmin(history["val_loss"]))
    accuracy, loss = history["val_accuracy"][best], history["val_loss"][best]
    label = f"run: {100 * accuracy:.1f} %, loss {loss:.3f} at epoch {best + 1}"
    assert label in texts_of(figure)
    for axes, value in zip(figure.axes, (accuracy, loss), strict=True):
        (ring,) = (line for line in axes.lines if line.get_linestyle() == "None")
        assert ring.get_xydata().tolist() == [[best + 1, value]]
    assert figure.axes[1].get_ylim()[1] < 3  # one wild epoch does not decide the scale


def test_history_shows_training_and_validation_raw_and_smoothed():
    history = make_history(100)
    axes = plot_history({"run": history}).axes[1]
    raw = [line for line in axes.lines if line.get_alpha()]
    bold = [line for line in axes.lines if not line.get_alpha()][:2]
    assert [line.is_dashed() for line in bold] == [True, False]
    for faint, line, key in zip(raw, bold, ("loss", "val_loss"), strict=True):
        np.testing.assert_array_equal(faint.get_ydata(), history[key])
        np.testing.assert_allclose(line.get_ydata(), smooth(history[key], 0.8))


def test_runs_of_one_name_in_two_folders_are_both_plotted(tmp_path, monkeypatch):
    folders = [tmp_path / dataset / "run" for dataset in ("photographs", "sketches")]
    for folder in folders:
        folder.mkdir(parents=True)
        write_history(folder, make_history(3))
    seen = []
    monkeypatch.setattr("catsdogs.evaluation.plots.save_figure", lambda *call: seen.append(call))
    monkeypatch.setattr(sys, "argv", ["plot_history.py", *map(str, folders)])
    with pytest.raises(SystemExit) as caught:
        cli.plot_history()
    assert not caught.value.code
    text = "\n".join(texts_of(seen[0][0]))
    assert all(f"{folder}: " in text for folder in folders)


# ---- Predictions ----


def test_confusion_matrix_states_counts_and_fractions():
    texts = texts_of(plot_confusion_matrix([[492, 8], [5, 495]], ["cat", "dog"]))
    expected = {"492", "98.4 %", "8", "1.6 %", "987 of 1,000 correct", "cat", "dog"}
    assert expected <= set(texts)
    absent = texts_of(plot_confusion_matrix([[0, 0], [1, 2]], ["cat", "dog"]))
    assert {"0.0 %", "2 of 3 correct"} <= set(absent)


@pytest.mark.parametrize("size, has_numbers", [(2, True), (20, True), (100, False)])
def test_texts_of_a_confusion_matrix_stay_within_their_cells(size, has_numbers):
    names = [f"breed number {index}" for index in range(size - 1)] + ["x" * 200]
    matrix = np.full((size, size), 10) + 90 * np.eye(size, dtype=int)
    figure = plot_confusion_matrix(matrix, names)
    assert max(figure.get_size_inches()) <= 12
    texts = texts_of(figure)
    assert ("100" in texts) == has_numbers and "breed number 0" in texts
    axes = figure.axes[0]
    cell = axes.get_window_extent().width / size
    for label in (*axes.texts, *axes.get_xticklabels()):
        assert label.get_window_extent().width <= cell
    for label in axes.get_yticklabels():
        assert label.get_window_extent().height <= cell


@pytest.mark.parametrize("y, num_panels", [(0.99, 2), (0.7, 1)])
def test_roc_enlarges_the_corner_of_a_good_model(y, num_panels):
    figure = plot_roc({"run": ([0, 0.01, 1], [0, y, 1], 0.98765)})
    assert "run: AUC 0.9877" in texts_of(figure)
    assert len([figure.axes[0], *figure.axes[0].child_axes]) == num_panels


def test_reliability_shows_every_bin_before_and_after_scaling():
    before = [{"num_images": 90, "confidence": 0.95, "accuracy": 0.8},
              {"num_images": 10, "confidence": 0.6, "accuracy": 0.1}]  # fmt: skip
    after = [{"num_images": 100, "confidence": 0.75, "accuracy": 0.73}]
    axes = plot_reliability(before, after).axes[0]
    for bins, marks in zip((before, after), axes.collections, strict=True):
        points = [(part["confidence"], part["accuracy"]) for part in bins]
        np.testing.assert_allclose(marks.get_offsets(), points)
        assert axes.viewLim.count_contains(points) == len(points)


# ---- Images and arrays ----


def test_image_grid_fills_its_rows():
    images = np.random.default_rng(0).integers(0, 256, (10, 8, 12, 3), dtype=np.uint8)
    figure = plot_image_grid(images, [f"picture {index}" for index in range(10)], columns=4)
    assert figure.axes[0].get_gridspec().get_geometry() == (3, 4)
    shown = [axes.images[0].get_array() for axes in figure.axes if axes.images]
    np.testing.assert_array_equal(shown, images)
    assert "picture 9" in texts_of(figure)


def test_arrays_have_cells_of_one_size_with_their_numbers():
    arrays = [np.arange(20).reshape(4, 5), np.array([[-1.25]])]
    figure = plot_arrays(arrays, ["many", "one"], {0: (1, 2, 2, 3)})
    assert {"many", "one", "19", "-1.25"} <= set(texts_of(figure))
    many, one = (axes.get_position() for axes in figure.axes)
    assert (many.width / 5, many.height / 4) == pytest.approx((one.width, one.height))
    (frame,) = figure.axes[0].patches
    assert (frame.get_xy(), frame.get_height(), frame.get_width()) == ((1.5, 0.5), 2, 3)


# ---- Files and notebooks ----


def test_save_figure_makes_the_folder_and_follows_the_suffix(tmp_path):
    path = tmp_path / "new" / "figure.jpg"
    save_figure(plot_arrays([np.eye(2)], ["ones"]), path)
    with PIL.Image.open(path) as image:
        assert image.format == "JPEG"
    assert [*path.parent.iterdir()] == [path]


def test_save_figure_refuses_what_is_no_picture_format(tmp_path):
    with pytest.raises(InputError, match=r"picture format, such as \.png.*grid\.xyz"):
        save_figure(plot_arrays([np.eye(2)], ["ones"]), tmp_path / "grid.xyz")


def test_names_are_drawn_as_they_are(tmp_path, recwarn):
    """Not as formulas, nor hidden; a letter that the font lacks is no warning."""
    names = [r"$\nonsense$", "_hidden", "\N{CJK UNIFIED IDEOGRAPH-65E5}"]
    figures = [
        plot_confusion_matrix(np.eye(3, dtype=int), names),
        plot_roc({name: ([0, 1], [0, 1], 0.5) for name in names}),
        plot_history({name: make_history(2) for name in names}),
    ]
    for figure in figures:
        save_figure(figure, tmp_path / "figure.png")
    assert not recwarn.list
    for figure in figures:
        text = "\n".join(texts_of(figure))
        assert all(name in text for name in names)
