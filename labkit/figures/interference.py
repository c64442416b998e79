"""ITL against overlapping prefill tokens: what the prefills beside a token's gap do to it, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from labkit.figures import style
from labkit.figures.context import Context
from labkit.figures.marks import Band, Dots, Figure, HLine, Line, Mark, Panel, Text
from labkit.figures.values import milliseconds
from labkit.measure.exposure import Scope
from labkit.measure.overlap import Overlap, overlaps
from labkit.measure.overlap_bins import Bin
from labkit.measure.statistics import Interval

Found = Mapping[str, Mapping[Scope, Overlap]]

_PANELS: Final[tuple[tuple[Scope, str], ...]] = (
    ("worker", "Prefills on the same worker"),
    ("deployment", "Prefills anywhere in the deployment"),
)
_WHERE: Final[tuple[tuple[Scope, str], ...]] = (("worker", "on the same worker"), ("deployment", "anywhere"))
_TOKENS: Final = "overlapping prefill tokens (count)"
#: Fewer gaps make no point of a line.
_FEW: Final = 10


def interference(context: Context, manifest: Mapping[str, Any]) -> Figure | None:
    """The figure of a run; ``None`` where its workers told of no prefill that anything could be held against."""
    if not context.records.spans.num_rows:
        return None
    sides = {side: [(context.records, window) for window in windows] for side, windows in context.sides.items()}
    limit_s = (manifest.get("slo") or {}).get("tpot_s")
    found = overlaps(sides)
    if not any(one.bins for scopes in found.values() for one in scopes.values()):
        return None
    return interference_figure(found, context.colors, limit_s=limit_s, caption=context.caption)


def interference_figure(found: Found, colors: Mapping[str, str], *, limit_s: float | None = None, caption: str = "") -> Figure:
    """p50 (solid, with its 95 % band) and p99 (dashed) over the prefill tokens beside a gap; below, how many gaps that is.

    Args:
        found: of ``overlaps``.
        colors: of the sides.
        limit_s: per token, of the SLO; drawn as a line.
        caption: the conditions.
    """
    ranges = {scope: _x_range(found, scope) for scope, _ in _PANELS}
    y_range = _y_range(found, limit_s)
    above = [
        Panel(
            title, _TOKENS, "ITL (ms)", _latencies(found, scope, colors, limit_s), _why_empty(found, scope), ranges[scope],
            y_range, y_log=True, height=2.7,
        )
        for scope, title in _PANELS
    ]  # fmt: skip
    below = [
        Panel("", _TOKENS, "gaps (count)", _counts(found, scope, colors), _why_empty(found, scope, brief=True), ranges[scope],
              y_log=True, height=0.8)
        for scope, _ in _PANELS
    ]  # fmt: skip
    return Figure(
        name="interference",
        title="What a prefill does to the tokens beside it",
        subtitle="Gaps between tokens by the prompt tokens of the prefills under way at their middle. Solid: p50 with its 95 % "
        "band, faint where there are fewer than 10; dashed: p99, where there are 100; grey: where 95 % of the p50 lie for "
        "prefills shifted in time, that is without an effect. In the legend: mean gap beside a prefill against none, "
        f"null-corrected, at equal batch size.{_undefined(found)}",
        panels=(*above, *below),
        caption=caption,
        columns=2,
    )


def _latencies(found: Found, scope: Scope, colors: Mapping[str, str], limit_s: float | None) -> tuple[Mark, ...]:
    marks: list[Mark] = [band for scopes in found.values() for band in _null(scopes[scope])]
    for side, scopes in found.items():
        marks += _side(side, scopes[scope], colors[side])
        marks += _slope(scopes[scope], colors[side]) if scope == "worker" else []
    if limit_s is not None and marks:
        marks.append(HLine(limit_s * 1e3, style.SOFT, f"SLO {limit_s * 1e3:g} ms", "dotted"))
    return tuple(marks)


def _null(one: Overlap) -> list[Mark]:
    known = [(each.tokens, each.null_s) for each in one.bins if each.null_s is not None]
    if len(known) < 2:
        return []
    low, high = (np.array([null[end] * 1e3 for _, null in known]) for end in (0, 1))
    return [Band(np.array([tokens for tokens, _ in known]), low, high, style.QUEUE, alpha=0.35)]


def _side(side: str, one: Overlap, color: str) -> list[Mark]:
    number = one.interference
    if not one.bins:
        nothing = np.array([np.nan])
        return [Line(nothing, nothing, color, f"{side}: undefined")]
    said = str(number) if number.value is not None else "undefined"
    many = [each for each in one.bins if each.n >= _FEW]
    few = [each for each in one.bins if each.n < _FEW]
    x = np.array([each.tokens for each in many])
    p50, low, high = _columns([each.p50_s for each in many])
    tails = [each for each in one.bins if each.p99_s is not None]
    p99 = _columns([each.p99_s for each in tails if each.p99_s is not None])
    at = np.array([each.tokens for each in tails])
    marks: list[Mark] = [
        Band(x, low, high, color, alpha=0.2),
        Line(x, p50, color, f"{side}: {said}", width=1.8),
        Line(at, p99[0], color, width=1.1, dash="dashed", alpha=0.9),
        *(Line(np.array([t, t]), np.array(ends), color, width=0.8, alpha=0.45) for t, *ends in zip(at, *p99[1:], strict=True)),
        Dots(at, p99[0], color, size=2.6, alpha=0.9, tips=[_tip(side, each) for each in tails]),
        Dots(x, p50, color, size=4.2, alpha=1.0, tips=[_tip(side, each) for each in many]),
    ]
    if few:
        at = np.array([each.tokens for each in few])
        faint = _columns([each.p50_s for each in few])[0]
        marks.append(Dots(at, faint, color, size=3.2, alpha=0.35, tips=[_tip(side, each) for each in few]))
    return marks


def _slope(one: Overlap, color: str) -> list[Mark]:
    """The slope where it is shown and a line tells the truth, at the end of the p50."""
    last = next((each for each in reversed(one.bins) if each.n >= _FEW), None)
    if last is None or one.slope.value is None or not one.slope.is_shown or one.is_line is False:
        return []
    text = f"{one.slope.value * 1e6:+,.0f} ms a gap per 1,000 tokens"
    return [Text(last.tokens, last.p50_s.estimate * 1e3, text, color, "right", dx=-2.0, dy=9.0)]


def _columns(values: list[Interval]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Estimates and bounds in ms."""
    return tuple(np.array([getattr(one, name) for one in values], np.float64) * 1e3 for name in ("estimate", "low", "high"))  # type: ignore[return-value]


def _tip(side: str, each: Bin) -> str:
    p99 = "p99: n too small" if each.p99_s is None else f"p99 {_ms(each.p99_s)}"
    beside = each.name if not each.most else f"{each.name} prefill tokens"
    return f"{side} · {beside}: p50 {_ms(each.p50_s)}, {p99}, mean {_ms(each.mean_s)}; {each.n:,} gaps"


def _ms(value: Interval) -> str:
    text = f"{milliseconds(value.estimate * 1e3)} ms"
    if not np.isfinite(value.low):
        return text
    return f"{text} [{milliseconds(value.low * 1e3)}, {milliseconds(value.high * 1e3)}]"


def _counts(found: Found, scope: Scope, colors: Mapping[str, str]) -> tuple[Mark, ...]:
    marks: list[Mark] = []
    for side, scopes in found.items():
        bins = scopes[scope].bins
        if bins:
            x, n = np.array([one.tokens for one in bins]), np.array([float(one.n) for one in bins])
            marks.append(Line(x, n, colors[side], width=1.0, alpha=0.5))
            marks.append(Dots(x, n, colors[side], size=3.0, alpha=1.0, tips=[f"{side} · {one.name}: {one.n:,}" for one in bins]))
    return tuple(marks)


def _why_empty(found: Found, scope: Scope, *, brief: bool = False) -> str:
    if any(scopes[scope].bins for scopes in found.values()):
        return ""
    why = dict.fromkeys(scopes[scope].slope.reason for scopes in found.values())
    return "undefined" if brief else f"undefined: {'; '.join(why)}"


def _undefined(found: Found) -> str:
    """Sides without a value, by scope and reason; a panel that says so itself is not told again."""
    sides: dict[tuple[str, str], list[str]] = {}
    for scope, where in _WHERE:
        for side, scopes in found.items() if not _why_empty(found, scope) else ():
            if scopes[scope].interference.value is None:
                sides.setdefault((where, scopes[scope].interference.reason), []).append(side)
    return "".join(f" {' and '.join(names)}: undefined {where}, {reason}." for (where, reason), names in sides.items())


def _x_range(found: Found, scope: Scope) -> tuple[float, float]:
    most = max((each.tokens for scopes in found.values() for each in scopes[scope].bins), default=1.0)
    return -0.03 * max(most, 1.0), 1.05 * max(most, 1.0)


def _y_range(found: Found, limit_s: float | None) -> tuple[float, float]:
    """Of both scopes, so that one can be held against the other."""
    bins = [each for scopes in found.values() for one in scopes.values() for each in one.bins]
    values = [limit_s] if limit_s else []
    for each in bins:
        values += [value for one in (each.p50_s, each.p99_s) if one is not None for value in (one.estimate, one.low, one.high)]
        values += each.null_s or ()
    known = [value * 1e3 for value in values if np.isfinite(value) and value > 0]
    return min(known, default=10.0) / 1.25, max(known, default=100.0) * 1.35
