from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from labkit.measure.exposure import exposures
from labkit.measure.interference import Interference, interference
from labkit.measure.records import SPANS
from tests.support import synthetic
from tests.support.worlds import World, crowds, engine, heavy, overlap_ratio, regular, scattered, stalling


def own(world: World) -> Interference:
    return interference(world.measured)["worker"]


def bounds(found: Interference) -> tuple[float, float]:
    assert found.low is not None, found.reason
    assert found.high is not None
    return found.low, found.high


def value(found: Interference) -> float:
    assert found.value is not None, found.reason
    return found.value


class TestNoEffect:
    """Prefills do nothing here, but gaps that overlap one are longer all the same."""

    @pytest.mark.parametrize(
        ("make", "least_naive"),
        [
            (lambda seed: scattered(seed, noise=heavy, streams=lambda _: 3), 0.08),
            (lambda seed: scattered(seed, noise=stalling, streams=lambda _: 3), 0.15),
            (lambda seed: crowds(seed), 0.10),
        ],
        ids=["log-normal gaps of σ 0.5", "1 % stalls", "busy moments"],
    )
    def test_the_interval_holds_zero_where_the_naive_ratio_is_far_from_it(self, make, least_naive: float) -> None:
        worlds = [make(seed) for seed in range(3)]
        found = [own(world) for world in worlds]
        assert overlap_ratio(worlds[0]) > least_naive
        for one in found:
            low, high = bounds(one)
            assert low < 0 < high
            assert high - low < 0.5, "an interval that says something"
        assert abs(np.mean([value(one) for one in found])) < 0.1

    @pytest.mark.parametrize("noise", [heavy, stalling])
    def test_steps_that_a_prefill_does_not_lengthen(self, noise) -> None:
        found = [own(engine(seed, 0.0, noise=noise)) for seed in range(6)]
        assert sum(low < 0 < high for low, high in map(bounds, found)) >= 5
        assert not any(low > 0 for low, _ in map(bounds, found))

    def test_a_disturbed_node_lengthens_gaps_and_prefills_and_is_no_interference(self) -> None:
        # At half speed every other 6 s prefills last longer, so that more of the slow gaps see one; the batch is the same.
        worlds = [
            scattered(seed, noise=regular, streams=lambda _: 3, prefill_s=0.1, pace=lambda t: 1 + (t // 6) % 2, spell_s=6.0)
            for seed in range(3)
        ]
        found = [own(world) for world in worlds]
        assert overlap_ratio(worlds[0]) > 0.08
        assert all(low < 0 < high for low, high in map(bounds, found))
        assert np.mean([one.bias for one in found]) > 0.05, "what shifted prefills seem to do there"
        assert abs(np.mean([value(one) for one in found])) < 0.05


class TestKnownEffect:
    @pytest.mark.parametrize("effect", [0.3, 2.0, 18.0])
    def test_it_is_recovered(self, effect: float) -> None:
        found = [own(engine(seed, effect, rate=1.0, length_s=100)) for seed in range(4)]
        assert sum(low < effect < high for low, high in map(bounds, found)) >= 3
        assert np.mean([value(one) for one in found]) == pytest.approx(effect, rel=0.05)
        assert all(one.is_shown and one.source == "spans" for one in found)

    def test_a_token_that_arrives_late_makes_the_naive_ratio_half_of_it(self) -> None:
        world = engine(1, 9.0)
        assert overlap_ratio(world) < 0.75 * value(own(world))

    def test_prefills_of_several_steps_lengthen_each(self) -> None:
        low, high = bounds(own(engine(2, 5.0, parts=3, rate=1.0)))
        assert low < 5 < high

    @pytest.mark.parametrize(("effect", "parts"), [(0.5, 1), (5.0, 1), (3.0, 3)])
    def test_an_engine_that_schedules_a_step_ahead_has_no_smaller_effect(self, effect: float, parts: int) -> None:
        world = engine(4, effect, parts=parts, ahead=True, rate=3.0, step_s=0.008, per_request_s=0.0001, osl=150, length_s=25)
        low, high = bounds(own(world))
        assert low < effect < high
        assert overlap_ratio(world) < 0.8 * effect
        (exposure,) = exposures(*world.measured[0]).worker
        assert np.median(exposure.waiting[:, 1] - exposure.waiting[:, 0]) == pytest.approx(0.0083, rel=0.2)

    def test_repeats_are_pooled(self) -> None:
        worlds = [engine(seed, 2.0) for seed in range(4)]
        found = interference([part for world in worlds for part in world.measured])["worker"]
        each = [own(world) for world in worlds]
        assert found.clear >= sum(one.clear for one in each)
        widths = [high - low for low, high in map(bounds, [found, *each])]
        assert widths[0] < min(widths[1:])
        low, high = bounds(found)
        assert low < 2 < high

    def test_the_same_records_say_the_same(self) -> None:
        world = engine(1, 2.0)
        assert interference(world.measured) == interference(world.measured)
        one, other = (interference(world.measured, seed=seed)["worker"] for seed in (0, 1))
        assert value(one) == pytest.approx(value(other), rel=0.02), "the seed shifts prefills, and hardly the value"

    @pytest.mark.parametrize("spell_s", [0.5, 1.0, 2.0, 3.0])
    def test_a_load_that_stood_still_but_for_one_spell_has_a_reason_or_an_interval(self, spell_s: float) -> None:
        """Found by the fault campaign: ``labkit show`` of a run whose load shard had been stopped divided by zero."""
        world = engine(1, 2.0, rate=lambda t: 25.0 if 0 <= t < spell_s else 0.0, isls=(8,), osl=12)
        found = own(world)
        assert (found.value is None) is (found.low is None) is bool(found.reason)


class TestDeployments:
    def test_a_dedicated_decode_worker_has_none_of_its_own(self) -> None:
        records, _ = synthetic.run(("2A", "1P1D"), duration_s=60)
        aggregated, separated = (interference([(records, window)]) for window in records.windows)
        assert aggregated["worker"].is_shown
        assert value(aggregated["worker"]) > 10, "a prefill of 312 ms in a step of 17"
        assert 0.2 < value(aggregated["deployment"]) < value(aggregated["worker"]), "only some prefills are on the same worker"
        assert separated["worker"].value is None
        assert separated["worker"].reason == "dedicated decode workers never prefill"
        assert str(separated["worker"]) == "undefined: dedicated decode workers never prefill"
        low, high = bounds(separated["deployment"])
        assert low < 0 < high
        assert high - low < 0.2

    def test_two_workers_are_told_apart(self) -> None:
        found = interference(engine(1, 9.0, topology="2A", workers=2, rate=2.0, length_s=90).measured)
        low, high = bounds(found["worker"])
        assert low < 9 < high
        assert value(found["deployment"]) < 0.5 * value(found["worker"])

    def test_a_split_that_the_lab_does_not_know_is_judged_by_its_spans(self) -> None:
        records, _ = synthetic.run(("attached",), duration_s=60)
        found = interference([(records, records.windows[0])])
        assert value(found["worker"]) > 10
        assert found["worker"].source == "spans"


class TestInferred:
    def test_one_worker_needs_no_spans(self) -> None:
        found = own(engine(1, 9.0, rate=1.0, length_s=120, spans=False))
        assert found.source == "inferred"
        assert str(found).endswith("(inferred)")
        assert value(found) == pytest.approx(9.0, rel=0.15)
        low, high = bounds(own(engine(1, 0.0, length_s=120, spans=False)))
        assert low < 0 < high

    @pytest.mark.parametrize("topology", ["2A", "attached"])
    def test_several_workers_do(self, topology: str) -> None:
        world = engine(1, 9.0, topology=topology, workers=2, rate=2.0, spans=False)
        found = interference(world.measured)
        assert found["worker"].reason == "no request spans: which worker served a request is not known"
        assert found["deployment"].source == "inferred"
        assert value(found["deployment"]) > 0

    def test_few_spans_are_as_good_as_none(self) -> None:
        world = engine(1, 9.0, topology="2A", workers=2, rate=2.0)
        some = replace(world.records, spans=world.records.spans.slice(0, 40))
        found = interference([(some, world.window)])["worker"]
        assert found.value is None
        assert found.reason.startswith("spans tell worker and prefill of 40 of ")
        assert found.reason.endswith("requests: which worker served a request is not known")


class TestUndefined:
    def test_too_few_prefills(self) -> None:
        found = own(engine(1, 9.0, length_s=8))
        assert (found.value, found.low, found.high, found.bias) == (None, None, None, None)
        assert found.reason.startswith("n too small (")
        assert not found.is_shown

    def test_no_gap_in_the_window(self) -> None:
        world = engine(1, 9.0, osl=1)
        found = interference(world.measured)
        assert {one.reason for one in found.values()} == {"no gap between tokens lies inside the window"}

    def test_nothing_measured(self) -> None:
        assert interference([])["deployment"].reason == "nothing was measured"

    def test_no_spans_of_a_disaggregated_side(self) -> None:
        records, _ = synthetic.run(("1P1D",), duration_s=60)
        found = interference([(replace(records, spans=SPANS.empty_table()), records.windows[0])])
        assert found["worker"].reason == "dedicated decode workers never prefill"
        assert found["deployment"].source == "inferred"


def test_it_reads_as_a_percentage_with_its_interval() -> None:
    found = Interference(3.1, 2.9, 3.3, 0.0, 50, 900, "worker", "spans")
    assert str(found) == "+310 % [290, 330]"
    assert str(replace(found, value=-0.004, low=-0.02, high=0.04)) == "+0 % [-2, 4]"
    assert not replace(found, low=-0.02).is_shown
