"""Prefill saturation as a figure: throughput and time to first token over the batch, and the knee over prompt length."""

from __future__ import annotations

from typing import Final

import numpy as np

from labkit.experiments.knee_text import ms
from labkit.experiments.prefill_saturation import PrefillSaturation
from labkit.figures import style
from labkit.figures.marks import Array, Band, Dots, Figure, Line, Mark, Panel
from labkit.measure.knee import WITHIN, Knee
from labkit.measure.statistics import Interval

_HUES: Final = (style.PREFILL, "#7A4CB8", "#00637C", "#D0569A", "#7FB800", "#444444")


def saturation_figure(found: PrefillSaturation, *, caption: str = "") -> Figure:
    """Tok/s and TTFT over the tokens of a step, a line for each prompt length, the knee crossed; and of several lengths the knee,
    and TTFT there, over prompt length. Bands and whiskers are 95 % intervals.
    """
    hues = {isl: _HUES[i % len(_HUES)] for i, isl in enumerate(found.knees)}
    nothing = "" if found.knees else "no prompt length has a knee: " + "; ".join(dict.fromkeys(found.lacking.values()))
    over = "tokens of a prefill step (prompts × ISL)"
    panels = (
        Panel("Throughput", over, "prompt tok/s", _throughput(found, hues), nothing, x_log=True, height=2.7),
        Panel("Time to first token, without the wait for a turn", over, "TTFT (ms)", _ttft(found, hues), nothing, x_log=True,
              y_log=True, height=2.7),
    )  # fmt: skip
    over_isl = (
        _over_isl(found, hues, "Tokens at the knee (dashed: one whole prompt)", "tokens of a step", tokens=True),
        _over_isl(found, hues, "TTFT at the knee", "TTFT (ms)", tokens=False),
    )
    return Figure(
        name="prefill_saturation",
        title="Where prefill saturates",
        subtitle=f"{found.worker}. Steps by the engine's own clock; bands and whiskers: 95 % intervals over repeats and steps. "
        f"The cross is the knee: the smallest step within {_share(found)} of the plateau (dashed).",
        panels=(*panels, *(over_isl if len(found.knees) > 1 else ())),
        caption=caption,
        warnings=found.warnings,
        columns=2,
    )


def _throughput(found: PrefillSaturation, hues: dict[int, str]) -> tuple[Mark, ...]:
    marks: list[Mark] = []
    for isl, knee in found.knees.items():
        tips = [f"ISL {isl} × {p.prompts}: {p.tok_s.estimate:,.0f} tok/s, {p.steps} steps" for p in knee.points]
        marks += _curve(knee, [p.tok_s for p in knee.points], 1.0, hues[isl], f"ISL {isl}", tips)
        if knee.plateau_tok_s is not None:
            plateau = knee.plateau_tok_s.estimate
            ends = np.array([knee.points[0].tokens, knee.points[-1].tokens], np.float64)
            marks.append(Line(ends, np.full(2, plateau), hues[isl], width=0.9, dash="dashed", alpha=0.7))
            if knee.tokens is not None:
                at = (1 - knee.within) * plateau if knee.kind == "found" else knee.points[0].tok_s.estimate
                marks.append(_knee(knee, knee.tokens.estimate, at))
    return tuple(marks)


def _ttft(found: PrefillSaturation, hues: dict[int, str]) -> tuple[Mark, ...]:
    marks: list[Mark] = []
    for isl, knee in found.knees.items():
        tips = [f"ISL {isl} × {p.prompts}: TTFT {ms(p.ttft_s.estimate)} ms" for p in knee.points]
        marks += _curve(knee, [p.ttft_s for p in knee.points], 1e3, hues[isl], f"ISL {isl}", tips)
        if knee.tokens is not None and knee.ttft_s is not None:
            marks.append(_knee(knee, knee.tokens.estimate, knee.ttft_s.estimate * 1e3))
    return tuple(marks)


def _curve(knee: Knee, values: list[Interval], scale: float, color: str, label: str, tips: list[str]) -> list[Mark]:
    x = np.array([p.tokens for p in knee.points], np.float64)
    y, low, high = (_column(values, name, scale) for name in ("estimate", "low", "high"))
    return [Band(x, low, high, color), Line(x, y, color, label), Dots(x, y, color, size=4.0, alpha=0.9, tips=tips)]


def _column(values: list[Interval], name: str, scale: float) -> Array:
    return np.array([getattr(value, name) for value in values], np.float64) * scale


def _knee(knee: Knee, x: float, y: float) -> Dots:
    tip = f"knee of ISL {knee.isl}: {x:,.0f} tokens, {knee.prompts} prompts"
    return Dots(np.array([x]), np.array([y]), style.INK, size=8.0, alpha=1.0, tips=[tip], marker="cross")


def _over_isl(found: PrefillSaturation, hues: dict[int, str], title: str, label: str, *, tokens: bool) -> Panel:
    marks: list[Mark] = []
    known = {isl: knee for isl, knee in found.knees.items() if knee.tokens is not None and knee.ttft_s is not None}
    top = max((p.tokens for knee in found.knees.values() for p in knee.points), default=1)
    xs, ys = [], []
    for isl, knee in known.items():
        value, scale = (knee.tokens, 1.0) if tokens else (knee.ttft_s, 1e3)
        assert value is not None
        high = (
            value.high if np.isfinite(value.high) else (top if tokens else max(value.estimate, knee.points[-1].ttft_s.estimate))
        )
        xs.append(float(isl))
        ys.append(value.estimate * scale)
        marks.append(Line(np.array([isl, isl], np.float64), np.array([value.low, high]) * scale, hues[isl], width=1.4, alpha=0.6))
    if known:
        tips = [f"ISL {isl}: {knee_value:,.0f}" for isl, knee_value in zip(known, ys, strict=True)]
        marks.append(Line(np.array(xs), np.array(ys), style.SOFT, width=1.0, dash="dotted"))
        marks.append(Dots(np.array(xs), np.array(ys), style.INK, size=5.5, alpha=1.0, tips=tips))
        if tokens:
            marks.append(Line(np.array(xs), np.array(xs), style.FAINT, width=0.9, dash="dashed"))
    none = "no prompt length saturates in the range that was swept"
    return Panel(title, "ISL (tokens)", label, tuple(marks), "" if known else none, x_log=True, y_log=True, height=2.3)


def _share(found: PrefillSaturation) -> str:
    return f"{next((knee.within for knee in found.knees.values()), WITHIN):.0%}"
