"""Small arrays with their numbers, side by side: what a layer reads and what it answers."""

import matplotlib
import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from catsdogs.evaluation.figures import COLOURS, GREY, INK, STYLE

__all__ = ["plot_arrays"]

# White is zero, whatever the range: blue above, orange below.
_SIGNED = LinearSegmentedColormap.from_list("signed", [COLOURS[1], "white", COLOURS[0]])
_MOST_NUMBERS = 12  # cells a side; in larger arrays numbers could not be read
_CELL, _GAP, _EDGE = 0.45, 0.35, 0.05  # inches
_WIDTH = 10.0  # inches, at most; cells are smaller where they are many


@matplotlib.rc_context(STYLE)
def plot_arrays(arrays, titles, outlines=None):
    """Arrays as grids of coloured cells of one size, with a number in each if there is room.

    Blue is above zero, orange below, white is zero; each array has its own scale. What is uint8 is
    a picture and shown in grey.

    Args:
        arrays: List of numbers `(rows, columns)`, of any sizes.
        titles: A short text above each array.
        outlines: `dict` from an array's place in the list to the cells to put a frame around,
            `(top, left, rows, columns)`; or `None`.

    Returns:
        `matplotlib.figure.Figure`.

    Raises:
        ValueError: If there is no array, one is not a matrix, or the titles are more or fewer.
    """
    arrays = [np.asarray(array) for array in arrays]
    if not arrays or any(array.ndim != 2 for array in arrays) or len(titles) != len(arrays):
        raise ValueError(
            "Expected one title for each of one or more arrays (rows, columns). "
            f"Received: {len(titles)} titles, shapes {[array.shape for array in arrays]}"
        )
    shapes = np.array([array.shape for array in arrays])
    rows, all_columns = shapes[:, 0].max(), shapes[:, 1].sum()
    gaps = _GAP * (len(arrays) - 1)
    cell = min(_CELL, (_WIDTH - gaps) / all_columns)
    title_height = 0.32 + 0.18 * max(title.count("\n") for title in titles)
    # Placed by hand: matplotlib's layouts give every array the same room, and so another scale.
    size = np.array([cell * all_columns + gaps + 2 * _EDGE, cell * rows + title_height + 2 * _EDGE])
    figure = Figure(figsize=size)
    left = _EDGE
    for place, (array, title) in enumerate(zip(arrays, titles, strict=True)):
        extent = cell * shapes[place, ::-1]
        corner = left, _EDGE + (cell * rows - extent[1]) / 2  # smaller ones stand in the middle
        left += extent[0] + _GAP
        axes = figure.add_axes((*(corner / size), *(extent / size)))
        _draw_array(axes, array, has_numbers=shapes.max() <= _MOST_NUMBERS)
        axes.set_title(title, fontsize=9.5, weight="normal", loc="center", pad=5)
        if outlines and place in outlines:
            top, first, height, width = outlines[place]
            frame = Rectangle((first - 0.5, top - 0.5), width, height, zorder=3, clip_on=False)
            frame.set(fill=False, edgecolor=INK, linewidth=2.5)
            axes.add_patch(frame)
    return figure


def _draw_array(axes, array, has_numbers):
    # A few extreme cells of a large array must not leave the others pale.
    largest = np.quantile(np.abs(array), 1 if has_numbers else 0.99) or 1
    if array.dtype == np.uint8:
        axes.imshow(array, cmap="gray", vmin=0, vmax=255)
    else:
        axes.imshow(array, cmap=_SIGNED, vmin=-largest, vmax=largest)
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    axes.spines[:].set(visible=True, color=GREY)
    if has_numbers:
        for (row, column), value in np.ndenumerate(array):
            colour = "white" if abs(value) > 0.6 * largest else INK
            axes.text(column, row, f"{value:.3g}", color=colour, ha="center", va="center")
