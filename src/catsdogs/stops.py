"""Ctrl-C, `kill` and a closed terminal: one `KeyboardInterrupt`, none while leaving."""

import functools
import math
import os
import signal
import sys
import threading
import time

__all__ = ["find_stop", "ignore_stops", "raise_stops"]

_STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # Ctrl-C, `kill`, a closed terminal
_PATIENCE = 5  # seconds


class _RaiseOnce:
    """Raises `KeyboardInterrupt`; a stop that follows within seconds does nothing.

    Ctrl-C pressed twice would break off what the first one makes tidy up: workers that are waited
    for, files that are taken away.
    """

    def __init__(self):
        self._heeded, self._number = -math.inf, signal.SIGINT

    def __call__(self, number, frame):
        del frame
        if time.monotonic() - self._heeded > _PATIENCE:
            self._heeded, self._number = time.monotonic(), number
            raise KeyboardInterrupt

    def ask_again(self, answer, ignored):
        """Stops a little later where Python lost the exception: in what it calls when an object
        dies.

        Args:
            answer: The hook for all other exceptions that are lost there.
            ignored: What `sys.unraisablehook` is given.
        """
        if issubclass(ignored.exc_type, KeyboardInterrupt):
            self._heeded = -math.inf
            threading.Timer(0.05, os.kill, [os.getpid(), self._number]).start()
        else:
            answer(ignored)


def raise_stops():
    """From now on a stop of any kind raises `KeyboardInterrupt`, unless this process ignores it."""
    stop = _RaiseOnce()
    for number in _STOPS:
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, stop)
    sys.unraisablehook = functools.partial(stop.ask_again, sys.unraisablehook)


def find_stop(error):
    """The `KeyboardInterrupt` that an error comes from, or `None`.

    A library that is stopped while it loads, or while it tidies up, may raise an error of its own.
    """
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error


def ignore_stops():
    """Leaving takes a moment, in which nothing is left that could be stopped."""
    for number in _STOPS:
        signal.signal(number, signal.SIG_IGN)
