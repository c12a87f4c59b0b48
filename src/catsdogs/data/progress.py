"""One line on stderr that says how far a long piece of work has come."""

import sys
import time

__all__ = ["Progress"]


class Progress:
    """A progress line, rewritten in place on a terminal; elsewhere only the last state is printed.

    Args:
        label: What is being done, as in `"Checking pictures"`.
        total: Number of steps, or `None` if it is not known.
        unit: Name of a step, as in `"MB"`; steps are shown divided by `scale`.
        scale: Steps in a unit.
        hidden: Whether to show nothing at all.
    """

    def __init__(self, label, total, unit="", scale=1, hidden=False):
        self._hidden = hidden
        self._label, self._total, self._unit, self._scale = label, total, unit, scale
        self._done = 0
        self._shown = 0.0  # when the line was last rewritten, seconds

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        if self._done and not self._hidden:
            self._show(end="\n")

    def update(self, done):
        """Says that `done` steps are finished, all together."""
        self._done = done
        # A log file has no cursor to move back, and a terminal needs no more than ten a second.
        if not self._hidden and sys.stderr.isatty() and time.monotonic() - self._shown > 0.1:
            self._shown = time.monotonic()
            self._show(end="")

    def _show(self, end):
        start = "\r" if sys.stderr.isatty() else ""
        figures = f"{self._done // self._scale:,}"
        if self._total is not None:
            filled = round(24 * min(1.0, self._done / max(1, self._total)))
            bar = "━" * filled + "─" * (24 - filled)
            figures = f"{bar} {figures}/{self._total // self._scale:,}"
        # In one piece: a stop between a line and its end would put its own words behind the line.
        sys.stderr.write(f"{start}{self._label} {figures} {self._unit}".rstrip() + end)
        sys.stderr.flush()
