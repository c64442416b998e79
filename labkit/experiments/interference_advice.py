"""What to do about interference: what the intervals of a study bear, and no more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from labkit.experiments.interference_sides import Ratio, SideFound
from labkit.measure.statistics import Interval

#: A gap longer by no more than this is nothing to act on.
_SMALL: Final = 0.10
#: Share of failed requests from which on a side's latencies are those of the requests that it could bear.
_FAILING: Final = 0.01
_GAIN: Final = "itl_p99_s"
_PRICE: Final = "ttft_p50_s"


def advice(sides: Sequence[SideFound], ratios: Sequence[Ratio], repeats: int, *, warned: bool) -> str:
    """For every aggregated side, what to change: a setting or split whose p99 ITL is shown to be lower, with its price in TTFT.

    Args:
        sides, ratios: as found.
        repeats: of each side.
        warned: whether there are warnings to read first.
    """
    said = [_of_side(one, sides, ratios) for one in sides if not one.is_disaggregated]
    if not said:
        said = ["nothing by these data: prefills share no worker with decodes here. Measure an aggregated split beside it."]
    elif repeats == 1:
        said.append("This rests on one repeat a side: measure more before you rely on it.")
    if warned:
        said.append("The warnings above may be part of it: mend what they name, and measure again.")
    return f"What to do: {' '.join(said)}"


def _of_side(one: SideFound, sides: Sequence[SideFound], ratios: Sequence[Ratio]) -> str:
    number = one.scopes["worker"].interference
    if number.value is None or number.high is None:
        return f"{one.side}: no advice, as it is not known what prefills do there ({number.reason})."
    if not number.is_shown:
        if number.high <= _SMALL:
            return f"{one.side}: nothing, as prefills lengthen no gap by more than {_SMALL:.0%} ({number})."
        return f"{one.side}: no advice, as neither none nor a large effect is ruled out ({number}): measure longer."
    if number.value < 0:
        return f"{one.side}: no advice, as gaps beside prefills are shorter ({number})."
    if number.high <= _SMALL:
        return f"{one.side}: nothing, as prefills lengthen a gap, but by no more than {_SMALL:.0%} ({number})."
    return f"{one.side}: {_moves(one, sides, ratios)}"


def _moves(one: SideFound, sides: Sequence[SideFound], ratios: Sequence[Ratio]) -> str:
    """Away from a side where prefills are shown to interfere: what needs no other split first."""
    named = {side.side: side for side in sides}
    found = [(named[ratio.above], ratio) for ratio in ratios if ratio.below == one.side and ratio.above in named]
    found.sort(key=lambda move: move[0].is_disaggregated)
    if not found:
        return (
            "prefills interfere, and nothing was measured beside it: measure a chunk below its prompts, or a disaggregated split."
        )
    good, bad = [], []
    for to, ratio in found:
        gain = ratio.of.get(_GAIN)
        if to.failed > _FAILING * to.requests:
            bad.append(f"{to.side} ({to.failed} of {to.requests} requests failed)")
        elif gain is None or not gain.shows_difference:
            bad.append(f"{to.side} (p99 ITL {'unknown' if gain is None else f'× {gain}, no difference shown'})")
        elif gain.estimate > 1:
            bad.append(f"{to.side} (p99 ITL × {gain}, which is worse)")
        else:
            good.append(f"{_change(one, to)}: p99 ITL × {gain}, {_price(ratio.of.get(_PRICE))}")
    not_borne = f" Not borne out: {', '.join(bad)}." if bad else ""
    if not good:
        return f"prefills interfere, but nothing measured here is shown to lower p99 ITL, so change nothing yet.{not_borne}"
    return f"{'; or '.join(good)}.{not_borne}"


def _change(one: SideFound, to: SideFound) -> str:
    if to.topology == one.topology:
        return f"set max_num_batched_tokens={to.chunking.tokens} with chunked prefill"
    return f"disaggregate as {to.topology}, {to.chunking} as before"


def _price(ttft: Interval | None) -> str:
    if ttft is None:
        return "its price in TTFT is not known (too few values)"
    if not ttft.shows_difference:
        return f"no price in p50 TTFT shown (× {ttft})"
    return f"at the price of p50 TTFT × {ttft}" if ttft.estimate > 1 else f"and p50 TTFT × {ttft}"
