import itertools
from dataclasses import replace

import numpy as np

from labkit.dashboard.chart_data import ROLE_CODE, ChartData
from labkit.live import LiveEvent, LiveStats, Sample, WorkerSample
from labkit.spec.topology import Role
from tests.support.live_feed import feed


def sample(t_s: float, *workers: WorkerSample, **stats: float) -> Sample:
    return Sample(t_s, int(t_s * 1e9), "2A", LiveStats(10.0, **stats), workers)


def test_what_is_not_known_is_nan_and_zero_stays_zero():
    history = ChartData()
    history.append(sample(0.0, WorkerSample("w", Role.AGGREGATED, running=0.0, waiting=None), ttft_p50_s=None, output_tok_s=0.0))
    assert history.column("output_tok_s")[0] == 0
    assert history.column("running:w")[0] == 0
    assert np.isnan(history.column("ttft_p50_s")[0])
    assert np.isnan(history.column("waiting:w")[0])


def test_a_copy_stays_as_it_is_while_the_history_grows():
    history = ChartData()
    for one in itertools.islice(feed(2), 6):
        history.append(one)
    history.note(LiveEvent(0.5, "note", "before"))
    kept, before = history.copy(), history.rows()
    history.append(sample(99.0, WorkerSample("late", Role.DECODE, running=1)))
    history.note(LiveEvent(99.0, "note", "after"))
    after = kept.rows()
    assert (after.columns, after.events, after.splits) == (before.columns, before.events, before.splits)
    assert np.array_equal(after.values, before.values, equal_nan=True)


def test_a_worker_that_comes_late_is_unknown_before_and_one_that_left_after():
    history = ChartData()
    history.append(sample(0.0, WorkerSample("a", Role.AGGREGATED, running=1)))
    rows = history.append(sample(0.25, WorkerSample("b", Role.DECODE, running=2)))
    assert history.column("running:a").tolist()[0] == 1
    assert np.isnan(history.column("running:a")[1])
    assert np.isnan(history.column("running:b")[0])
    assert history.column("role:b")[1] == ROLE_CODE[Role.DECODE]
    content, (buffer,) = rows.message(known=3)
    assert content["columns"] == history.columns
    assert np.array_equal(np.frombuffer(buffer, np.float32), history.values[1], equal_nan=True)
    assert "columns" not in history.append(sample(0.5)).message(known=len(history.columns))[0]


def test_columns_keep_their_place_when_there_are_many():
    history = ChartData()
    samples = list(itertools.islice(feed(16), 600))
    for one in samples:
        history.append(one)
    assert len(history) == 600
    assert np.allclose(history.column("t"), [one.t_s for one in samples])
    wanted = [one.workers[13].running for one in samples]
    assert np.array_equal(history.column("running:worker-13"), np.array(wanted, np.float32), equal_nan=True)


def test_memory_is_bounded_and_the_recent_half_is_whole():
    history = ChartData(most=64, most_dots=5)
    samples = list(itertools.islice(feed(2), 400))
    for one in samples:
        history.append(one)
    times = history.column("t")
    assert len(history) <= 64
    assert times[-1] == samples[-1].t_s
    assert times[0] == 0
    assert np.all(np.diff(times) > 0)
    assert np.allclose(times[-16:], [one.t_s for one in samples[-16:]])
    assert len(history.slow_ttft) == 5
    assert len(history.events) == sum(len(one.events) for one in samples)


def test_rows_after_an_instant_are_what_a_browser_lacks():
    history = ChartData()
    for one in itertools.islice(feed(2), 200):
        history.append(one)
    rows = history.rows(40.0)
    assert rows.values[:, 0].tolist() == [40.25 + 0.25 * i for i in range(39)]
    assert {event.kind for event in rows.events} == {"fault"}
    assert rows.splits == ()
    assert [split for _, split in history.rows().splits] == ["2A", "1P1D"]
    assert all(dot.t_s > 40 for dot in rows.slow_ttft)


def test_a_thinned_export_keeps_both_ends():
    history = ChartData()
    for one in itertools.islice(feed(2), 500):
        history.append(one)
    times = history.rows(most=100).values[:, 0]
    assert len(times) == 100
    assert (times[0], times[-1]) == (0, 124.75)


def test_an_event_alone_adds_no_row():
    history = ChartData()
    history.append(sample(0.0))
    rows = history.note(LiveEvent(0.1, "pin", "A"))
    assert rows.message(known=len(history.columns))[0] == {
        "n": 0,
        "width": len(history.columns),
        "events": [[0.1, "pin", "A", "A"]],
    }
    assert len(history) == 1
    assert history.append(replace(sample(0.2), topology="1P1D")).splits == ((0.2, "1P1D"),)
