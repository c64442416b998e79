"""A run of too many chunks to draw: curves from a sample of its requests, numbers from all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from labkit.figures.distributions import distributions
from labkit.figures.gantt import gantt
from labkit.figures.marks import Line, Rects, Text
from labkit.figures.timeline import timeline
from labkit.figures.values import Values
from tests.unit.figures.conftest import Case


@pytest.fixture(scope="module")
def few(demo: Case) -> Values:
    return Values.of(demo[0], most_chunks=demo[0].chunks.num_rows // 4)


def test_gaps_of_some_requests_are_drawn_and_of_all_are_told(demo: Case, few: Values) -> None:
    _, _, run, values = demo
    assert (values.one_in, few.one_in) == (1, 4)
    assert 0.1 < len(few.gaps) / len(values.gaps) < 0.35
    assert set(few.gaps.measurement) == set(values.gaps.measurement)
    whole, sample = distributions(run, values), distributions(run, few)
    assert "Inter-token latency: curves of 1 in 4 requests; percentiles of all." in sample.subtitle
    assert "1 in" not in whole.subtitle
    for panel in range(3):
        texts = [[mark.text for mark in figure.panels[panel].marks if isinstance(mark, Text)] for figure in (whole, sample)]
        assert texts[0] == texts[1] != []


def test_throughput_and_stalls_are_of_all_requests(demo: Case, few: Values) -> None:
    _, _, run, values = demo
    pairs = [figure(run, values).panels[2].marks for figure, values in ((timeline, values), (timeline, few))]
    for one, other in zip(*pairs, strict=True):
        if isinstance(one, Line):
            assert np.array_equal(one.y, other.y, equal_nan=True)
    stalls = [
        [mark.x0.tolist() for mark in gantt(run, values).panels[0].marks if isinstance(mark, Rects) and "stall" in mark.label]
        for values in (values, few)
    ]
    assert stalls[0] == stalls[1] != []
    assert "Gaps of 1 in 4 requests." in timeline(run, few).subtitle


def test_bundled_tokens_count_in_the_percentiles_of_a_sample(make: Callable[..., Case]) -> None:
    records, *_ = make(("2A",), rate=8.0, duration_s=20.0)
    tokens = pa.array([1 + 2 * (row % 3 == 0) for row in range(records.chunks.num_rows)], pa.int16())
    records = replace(records, chunks=records.chunks.set_column(2, "tokens", tokens))
    whole, few = Values.of(records), Values.of(records, most_chunks=records.chunks.num_rows // 3)
    (window,) = records.windows
    for latency in ("itl", "chunk_gap"):
        told = few.percentiles_ms([window], latency)
        assert list(told.values()) == pytest.approx(np.percentile(whole.window_ms(window, latency), (50, 99)).tolist())
    assert whole.percentiles_ms([window], "itl") == {}
