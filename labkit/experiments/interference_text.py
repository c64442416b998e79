"""What a study of interference found, as tables and sentences: nothing is said that an interval does not hold."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import Final

from labkit.experiments.interference_advice import advice
from labkit.experiments.interference_sides import TOLD, Ratio, SideFound
from labkit.experiments.table import value_text
from labkit.measure.overlap import Overlap, PerToken
from labkit.measure.statistics import Interval

_WIDTH: Final = 96
#: Over the latencies, in the order of ``TOLD``.
_HEADS: Final = ("ITL p50", "p99", "TTFT p50", "p99 ms")
#: A median of fewer gaps is not told.
_FEW: Final = 10
_NAMES: Final = {"itl_p99_s": "p99 ITL", "ttft_p50_s": "p50 TTFT"}


def study_text(sides: Sequence[SideFound], said: Sequence[str]) -> str:
    """Two tables, then what is ``said``, in lines that fit a notebook."""
    lines = [
        *_table([("side", "same worker", "anywhere", *_HEADS), *map(_latencies, sides)]),
        "",
        *_table(
            [
                (
                    "ms per 1,000 tokens",
                    "of prefills",
                    "each gap longer by",
                    "a stream later by",
                    "gaps with",
                    "without",
                ),
                *map(_prices, sides),
            ]
        ),
        "",
        *said,
    ]
    return "\n".join(line if line.startswith("  ") else textwrap.fill(line, _WIDTH, break_on_hyphens=False) for line in lines)


def sentences(
    sides: Sequence[SideFound], ratios: Sequence[Ratio], repeats: int, conditions: str, warnings: Sequence[str]
) -> list[str]:
    """What the data say, a line each; then the conditions and the warnings, as in ``InterferenceStudy``, and what to do."""
    said = [*(f"{one.side}: {_of_side(one)}" for one in sides), *map(_of_ratio, ratios)]
    if len({one.chunking for one in sides}) > 1:
        said.append(
            "The chunk settings were measured one after the other, with a restart in between: what drifted on the node is "
            "part of their ratios. Splits were measured in turn."
        )
    drawn = "repeats, then requests" if repeats > 1 else "requests only: one repeat knows nothing of their spread"
    sent, failed = sum(one.requests for one in sides), sum(one.failed for one in sides)
    said.append(
        f"Conditions: {conditions}; {sent} requests, {failed} failed, {repeats} repeat{'s' * (repeats > 1)} a side; "
        f"intervals of ratios by bootstrap over {drawn}."
    )
    return [*said, *(f"! {warning}" for warning in warnings), advice(sides, ratios, repeats, warned=bool(warnings))]


def _of_side(one: SideFound) -> str:
    own, anywhere = one.scopes["worker"], one.scopes["deployment"]
    if one.is_disaggregated:
        return (
            f"undefined on the same worker: {own.interference.reason}. Prefills anywhere in the deployment: {_effect(anywhere)}"
        )
    if own.interference.value is None:
        return f"on the same worker {own.interference}. Prefills anywhere in the deployment: {_effect(anywhere)}"
    return f"a prefill on the same worker: {_effect(own)}{_price(own.price)}{_prompt(one, own)}"


def _effect(one: Overlap) -> str:
    number = one.interference
    if number.value is None:
        return f"{number}."
    clear = one.clear
    beside = f" (the median gap with none is {value_text(clear.p50_s.estimate, 'ms')} ms)" if clear is not None else ""
    if not number.is_shown:
        return f"no difference shown, {number}{beside}."
    if number.value < 0:
        return f"gaps beside one are shorter, {number}{beside}: look for what both depend on."
    return f"a token's gap is {number} longer{beside}.{_grows(one)}"


def _grows(one: Overlap) -> str:
    if one.is_line is False:
        seen = [each for each in one.bins if each.most and each.n >= _FEW]
        ends = [f"{value_text(each.p50_s.estimate, 'ms')} ms beside {each.name} tokens" for each in (*seen[:1], *seen[-1:])]
        return f" It does not grow in proportion to the tokens: the median gap is {' and '.join(dict.fromkeys(ends))}."
    return f" It grows by {_unsigned(one.slope)}." if _costs(one.slope) else " No slope over their tokens is shown."


def _costs(one: PerToken) -> bool:
    return one.is_shown and one.value is not None and one.value > 0


def _unsigned(one: PerToken) -> str:
    return str(one).removeprefix("+")


def _price(price: PerToken) -> str:
    return f" In all, a stream's tokens come later by {_unsigned(price)} computed beside it." if _costs(price) else ""


def _prompt(one: SideFound, own: Overlap) -> str:
    """What the line says of the median prompt, which lies within what was measured."""
    slope = own.slope
    if one.prompt_tokens is None or own.is_line is False or not _costs(slope):
        return ""
    assert slope.value is not None
    assert slope.low is not None
    assert slope.high is not None
    low, value, high = (value_text(part * one.prompt_tokens, "ms") for part in (max(slope.low, 0.0), slope.value, slope.high))
    prompt = f" A prompt of {one.prompt_tokens:,.0f} tokens, the median here,"
    return f"{prompt} adds {value} ms [{low}, {high}] to each gap that waits for it."


def _of_ratio(one: Ratio) -> str:
    parts = [_change(_NAMES[key], ratio) for key, ratio in one.of.items()]
    return f"{one.above} against {one.below}: {', '.join(parts)}."


def _change(name: str, ratio: Interval | None) -> str:
    if ratio is None:
        return f"{name} unknown (too few values)"
    return f"{name} × {ratio}" if ratio.shows_difference else f"no difference of {name} shown (× {ratio})"


def _latencies(one: SideFound) -> tuple[str, ...]:
    cells = [str(one.scopes[scope].interference) for scope in ("worker", "deployment")]
    brief = [cell if not cell.startswith("undefined") else "undefined" for cell in cells]
    return (one.side, *brief, *(value_text(one.told[key], "ms") for key in TOLD))


def _prices(one: SideFound) -> tuple[str, ...]:
    scope = one.scopes["deployment" if one.is_disaggregated else "worker"]
    number = scope.interference
    where = "anywhere" if one.is_disaggregated else "same worker"
    slope = "no line" if scope.is_line is False and _costs(scope.slope) else _brief(scope.slope)
    return (one.side, where, slope, _brief(scope.price), f"{number.overlapped:,}", f"{number.clear:,}")


def _brief(value: PerToken) -> str:
    return "undefined" if value.value is None else str(value).replace(" ms per 1,000 prefill tokens", "")


def _table(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield f"  {'  '.join(cells)}".rstrip()
