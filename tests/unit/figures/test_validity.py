"""What a reader must know is on every figure, and a warm-up that was found is seen where it ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from labkit.figures import export, figures_of
from labkit.figures.context import context
from labkit.figures.layout import Layout
from labkit.figures.marks import VLine, VSpan
from labkit.figures.timeline import timeline
from labkit.figures.values import Values
from labkit.measure.records import SAMPLES
from labkit.measure.warmup import begin_at
from tests.unit.figures.conftest import Case, case


def sampled(given: Case, *kinds: tuple[str, str, float], windows: tuple[int, ...] = (0,)) -> Case:
    """The same run with ``(source, metric, value)`` all through these windows."""
    records, manifest, *_ = given
    rows = [
        {"t_ns": t_ns, "source": source, "metric": metric, "value": value}
        for source, metric, value in kinds
        for window in records.windows
        if window.measurement in windows
        for t_ns in range(window.measure_ns, window.stop_ns, 500_000_000)
    ]
    samples = pa.concat_tables([records.samples.cast(SAMPLES), pa.Table.from_pylist(rows, schema=SAMPLES)])
    return case(replace(records, samples=samples), manifest)


def test_warnings_are_on_every_figure_with_the_windows_they_are_of(make: Callable[..., Case]) -> None:
    stolen = sampled(make(duration_s=10.0), ("host", "cpu_steal_fraction", 0.08), windows=(1, 3))
    text = "1P1D #1, 1P1D #2: the hypervisor took 8.0% of the CPU time away meanwhile"
    for figure in figures_of(*stolen[:2]):
        assert text in figure.warnings
    assert not any("dummies" in warning for warning in stolen[2].warnings), "a note is no warning"


def test_a_healthy_run_has_none(make: Callable[..., Case]) -> None:
    assert make(("1P1D",), rate=0.5, duration_s=20.0)[2].warnings == ()


def test_many_warnings_are_counted_and_what_all_windows_share_is_said_of_all(make: Callable[..., Case]) -> None:
    kinds = [("host", "cpu_steal_fraction", 0.5), ("host", "foreign_cpu_cores", 3.0), ("load0", "cpu_cores", 0.99)]
    kinds += [("gpu0", "foreign_processes", 1.0)]
    told = sampled(make(("2A", "1P1D"), rate=0.5, duration_s=10.0), *kinds, windows=(0, 1))[2].warnings
    assert len(told) == 4
    assert all(line.startswith("all: ") for line in told[:3])
    assert told[3] == "1 more: `labkit show` lists them"


def test_the_footer_makes_room_for_them(make: Callable[..., Case], tmp_path: Path) -> None:
    figure = figures_of(*make(("2A",), rate=0.5, duration_s=6.0)[:2])[1]
    plain, marked = replace(figure, warnings=()), replace(figure, warnings=("all: " + "a long sentence " * 20, "2A #1: short"))
    before, after = Layout.of(plain), Layout.of(marked)
    lines = after.warnings.split("\n")
    assert (lines[0][:6], lines[-1]) == ("! all:", "! 2A #1: short")
    assert len(lines) > 2
    grown = after.height - before.height
    assert grown == pytest.approx(0.16 * len(lines) + 0.04)
    assert np.allclose([box[1] - grown for row in after.boxes for box in row], [box[1] for row in before.boxes for box in row])
    for kind in ("svg", "html"):
        assert "! 2A #1: short" in export(marked, tmp_path / f"marked.{kind}").read_text()


def test_a_warm_up_that_was_found_is_grey_up_to_a_dotted_line(make: Callable[..., Case]) -> None:
    records, manifest, *_ = make(("2A", "1P1D"), warmup_s=0.0, duration_s=20.0)
    first, second = records.windows
    cut = begin_at(records, second, 9, "found")
    found = replace(records, windows=(first, cut))
    run = context(found, manifest)
    figure = timeline(run, Values.of(found))
    end_s = (cut.measure_ns - run.zero_ns) / 1e9
    for panel in figure.panels:
        dotted = [mark.x for mark in panel.marks if isinstance(mark, VLine) and mark.dash == "dotted"]
        assert dotted == pytest.approx([end_s])
        (grey,) = (mark for mark in panel.marks if isinstance(mark, VSpan) and mark.x1 == pytest.approx(end_s))
        assert grey.x0 == pytest.approx((second.start_ns - run.zero_ns) / 1e9)
    assert "Dotted: where the warm-up was found to end." in figure.subtitle
    assert "Dotted" not in timeline(context(records, manifest), Values.of(records)).subtitle


@pytest.mark.parametrize("latency", ["ttft", "tpot", "itl"])
def test_distributions_leave_out_what_the_window_leaves_out(make: Callable[..., Case], latency: str) -> None:
    records, *_ = make(("2A",), warmup_s=0.0, duration_s=20.0)
    (window,) = records.windows
    values = Values.of(records)
    whole, rest = values.window_ms(window, latency), values.window_ms(begin_at(records, window, 9, "found"), latency)
    assert len(whole) - len(rest) == (9 * 31 if latency == "itl" else 9)
    assert rest.tolist() == whole[-len(rest) :].tolist()
