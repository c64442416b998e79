"""What must hold of every figure, whatever it shows."""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from labkit.figures import ComparisonRow, figures_of
from labkit.figures.marks import Band, Dots, Figure, Line, Rects, bounds
from labkit.measure.records import CHUNKS, REQUESTS, SAMPLES, SPANS, Records
from tests.unit.figures.conftest import Case, case

UNIT = re.compile(r"\((ms|s|%|W|GiB|cores|count|tok/s|MB/s|relative|lane|×1 = equal, log scale)\)$")
ROW = ComparisonRow(name="ITL p99", ratio=0.13, low=0.1, high=0.2, a_value=332.0, b_value=43.0, unit="ms", better="lower")


def every(case: Case) -> list[Figure]:
    return figures_of(case[0], case[1], comparison_rows=[ROW])


@pytest.mark.parametrize("name", ["demo", "gpu"])
def test_every_axis_has_a_label_with_its_unit(name: str, request: pytest.FixtureRequest) -> None:
    for figure in every(request.getfixturevalue(name)):
        for panel in figure.panels:
            assert UNIT.search(panel.x_label), (figure.name, panel.x_label)
            assert UNIT.search(panel.y_label) or figure.name in ("comparison", "stages"), (figure.name, panel.y_label)


@pytest.mark.parametrize("name", ["demo", "gpu"])
def test_every_figure_names_its_conditions(name: str, request: pytest.FixtureRequest) -> None:
    for figure in every(request.getfixturevalue(name)):
        assert "labkit-demo (dummy weights)" in figure.caption
        assert "20260101-compare-demo" in figure.caption
        assert "ISL 512, OSL 32" in figure.caption


def test_figures_have_distinct_names(demo: Case) -> None:
    names = [figure.name for figure in every(demo)]
    assert names == ["comparison", "distributions", "interference", "stages", "timeline", "workers", "transfer", "gantt"]


def test_arrays_of_a_mark_have_equal_length(demo: Case) -> None:
    for figure in every(demo):
        for panel in figure.panels:
            for mark in panel.marks:
                match mark:
                    case Line() | Dots():
                        assert len(mark.x) == len(mark.y)
                    case Band():
                        assert len(mark.x) == len(mark.low) == len(mark.high)
                    case Rects():
                        assert len(mark.x0) == len(mark.x1) == len(mark.y0) == len(mark.y1)
                        assert np.all(mark.x1 >= mark.x0)
                if isinstance(mark, Dots | Rects) and mark.tips:
                    assert len(mark.tips) == len(mark.x if isinstance(mark, Dots) else mark.x0)


def without(records: Records, **tables: Any) -> Records:
    return replace(records, **tables)


_BUILT: dict[str, Case] = {}


def degenerate(make: Callable[..., Case]) -> dict[str, Case]:
    """Poor records by what is poor about them, built once."""
    return _BUILT or build(make, _BUILT)


def build(make: Callable[..., Case], into: dict[str, Case]) -> dict[str, Case]:
    records, manifest, *_ = make(("2A",), rate=0.5, duration_s=6.0)
    one = records.requests.slice(records.requests.num_rows - 1)
    chunks = records.chunks.slice(records.chunks.num_rows - 32)
    empty = REQUESTS.empty_table(), CHUNKS.empty_table()
    never_sent = without(records, requests=set_column(one, "sent_ns", None), chunks=CHUNKS.empty_table())
    no_length = replace(records.windows[0], measure_ns=records.windows[0].start_ns, stop_ns=records.windows[0].start_ns)
    into |= {
        "nothing": case(Records(*empty), {}),
        "a window without requests": case(Records(*empty, windows=records.windows), manifest),
        "requests without a window": case(without(records, windows=()), {}),
        "one request": case(without(records, requests=one, chunks=chunks), manifest),
        "one token": case(without(records, requests=one, chunks=chunks.slice(0, 1)), manifest),
        "never sent": case(never_sent, manifest),
        "all failed": make(fail=1.0, duration_s=5.0),
        "attached": make(("attached",), duration_s=8.0, spans=False, samples=False),
        "no manifest": case(records, {}),
        "no telemetry": case(without(records, samples=SAMPLES.empty_table(), spans=SPANS.empty_table()), manifest),
        "uncounted tokens": make(("2A",), duration_s=8.0, tokens_known=False),
        "no measure phase": case(without(records, windows=(no_length,)), manifest),
        "many windows": make(("2A", "1P1D") * 6, duration_s=3.0, warmup_s=0.0),
    }
    return into


def set_column(table: Any, name: str, value: Any) -> Any:
    rows = [row | {name: value} for row in table.to_pylist()]
    return type(table).from_pylist(rows, schema=table.schema)


def test_poor_records_draw_and_say_what_is_missing(make: Callable[..., Case]) -> None:
    for name, poor in degenerate(make).items():
        for figure in every(poor):
            assert figure.panels, (name, figure.name)
            for panel in figure.panels:
                assert np.all(np.isfinite(bounds(panel))), (name, figure.name, panel.title)
                drawn = [
                    m
                    for m in panel.marks
                    if isinstance(m, Line | Dots | Rects) and np.isfinite(getattr(m, "y", np.ones(1))).any()
                ]
                assert drawn or panel.note, f"{name}: {figure.name} · {panel.title} is an empty plot without a reason"


@pytest.mark.parametrize(
    ("name", "figure", "words"),
    [
        ("nothing", "distributions", "no request was recorded"),
        ("attached", "gantt", "sent no request spans"),
        ("attached", "stages", "sent no request spans"),
        ("attached", "transfer", "no worker reports NIXL counters"),
        ("one request", "transfer", "every worker was aggregated"),
        ("no telemetry", "workers", "was not recorded"),
        ("uncounted tokens", "timeline", "did not say how many tokens"),
        ("never sent", "timeline", "no token arrived"),
        ("all failed", "distributions", "no request of a measure phase completed"),
    ],
)
def test_the_reason_is_the_right_one(make: Callable[..., Case], name: str, figure: str, words: str) -> None:
    found = next(one for one in every(degenerate(make)[name]) if one.name == figure)
    assert any(words in panel.note for panel in found.panels), [panel.note for panel in found.panels]
