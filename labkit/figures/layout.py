"""Where everything of a static figure stands, in inches, from measured text; and which numbers its axes carry."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextToPath
from matplotlib.ticker import MaxNLocator

from labkit.figures import style
from labkit.figures.marks import Figure, Panel, bounds

SIDE_IN: Final = 0.12
#: Of a plot whose labels are wider than the figure: it leaves the figure then.
_LEAST_IN: Final = 0.4
_TEXT: Final = TextToPath()


@dataclass(frozen=True, slots=True)
class Layout:
    """Where everything stands, in inches from the lower left corner; ``caption_in`` is the height of the caption."""

    height: float
    boxes: list[list[tuple[float, float, float, float]]]
    subtitle: str
    caption: str
    warnings: str
    caption_in: float

    @classmethod
    def of(cls, figure: Figure) -> Layout:
        """Boxes of all panels: columns share their margins, rows the height of their headings."""
        subtitle = wrapped(figure.subtitle, style.TEXT_PT, figure.width - 2 * SIDE_IN)
        caption = wrapped(figure.caption, 7.5, figure.width - 2 * SIDE_IN)
        warnings = "\n".join(wrapped(f"! {text}", style.SMALL_PT, figure.width - 2 * SIDE_IN) for text in figure.warnings)
        header = 0.46 + (0.17 * (subtitle.count("\n") + 1) if subtitle else 0) + (0.24 if figure.key else 0)
        caption_in = 0.1 + (0.15 * (caption.count("\n") + 1) + 0.04 if caption else 0)
        footer = caption_in + (0.16 * (warnings.count("\n") + 1) + 0.04 if warnings else 0)
        lefts = [
            max(_left(row[j]) for row in figure.rows if j < len(row)) for j in range(len(figure.rows[0]) if figure.rows else 0)
        ]
        rights = [max(_right(row[j]) for row in figure.rows if j < len(row)) for j in range(len(lefts))]
        free = max((figure.width - 2 * SIDE_IN - sum(lefts) - sum(rights)) / max(len(lefts), 1), _LEAST_IN)
        heads, feet = [], []
        for i, row in enumerate(figure.rows):
            heads.append(max(_head(panel, free) for panel in row))
            feet.append(0.47 if not figure.share_x or i == len(figure.rows) - 1 else 0.12)
        heights = [max(panel.height for panel in row) for row in figure.rows]
        total = header + sum(heads) + sum(feet) + sum(heights) + footer
        boxes, y = [], total - header
        for row, head, foot, plot in zip(figure.rows, heads, feet, heights, strict=True):
            y -= head + plot
            x, line = SIDE_IN, []
            for j, _ in enumerate(row):
                line.append((x + lefts[j], y, free, plot))
                x += lefts[j] + free + rights[j]
            boxes.append(line)
            y -= foot
        return cls(total, boxes, subtitle, caption, warnings, caption_in)


def width_in(text: str, size: float, *, bold: bool = False) -> float:
    """Width of a text (its widest line) in inches at ``size`` points."""
    font = FontProperties(family="DejaVu Sans", weight="bold" if bold else "normal", size=size)
    return max(float(_TEXT.get_text_width_height_descent(line, font, ismath=False)[0]) for line in text.split("\n")) / 72


def wrapped(text: str, size: float, width: float) -> str:
    """``text`` broken at spaces into lines of at most ``width`` inches."""
    lines: list[str] = []
    for word in text.split(" "):
        if lines and width_in(f"{lines[-1]} {word}", size) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return "\n".join(line.strip() for line in lines)


def _left(panel: Panel) -> float:
    if panel.y_ticks is not None:
        texts = [text for _, text in panel.y_ticks]
    else:
        low, high = bounds(panel)[2:]
        count = y_count(panel.height)
        texts = [number(tick) for tick in (log_ticks(low, high, count) if panel.y_log else linear(count).tick_values(low, high))]
    ticks = max((width_in(text, style.SMALL_PT) for text in texts), default=0.0)
    return ticks + (0.34 if panel.y_label else 0.16)


def _right(panel: Panel) -> float:
    return max((width_in(text, style.SMALL_PT) for _, text in panel.y_ticks_right or ()), default=0.0) + 0.2


def legend_rows(panel: Panel, width: float) -> int:
    """How many lines a panel's legend takes at this width: as few as its columns, each as wide as its widest entry, allow."""
    needs = [width_in(label, style.SMALL_PT) + 0.37 for label in panel.legend]
    for rows in range(1, len(needs)):
        columns = [needs[at : at + rows] for at in range(0, len(needs), rows)]
        if sum(map(max, columns)) <= width:
            return rows
    return len(needs)


def _head(panel: Panel, width: float) -> float:
    return (0.29 if panel.title else 0.12) + 0.17 * legend_rows(panel, width)


def y_count(height: float) -> int:
    """How many numbers a y axis of this height carries."""
    return max(min(int(height / 0.32), 6), 2)


def linear(count: int) -> MaxNLocator:
    """Round numbers on a linear axis."""
    return MaxNLocator(nbins=count, steps=[1, 2, 5, 10])


def number(value: float, _: object = None) -> str:
    """An axis number as people write it: 0.1, 2.5, 1,500."""
    return f"{value:,.0f}" if abs(value) >= 1000 or float(value).is_integer() else f"{value:g}"


def log_ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers within [low, high], as many as fit into ``most``."""
    if high / low < 4:
        return [float(tick) for tick in linear(most).tick_values(low, high) if low <= tick <= high]
    found: list[float] = []
    for steps in ((1, 1.5, 2, 3, 4, 5, 6, 8), (1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        found = [float(f"{step * 10.0**power:.6g}") for power in decades for step in steps]
        found = [tick for tick in found if low <= tick <= high]
        if len(found) <= most:
            return found
    return found[:: -(-len(found) // most)]
