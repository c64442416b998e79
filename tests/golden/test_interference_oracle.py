"""Interference against plain loops over gaps and prefills, on the lists that the records were made of."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise

import pytest

from labkit.measure.interference import Interference, interference
from labkit.measure.overlap import overlaps
from tests.support.worlds import World, engine, overlap_ratio, regular


def late(world: World) -> float:
    """How much later than the engine the client sees a first token: the median."""
    delays = sorted(one.tokens_s[0] - one.prefill_s[1] for one in world.served)
    middle = len(delays) // 2
    return delays[middle] if len(delays) % 2 else (delays[middle - 1] + delays[middle]) / 2


def oracle(world: World, *, anywhere: bool) -> tuple[int, int, float]:
    """Gaps with and without a prefill at their middle, and R − 1."""
    delay, length = late(world), world.window.length_s
    groups: dict[tuple[str, int], tuple[list[float], list[float]]] = defaultdict(lambda: ([], []))
    for one in world.served:
        for begin, end in pairwise(one.tokens_s):
            if one.sent_s < 0 or begin < 0 or end >= length:
                continue
            middle = (begin + end) / 2
            batch = sum(other.worker == one.worker and other.tokens_s[0] <= middle < other.tokens_s[-1] for other in world.served)
            seen = any(
                other is not one
                and (anywhere or other.worker == one.worker)
                and max(0.0, other.prefill_s[0] + delay) <= middle < min(length, other.prefill_s[1] + delay)
                for other in world.served
            )
            groups[one.worker, batch][seen].append(end - begin)
    both = [(clear, seen) for clear, seen in groups.values() if clear and seen]
    took = sum(sum(seen) for _, seen in both)
    expected = sum(len(seen) * sum(clear) / len(clear) for clear, seen in both)
    return sum(len(seen) for _, seen in both), sum(len(clear) for clear, _ in both), took / expected - 1


@pytest.mark.parametrize(("effect", "workers"), [(0.0, 1), (4.0, 1), (9.0, 2)])
def test_gaps_and_their_ratio_are_those_of_plain_loops(effect: float, workers: int) -> None:
    world = engine(3, effect, topology=f"{workers}A", workers=workers, noise=regular, length_s=30, rate=2.0)
    found = interference(world.measured)
    for scope, anywhere in (("worker", False), ("deployment", True)):
        one = found[scope]
        assert isinstance(one, Interference)
        assert one.value is not None
        assert one.bias is not None
        seen, clear, ratio = oracle(world, anywhere=anywhere)
        assert (one.overlapped, one.clear) == (seen, clear)
        assert one.value + one.bias == pytest.approx(ratio, rel=1e-6, abs=1e-6)
    assert overlap_ratio(world) == pytest.approx(found["worker"].value, abs=0.6 * effect + 0.1), "of the same kind, diluted"


def beside(world: World) -> list[tuple[int, float]]:
    """Prompt tokens under way on the worker at the middle of every gap, and its length."""
    delay, length, found = late(world), world.window.length_s, []
    for one in world.served:
        for begin, end in pairwise(one.tokens_s):
            if one.sent_s < 0 or begin < 0 or end >= length:
                continue
            others = (
                other.isl
                for other in world.served
                if other is not one
                and other.worker == one.worker
                and max(0.0, other.prefill_s[0] + delay) <= (begin + end) / 2 < min(length, other.prefill_s[1] + delay)
            )
            found.append((sum(others), end - begin))
    return found


def test_bins_hold_the_gaps_of_plain_loops() -> None:
    world = engine(5, 0.0, topology="2A", workers=2, noise=regular, length_s=40, rate=3.0, isls=(100, 300, 800), per_token_s=3e-4)
    expected = beside(world)
    bins = overlaps({"side": world.measured})["side"]["worker"].bins
    assert {each.name for each in bins} == {"no prefill", "100", "300", "800"}
    for each in bins:
        gaps = sorted(gap for tokens, gap in expected if each.least <= tokens <= each.most)
        assert each.n == len(gaps)
        assert each.mean_s.estimate == pytest.approx(sum(gaps) / len(gaps))
        middle = (len(gaps) - 1) / 2
        assert each.p50_s.estimate == pytest.approx((gaps[int(middle)] + gaps[int(middle + 0.5)]) / 2)
