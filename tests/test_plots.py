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
    render_figure,
    save_figure,
    smooth,
)
from catsdogs.files import write_history


def make_history(num_epochs, seed=0):
    rng = np.random.default_rng(seed)
    progress = 1 - np.exp(-np.arange(num_epochs) / 10)
    return {
        "accuracy": list(0.5 + 0.48 * progress),
        "val_accuracy": list(0.5 + 0.4 * progress + rng.normal(0, 0.01, num_epochs)),
        "loss": list(0.7 - 0.6 * progress),
        "val_loss": list(0.75 - 0.5 * progress + rng.normal(0, 0.02, num_epochs)),
    }


def texts_of(figure):
    """Every visible text of a figure."""
    figure.draw_without_rendering()
    found = figure.findobj(lambda artist: hasattr(artist, "get_text") and artist.get_visible())
    return [artist.get_text() for artist in found]


def rings_of(axes):
    """The marks of the best epochs."""
    return [line for line in axes.lines if line.get_linestyle() == "None"]


# ---- Training ----


def test_smooth_is_an_exponential_moving_average():
    assert smooth([1, 2, 3], 0.5) == [1, 1.5, 2.25]
    assert smooth([1, 2, 3], 0) == [1, 2, 3]
    assert smooth([5.0], 0.8) == [5.0] and smooth([]) == []


def test_history_marks_and_names_the_epoch_of_least_validation_loss():
    history = make_history(40)
    best = int(np.argmin(history["val_loss"]))
    figure = plot_history({"scratch": history})
    for axes, key in zip(figure.axes, ("val_accuracy", "val_loss"), strict=True):
        (ring,) = rings_of(axes)
        assert ring.get_xydata().tolist() == [[best + 1, history[key][best]]]
    accuracy, loss = history["val_accuracy"][best], history["val_loss"][best]
    assert f"scratch: {100 * accuracy:.1f} %, loss {loss:.3f} at epoch {best + 1}" in texts_of(
        figure
    )


def test_history_shows_training_and_validation_raw_and_smoothed():
    history = make_history(100)
    for axes, quantity in zip(
        plot_history({"run": history}).axes, ("accuracy", "loss"), strict=True
    ):
        raw = [line for line in axes.lines if line.get_alpha()]
        bold = [line for line in axes.lines if not line.get_alpha()][:2]
        assert [line.is_dashed() for line in bold] == [True, False]  # training, validation
        for faint, line, key in zip(raw, bold, (quantity, f"val_{quantity}"), strict=True):
            np.testing.assert_array_equal(faint.get_ydata(), history[key])
            assert smooth(history[key], 0.8) == pytest.approx(list(line.get_ydata()))


def test_history_with_a_wild_and_a_missing_loss():
    history = make_history(60)
    history["val_loss"][0], history["val_loss"][-1] = 80.0, float("nan")
    figure = plot_history({"wild": history})
    assert figure.axes[1].get_ylim()[1] < 3
    best = 1 + np.nanargmin(history["val_loss"])
    assert any(text.endswith(f"at epoch {best}") for text in texts_of(figure))


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


@pytest.mark.parametrize("corner, num_panels", [((0.01, 0.99), 2), ((0.2, 0.7), 1)])
def test_roc_enlarges_the_corner_of_a_good_model(corner, num_panels):
    x, y = ([0, value, 1] for value in corner)
    figure = plot_roc({"scratch": (x, y, 0.98765)})
    assert "scratch: AUC 0.9877" in texts_of(figure)
    axes = figure.axes[0]
    lines = [panel.lines[-1] for panel in (axes, *axes.child_axes)]
    assert len(lines) == num_panels
    assert all(line.get_xydata().tolist() == [[0, 0], [*corner], [1, 1]] for line in lines)


def test_reliability_shows_every_bin_before_and_after_scaling():
    before = [{"num_images": 90, "confidence": 0.95, "accuracy": 0.8},
              {"num_images": 10, "confidence": 0.6, "accuracy": 0.1}]  # fmt: skip
    after = [{"num_images": 100, "confidence": 0.75, "accuracy": 0.73}]
    figure = plot_reliability(before, after)
    axes, counts = figure.axes
    for bins, marks, line in zip((before, after), axes.collections, counts.lines, strict=True):
        points = [(part["confidence"], part["accuracy"]) for part in bins]
        np.testing.assert_allclose(marks.get_offsets(), points)
        assert axes.viewLim.count_contains(points) == len(points)
        assert list(line.get_ydata()) == [part["num_images"] for part in bins]


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


@pytest.mark.parametrize("name, kind", [("grid.png", "PNG"), ("new/grid.jpg", "JPEG")])
def test_save_figure_writes_the_format_of_the_suffix(name, kind, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (4, 96, 96, 3), dtype=np.uint8)
    path = tmp_path / name
    save_figure(plot_image_grid(noise), path)
    with PIL.Image.open(path) as image:
        assert image.format == kind and min(image.size) > 100
    assert [*path.parent.iterdir()] == [path]


@pytest.mark.parametrize("name", ["grid.xyz", "grid", ".png"])
def test_save_figure_refuses_what_is_no_picture_format(name, tmp_path):
    with pytest.raises(InputError, match=r"picture format, such as .png.*grid|Received:.*\.png"):
        save_figure(plot_arrays([np.eye(2)], ["ones"]), tmp_path / name)
    assert not [*tmp_path.iterdir()]


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


def test_render_figure_takes_the_smaller_format():
    noise = np.random.default_rng(0).integers(0, 256, (1, 96, 96, 3), dtype=np.uint8)
    assert render_figure(plot_arrays([np.eye(3)], ["ones"])).format == "png"
    assert render_figure(plot_image_grid(noise)).format == "jpeg"
