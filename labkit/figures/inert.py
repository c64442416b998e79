"""Names of models, runs and splits come from anywhere. In a figure they are text, whatever they look like."""

from __future__ import annotations

import re
from dataclasses import fields, is_dataclass, replace
from typing import Any, Final, TypeVar, cast

from labkit.harmless import harmless

#: What Bokeh takes for the beginning of a formula; MathJax would follow its links.
_FORMULA: Final = re.compile(r"\$(?=\$)|\\(?=[(\[])")
#: No line can be broken within it, and to measure a word of megabytes takes minutes.
_WORD: Final = re.compile(r"(\S{200})\S+")
_TICK: Final = 40

T = TypeVar("T")


def inert(figure: T) -> T:
    """The same figure, none of whose texts is a formula, holds what no XML holds, or a word too long to be laid out."""
    return cast("T", _inert(figure))


def _inert(value: Any) -> Any:
    if isinstance(value, str):
        return _WORD.sub(r"\1…", _FORMULA.sub(lambda found: f"{found[0]} ", harmless(value)))
    match value:
        case (int() | float() as at, str(name)):  # a tick: wider than the figure it would leave no room for the plot
            name = _inert(name)
            return at, name if len(name) <= _TICK else f"{name[: _TICK - 1]}…"
    if isinstance(value, tuple | list):
        return type(value)(_inert(item) for item in value) if any(map(_holds_text, value)) else value
    if is_dataclass(value) and not isinstance(value, type):
        changed = {
            one.name: new for one in fields(value) if one.init and (new := _inert(old := getattr(value, one.name))) is not old
        }
        return replace(value, **changed)
    return value


def _holds_text(value: Any) -> bool:
    return isinstance(value, str | tuple | list) or is_dataclass(value)
