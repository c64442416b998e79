"""A split search as a picture: what every split was sent, what it served, and where its peak lies."""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from labkit.experiments.candidates import Candidate
from labkit.experiments.peak import Peak
from labkit.experiments.split_search import SplitSearch
from labkit.experiments.trials import Trial
from labkit.figures import style
from labkit.figures.marks import Dots, Figure, Mark, Panel, Rects

_BAR: Final = 0.26
_SPREAD: Final = 0.16  # rounds of a split lie beside each other: the first above, the last below


def search_figure(found: SplitSearch, *, caption: str = "") -> Figure:
    """A row a split, the best on top: trials that were served and not, by the rate sent, and the bracket of the peak."""
    rows = (*found.ranked.last, *found.ranked.dropped)
    colors = style.topology_colors((str(one), str(one.topology)) for one, _ in rows)
    marks: list[Mark] = [mark for at, (one, peak) in enumerate(rows) for mark in _bracket(one, peak, -float(at), colors)]
    at_of = {str(one): -float(at) for at, (one, _) in enumerate(rows)}
    rounds = max((trial.rung for trial in found.trials), default=0) + 1
    for served, label, color in ((True, "served", style.BETTER), (False, "not served", style.WORSE)):
        mine = [trial for trial in found.trials if trial.served == served]
        if mine:
            y = np.array([at_of[trial.candidate] + _SPREAD * (1 - 2 * (trial.rung + 1) / (rounds + 1)) for trial in mine])
            x, tips = np.array([trial.rate for trial in mine]), [_tip(trial, rounds) for trial in mine]
            marker = "circle" if served else "cross"
            marks.append(Dots(x, y, color, label, size=5.5, alpha=0.95, tips=tips, marker=marker))  # type: ignore[arg-type]
    rates = [trial.rate for trial in found.trials]
    x_range = (min(rates, default=1.0) / 1.15, max(rates, default=10.0) * 1.15)
    panel = Panel(
        "Trials, and the bracket of each peak",
        "rate sent (req/s, log scale)",
        "",
        tuple(marks),
        "" if rates else "no trial was made",
        x_range,
        (-len(rows) + 0.5, 0.5),
        True,
        x_ticks=_ticks(*x_range),
        y_ticks=tuple((at, name) for name, at in at_of.items()),
        y_ticks_right=tuple((at_of[str(one)], str(peak)) for one, peak in rows),
        height=max(0.5 * len(rows), 1.0),
    )
    return Figure(
        name="search",
        title="What every split serves",
        subtitle=f"Served: {found.share:.0%} of the requests within {found.slo}. The better half goes on to a longer round.",
        panels=(panel,),
        caption=caption,
    )


def _bracket(one: Candidate, peak: Peak, y: float, colors: dict[str, str]) -> list[Mark]:
    if peak.served is None:
        return []
    end = peak.failed or peak.served * 1.05
    tip = f"{one}: {peak}"
    x0, x1, y0, y1 = (np.array([value]) for value in (peak.served, end, y - _BAR, y + _BAR))
    return [Rects(x0, x1, y0, y1, colors[str(one)], "peak", alpha=0.35, tips=(tip,))]


def _tip(trial: Trial, rounds: int) -> str:
    return f"{trial}; round {trial.rung + 1} of {rounds}, run {trial.run}"


def _ticks(low: float, high: float) -> tuple[tuple[float, str], ...]:
    """1, 1.5, 2, 3, 5, 7 of every decade in the range."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    values = [digit * 10.0**decade for decade in decades for digit in (1, 1.5, 2, 3, 5, 7)]
    return tuple((value, f"{value:g}") for value in values if low <= value <= high)
