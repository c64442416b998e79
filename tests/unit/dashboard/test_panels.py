from dataclasses import asdict, replace

from labkit.dashboard.chart_data import ChartData
from labkit.dashboard.charts import EVENT_COLORS, board
from labkit.dashboard.live_figure import document_json
from labkit.dashboard.page import replay_page
from labkit.dashboard.panels import panels, plots
from labkit.figures import style
from labkit.live.sample import EventKind, FrontendSample
from labkit.spec.slo import Slo
from tests.support.live_feed import feed


def test_every_series_reads_a_column_that_the_history_has():
    history = ChartData()
    history.append(next(feed(2)))
    metrics = {name.split(":")[0] for name in history.columns}
    drawn = panels(Slo())
    assert len(drawn) == 8
    assert {series.metric for panel in drawn for series in panel.series} <= metrics
    assert {metric for panel in drawn for metric in panel.ghosts or ()} <= metrics


def test_a_frontend_has_two_charts_that_read_columns_of_their_own():
    history, fed = ChartData(), feed(2)
    first, second = next(fed), next(fed)
    history.append(first)
    assert not history.frontend
    history.append(replace(second, frontend=FrontendSample(3, 1, 40.0, 0.2, 0.02, 0.5)))
    assert history.frontend
    assert history.column("frontend_queued").tolist()[1:] == [1]
    more = panels(Slo(), frontend=True)[8:]
    assert [panel.name for panel in more] == ["frontend_latency", "frontend_requests"]
    drawn = {series.metric for panel in more for series in panel.series}
    assert drawn == {name for name in history.columns if name.startswith("frontend_")}
    assert len(board(Slo(), "core", frontend=True)["panels"]) == 10
    assert "frontend_latency" in replay_page(history, title="t")
    assert "frontend_latency" not in replay_page(ChartData(), title="t")


def test_the_limits_are_those_of_the_slo():
    by_name = {panel.name: panel for panel in panels(Slo(ttft_s=0.8))}
    assert (by_name["itl"].limit, by_name["itl"].limit_label) == (50, "SLO 50")
    assert by_name["ttft"].limit == 800
    assert panels(Slo())[0].limit is None


def test_peaks_of_latency_are_kept_and_what_swings_is_averaged():
    thin = {series.metric: series.thin for panel in panels(Slo()) for series in panel.series}
    assert {metric for metric, how in thin.items() if how == "mean"} == {"utilisation", "memory_use", "power_w"}


def test_one_range_for_time_and_a_source_for_all_that_the_script_fills():
    roots = plots(panels(Slo(ttft_s=0.5)))
    assert len({id(plot.x_range) for plot in roots}) == 1
    names = {model.name for plot in roots for model in plot.references() if model.name}
    for panel in panels(Slo()):
        assert {f"{panel.name}:left", f"{panel.name}:left:area", f"{panel.name}:right", f"{panel.name}:y"} <= names
    assert {"x", "events", "event labels", "ttft:dots", "itl:ghosts"} <= names
    assert len(document_json(roots)["roots"]) == 8


def test_colours_are_the_roles_and_every_event_has_one():
    made = board(Slo(), "GPU")
    assert [role["color"] for role in made["roles"]] == [style.AGGREGATED, style.PREFILL, style.DECODE]
    assert made["absent"] == {}
    assert board(Slo(), "core", {"power_w": "no driver"})["absent"] == {"power_w": "no driver"}
    assert set(EVENT_COLORS) == set(EventKind.__args__)
    assert [asdict(panel) for panel in panels(Slo(), "GPU")] == made["panels"]


def test_a_ghost_is_two_faint_lines_that_are_told_apart_by_their_dash():
    (ttft, *_) = plots(panels(Slo()))
    lines = {r.glyph.y: r.glyph for r in ttft.renderers if r.data_source.name == "ttft:ghosts"}
    assert set(lines) == {"y0", "y1"}, "p50 and p99; areas of several pins would hide each other, and the live one"
    assert [lines[y].line_dash for y in ("y0", "y1")] == ["solid", "dashed"]
    assert all(line.line_alpha < 0.7 for line in lines.values())
