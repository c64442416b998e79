"""What is drawn equals what plain loops over the rows give."""

import itertools
import math
from collections import defaultdict
from collections.abc import Callable

import numpy as np
import pytest

from labkit.figures import style
from labkit.figures.comparison import ComparisonRow, comparison
from labkit.figures.context import context
from labkit.figures.distributions import distributions, log_density, tail
from labkit.figures.gantt import bars_of, excerpt, gantt, packed
from labkit.figures.marks import Dots, Line, Panel, Rects, Text, VLine, VSpan
from labkit.figures.series import binned, increments, stairs, with_breaks
from labkit.figures.stages import stages
from labkit.figures.timeline import timeline
from labkit.figures.transfer import transfer
from labkit.figures.workers import workers
from labkit.measure.counters import Series
from tests.unit.figures.conftest import Case


def ttfts_ms(case: Case, side: str, *, measured: bool = True) -> list[float]:
    records = case[0]
    first: dict[int, int] = {}
    for chunk in records.chunks.to_pylist():
        first[chunk["request"]] = min(chunk["t_ns"], first.get(chunk["request"], chunk["t_ns"]))
    sides = {window.measurement: window.side for window in records.windows}
    return [
        (first[row["request"]] - row["sent_ns"]) / 1e6
        for row in records.requests.to_pylist()
        if sides[row["measurement"]] == side and (row["phase"] == "measure" or not measured)
    ]


def lines(panel: Panel, label: str) -> list[Line]:
    return [mark for mark in panel.marks if isinstance(mark, Line) and mark.label == label]


@pytest.mark.parametrize("side", ["2A", "1P1D"])
def test_the_tail_is_the_share_at_or_above(demo: Case, side: str) -> None:
    panel = distributions(demo[2], demo[3]).panels[3]
    (curve,) = lines(panel, side)
    values = ttfts_ms(demo, side)
    for x, share in zip(curve.x[::2], curve.y[::2], strict=True):
        assert share == pytest.approx(100 * sum(value >= x - 1e-9 for value in values) / len(values))


def test_percentiles_are_written_in_ms(demo: Case) -> None:
    panel = distributions(demo[2], demo[3]).panels[0]
    texts = [mark.text for mark in panel.marks if isinstance(mark, Text)]
    for side in ("2A", "1P1D"):
        ordered = sorted(ttfts_ms(demo, side))
        for q in (50, 99):
            rank = q / 100 * (len(ordered) - 1)
            low = math.floor(rank)
            value = ordered[low] + (rank - low) * (ordered[min(low + 1, len(ordered) - 1)] - ordered[low])
            assert f"p{q} {value:,.0f} ms" in texts


def test_p99_of_too_few_values_is_not_claimed(make: Callable[..., Case]) -> None:
    case = make(("2A",), rate=0.5, duration_s=10.0)
    figure = distributions(case[2], case[3])
    texts = [mark.text for panel in figure.panels for mark in panel.marks if isinstance(mark, Text)]
    count = len(ttfts_ms(case, "2A"))
    assert f"p99: {count} values, needs 100" in texts
    assert not any(text.startswith("p99 ") for text in texts[:2])


def test_fifty_ms_is_marked_on_itl_alone(demo: Case) -> None:
    marked = [
        any(isinstance(mark, VLine) and mark.x == 50.0 for mark in panel.marks) for panel in distributions(*demo[2:]).panels
    ]
    assert marked == [False, False, True] * 2


def test_density_integrates_to_one_and_needs_ten_values() -> None:
    values = np.random.default_rng(0).lognormal(3, 0.4, 5000)
    x, density = log_density(values, (1.0, 1000.0))
    assert np.trapezoid(density, np.log10(x)) == pytest.approx(1.0, abs=1e-3)
    assert x[np.argmax(density)] == pytest.approx(math.exp(3), rel=0.1)
    assert log_density(values[:9], (1.0, 1000.0))[0].size == 0


def test_thinning_a_tail_keeps_its_end() -> None:
    values = np.arange(1.0, 100_001.0)
    x, share = tail(values, most=900)
    assert x.size < 4000
    assert x[-1] == 100_000
    assert share[-1] == pytest.approx(0.001)
    assert set(np.arange(99_950.0, 100_001.0)) <= set(x)
    kept = 100_001 - np.unique(x)[::-1]
    assert np.all(np.diff(np.log(kept))[100:] < 0.03), "no coarse step anywhere between p99 and the end"


def test_timeline_has_a_dot_for_each_request(demo: Case) -> None:
    panel = timeline(demo[2], demo[3]).panels[0]
    for side in ("2A", "1P1D"):
        (dots,) = [mark for mark in panel.marks if isinstance(mark, Dots) and mark.label == side]
        assert sorted(dots.y) == pytest.approx(sorted(ttfts_ms(demo, side, measured=False)))


def test_throughput_bins_hold_every_token(demo: Case) -> None:
    records, _, run, values = demo
    panel = timeline(run, values).panels[2]
    (line,) = lines(panel, "2A")
    window = records.windows[0]
    mine = {row["request"] for row in records.requests.to_pylist() if row["measurement"] == 0}
    count: dict[int, int] = defaultdict(int)
    for chunk in records.chunks.to_pylist():
        if chunk["request"] in mine:
            count[(chunk["t_ns"] - window.start_ns) // 1_000_000_000] += chunk["tokens"]
    first_window = [(x, y) for x, y in zip(line.x[::2], line.y[::2], strict=False) if x < 40]
    for x, y in first_window:
        assert y == pytest.approx(count[round(x)])


def test_phases_and_resplits_stand_where_they_happened(demo: Case) -> None:
    records, _, run, values = demo
    panel = timeline(run, values).panels[0]
    spans = [mark for mark in panel.marks if isinstance(mark, VSpan) and mark.text]
    assert sorted(span.text for span in spans) == ["1P1D · 1", "1P1D · 2", "2A · 1", "2A · 2"]
    zero = records.windows[0].start_ns
    bounds = {((w.measure_ns - zero) / 1e9, (w.stop_ns - zero) / 1e9) for w in records.windows}
    assert {(span.x0, span.x1) for span in spans} == bounds
    at = [mark.x for mark in panel.marks if isinstance(mark, VLine)]
    assert at == pytest.approx([(event["t_ns"] - zero) / 1e9 for event in records.events.to_pylist()])


def test_failed_requests_are_shown(make: Callable[..., Case]) -> None:
    records, _, run, values = make(("2A",), duration_s=20.0, fail=0.3)
    failed = sum(row["outcome"] != "ok" for row in records.requests.to_pylist())
    panel = timeline(run, values).panels[0]
    (crosses,) = [mark for mark in panel.marks if isinstance(mark, Dots) and mark.marker == "cross"]
    assert len(crosses.x) == failed > 0
    assert f"failed ({failed})" in panel.legend


def test_requests_that_a_stop_cancelled_are_shown_apart(make: Callable[..., Case]) -> None:
    records, _, run, values = make(("2A",), duration_s=20.0, fail=0.3, ends="cancelled")
    cancelled = sum(row["outcome"] == "cancelled" for row in records.requests.to_pylist())
    panel = timeline(run, values).panels[0]
    (crosses,) = [mark for mark in panel.marks if isinstance(mark, Dots) and mark.marker == "cross"]
    assert crosses.color == style.FAINT
    assert f"cancelled ({cancelled})" in panel.legend
    assert not any("failed" in name for name in panel.legend)


def test_a_worker_changes_colour_with_its_role(demo: Case) -> None:
    panels = {panel.title: panel for panel in workers(demo[2]).panels}
    colours = {name: [mark.color for mark in panels[name].marks if isinstance(mark, Line)] for name in ("w0 · CPU", "w1 · CPU")}
    assert colours == {"w0 · CPU": [style.AGGREGATED, style.PREFILL], "w1 · CPU": [style.AGGREGATED, style.DECODE]}
    records, _, run, _ = demo
    prefill = [mark for mark in panels["w0 · CPU"].marks if isinstance(mark, Line)][1]
    x = prefill.x[np.isfinite(prefill.x)]
    starts = [(epoch.start_ns - run.zero_ns) / 1e9 for epoch in run.epochs]
    assert np.all(((x >= starts[1]) & (x < starts[2])) | (x >= starts[3]))
    assert len(x) == sum(
        row["source"] == "w0"
        and row["metric"] == "cpu_cores"
        and row["t_ns"] >= run.epochs[1].start_ns
        and not run.epochs[2].start_ns <= row["t_ns"] < run.epochs[3].start_ns
        for row in records.samples.to_pylist()
    )


def test_gpus_have_the_roles_of_their_workers(gpu: Case) -> None:
    figure = workers(gpu[2])
    panels = {panel.title: panel for panel in figure.panels}
    assert figure.columns == 4
    assert len(panels) == 16
    assert [mark.color for mark in panels["GPU1 · power"].marks if isinstance(mark, Line)] == [
        style.AGGREGATED,
        style.DECODE,
        style.PREFILL,
    ]
    top = max(row["value"] for row in gpu[0].samples.to_pylist() if row["metric"] == "power_w" and row["source"] == "gpu1")
    drawn = [np.nanmax(mark.y) for mark in panels["GPU1 · power"].marks if isinstance(mark, Line)]
    assert max(drawn) == pytest.approx(top)


def test_a_gpu_of_an_unknown_worker_has_no_role(gpu: Case) -> None:
    records, manifest, *_ = gpu
    bare = manifest | {"epochs": [{key: value for key, value in epoch.items() if key != "gpus"} for epoch in manifest["epochs"]]}
    panels = {panel.title: panel for panel in workers(context(records, bare)).panels}
    assert {mark.color for mark in panels["GPU1 · power"].marks if isinstance(mark, Line)} == {style.UNKNOWN}


def test_transfer_adds_up_to_the_counters(demo: Case) -> None:
    records, _, run, _ = demo
    figure = transfer(run)
    (line,) = [mark for mark in figure.panels[0].marks if isinstance(mark, Line)]
    moved = np.sum(np.diff(line.x)[::2] * line.y[::2]) * 1e6
    readings = [
        row["value"]
        for row in records.samples.to_pylist()
        if row["metric"] == "vllm:nixl_bytes_transferred_sum" and row["source"] == "w1"
    ]
    assert moved == pytest.approx(readings[-1] - readings[0])
    assert f"{moved / 1e6:,.0f} MB" in figure.subtitle


def test_a_counter_that_restarts_does_not_go_backwards() -> None:
    gained = increments(Series(np.array([0, 1, 2, 3]), np.array([10.0, 25.0, 4.0, 6.0])))
    assert gained.t_ns.tolist() == [1, 2, 3]
    assert gained.value.tolist() == [15.0, 4.0, 2.0]


def test_gantt_draws_the_spans_of_its_excerpt(demo: Case) -> None:
    records, _, run, values = demo
    window = records.windows[0]
    start, stop = excerpt(window, 10.0)
    assert (stop - start) / 1e9 == pytest.approx(10.0)
    panel = gantt(run, values).panels[0]
    (prefills,) = [mark for mark in panel.marks if isinstance(mark, Rects) and mark.label == "prefill"]
    expected = 0
    for span in records.spans.to_pylist():
        begin = span["start_ns"] + span["queue_s"] * 1e9
        end = begin + span["prefill_s"] * 1e9
        alive = span["start_ns"] <= stop and end + span["decode_s"] * 1e9 >= start
        expected += alive and span["prefill_s"] > 1e-4
    assert len(prefills.x0) == expected
    stalls = [mark for mark in panel.marks if isinstance(mark, Rects) and mark.label == "stall at the client"]
    assert len(stalls[0].x0) == sum(
        gap > 0.1 and measurement == 0 and first <= stop and last >= start
        for gap, measurement, first, last in zip(
            values.gaps.gap_s, values.gaps.measurement, values.gaps.start_ns, values.gaps.end_ns, strict=True
        )
    )


def test_rows_of_a_lane_never_overlap(gpu: Case) -> None:
    bars = [bar for bar in bars_of(gpu[2]) if bar.worker == "w0"]
    rows = packed(bars)
    for row in set(rows):
        mine = [bar for bar, at in zip(bars, rows, strict=True) if at == row]
        assert all(before.end <= after.start for before, after in itertools.pairwise(mine))
    assert len(set(rows)) > 1


def row(ratio: float | None, low: float | None, high: float | None, better: str = "lower") -> ComparisonRow:
    return ComparisonRow(name="x", ratio=ratio, low=low, high=high, a_value=10.0, b_value=5.0, unit="ms", better=better)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "verdict"),
    [
        (row(0.5, 0.4, 0.6), "better"),
        (row(0.5, 0.4, 0.6, "higher"), "worse"),
        (row(1.5, 1.4, 1.6), "worse"),
        (row(1.5, 1.4, 1.6, "higher"), "better"),
        (row(0.9, 0.8, 1.0), "open"),
        (row(0.5, None, None), "open"),
        (row(None, None, None), "missing"),
    ],
)
def test_a_verdict_needs_an_interval_off_one(given: ComparisonRow, verdict: str) -> None:
    assert given.verdict == verdict


def test_the_forest_stands_on_its_rows() -> None:
    figure = comparison([row(0.5, 0.4, 0.6), row(None, None, None), row(1.0, 0.9, 1.1)], a="2A", b="1P1D")
    (panel,) = figure.panels
    dots = {mark.label: (mark.x.tolist(), mark.y.tolist()) for mark in panel.marks if isinstance(mark, Dots)}
    assert dots == {"1P1D better": ([0.5], [2.0]), "no difference shown": ([1.0], [0.0])}
    assert panel.y_ticks_right is not None
    assert [text for _, text in panel.y_ticks_right] == ["10.0 → 5.00 ms   ×0.50", "10.0 → 5.00 ms", "10.0 → 5.00 ms   ×1.00"]


def test_the_stages_of_a_side_end_where_its_mean_request_does(demo: Case) -> None:
    (panel,) = stages(demo[2]).panels
    rects = [mark for mark in panel.marks if isinstance(mark, Rects)]
    assert panel.y_ticks is not None
    assert [side for _, side in panel.y_ticks] == ["2A", "1P1D"]
    records = demo[0]
    last = {row["request"]: row["t_ns"] for row in sorted(records.chunks.to_pylist(), key=lambda row: row["t_ns"])}
    for y, side in panel.y_ticks:
        number = {window.measurement for window in records.windows if window.side == side}
        rows = [row for row in records.requests.to_pylist() if row["measurement"] in number and row["phase"] == "measure"]
        whole_ms = np.mean([(last[row["request"]] - row["scheduled_ns"]) / 1e6 for row in rows])
        widths = [(mark.x1 - mark.x0)[np.isclose((mark.y0 + mark.y1) / 2, y)].sum() for mark in rects]
        assert sum(widths) == pytest.approx(whole_ms, rel=0.01)  # what is too narrow to see is left out
        assert [mark.text for mark in panel.marks if isinstance(mark, Text) and mark.y == y and mark.bold] == [
            f"{whole_ms:,.0f} ms"
        ]
    handed = [mark for mark in rects if mark.label.startswith("KV transfer")]
    assert [mark.y0.tolist() for mark in handed] == [[-1.32]]  # of the second side alone


def test_bins_and_stairs() -> None:
    edges, sums = binned(np.array([0.1, 0.9, 2.4]), np.array([1.0, 2.0, 4.0]), 0.0, 2.5, 1.0)
    assert edges.tolist() == [0.0, 1.0, 2.5]
    assert sums.tolist() == [3.0, 4.0]
    x, y = stairs(edges, sums)
    assert x.tolist() == [0, 1, 1, 2.5]
    assert y.tolist() == [3, 3, 4, 4]


@pytest.mark.parametrize("end", [0.01, 0.5, 1.0, 3.0, 3.01, 3.99])
def test_no_bin_is_shorter_than_its_width_so_a_rate_has_no_spike_at_the_end(end: float) -> None:
    t = np.arange(0, end, 0.01)
    edges, sums = binned(t, np.ones_like(t), 0.0, end, 1.0)
    assert edges[-1] == pytest.approx(end)
    assert len(sums) == 1 or np.all(np.diff(edges) >= 1.0 - 1e-9)
    assert sums.sum() == len(t)
    if end >= 0.5:
        assert sums / np.diff(edges) == pytest.approx(100, rel=0.02)


def test_a_line_does_not_bridge_silence() -> None:
    x, y = with_breaks(np.array([0.0, 0.5, 1.0, 9.0, 9.5]), np.arange(5.0))
    assert np.isnan(y).tolist() == [False, False, False, True, False, False, True]
    assert np.isnan(x).tolist() == np.isnan(y).tolist()
