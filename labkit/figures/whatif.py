"""A what-if as figures: the projected frontiers, where disaggregation wins, and the claims recomputed.

Projections are drawn dashed, and every figure says in its title whose projection it is and how far off it may be.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from labkit.figures import style
from labkit.figures.marks import Dots, Figure, HLine, Line, Mark, Panel, Rects, Text, VLine
from labkit.whatif.claimed import WANTED, ClaimedPlace
from labkit.whatif.study import WhatIf
from labkit.whatif.winning import EVEN, Duel, WinningMap
from labkit.whatif.words import CLAIMS, beside, recomputed_on

_KINDS: Final = (("aggregated", style.AGGREGATED), ("disaggregated", style.DISAGGREGATED))
#: Gains from which a place has its colour, and that colour; in between nobody wins.
_WINS: Final = (
    (2.0, "#8E6BC9", "D 2× or more"),
    (1.3, "#B79FDD", "D 1.3 to 2×"),
    (EVEN, "#DED3F0", "D up to 1.3×"),
    (1 / EVEN, style.GRID, "even"),
    (1 / 1.3, "#C5E8DC", "A up to 1.3×"),
    (0.0, "#7FCBB1", "A 1.3× or more"),
)
_ONLY: Final = {
    "aggregated": ("#35AF8B", "A only"),
    "disaggregated": (style.DISAGGREGATED, "D only"),
    "neither": ("#F7F7F8", "neither"),
    "unknown": ("#E9E4D4", "not projected"),
}
_HEADROOM: Final = 1.15  # for the name of the line up the panel
_LIMIT_HUES: Final = (style.WORSE, style.PREFILL, style.DECODE, style.UNKNOWN)
_TITLES: Final = {
    "lengths": "Where disaggregation is projected to win: lengths",
    "limits": "Where disaggregation is projected to win: limits",
    "models": "Where disaggregation is projected to win: models",
}


def whatif_figures(found: WhatIf, *, caption: str = "") -> list[Figure]:
    """Every figure of a what-if, in the order in which they are shown."""
    figures = [_frontiers(found, beside(found), caption)]
    figures += [_map(one, beside(found, *(one.ys if one.name == "models" else ())), caption) for one in found.maps]
    of = dict.fromkeys(model for one in found.claims for model in one.models)
    return [*figures, _claims(found.claims, beside(found, *of), caption)] if found.claims else figures


def _frontiers(found: WhatIf, said: str, caption: str) -> Figure:
    asked = found.question
    limit = f"TTFT ≤ {asked.slo.ttft_s * 1e3:g} ms" if asked.slo.ttft_s else "no limit of TTFT"
    why = found.met.why_unknown
    lacks = f"{why[0].upper()}{why[1:]}. " if why else ""
    return Figure(
        name="projected_frontiers",
        title=f"Projected: {asked.setting.model} on {asked.gpus:,} × {asked.setting.system}",
        subtitle=f"ISL {asked.setting.isl}, OSL {asked.setting.osl}, {limit}. {lacks}{said}",
        panels=(_pareto(found), _gains(found)),
        caption=caption,
        columns=2,
        width=11.5,
    )


def _pareto(found: WhatIf) -> Panel:
    marks: list[Mark] = []
    for (kind, color), points in zip(_KINDS, found.frontiers, strict=True):
        if points:
            x, y = np.array([p.tok_s_per_user for p in points]), np.array([p.tok_s_per_gpu for p in points])
            marks.append(Line(x, y, color, f"{kind}, projected", dash="dashed"))
            marks.append(Dots(x, y, color, size=5.0, alpha=0.9, tips=[str(point) for point in points]))
    tpot = found.question.slo.tpot_s
    if tpot:
        marks.append(VLine(1 / tpot, style.FAINT, f"TPOT {tpot * 1e3:g} ms"))
    bests = (found.aggregated, found.disaggregated)
    for at, ((_, color), best) in enumerate(zip(_KINDS, bests, strict=True)):
        if best is not None:
            user, gpu = best.tok_s_per_user, best.tok_s_per_gpu
            marks.append(Dots(np.array([user]), np.array([gpu]), color, size=9.0, alpha=1, tips=(f"best under the SLO: {best}",)))
            marks.append(Text(user, gpu, str(best.topology), color, dx=8, dy=(-10, 8)[at], bold=True))
    none = "" if any(found.frontiers) else found.met.why_unknown or "no split of either kind meets the limit of TTFT"
    return Panel(
        "Frontiers",
        "output per user (tok/s)",
        "output per GPU (tok/s)",
        tuple(marks),
        none,
        y_range=(0.0, _HEADROOM * max((p.tok_s_per_gpu for points in found.frontiers for p in points), default=1.0)),
        x_log=bool(marks),
        height=3.4,
    )


def _gains(found: WhatIf) -> Panel:
    known = [(float(duel.x), duel.gain, duel) for duel in found.along if duel.gain is not None]
    marks: list[Mark] = [HLine(1.0, style.FAINT, "equal")]
    if known:
        x, y = np.array([at for at, _, _ in known]), np.array([gain for _, gain, _ in known])
        marks.append(Line(x, y, style.INK, "disaggregated over aggregated, projected", dash="dashed"))
        marks.append(Dots(x, y, style.INK, size=5.5, alpha=1, tips=[_tip(duel) for _, _, duel in known]))
    ticks = tuple((float(duel.x), duel.x) for duel in found.along)
    reasons = [duel.why_unknown for duel in found.along if duel.why_unknown]
    none = "" if known else next(iter(reasons), "at no limit of TPOT do both kinds meet the limit of TTFT")
    return Panel("Gain", "TPOT limit (ms)", "times the output per GPU", tuple(marks), none, x_log=True, x_ticks=ticks, height=3.4)


def _map(one: WinningMap, said: str, caption: str) -> Figure:
    """A box a place, its gain inside; nothing is drawn between places, since nothing was projected there."""
    boxes: dict[str, list[tuple[int, int, Duel]]] = {}
    colors: dict[str, str] = {}
    words: list[Mark] = []
    for at, duel in enumerate(one.duels):
        column, row = at % len(one.xs), at // len(one.xs)
        color, label = _won(duel)
        colors[label] = color
        boxes.setdefault(label, []).append((column, row, duel))
        words.append(Text(column, row, _cell(duel), style.INK, align="center", dy=-3, size=9.0, bold=duel.gain is not None))
    marks: list[Mark] = []
    for label in sorted(boxes, key=_rank):
        places = boxes[label]
        x, y = np.array([float(column) for column, _, _ in places]), np.array([float(row) for _, row, _ in places])
        tips = [_tip(duel) for _, _, duel in places]
        marks.append(Rects(x - 0.48, x + 0.48, y - 0.47, y + 0.47, colors[label], label, tips=tips))
    panel = Panel(
        "", one.x_label, one.y_label, (*marks, *words),
        x_range=(-0.5, len(one.xs) - 0.5), y_range=(-0.5, len(one.ys) - 0.5),
        x_ticks=tuple((float(at), text) for at, text in enumerate(one.xs)),
        y_ticks=tuple((float(at), text) for at, text in enumerate(one.ys)),
        height=max(0.46 * len(one.ys), 1.4), grid=False,
    )  # fmt: skip
    return Figure(
        name=f"projected_{one.name}",
        title=_TITLES[one.name],
        subtitle=f"{one.fixed}. Numbers: output per GPU, best disaggregated split (D) over best aggregated one (A); neither: no "
        f"split meets the limits; ?: a kind was not projected. {said}",
        panels=(panel,),
        caption=caption,
    )


def _claims(claims: Sequence[ClaimedPlace], said: str, caption: str) -> Figure:
    panels = [panel for key in CLAIMS for panel in _claim(key, [one for one in claims if one.claim == key])]
    return Figure(
        name="projected_claims",
        title=f"The published claims, projected {recomputed_on(claims)}",
        subtitle=f"Output per GPU, disaggregated over aggregated, under equal limits; ISL 3000, OSL 150. {said}",
        panels=tuple(panels),
        caption=caption,
        columns=2,
        width=11.5,
    )


def _claim(key: str, places: Sequence[ClaimedPlace]) -> Iterator[Panel]:
    """A line for each limit of TTFT; of several rivals a panel each."""
    for named in dict.fromkeys(one.named for one in places):
        mine = [one for one in places if one.named == named]
        marks: list[Mark] = [HLine(1.0, style.FAINT, "equal")]
        if WANTED.get(key, 1.0) > 1:
            marks.append(HLine(WANTED[key], style.STALL, f"claimed: {WANTED[key]:g} times", dash="dotted"))
        for hue, ttft_s in zip(_LIMIT_HUES, dict.fromkeys(one.slo.ttft_s or 0.0 for one in mine), strict=False):
            known = [(one, duel.gain) for one in mine if one.slo.ttft_s == ttft_s
                     and (duel := Duel("", "", one.aggregated, one.disaggregated)).gain is not None]  # fmt: skip
            if known:
                x = np.array([(one.slo.tpot_s or 0.0) * 1e3 for one, _ in known])
                y = np.array([gain or 0.0 for _, gain in known])
                marks.append(Line(x, y, hue, f"TTFT ≤ {ttft_s * 1e3:g} ms", dash="dashed"))
                marks.append(Dots(x, y, hue, size=5.0, alpha=0.9, tips=[f"{one.where}: {one.words}" for one, _ in known]))
                lesser = np.array([np.nan if one.smaller is None else one.smaller for one, _ in known])
                if np.isfinite(lesser).any():
                    marks.append(Line(x, lesser, hue, "the smaller model", width=1.0, alpha=0.8, dash="dotted"))
        ticks = tuple((tpot * 1e3, f"{tpot * 1e3:g}") for tpot in dict.fromkeys(one.slo.tpot_s or 0.0 for one in mine))
        reasons = [one.unknown for one in mine if one.unknown]
        none = next(iter(reasons), "nowhere do both kinds meet the limits")
        none = "" if len(marks) > 1 and any(isinstance(mark, Line) for mark in marks) else none
        title, ends = f"{CLAIMS[key].split(',')[0]}: {named}", [at for at, _ in ticks]
        x_range = (min(ends) / 1.1, max(ends) * 1.25)  # names of lines stand beyond the last place
        yield Panel(title, "TPOT limit (ms)", "times", tuple(marks), none, x_range, x_log=True, x_ticks=ticks, height=1.7)


def _won(duel: Duel) -> tuple[str, str]:
    gain = duel.gain
    if gain is None:
        return _ONLY[duel.winner]
    _, color, label = next(one for one in _WINS if gain >= one[0])
    return color, label


def _rank(label: str) -> int:
    labels = [label for _, _, label in _WINS] + [label for _, label in _ONLY.values()]
    return labels.index(label)


def _cell(duel: Duel) -> str:
    if duel.gain is not None:
        return f"{duel.gain:.2f}"
    return {"aggregated": "A only", "disaggregated": "D only", "unknown": "?"}.get(duel.winner, "–")


def _tip(duel: Duel) -> str:
    sides = [str(one) for one in (duel.disaggregated, duel.aggregated) if one is not None]
    gain = f"{duel.gain:.2f} times: " if duel.gain is not None else ""
    told = [f"{gain}{' against '.join(sides)}" if sides else "", duel.why_unknown]
    return "; ".join(text for text in told if text) or "no split of either kind meets the SLO"
