"""What a JSON file must hold, as a table, and the one sentence about what does not fit.

A table is a `Field` for a value, `{key: table}` for an object, which may have other keys as well,
and `[table]` for a list. A key that ends in `?` may be missing.
"""

import dataclasses
import reprlib
from collections.abc import Callable

__all__ = [
    "CLASSES", "FLAG", "FRACTION", "INTERVAL", "NAME", "PATH", "TEXT", "Field", "check_fields",
    "number", "one_of", "or_none", "whole",
]  # fmt: skip

_MAX_TEXT, _MAX_NAME = 1000, 200  # characters


@dataclasses.dataclass(frozen=True)
class Field:
    """One value."""

    words: str
    """What it must be, as in "received 3, not ..."."""
    fits: Callable[[object], bool]


def _is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def number(low, high=1e15):
    """A finite number in [low, high]; never NaN."""
    return Field(
        f"a number from {low:g} to {high:g}",
        lambda value: _is_number(value) and low <= value <= high,
    )


def whole(low, high=10**15):
    """A whole number in [low, high]."""
    return Field(
        f"a whole number from {low:,} to {high:,}",
        lambda value: _is_number(value) and isinstance(value, int) and low <= value <= high,
    )


def one_of(*words):
    """One of these strings."""
    return Field(
        f"one of {', '.join(words)}", lambda value: isinstance(value, str) and value in words
    )


def or_none(table):
    """`null`, or a value as the `Field` `table` has it."""
    return Field(f"{table.words}, or null", lambda value: value is None or table.fits(value))


FLAG = Field("true or false", lambda value: isinstance(value, bool))
FRACTION = number(0, 1)
INTERVAL = Field(
    "two numbers from 0 to 1",
    lambda value: isinstance(value, list) and len(value) == 2 and all(map(FRACTION.fits, value)),
)
TEXT = Field(  # is printed: no line breaks, no halves of characters
    f"at most {_MAX_TEXT:,} printable characters",
    lambda value: isinstance(value, str) and value.isprintable() and len(value) <= _MAX_TEXT,
)
NAME = Field(  # becomes part of a file's path: nothing that leads elsewhere
    f"a name of at most {_MAX_NAME} printable characters without slashes",
    lambda value: (
        TEXT.fits(value)
        and 0 < len(value) <= _MAX_NAME
        and value not in (".", "..")
        and not set(value) & {*"/\\"}
    ),
)
CLASSES = Field(
    "a list of two or more different names",
    lambda value: (
        isinstance(value, list)
        and all(map(NAME.fits, value))
        and 2 <= len(value) == len(set(value))
    ),
)
PATH = Field("a path", lambda value: isinstance(value, str) and value != "" and "\0" not in value)


def check_fields(content, table, place="the content"):
    """Compares what was read from JSON with a table.

    Args:
        content: What `json.loads` returned.
        table: See the module's docstring.
        place: What to call `content`.

    Raises:
        ValueError: With the first thing that does not fit, in one line:
            `validation.accuracy is 'x', not a number from 0 to 1`.
    """
    if isinstance(table, Field):
        fits, words = table.fits(content), table.words
    else:
        fits = isinstance(content, type(table))
        words = "an object" if isinstance(table, dict) else "a list"
    if not fits:
        raise ValueError(f"{place} is {reprlib.repr(content)}, not {words}")
    if isinstance(table, list):
        for index, value in enumerate(content):
            check_fields(value, table[0], f"{place}[{index}]")
    if isinstance(table, dict):
        for key, part in table.items():
            name = key.removesuffix("?")
            if name in content:
                inside = name if place == "the content" else f"{place}.{name}"
                check_fields(content[name], part, inside)
            elif name == key:
                raise ValueError(f"{place} lacks {name}")
