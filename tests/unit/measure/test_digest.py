"""Chunks taken in part by part say what the whole table says: every metric, to the last bit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from labkit.errors import SpecError
from labkit.measure.digest import Digest, digest
from labkit.measure.interference import interference
from labkit.measure.metrics import of_measurement, summarise
from labkit.measure.records import CHUNKS, REQUESTS, Records
from labkit.measure.timing import chunk_gaps, request_metrics
from labkit.measure.validity import marks
from labkit.spec import Slo
from tests.support.handmade import MS, SECOND, records, request, steady, window

SLO = Slo(ttft_s=0.2, tpot_s=0.05)


def messy(seed: int) -> Records:
    """Requests of several measurements, interleaved; bundles, unknown and empty counts, long gaps, torn ends, disorder."""
    rng = np.random.default_rng(seed)
    counted, several = rng.random() < 0.6, int(rng.integers(1, 4))
    numbers = rng.permutation(rng.choice([1, 1000, 10**9], p=[0.5, 0.3, 0.2]) * np.arange(int(rng.integers(1, 300))))
    rows, chunks = [], []
    for number in numbers.tolist():
        scheduled = int(rng.integers(0, 10 * SECOND))
        steps = rng.integers(0, 120 * MS, int(rng.integers(0, 30)))
        steps[rng.random(len(steps)) < 0.01] = 6 * SECOND
        times = scheduled + MS + np.cumsum(steps)
        tokens = rng.choice([1, 1, 1, 1, 2, 7, 0], len(times)) if rng.random() < 0.7 else np.ones(len(times), int)
        for t, k in zip(times.tolist(), tokens.tolist(), strict=True):
            known = counted or rng.random() < 0.97
            chunks.append({"request": number, "t_ns": t, "tokens": k if known else None, "text": bool(rng.random() < 0.8)})
        rows.append(
            request(
                number,
                index=len(rows),
                scheduled_ns=scheduled,
                sent_ns=scheduled + MS if len(times) or rng.random() < 0.5 else None,
                end_ns=int(times[-1]) + MS if len(times) else None,
                measurement=int(rng.integers(0, several)),
                outcome=str(rng.choice(["ok", "ok", "ok", "ok", "cut", "timeout"])),
                phase=str(rng.choice(["warmup", "measure", "measure", "measure", "drain"])),
                output_tokens=int(tokens.sum()) if rng.random() < 0.98 else None,
                prompt_tokens=8 if rng.random() < 0.99 else None,
            )
        )
        rows[-1].pop("chunks")
    chunks.sort(key=lambda chunk: chunk["t_ns"])
    if rng.random() < 0.5:  # a few rows come late
        for _ in range(int(rng.integers(1, 20))):
            if chunks:
                chunks.insert(int(rng.integers(len(chunks) + 1)), chunks.pop(int(rng.integers(len(chunks)))))
    if rng.random() < 0.3:  # the end of the requests is torn off: chunks of requests that nobody knows
        rows = rows[: max(len(rows) - 3, 1)]
    firsts = rng.choice([0, 0, 7, 40], several).tolist()  # where a warm-up was found afterwards
    bounds = [
        window(measurement=n, measure_ns=2 * SECOND + n * MS, stop_ns=(7 - n) * SECOND, side="AB"[n % 2], first_index=first)
        for n, first in enumerate(firsts)
    ]
    return Records(
        pa.Table.from_pylist(rows, schema=REQUESTS), pa.Table.from_pylist(chunks, schema=CHUNKS), windows=tuple(bounds)
    )


def parts(table: pa.Table, seed: int) -> list[pa.Table]:
    rng = np.random.default_rng([seed, 1])
    cuts = sorted({0, len(table), *rng.integers(0, len(table) + 1, int(rng.integers(0, 12))).tolist()})
    return [table.slice(start, stop - start) for start, stop in zip(cuts, [*cuts[1:], len(table)], strict=True)]


def pooled(taken: Digest, number: int) -> list[tuple[int, int]]:
    """(row, gap in ns) of a measurement, sorted."""
    if number not in taken.gaps:
        return []
    found = [(np.repeat(row, counts), gap_ns) for gap_ns, row, counts in taken.gaps[number].parts()]
    return sorted(pair for row, gap_ns in found for pair in zip(row.tolist(), gap_ns.tolist(), strict=True))


@pytest.mark.parametrize("seed", range(60))
def test_parts_say_what_the_whole_says(seed: int):
    made = messy(seed)
    whole, taken = digest(made, [made.chunks]), digest(made, parts(made.chunks, seed))
    for name in whole.answers.__slots__:
        assert getattr(taken.answers, name).tolist() == getattr(whole.answers, name).tolist(), name
    for bounds in made.windows:
        assert pooled(taken, bounds.measurement) == pooled(whole, bounds.measurement)
        expected = summarise(made, bounds, slo=SLO)
        for source in (whole, taken):
            found = summarise(source, bounds, slo=SLO)
            assert (found.figures, found.reasons) == (expected.figures, expected.reasons)
            assert marks(source, bounds) == marks(made, bounds)


@pytest.mark.parametrize("seed", range(20))
def test_gaps_and_answers_are_those_of_the_columns(seed: int):
    made = messy(seed)
    taken, latencies, gaps = digest(made, parts(made.chunks, seed)), request_metrics(made), chunk_gaps(made)
    for name in latencies.__slots__:
        np.testing.assert_array_equal(getattr(request_metrics(taken), name), getattr(latencies, name))
    longest = np.zeros(len(latencies))
    np.maximum.at(longest, gaps.row, gaps.gap_s)
    np.testing.assert_array_equal(taken.answers.longest_gap_ns / 1e9, longest)
    np.testing.assert_array_equal(taken.answers.bundled, np.bincount(gaps.row, gaps.tokens > 1, len(latencies)))
    np.testing.assert_array_equal(taken.answers.uncounted, np.bincount(gaps.row, gaps.tokens < 0, len(latencies)))
    for bounds in made.windows:
        counts = (gaps.measurement == bounds.measurement) & (latencies.index[gaps.row] >= bounds.first_index)
        mine = gaps.select(counts & gaps.measured & gaps.ok)
        expected = sorted(zip(mine.row.tolist(), (mine.end_ns - mine.start_ns).tolist(), strict=True))
        assert pooled(taken, bounds.measurement) == expected


def test_a_digest_is_cut_down_to_one_measurement_as_records_are():
    made = messy(5)
    assert any(bounds.first_index for bounds in made.windows)
    taken = digest(made)
    for bounds in made.windows:
        one, table = taken.of(bounds), of_measurement(made, bounds).requests
        assert one.requests.equals(table)
        assert one.windows == (bounds,)
        assert one.of(bounds).requests.equals(table)
        assert one.of(bounds).answers is one.answers
        rows = [row for row, _ in pooled(one, bounds.measurement)]
        assert all(table["measurement"][row].as_py() == bounds.measurement for row in rows)
        assert [gap for _, gap in pooled(one, bounds.measurement)] == [
            gap for _, gap in sorted((rows[i], gap) for i, (_, gap) in enumerate(pooled(one, bounds.measurement)))
        ]


class Once:
    """Parts that count how often they were read."""

    def __init__(self, tables: list[pa.Table]) -> None:
        self.tables, self.read = tables, 0

    def __iter__(self) -> Iterator[pa.Table]:
        self.read += 1
        return iter(self.tables)


def test_chunks_in_order_of_time_are_read_once_and_others_twice():
    made = records([steady(0), steady(1), steady(2)], windows=[window()])
    ordered = Once([made.chunks.slice(0, 6), made.chunks.slice(6)])
    late = Once([made.chunks.slice(6), made.chunks.slice(0, 6)])
    expected = dict(summarise(made, window()))
    assert dict(summarise(digest(made, ordered), window())) == expected
    assert dict(summarise(digest(made, late), window())) == expected
    assert (ordered.read, late.read) == (1, 2)


def test_what_needs_every_instant_is_left_out_where_chunks_were_not_kept():
    made = records([steady(n) for n in range(9)], windows=[window()])
    kept, gone = digest(made), digest(made, [made.chunks])
    assert kept.chunks is made.chunks
    assert chunk_gaps(kept).gap_s.tolist() == chunk_gaps(made).gap_s.tolist()
    for found in interference([(gone, window())]).values():
        assert (found.value, found.reason) == (None, "left out: the run has too many gaps to look at each")
    with pytest.raises(SpecError, match="taken in and not kept"):
        chunk_gaps(gone)


def test_nothing_is_taken_in_as_nothing():
    made = records([], windows=[window()])
    taken = digest(made)
    assert (len(taken.answers.counts), taken.gaps) == (0, {})
    assert dict(summarise(taken, window())) == dict(summarise(made, window()))


def test_requests_left_out_as_warm_up_do_not_count_in_a_digest():
    late = replace(window(), first_index=2)
    made = records([steady(n, index=n) for n in range(5)], windows=[late])
    taken = digest(made, parts(made.chunks, 0))
    for source in (made, taken):
        found = summarise(source, late)
        assert (found["requests"], found["ttft_n"]) == (3, 3)
        assert found["itl_n"] == 3 / 5 * summarise(source, replace(late, first_index=0))["itl_n"]
    assert taken.requests["phase"].to_pylist() == ["measure"] * 5
    assert taken.of(late).requests["phase"].to_pylist() == ["warmup"] * 2 + ["measure"] * 3


def test_several_new_windows_take_one_pass_together():
    made = messy(2)
    parts_read = Once([made.chunks])
    taken = digest(made, parts_read)
    before = parts_read.read
    others = [replace(bounds, first_index=bounds.first_index + 3) for bounds in made.windows]
    again = taken.counted(others)
    passes = parts_read.read - before
    for bounds in others:
        assert dict(summarise(again, bounds, slo=SLO)) == dict(summarise(made, bounds, slo=SLO))
    assert parts_read.read - before == passes
    assert again.counted(others) is again


def test_other_bounds_than_those_counted_in_take_another_pass():
    made = messy(7)
    parts_read = Once(parts(made.chunks, 7))
    taken = digest(made, parts_read)
    read = parts_read.read
    other = replace(made.windows[0], measure_ns=3 * SECOND, stop_ns=4 * SECOND)
    expected = dict(summarise(made, other, slo=SLO))
    assert expected != dict(summarise(made, made.windows[0], slo=SLO))
    assert dict(summarise(taken, other, slo=SLO)) == expected
    assert parts_read.read > read
    kept = digest(made)
    assert dict(summarise(kept, other, slo=SLO)) == expected
    assert kept.of(other).chunks is kept.chunks
