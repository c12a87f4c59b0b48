"""The look of every figure, and the file, picture or window that a figure becomes."""

import io
import pathlib
import warnings

import matplotlib
import numpy as np
import PIL.Image

from catsdogs.errors import InputError
from catsdogs.files import atomic_path

__all__ = [
    "COLOURS", "GREY", "INK", "PALE", "STYLE", "error_height", "line_colours",
    "render_figure", "save_figure", "show_figure",
]  # fmt: skip

# Okabe and Ito's palette, told apart with every kind of colour blindness; without its yellow, which
# is too pale for a line on white.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00"]
INK, GREY, PALE = "#222222", "#767676", "#E4E4E4"
STYLE = {
    "font.size": 10,
    "text.parse_math": False,  # names may have dollar signs
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": PALE,
    "grid.linewidth": 0.8,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
}
_LOWEST_ERROR = 0.001  # a logarithmic scale needs an end
_FORMATS = {".png": "png", ".jpg": "jpeg"}
_MAX_BYTES = 150_000  # figures are committed and shown on a web page
# What is tried to stay under it: dots per inch, colours of a PNG (None: all), quality of a JPEG.
_RENDERINGS = ((160, None, 90), (160, 256, 85), (120, 256, 80), (90, 256, 70))


def error_height(accuracies):
    """Where accuracies stand on a scale that is logarithmic in the error, float64.

    Args:
        accuracies: Fractions, of any shape; errors below 0.001 stand where 0.001 does.

    Returns:
        How many powers of ten below 1 the error is: one height is one ratio of mistakes.
    """
    return -np.log10(np.maximum(1 - np.asarray(accuracies), _LOWEST_ERROR))


def line_colours(number):
    """`number` line colours, as distinct as so many can be."""
    if number <= len(COLOURS):
        return COLOURS[:number]
    return list(matplotlib.colormaps["viridis"](np.linspace(0, 0.88, number)))


def save_figure(figure, path):
    """Writes a figure, atomically and small enough for a web page.

    Of a few renderings the sharpest one under 150 kB is kept, or else the last. JPEG is for
    grids of photographs, PNG for all else.

    Args:
        figure: `matplotlib.figure.Figure`.
        path: File to write, `.png` or `.jpg`; its folder is made if missing.

    Raises:
        InputError: If the path has another suffix.
    """
    path = pathlib.Path(path)
    if path.suffix not in _FORMATS:
        raise InputError(f"Expected a figure's file to end in .png or .jpg. Received: path={path}")
    for dpi, num_colours, quality in _RENDERINGS:
        pixels = _to_pixels(figure, dpi)
        encoded = _encode(pixels, _FORMATS[path.suffix], num_colours, quality)
        if len(encoded) < _MAX_BYTES:
            break
    with atomic_path(path) as temporary:
        temporary.write_bytes(encoded)


def render_figure(figure, dpi=100):
    """A figure as a picture, which a notebook shows when it is a cell's last value.

    Args:
        figure: `matplotlib.figure.Figure`.
        dpi: Pixels an inch.

    Returns:
        `IPython.display.Image`, PNG or JPEG, whichever is smaller: charts become PNG and
        photographs JPEG.
    """
    from IPython.display import Image  # every notebook has it, nothing else needs it

    pixels = _to_pixels(figure, dpi)
    return Image(min(_encode(pixels, "png", 256), _encode(pixels, "jpeg", quality=80), key=len))


def show_figure(figure):
    """Opens a figure in a window and waits until it is closed.

    Raises:
        InputError: If matplotlib has no display to open a window on.
    """
    import matplotlib.pyplot as plt  # only here, because it looks for a display

    interactive = matplotlib.backends.backend_registry.list_builtin(
        matplotlib.backends.BackendFilter.INTERACTIVE
    )
    if plt.get_backend().lower() not in map(str.lower, interactive):
        raise InputError(
            "Expected a display to show the figure on. "
            f"Received: matplotlib backend {plt.get_backend()}. Open the saved PNG file instead."
        )
    plt.figure(figure)
    plt.show()


def _to_pixels(figure, dpi):
    rendered = io.BytesIO()
    with warnings.catch_warnings():
        # A letter that the font lacks is drawn as a box, which everybody sees.
        warnings.filterwarnings("ignore", r"Glyph \d+")
        figure.savefig(rendered, format="png", dpi=dpi)
    return PIL.Image.open(rendered).convert("RGB")


def _encode(pixels, form, num_colours=None, quality=90):
    """The bytes of a picture file."""
    encoded = io.BytesIO()
    if form == "jpeg":
        pixels.save(encoded, form, quality=quality, optimize=True)
    else:
        # A chart's few colours survive a palette unchanged, at a third of the bytes.
        pixels = pixels.quantize(num_colours) if num_colours else pixels
        pixels.save(encoded, form, optimize=True)
    return encoded.getvalue()
