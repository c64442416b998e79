from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from labkit.measure.overlap import Overlap, PerToken, overlaps
from labkit.measure.overlap_bins import edges_of
from tests.support import synthetic
from tests.support.worlds import World, crowds, engine, heavy, regular, scattered, stalling

ISLS = (64, 512, 200, 900, 330, 128, 700, 420)


def own(world: World) -> Overlap:
    return overlaps({"side": world.measured})["side"]["worker"]


def bounds(found: PerToken) -> tuple[float, float]:
    assert found.low is not None, found.reason
    assert found.high is not None
    return found.low, found.high


def value(found: PerToken) -> float:
    assert found.value is not None, found.reason
    return found.value


class TestKnownPrice:
    @pytest.mark.parametrize(("per_token_s", "noise"), [(6e-4, regular), (6e-4, heavy), (2e-5, regular)])
    def test_slope_and_price_are_recovered(self, per_token_s: float, noise) -> None:
        found = [own(engine(seed, 0.0, isls=ISLS, per_token_s=per_token_s, noise=noise)) for seed in range(3)]
        for pick in ("slope", "price"):
            figures = [getattr(one, pick) for one in found]
            assert sum(low < per_token_s < high for low, high in map(bounds, figures)) >= 2
            assert np.mean([value(one) for one in figures]) == pytest.approx(per_token_s, rel=0.05)
            assert all(one.is_shown for one in figures)

    def test_chunks_divide_the_slope_and_leave_the_price(self) -> None:
        whole, cut = (own(engine(3, 0.0, isls=ISLS, per_token_s=6e-4, parts=parts, rate=1.0)) for parts in (1, 4))
        assert value(cut.slope) == pytest.approx(value(whole.slope) / 4, rel=0.05)
        assert value(cut.price) == pytest.approx(value(whole.price), rel=0.05)
        assert whole.is_line
        assert cut.is_line, "as many chunks for each prompt"
        assert whole.clear is not None
        assert cut.clear is not None
        seen = [sum(each.n for each in one.bins if each.most) for one in (whole, cut)]
        assert seen[1] > 3 * seen[0], "what a gap is spared, more gaps pay"

    def test_chunks_of_one_size_are_no_line_but_have_the_price(self) -> None:
        world = engine(2, 0.0, isls=ISLS, per_token_s=6e-4, chunk=100, length_s=120, rate=1.0)
        found = own(world)
        assert found.is_line is False
        assert found.slope.is_shown, "the line has a slope, and is wrong"
        low, high = bounds(found.price)
        assert low < 6e-4 < high
        medians = [each.p50_s.estimate for each in found.bins if each.least > 100]
        assert max(medians) < 1.2 * min(medians)

    def test_an_engine_that_schedules_a_step_ahead_has_the_same_price(self) -> None:
        world = engine(
            4, 0.0, isls=ISLS, per_token_s=1e-4, parts=3, ahead=True, rate=3.0, step_s=0.008,
            per_request_s=1e-4, osl=150, length_s=25,
        )  # fmt: skip
        found = own(world)
        low, high = bounds(found.price)
        assert low < 1e-4 < high
        assert value(found.slope) == pytest.approx(1e-4 / 3, rel=0.1), "a prefill that follows another begins in the other's step"

    def test_more_tokens_mean_longer_gaps_and_shifted_prefills_do_not(self) -> None:
        bins = own(engine(1, 0.0, isls=ISLS, per_token_s=6e-4, length_s=120)).bins
        assert [each.most == 0 for each in bins] == [True] + [False] * (len(bins) - 1)
        assert len(bins) >= 6
        medians = [each.p50_s.estimate for each in bins]
        assert medians == sorted(medians)
        for each in bins[1:]:
            assert each.null_s is not None
            assert each.null_s[1] < each.p50_s.low <= each.p50_s.estimate <= each.p50_s.high
            assert each.mean_s.estimate - bins[0].mean_s.estimate == pytest.approx(6e-4 * each.tokens, rel=0.05)
            assert each.least <= each.tokens <= each.most

    def test_repeats_are_pooled_and_the_same_records_say_the_same(self) -> None:
        worlds = [engine(seed, 0.0, isls=ISLS, per_token_s=6e-4, length_s=30) for seed in range(2)]
        both = overlaps({"side": [part for world in worlds for part in world.measured]})
        again = overlaps({"side": [part for world in worlds for part in world.measured]})
        assert both == again
        pooled = both["side"]["worker"]
        assert sum(each.n for each in pooled.bins) == sum(each.n for world in worlds for each in own(world).bins)


class TestNoEffect:
    """Prefills do nothing, and gaps have a heavy tail: nothing may be said to grow."""

    @pytest.mark.parametrize(
        "make",
        [
            lambda seed: engine(seed, 0.0, noise=heavy, isls=ISLS),
            lambda seed: scattered(seed, noise=heavy, streams=lambda _: 3, isls=ISLS),
            lambda seed: scattered(seed, noise=stalling, streams=lambda _: 3, isls=ISLS),
            lambda seed: crowds(seed, isls=ISLS),
        ],
        ids=["steps of σ 0.5", "gaps of σ 0.5", "1 % stalls", "busy moments"],
    )
    def test_number_slope_and_price_are_zero(self, make) -> None:
        found = [own(make(seed)) for seed in range(3)]
        for one in found:
            assert not one.interference.is_shown
        for pick in ("slope", "price"):
            figures = [getattr(one, pick) for one in found]
            assert sum(low < 0 < high for low, high in map(bounds, figures)) >= 2
            assert not any(low > 0 for low, _ in map(bounds, figures))
            assert abs(np.mean([value(one) for one in figures])) < 5e-6, "less than 5 ms per 1,000 tokens"

    def test_medians_lie_where_those_of_shifted_prefills_do(self) -> None:
        bins = [each for seed in range(3) for each in own(scattered(seed, noise=heavy, streams=lambda _: 3, isls=ISLS)).bins]
        inside = [each.null_s[0] <= each.p50_s.estimate <= each.null_s[1] for each in bins if each.null_s and each.most]
        assert np.mean(inside) > 0.85


class TestSides:
    def test_both_kinds_of_split_in_the_same_bins(self) -> None:
        records, _ = synthetic.run(("2A", "1P1D"), duration_s=60)
        found = overlaps({window.side: [(records, window)] for window in records.windows})
        aggregated, separated = found["2A"], found["1P1D"]
        assert [each.tokens for each in aggregated["worker"].bins] == [0, 512], "prompts of equal length are a bin each"
        assert aggregated["worker"].is_line is None, "two points make any line"
        assert value(aggregated["worker"].slope) * 512 == pytest.approx(0.33, rel=0.1)
        assert separated["worker"].bins == ()
        assert separated["worker"].slope.reason == "dedicated decode workers never prefill"
        assert str(separated["worker"].price) == "undefined: dedicated decode workers never prefill"
        low, high = bounds(separated["deployment"].slope)
        assert low < 0 < high
        ends = [{each.most for each in side["deployment"].bins} for side in (aggregated, separated)]
        assert ends[0] >= ends[1] >= {0, 512}

    def test_prompts_of_unknown_length_have_no_figure_a_token_but_the_number_stands(self) -> None:
        world = engine(1, 2.0, isls=ISLS)
        blank = pa.nulls(world.records.spans.num_rows, pa.int32())
        spans = world.records.spans.set_column(
            world.records.spans.schema.get_field_index("prompt_tokens"), "prompt_tokens", blank
        )
        told = replace(world.records, spans=spans)
        assert own(replace(world, records=told)).slope.value is not None, "the stream's usage tells them too"
        requests = told.requests
        none = pa.nulls(requests.num_rows, pa.int32())
        where = requests.schema.get_field_index("prompt_tokens")
        found = own(replace(world, records=replace(told, requests=requests.set_column(where, "prompt_tokens", none))))
        assert found.bins == ()
        assert found.slope.reason.startswith("the prompt tokens of ")
        assert found.interference.is_shown

    def test_few_prefills_show_their_gaps_and_no_figure(self) -> None:
        found = own(engine(1, 0.0, isls=ISLS, per_token_s=6e-4, length_s=8))
        assert found.slope.value is found.price.value is None
        assert found.slope.reason.startswith("n too small (")
        assert found.bins[0].n > 100
        assert any(np.isnan(each.p50_s.low) for each in found.bins), "no interval from a block or two"
        assert all(each.p99_s is None for each in found.bins if each.n < 100)

    def test_chunks_that_came_in_one_read_have_no_length_and_no_figure(self) -> None:
        world = engine(1, 0.0, isls=ISLS)
        chunks = world.records.chunks
        first = np.unique(chunks["request"].to_numpy(), return_index=True)[1]
        owner = np.searchsorted(first, np.arange(chunks.num_rows), "right") - 1
        at_once = pa.array(chunks["t_ns"].to_numpy()[first][owner])
        still = replace(world.records, chunks=chunks.set_column(1, "t_ns", at_once))
        found = own(replace(world, records=still))
        assert found.interference.value is found.price.value is None
        assert found.bins == () or found.clear is None or found.clear.p50_s.estimate == 0

    def test_nothing_measured(self) -> None:
        found = overlaps({"side": []})["side"]["deployment"]
        assert found.bins == ()
        assert found.clear is None
        assert found.price.reason == "nothing was measured"


def test_bins_are_lengths_where_these_are_few_and_sixths_of_the_gaps_where_not() -> None:
    assert edges_of([np.array([0.0, 0.0])]).tolist() == []
    assert edges_of([]).tolist() == []
    assert edges_of([np.array([0.0, 512.0]), np.array([1024.0])]).tolist() == [512, np.inf]
    ends = edges_of([np.arange(0.0, 1201.0)])
    assert ends[-1] == np.inf
    assert ends[:-1].tolist() == pytest.approx([210, 410, 610, 810, 1100])


def test_it_reads_in_milliseconds_for_a_thousand_tokens() -> None:
    found = PerToken(6.1e-4, 5.9e-4, 6.42e-4)
    assert str(found) == "+610 ms per 1,000 prefill tokens [590, 642]"
    assert found.is_shown
    assert str(PerToken(-4e-7, -3e-6, 2.5e-6)) == "-0.40 ms per 1,000 prefill tokens [-3.0, 2.5]"
    assert not PerToken(-4e-7, -3e-6, 2.5e-6).is_shown
