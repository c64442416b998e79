"""The verdict of a comparison in words, with its conditions: what was gained, what it cost, and what was not shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from labkit.errors import SpecError
from labkit.experiments.compare import Comparison, Row
from labkit.experiments.conditions import Conditions
from labkit.measure.interference import Interference, Scope
from labkit.measure.simulated import HEAD
from labkit.measure.statistics import Interval
from labkit.spec.topology import Topology

#: Sub-50 ms is three figures, never one.
TOKEN_LIMIT_S: Final = 0.050
_SUB_50: Final = (("TPOT", "tpot", 50), ("TPOT", "tpot", 99), ("ITL", "itl", 99))
_FALLBACKS: Final[Mapping[int, tuple[int, ...]]] = {99: (99, 95), 50: (50,)}


@dataclass(frozen=True, slots=True)
class Verdict:
    """A verdict as sentences.

    Attributes:
        headline: p99 ITL, TTFT and throughput of side B against side A, with ratios and intervals.
        tokens: the sub-50 ms statement: p50 TPOT, p99 TPOT and p99 ITL of each side, with their intervals, against 50 ms.
        goodput: requests that met the SLO; empty without one.
        interference: a line a side: what prefills do to the gaps between tokens.
        conditions: model, device, versions, repeats and what the intervals are over.
        marks: what a reader must know before believing it; empty where nothing was found.
    """

    headline: str
    tokens: str
    goodput: str
    interference: tuple[str, ...]
    conditions: str
    marks: tuple[str, ...]

    def __str__(self) -> str:
        body = " ".join(part for part in (self.headline, self.tokens, self.goodput) if part)
        return "\n".join([body, *self.interference, self.conditions, *(f"! {mark}" for mark in self.marks)])


def verdict(comparison: Comparison) -> Verdict:
    """Put a comparison into words."""
    return Verdict(
        headline=_simulated(comparison) + _headline(comparison),
        tokens=_tokens(comparison),
        goodput=_goodput(comparison),
        interference=tuple(
            f"Interference in {side}: {interference_words(found)}." for side, found in comparison.interference.items()
        ),
        conditions=_conditions(comparison),
        marks=_marks(comparison),
    )


def side_name(side: str) -> str:
    """``Disaggregated (1P1D)`` or ``Aggregated (2A)``; another label as it is."""
    try:
        return f"{'Disaggregated' if Topology(side).is_disaggregated else 'Aggregated'} ({side})"
    except SpecError:
        return side


def interference_words(found: Mapping[Scope, Interference]) -> str:
    """What prefills on the same worker do to the gaps between tokens, and prefills anywhere, which both kinds of split have."""
    own, anywhere = found["worker"], found["deployment"]
    if own.value is None:
        said = str(own)
        if anywhere.value is None and anywhere.reason == own.reason:
            return said
    elif own.is_shown and own.value > 0:
        said = f"prefills on the same worker lengthen a token's gap by {own}"
    elif own.is_shown:
        said = f"prefills on the same worker come with shorter gaps between tokens: {own}"
    else:
        said = f"no effect of prefills on the same worker shown: {own}"
    return f"{said}; prefills anywhere: {anywhere}"


def _simulated(comparison: Comparison) -> str:
    """Nobody shall take a simulation for a measurement, or one side of each for a comparison of like with like."""
    sides = [side for side, marks in comparison.marks.items() if any(mark.kind == "simulated" for mark in marks)]
    if not sides:
        return ""
    whole = len(sides) == len({comparison.side_a, comparison.side_b})
    return HEAD if whole else f"{side_name(sides[0])} is simulated, the other side measured: "


def _headline(comparison: Comparison) -> str:
    itl, itl_note = _highest(comparison, "itl", 99)
    ttft = comparison.row("ttft_p50_s")
    throughput = comparison.row("output_tok_s")
    at = _at(comparison)
    name = side_name(comparison.side_b)
    if not _completed(comparison):
        return f"Nothing can be said of {name} against {side_name(comparison.side_a)}: a side completed no request{at}."
    moved = {True: "cut", False: "raised"}
    parts = [f"{name}, against {side_name(comparison.side_a)}, "]
    itl_better, ttft_better = _better(itl), _better(ttft)
    if itl_better is None:
        parts.append(f"{undecided_words(itl)}{itl_note}")
    else:
        parts.append(f"{moved[itl_better]} {change_words(itl)}{itl_note}")
    if ttft_better is None:
        parts.append(f"; {undecided_words(ttft)}")
    elif itl_better is not None and ttft_better != itl_better:
        parts.append(f" and {'cost' if itl_better else 'gained'} TTFT: {change_words(ttft, label='p50')}")
    else:
        parts.append(f" and {moved[ttft_better]} {change_words(ttft)}")
    return f"{''.join(parts)}{at}. {_throughput(throughput)}"


def _throughput(row: Row) -> str:
    better = _better(row)
    text = (
        undecided_words(row)
        if better is None
        else f"{row.label} {'rose' if better else 'fell'} {change_words(row, label='')}".replace("  ", " ")
    )
    return f"{text[0].upper()}{text[1:]}."


def _tokens(comparison: Comparison) -> str:
    sides = []
    for pick, side in (("a", comparison.side_a), ("b", comparison.side_b)):
        figures: list[str] = []
        reasons: list[str] = []
        for label, key, q in _SUB_50:
            row, note = _highest(comparison, key, q, pick)
            value = row.a if pick == "a" else row.b
            if value is None:
                reasons.append(row.reason)
                figures.append(f"p{q} {label}: {row.reason}")
            else:
                interval = row.a_interval if pick == "a" else row.b_interval
                figures.append(
                    f"{_short(row)} {figure_text(value, row.unit)}{_within(interval, row.unit)} {_holds(value, interval)}{note}"
                )
        alike = len(reasons) == len(figures) and len(set(reasons)) == 1
        sides.append(f"{side}: {f'unknown ({reasons[0]})' if alike else ', '.join(figures)}")
    return f"Against {TOKEN_LIMIT_S * 1e3:g} ms per token — {'; '.join(sides)}."


def _holds(value: float, interval: Interval | None) -> str:
    """✓ or ✗ where the whole interval agrees, ``?`` where it does not."""
    if interval is not None and interval.low < TOKEN_LIMIT_S <= interval.high:
        return "?"
    return "✓" if value < TOKEN_LIMIT_S else "✗"


def _within(interval: Interval | None, unit: str) -> str:
    return (
        ""
        if interval is None
        else f" [{figure_text(interval.low, unit, bare=True)}, {figure_text(interval.high, unit, bare=True)}]"
    )


def _goodput(comparison: Comparison) -> str:
    row = comparison.row("goodput_request_s")
    if comparison.slo is None:
        return ""
    if row.a is None or row.b is None:
        return f"Goodput is unknown: {row.reason}."
    certainty = f", {_ratio(row.ratio)}" if row.ratio is not None else ""
    met = [row for row in comparison.rows if row.key == "slo_attainment" and row.a is not None and row.b is not None]
    share = "".join(f"; met by {row.a:.0%} → {row.b:.0%} of the requests" for row in met)
    return f"Goodput under {comparison.slo}: {row.a:.3g} → {row.b:.3g} req/s{certainty}{share}."


def _conditions(comparison: Comparison) -> str:
    about: Conditions = comparison.conditions
    hardware = f"equal hardware ({about.hardware})" if comparison.equal_hardware else f"UNEQUAL HARDWARE ({about.hardware})"
    repeats = comparison.repeats
    grouped = any(row.ratio is not None and "groups" in row.ratio.over for row in comparison.rows)
    drawn = "groups of requests" if grouped else "requests"
    if repeats == 1:
        how = f"one repeat a side: intervals are over {drawn} only and know nothing of the spread between repeats"
    else:
        ranges = "; with fewer than 5 repeats their range is given too" if repeats < 5 else ""
        how = f"{repeats} repeats a side, 95 % intervals by bootstrap over repeats, then {drawn}{ranges}"
    return f"Conditions: {about}; {hardware}; {comparison.requests} requests, {how}."


def _marks(comparison: Comparison) -> tuple[str, ...]:
    found = list(comparison.notes)
    for side, marks in comparison.marks.items():
        found += [f"{side}: {mark.text}" for mark in marks if mark.kind not in ("dummy_weights", "shared_gpu")]
    shared = [mark.text for marks in comparison.marks.values() for mark in marks if mark.kind == "shared_gpu"]
    return (*found, *shared[:1])


def _at(comparison: Comparison) -> str:
    about = comparison.conditions
    equal = f", equal hardware ({about.hardware})" if comparison.equal_hardware else f", UNEQUAL hardware ({about.hardware})"
    return f", at {about.workload}{equal}" if about.workload else equal


def _highest(comparison: Comparison, key: str, q: int, side: str = "") -> tuple[Row, str]:
    """The row of the highest percentile up to ``q`` that the values allow, and a note where it is a lower one."""
    for candidate in _FALLBACKS[q]:
        row = comparison.row(f"{key}_p{candidate}_s")
        values = {"a": (row.a,), "b": (row.b,), "": (row.a, row.b)}[side]
        if all(value is not None for value in values):
            first = comparison.row(f"{key}_p{q}_s")
            return row, "" if candidate == q else f" (p{q}: {first.reason})"
    return comparison.row(f"{key}_p{q}_s"), ""


def _better(row: Row) -> bool | None:
    """Whether side B is better; ``None`` where no difference is shown."""
    if row.ratio is None or not row.ratio.shows_difference:
        return None
    return (row.ratio.estimate < 1) == bool(row.lower_is_better)


def change_words(row: Row, *, label: str | None = None) -> str:
    """``p99 ITL from 308 to 29.0 ms (ratio …)``, with another label or none; both sides have a value."""
    name = _short(row) if label is None else label
    assert row.a is not None
    assert row.b is not None
    return f"{name} from {figure_text(row.a, row.unit, bare=True)} to {figure_text(row.b, row.unit)} ({_ratio(row.ratio)})"


def undecided_words(row: Row) -> str:
    """That no difference is shown, or why nothing can be said."""
    if row.a is None or row.b is None:
        return f"nothing can be said of {_short(row)} ({row.reason})"
    values = f"{figure_text(row.a, row.unit, bare=True)} and {figure_text(row.b, row.unit)}"
    return f"no difference of {_short(row)} shown ({values}{f', {_ratio(row.ratio)}' if row.ratio else ''})"


def _short(row: Row) -> str:
    name, _, q = row.label.rpartition(" ")
    return f"{q} {name}" if q.startswith("p") and q[1:].isdigit() else row.label


def _ratio(interval: Interval | None) -> str:
    return "" if interval is None else f"ratio {interval}"


def figure_text(value: float, unit: str, *, bare: bool = False) -> str:
    """Three digits or so, with the unit unless ``bare``; seconds as milliseconds where that is the unit."""
    scaled = value * 1e3 if unit == "ms" else value
    digits = 0 if abs(scaled) >= 100 else 1 if abs(scaled) >= 10 else 2
    return f"{scaled:.{digits}f}" if bare or not unit else f"{scaled:.{digits}f} {unit}"


def _completed(comparison: Comparison) -> bool:
    row = comparison.row("ttft_p50_s")
    return row.a is not None and row.b is not None
