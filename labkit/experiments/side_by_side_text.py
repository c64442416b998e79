"""Columns beside each other as plain text: what differs, what is the same, the quantities, and what is missing and why."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Final

from labkit.experiments.quantities import QUANTITIES
from labkit.experiments.side_by_side import Cell, Column, SideBySide
from labkit.experiments.table import value_text
from labkit.spec import Workload

_GAP: Final = "  "
_LONGEST: Final = 34  # of a cell
_DEFAULTS: Final = {f"workload.{one.name}": one.default for one in fields(Workload)}
#: What a fact says where nothing was set.
_NOTHING: Final = frozenset({"none", "no", "0"})

Rows = list[tuple[str, tuple[str, ...]]]


def side_by_side_text(found: SideBySide, width: int = 120) -> str:
    """The whole table with what must be said of it.

    Args:
        found: the columns.
        width: of the terminal; more columns than fit are continued below, each part with the first column.
    """
    notes: list[str] = []
    quantities: Rows = [
        (
            f"{quantity.label} ({quantity.unit})" if quantity.unit else quantity.label,
            tuple(_cell(column.cells[quantity.key], quantity.unit, notes) for column in found.columns),
        )
        for quantity in QUANTITIES
    ]
    counts: Rows = [("requests (failed)", tuple(f"{one.requests:,} ({one.failed:,})" for one in found.columns))]
    if any(one.cancelled for one in found.columns):
        counts.append(("  cancelled by a stop", tuple(f"{one.cancelled:,}" for one in found.columns)))
    if any(one.repeats > 1 for one in found.columns):
        counts.insert(0, ("repeats", tuple(str(one.repeats) for one in found.columns)))
    lines = [*_grid([_head(found), _differing(found), [*counts, *quantities]], width)]
    lines += [f"({number}) {note}" for number, note in enumerate(notes, start=1)]
    if any(cell.ratio for column in found.columns for cell in column.cells.values()):
        lines.append("× is the ratio to the first column with its 95 % interval; * where that leaves 1 out")
    said = [*_unequal(found), *_notes(found), *_common(found), *_marks(found)]
    return "\n".join([*lines, "", *(line for text in said for line in _folded(text, width))])


def conditions_text(found: SideBySide, width: int = 120) -> str:
    """What differs, what is the same and which marks differ, without any quantity."""
    lines = [*_grid([_head(found), _differing(found)], width)] if found.differences.differs else []
    return "\n".join([*lines, *(line for text in _common(found) for line in _folded(text, width))])


def _head(found: SideBySide) -> Rows:
    rows: Rows = [("", found.names)]
    if found.names != tuple(one.side for one in found.columns) and not any(":" in name for name in found.names):
        rows.append(("", tuple(one.side for one in found.columns)))
    return rows


def _differing(found: SideBySide) -> Rows:
    differs = found.differences.differs
    head: Rows = [("what differs", ("",) * len(found.columns))] if differs else []
    return [*head, *((f"  {name}", tuple(_short(value) for value in values)) for name, values in differs.items())]


def _cell(cell: Cell, unit: str, notes: list[str]) -> str:
    text = value_text(cell.value, unit)
    if cell.value is None:
        if cell.reason not in notes:
            notes.append(cell.reason)
        return f"{text}({notes.index(cell.reason) + 1})"
    if cell.ratio is None:
        return text
    star = "*" if cell.ratio.shows_difference else ""
    return f"{text} ×{cell.ratio.estimate:.2f} [{cell.ratio.low:.2f}, {cell.ratio.high:.2f}]{star}"


def _grid(parts: Sequence[Rows], width: int) -> Iterator[str]:
    """Rows in columns as wide as they need; a rule between parts."""
    rows = [row for part in parts for row in part]
    label = max(len(name) for name, _ in rows)
    widths = [max(len(cells[at]) for _, cells in rows) for at in range(len(rows[0][1]))]
    for number, group in enumerate(_groups(label, widths, width)):
        if number:
            yield ""
        filled = [part for part in parts if part]
        rule = "─" * (label + sum(len(_GAP) + widths[at] for at in group))
        for part in filled:
            if part is not filled[0]:
                yield rule
            for name, cells in part:
                yield _GAP.join([name.ljust(label), *(cells[at].ljust(widths[at]) for at in group)]).rstrip()


def _groups(label: int, widths: Sequence[int], width: int) -> list[list[int]]:
    """Positions of the columns that fit beside each other; the first is in every group."""
    groups, used = [[0]], label + len(_GAP) + widths[0]
    for at in range(1, len(widths)):
        if used + len(_GAP) + widths[at] > width and len(groups[-1]) > 1:
            groups.append([0])
            used = label + len(_GAP) + widths[0]
        groups[-1].append(at)
        used += len(_GAP) + widths[at]
    return groups


def _unequal(found: SideBySide) -> Iterator[str]:
    for why, names in _by_text(found, {name: (one.unequal,) for name, one in _named(found)}):
        yield f"no ratios for {names}: {why}"


def _notes(found: SideBySide) -> Iterator[str]:
    for note, names in _by_text(found, {name: one.notes for name, one in _named(found)}):
        yield f"{names} against {found.names[0]}: {note}"


def _common(found: SideBySide) -> Iterator[str]:
    stated = {name: text for name, text in found.differences.same.items() if text not in _NOTHING and not _usual(name, text)}
    if stated:
        yield f"same in all: {', '.join(f'{name} {text}' for name, text in stated.items())}"
    partly = [name for name in found.differences.partly if not name.startswith("workload.")]
    if partly:
        yield f"not recorded in all: {', '.join(partly)}"
    if found.marks_differ:
        yield f"marks differ: {'; '.join(found.marks_differ)}"


def _marks(found: SideBySide) -> Iterator[str]:
    texts = {name: tuple(mark.text for mark in one.marks) for name, one in _named(found)}
    for text, names in _by_text(found, texts):
        yield f"! {names}: {text}"


def _named(found: SideBySide) -> Iterator[tuple[str, Column]]:
    yield from zip(found.names, found.columns, strict=True)


def _by_text(found: SideBySide, texts: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, str]]:
    """Each text once, with the names of the columns that have it; ``all`` where every one has."""
    for text in dict.fromkeys(text for mine in texts.values() for text in mine if text):
        names = [name for name, mine in texts.items() if text in mine]
        yield text, "all" if len(names) == len(found.columns) else ", ".join(names)


def _usual(name: str, text: str) -> bool:
    """Whether a workload's field was left as it is."""
    usual = _DEFAULTS.get(name)
    return text == (f"{usual:g}" if isinstance(usual, int | float) else str(usual))


def _short(value: str | None) -> str:
    """A fact that fits a cell; a dash where a column does not say."""
    if value is None:
        return "–"
    half = (_LONGEST - 1) // 2
    return value if len(value) <= _LONGEST else f"{value[:half]}…{value[-half:]}"


def _folded(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, max(width, 40), subsequent_indent="  ", break_on_hyphens=False) or [""]
