"""What is advised of interference: only what the intervals bear."""

from __future__ import annotations

import pytest

from labkit.experiments.chunking import Chunking
from labkit.experiments.interference_advice import advice
from labkit.experiments.interference_sides import Ratio, SideFound
from labkit.measure.interference import Interference
from labkit.measure.overlap import Overlap, PerToken
from labkit.measure.statistics import Interval

NONE = PerToken(None, None, None, "not asked")
WHOLE, CHUNKS = Chunking(None), Chunking(128)
LOWER, HIGHER, SAME = Interval(0.2, 0.3, 0.4), Interval(1.2, 1.3, 1.4), Interval(0.8, 1.0, 1.2)


def side(
    topology: str, chunking: Chunking, effect: tuple[float, float, float] | str = (1.5, 1.8, 2.0), *, failed: int = 0
) -> SideFound:
    """A side whose gaps beside a prefill are longer by ``effect`` (low, value, high), or why that is not known."""
    low, value, high = (None, None, None) if isinstance(effect, str) else effect
    reason = effect if isinstance(effect, str) else ""
    number = Interference(value, low, high, 0.0, 200, 900, "worker", "spans", reason)
    scopes = {"worker": Overlap("worker", number, (), NONE, NONE)}
    return SideFound(f"{topology} ({chunking})", topology, chunking, scopes, {}, 375.0, 100, failed)  # type: ignore[arg-type]


def ratio(above: SideFound, below: SideFound, itl: Interval | None, ttft: Interval | None) -> Ratio:
    return Ratio(above.side, below.side, {"itl_p99_s": itl, "ttft_p50_s": ttft})


def test_what_lowers_p99_itl_is_advised_with_its_price() -> None:
    whole, chunks, split = side("2A", WHOLE), side("2A", CHUNKS), side("1P1D", WHOLE, "never prefills")
    said = advice(
        [chunks, whole, split], [ratio(split, whole, LOWER, SAME), ratio(chunks, whole, LOWER, HIGHER)], 2, warned=False
    )
    assert (
        "2A (whole prompts): set max_num_batched_tokens=128 with chunked prefill: p99 ITL × 0.3 [0.2, 0.4], "
        "at the price of p50 TTFT × 1.3 [1.2, 1.4]; or disaggregate as 1P1D, whole prompts as before: p99 ITL × 0.3 [0.2, 0.4], "
        "no price in p50 TTFT shown (× 1 [0.8, 1.2])."
    ) in said
    assert "2A (chunks of 128): prefills interfere, and nothing was measured beside it" in said
    assert "1P1D (whole prompts): " not in said, "a decode worker has nothing to change"
    assert "one repeat" not in said
    assert "warnings" not in said


@pytest.mark.parametrize(
    ("itl", "failed", "why"),
    [
        (SAME, 0, "1P1D (whole prompts) (p99 ITL × 1 [0.8, 1.2], no difference shown)"),
        (HIGHER, 0, "1P1D (whole prompts) (p99 ITL × 1.3 [1.2, 1.4], which is worse)"),
        (None, 0, "1P1D (whole prompts) (p99 ITL unknown)"),
        (LOWER, 5, "1P1D (whole prompts) (5 of 100 requests failed)"),
    ],
)
def test_what_the_intervals_do_not_bear_is_not_advised(itl: Interval | None, failed: int, why: str) -> None:
    whole, split = side("2A", WHOLE), side("1P1D", WHOLE, "never prefills", failed=failed)
    said = advice([whole, split], [ratio(split, whole, itl, LOWER)], 2, warned=False)
    assert said == (
        "What to do: 2A (whole prompts): prefills interfere, but nothing measured here is shown to lower p99 ITL, "
        f"so change nothing yet. Not borne out: {why}."
    )


@pytest.mark.parametrize(
    ("effect", "words"),
    [
        ((-0.03, 0.02, 0.08), "nothing, as prefills lengthen no gap by more than 10% (+2 % [-3, 8])"),
        ((0.01, 0.03, 0.05), "nothing, as prefills lengthen a gap, but by no more than 10%"),
        ((-0.1, 0.3, 0.9), "no advice, as neither none nor a large effect is ruled out (+30 % [-10, 90]): measure longer"),
        ((-0.5, -0.3, -0.1), "no advice, as gaps beside prefills are shorter"),
        ("no request spans", "no advice, as it is not known what prefills do there (no request spans)"),
    ],
)
def test_where_nothing_large_is_shown_no_change_is_advised(effect: tuple[float, float, float] | str, words: str) -> None:
    whole, chunks = side("2A", WHOLE, effect), side("2A", CHUNKS, effect)
    said = advice([whole, chunks], [ratio(chunks, whole, LOWER, LOWER)], 2, warned=False)
    assert f"2A (whole prompts): {words}" in said
    assert "max_num_batched_tokens" not in said


def test_what_it_rests_on_is_said_beside_it() -> None:
    whole, split = side("2A", WHOLE), side("1P1D", WHOLE, "never prefills")
    said = advice([whole, split], [ratio(split, whole, LOWER, None)], 1, warned=True)
    assert "its price in TTFT is not known" in said
    assert "one repeat a side: measure more before you rely on it" in said
    assert said.endswith("The warnings above may be part of it: mend what they name, and measure again.")
    assert "Measure an aggregated split beside it." in advice([split], [], 2, warned=False)
