"""A comparison as a plain table: the same on a terminal, in a log and below a notebook's cell."""

from __future__ import annotations

from labkit.experiments.compare import Comparison, Row

_GAP = "  "


def table(comparison: Comparison) -> str:
    """One line a quantity: both sides, and the ratio B / A with its interval; ``*`` where the interval leaves 1 out.

    A footnote says why a value or a ratio is missing.
    """
    notes: list[str] = []
    simulated = "simulated" in {mark.kind for side in comparison.marks.values() for mark in side}
    head = ("simulated, not measured" * simulated, comparison.side_a, comparison.side_b, "ratio", "95 % interval", "")
    rows = [head, *(_cells(row, notes) for row in comparison.rows)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = [
        _GAP.join(_aligned(cell, width, column) for column, (cell, width) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    ]
    rule = "─" * len(lines[0])
    noted = [f"({number}) {note}" for number, note in enumerate(notes, start=1)]
    return "\n".join(line.rstrip() for line in [lines[0], rule, *lines[1:], *noted])


def _cells(row: Row, notes: list[str]) -> tuple[str, str, str, str, str, str]:
    label = f"{row.label} ({row.unit})" if row.unit else row.label
    mark = ""
    if row.reason:
        if row.reason not in notes:
            notes.append(row.reason)
        mark = f"({notes.index(row.reason) + 1})"
    a, b = value_text(row.a, row.unit), value_text(row.b, row.unit)
    if row.ratio is None:
        return label, a, b, "–", "", mark
    star = "*" if row.ratio.shows_difference else ""
    return label, a, b, f"{row.ratio.estimate:.2f}", f"{row.ratio.low:.2f} – {row.ratio.high:.2f}", star or mark


def value_text(value: float | None, unit: str) -> str:
    """Three digits of a quantity, times in milliseconds; a dash where there is none."""
    if value is None:
        return "–"
    if not unit:
        return f"{value:.0%}"
    scaled = value * 1e3 if unit == "ms" else value
    return f"{scaled:,.0f}" if abs(scaled) >= 100 else f"{scaled:.1f}" if abs(scaled) >= 10 else f"{scaled:.2f}"


def _aligned(cell: str, width: int, column: int) -> str:
    return cell.ljust(width) if column in (0, 5) else cell.rjust(width)
