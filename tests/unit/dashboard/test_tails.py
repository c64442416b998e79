"""The charts of tails: every pin that has one is a line, the line of now is in front, and only what can be told is drawn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from bokeh.models import HoverTool

from labkit.dashboard.tails import ALARM, Now, colors_of, columns, fresh, line, tail_chart, x_range
from labkit.figures import style
from labkit.live import Pin
from labkit.live.tails import Tail, counted, tail_of
from labkit.spec import Slo


def pin(label: str, topology: str, *, ttft_s: float = 0.2, itl_s: float | None = 0.02) -> Pin:
    rng = np.random.default_rng(1)
    tails = {"ttft": tail_of(counted(rng.lognormal(np.log(ttft_s), 0.3, 400)))}
    if itl_s is not None:
        tails["itl"] = tail_of(counted(rng.lognormal(np.log(itl_s), 0.3, 4_000)))
    return Pin(label, topology, "8 req/s", "run-1", "1", 10.0, 30.0, tails=tails)


def shown(plot):
    return [item.label.value for legend in plot.legend for item in legend.items]


def source(plot, name):
    return next(one.data_source for one in plot.renderers if one.data_source.name == name)


def test_each_pin_that_has_one_is_a_faint_line_in_its_topologys_colour_behind_that_of_now():
    pins = [pin("a", "2A"), pin("b", "1P1D"), pin("uncounted", "1P1D", itl_s=None)]
    now = Now("1P1D", {"itl": pins[1].tails["itl"]})
    plot = tail_chart(pins, "itl", now=now)
    faint, thick = plot.renderers
    (legend,) = plot.legend
    assert [(item.label.value, item.renderers[0], item.index) for item in legend.items] == [
        ("a", faint, 0), ("b", faint, 1), ("now", thick, None)
    ]  # fmt: skip
    rows = faint.data_source.data
    assert (faint.glyph.xs, faint.glyph.ys, faint.glyph.line_color) == ("xs", "ys", "color")
    assert rows["color"] == [style.AGGREGATED, style.DISAGGREGATED]
    assert list(zip(rows["xs"], rows["ys"], strict=True)) == [line(pin.tails["itl"]) for pin in pins[:2]]
    assert rows["name"] == ["a, 4,000 tokens", "b, 4,000 tokens"]
    assert thick.glyph.line_color == style.DISAGGREGATED
    assert thick.glyph.line_width > faint.glyph.line_width
    assert thick.data_source.name == "itl:now"
    tips = {tool.renderers[0]: tool.tooltips[0][1] for tool in plot.tools if isinstance(tool, HoverTool)}
    assert tips == {faint: "@name", thick: "$name"}
    assert thick.name == "now, 1P1D", "what the tip says"
    assert shown(tail_chart(pins, "ttft")) == ["a", "b", "uncounted"], "a page that is kept has no now"
    assert len(tail_chart(pins, "ttft").renderers) == 1, "one for all, however many"


def test_a_line_is_in_milliseconds_and_leaves_out_what_came_with_the_token_before():
    x, y = line(Tail((1e-5, 0.00009, 0.02, 0.4), (0.8, 0.7, 0.5, 0.01), 100))
    assert (x, y) == ([20.0, 400.0], [0.5, 0.01])
    assert line(Tail()) == ([], [])


def test_the_range_holds_all_lines_but_their_lowest_hundredth_and_stays_while_they_move_a_little():
    body = Tail((0.0005, 0.01, 0.02, 0.4), (1.0, 0.985, 0.5, 0.01), 100)
    low, high = x_range([body])
    assert 5 < low <= 10
    assert 400 < high < 1000
    moved = replace_values(body, 1.05)
    assert x_range([moved]) == (low, high)
    assert x_range([]) == x_range([Tail()]) == (1.0, 1000.0)


def replace_values(tail: Tail, factor: float) -> Tail:
    return Tail(tuple(value * factor for value in tail.value_s), tail.share, tail.n)


def test_the_limit_is_drawn_where_there_is_one():
    plots = [tail_chart([], name, slo=Slo(tpot_s=0.05)) for name in ("ttft", "itl")]
    spans = [[one.location for one in plot.center if getattr(one, "line_color", "") == ALARM] for plot in plots]
    assert spans == [[], [50.0]]


def test_what_is_sent_every_second_is_what_the_charts_would_be_built_with():
    pins, now = [pin("a", "2A")], Now("1P1D", dict(pin("b", "1P1D", ttft_s=3.0).tails))
    sent = fresh(pins, now)
    for name in ("ttft", "itl"):
        plot = tail_chart(pins, name, now=now)
        assert sent["sources"][f"{name}:now"] == columns(name, now) == source(plot, f"{name}:now").data
        assert sent["ranges"][f"{name}:x"] == (plot.x_range.start, plot.x_range.end)
        assert sent["ranges"][f"{name}:y"] == (plot.y_range.start, plot.y_range.end)
    assert sent["ranges"]["itl:y"][0] == pytest.approx(0.7 / 4_000)
    empty = fresh([], Now("2A", {}))
    assert empty["sources"]["ttft:now"]["x"] == []
    assert empty["ranges"]["ttft:y"][0] == pytest.approx(0.007), "down to p99 at least"


def test_a_topology_has_the_colour_that_it_has_on_the_pareto_chart_whatever_serves_now():
    pins = [pin("a", "1P3D"), pin("b", "2P2D")]
    before = colors_of(pins, None)
    assert {name: colors_of(pins, Now("3P1D", {}))[name] for name in before} == before
    assert len(set(colors_of([*pins, replace(pins[0], label="c")], Now("3P1D", {})).values())) == 3
