"""Independent scaling in words: what each added worker did, the verdict on the claim, and what to do."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from labkit.experiments.compare import Row
from labkit.experiments.until import LEAST_REPEATS
from labkit.experiments.verdict import change_words, figure_text, undecided_words
from labkit.measure.simulated import simulated_head
from labkit.spec import Role

if TYPE_CHECKING:
    from labkit.experiments.scaling import Point, Scaling, Step, Value

#: A notebook breaks longer lines in the middle of a word.
_WIDTH: Final = 96
_LATENCY: Final[Mapping[Role, str]] = {Role.PREFILL: "TTFT", Role.DECODE: "ITL"}
#: Two tables, since one would not fit: (figure, heading, scale).
_THROUGHPUT: Final = (
    ("output_tok_s", "output tok/s", 1.0),
    ("goodput_request_s", "goodput req/s", 1.0),
    ("slo_attainment", "in SLO %", 100.0),
)
_LATENCIES: Final = (
    ("ttft_p50_s", "TTFT p50 ms", 1e3),
    ("ttft_p99_s", "p99 ms", 1e3),
    ("itl_p50_s", "ITL p50 ms", 1e3),
    ("itl_p99_s", "p99 ms", 1e3),
)


def scaling_text(found: Scaling, *, within: float) -> str:
    """Tables of the points, a sentence a step, the verdict, what to do, and the conditions.

    Args:
        found: what was measured.
        within: how far a latency may change and still count as left alone.
    """
    head = simulated_head(found.points[0].accelerator if found.points else "")
    lines = [
        *([f"{head}{len(found.points)} splits"] if head else []),
        *_table(found, _THROUGHPUT, busy=True),
        "",
        *_table(found, _LATENCIES, busy=False),
        "",
    ]
    for text in (*_steps(found, within), head + _verdict(found), _advice(found), *_conditions(found)):
        lines.append(textwrap.fill(text, _WIDTH, break_on_hyphens=False))
    return "\n".join(lines)


def step_words(step: Step, within: float) -> str:
    """What one added worker did to its own role's latency, to the other role's, and to goodput."""
    who = f"a {step.role.noun} worker" if step.added == 1 else f"{step.added} {step.role.noun} workers"
    own = _own(step.of_own, step.own, _LATENCY[step.role], within) + _unknown(step.of_own)
    since = "" if step.first == step.before else f" on {step.first}"
    others = _others(step.of_other, step.others, _LATENCY[step.other], within, since) + _unknown(step.of_other)
    return f"Adding {who} ({step.before} → {step.after}) {own}, and {others}; {_said(step.comparison.row('goodput_request_s'))}."


def _own(rows: Sequence[Row], change: str, name: str, within: float) -> str:
    known = [row for row in rows if row.ratio is not None]
    head = f"is not shown to change {name}: "
    if not known:
        return head + undecided_words(rows[0])
    if change in ("shorter", "longer", "mixed"):
        shown = [row for row in known if row.ratio is not None and row.ratio.shows_difference]
        return "took " + " and ".join(change_words(row) for row in shown)
    if change == "same":
        return f"left {name} within {within:.0%} of what it was: " + " and ".join(change_words(row) for row in known)
    return head + " and ".join(_said(row) for row in known)


def _others(rows: Sequence[Row], change: str, name: str, within: float, since: str) -> str:
    known = [row for row in rows if row.ratio is not None]
    if not known:
        return undecided_words(rows[0])
    if change in ("shorter", "longer", "mixed"):
        shown = [row for row in known if row.ratio is not None and row.ratio.shows_difference]
        head = f"did not leave {name} as it was{since}: "
        return head + " and ".join(change_words(row) for row in shown)
    if change == "same":
        return f"left {name} as it was{since}, within {within:.0%}: " + " and ".join(change_words(row) for row in known)
    return f"whether it left {name} as it was{since} is open: " + " and ".join(_said(row) for row in known)


def _unknown(rows: Sequence[Row]) -> str:
    """Latencies that nothing is said of, where something is said of others."""
    lacking = [f"{row.label}: {row.reason or 'too few pairs of requests'}" for row in rows if row.ratio is None]
    return f" ({'; '.join(lacking)})" if 0 < len(lacking) < len(rows) else ""


def _said(row: Row) -> str:
    return undecided_words(row) if row.ratio is None or not row.ratio.shows_difference else change_words(row)


def _table(found: Scaling, columns: Sequence[tuple[str, str, float]], *, busy: bool) -> Iterator[str]:
    rows = [["split", *(name for _, name, _ in columns), *(["P busy %", "D busy %"] if busy else [])]]
    for point in found.points:
        figures = [_cell(point.figures[key], scale) for key, _, scale in columns]
        rows.append([point.topology, *figures, *([_busy(point, role) for role in _LATENCY] if busy else [])])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True))


def _cell(one: Value, scale: float) -> str:
    if one.value is None:
        return "–"
    text = _short(one.value * scale)
    return text if one.interval is None else f"{text} [{_short(one.interval.low * scale)}, {_short(one.interval.high * scale)}]"


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _busy(point: Point, role: Role) -> str:
    held = point.pressed.get(role)
    used = None if held is None else held.used if held.used is not None or role is Role.DECODE else held.prefilling
    return "–" if used is None else f"{used * 100:.0f}"


def _steps(found: Scaling, within: float) -> list[str]:
    return [step_words(step, within) for step in found.steps]


def _verdict(found: Scaling) -> str:
    claim = "Verdict on “prefill and decode workers scale independently”:"
    steps = {state: [step for step in found.steps if step.is_independent is state] for state in (True, False, None)}
    moves = {state: _and([f"{step.before} → {step.after}" for step in held]) for state, held in steps.items()}
    if found.outcome == "reproduced":
        return f"{claim} reproduced. Each role's latency fell with workers of its own, and stayed with those of the other."
    if found.outcome == "not reproduced":
        return f"{claim} not reproduced: {moves[False]} changed the other role's latency, or made its own longer."
    if found.repeats < LEAST_REPEATS:
        few = f"{found.repeats} repeat{'s say' if found.repeats > 1 else ' says'} nothing of the spread between repeats"
        return f"{claim} open: {few}. Take {LEAST_REPEATS} or more."
    if found.outcome == "open":
        if not steps[None]:
            return (
                f"{claim} open: no added worker shortened anything at this load. Raise the rate until a role is the bottleneck."
            )
        return (
            f"{claim} open: {moves[None]} may or may not have changed the other role's latency: the intervals are too wide. "
            "Take more repeats, or longer ones."
        )
    if steps[False]:
        rest = f" Open: {moves[None]}." if steps[None] else ""
        return f"{claim} only when the step is {moves[True]}; not at {moves[False]}.{rest}"
    idle = next(role for role in _LATENCY if not any(step.own == "shorter" for step in found.axis(role)))
    return (
        f"{claim} only when the added role is the bottleneck: no {idle.noun} worker that was added shortened {_LATENCY[idle]} at "
        "this load, so nothing is shown of scaling that role."
    )


def _advice(found: Scaling) -> str:
    guess = f"What to do (a guess with fewer than {LEAST_REPEATS} repeats)"
    head = "What to do" if found.repeats >= LEAST_REPEATS else guess
    return f"{head}: {' '.join(_of_role(found, role) for role in _LATENCY)} {_best(found)}"


def _of_role(found: Scaling, role: Role) -> str:
    name, steps = _LATENCY[role], found.axis(role)
    helped = [step for step in steps if step.own == "shorter"]
    paid = [step for step in steps if _rose(step)]
    if not helped:
        return f"More {role.noun} workers are not shown to shorten {name} at this load: spend none on it."
    cost = [step for step in helped if step.others in ("longer", "mixed")]
    price = f", at the price of {_LATENCY[cost[0].other]}" if cost else ""
    last = found.point(helped[-1].after)
    if lacking := [step for step in steps[: steps.index(helped[-1])] if step not in helped]:
        return (
            f"Of the {role.noun} workers that were added {_and([f'{step.before} → {step.after}' for step in helped])} shortened "
            f"{name}{price}, {_and([f'{step.before} → {step.after}' for step in lacking])} before it did not: that may be "
            "chance, take more repeats before you spend a worker on it."
        )
    far = f"More {role.noun} workers shorten {name} up to {last.count(role)} ({last.topology}){price}"
    if not paid:
        return f"{far}; goodput is not shown to rise with them, so add them only where {name} itself matters."
    return f"{far}, and goodput rises up to {found.point(paid[-1].after).count(role)} ({paid[-1].after})."


def _rose(step: Step) -> bool:
    ratio = step.comparison.row("goodput_request_s").ratio
    return ratio is not None and ratio.shows_difference and ratio.estimate > 1


def _best(found: Scaling) -> str:
    known = [(point, point.figures["goodput_request_s"]) for point in found.points]
    judged = [(point, one.value, one.interval) for point, one in known if one.value is not None]
    if not judged:
        return f"Goodput is unknown: {known[0][1].reason}."
    best, value, interval = max(judged, key=lambda item: item[1])
    close = [
        point.topology
        for point, _, other in judged
        if point is not best and interval is not None and other is not None and other.high >= interval.low
    ]
    said = f"Most goodput under {found.slo}: {best.topology}, {figure_text(value, 'req/s')}"
    return f"{said}{f', not told apart from {_and(close)}' if close else ''}."


def _conditions(found: Scaling) -> Iterator[str]:
    about = found.steps[0].comparison.conditions
    yield (
        f"Conditions: {about}; {about.workload}; {found.repeats} repeat{'s' * (found.repeats != 1)} of each split in turn, "
        "the same requests; an interval in 20 misses by chance."
    )
    held = {(point.accelerators, point.accelerator) for point in found.points}
    if sharing := sharing_words(found):
        same = (
            f" All splits compute on the same {_amount(*held.pop())}: an added worker brings no hardware."
            if len(held) == 1
            else ""
        )
        yield (
            f"! Not independent hardware: {sharing}.{same} What a worker takes there it takes "
            "from others, whatever the architecture: this is a verdict on this node, no forecast for a device of its own each."
        )
    if unsettled := [f"{point.topology} ({point.unsettled} of {found.repeats})" for point in found.points if point.unsettled]:
        yield f"! No stationary part was found in repeats of {', '.join(unsettled)}: figures depend on the length."
    if failed := [f"{point.topology} {point.failed}" for point in found.points if point.failed]:
        yield f"! Requests failed: {', '.join(failed)}; latencies are of the others."
    yield from (f"! {text}" for text in found.warnings)


def sharing_words(found: Scaling) -> str:
    """From which splits on workers share devices, and which they are there; empty where none do."""
    firsts = [next((point for point in found.along(role) if point.sharing), None) for role in _LATENCY]
    known = {point.topology: point for point in firsts if point is not None}
    return "; ".join(f"from {name} on workers share devices ({', '.join(point.sharing)})" for name, point in known.items())


def _amount(count: float, unit: str) -> str:
    return f"{count:g} {unit}{'s' * (count != 1)}"


def _and(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else ""
