"""One thing that a reader must know of a result."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Kind = Literal[
    "failures", "cancelled", "send_lag", "client_limited", "few_requests", "not_stationary", "cold_start", "saturated",
    "foreign_cpu", "steal", "foreign_gpu", "throttled", "clock_drop", "restart", "prefix_hits", "shared_gpu", "shared_core",
    "straddled", "dummy_weights", "mixed_splits", "uncounted_tokens", "imported", "transport", "simulated", "distorted",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Mark:
    """One condition of a result: a ``note`` to be printed with it, or a ``warning`` that it may mislead."""

    kind: Kind
    text: str
    severity: Literal["note", "warning"] = "warning"


def warnings_in(marks: Iterable[Mark]) -> tuple[str, ...]:
    """The texts of those that are warnings."""
    return tuple(mark.text for mark in marks if mark.severity == "warning")


def grouped(marked: Iterable[tuple[str, Iterable[Mark]]]) -> dict[Kind, tuple[Mark, tuple[str, ...]]]:
    """Each kind once: its first mark, and the names of all windows that have it.

    Args:
        marked: name of a window (``2A #1``) and its marks.
    """
    found: dict[Kind, tuple[Mark, tuple[str, ...]]] = {}
    for name, marks in marked:
        for mark in marks:
            first, names = found.get(mark.kind, (mark, ()))
            found[mark.kind] = first, (*names, name)
    return found
