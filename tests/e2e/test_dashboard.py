"""The charts in a real JupyterLab, looked at by a real browser: data and computed styles are asserted, not pixels."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from labkit.dashboard import ChartData, save_page
from labkit.dashboard.tiles import tiles
from labkit.live import LiveEvent
from labkit.spec.slo import Slo
from tests.support.jupyterlab import Server, chromium, command, jupyterlab, open_notebook, run_all, theme
from tests.support.live_feed import feed, pins
from tests.support.waiting import until

pytestmark = pytest.mark.browser

CELL = """
import asyncio
import ipywidgets as widgets
from labkit.dashboard import Charts
from labkit.spec.slo import Slo
from tests.support.live_feed import DRIVEN, drive, feed, pins
kept, picked = widgets.Label(), widgets.Label()
kept.add_class("kept"), picked.add_class("picked")
charts = Charts(Slo(ttft_s=0.5), accelerator="GPU")
charts.show_pins(pins())
charts.on_dot(lambda dot, kind: setattr(picked, "value", f"{kind} {dot.request}"))
source = feed(4)
for _ in range(200): charts.push(next(source))
task = asyncio.create_task(drive(charts, source, lambda n: setattr(kept, "value", str(n))))
widgets.VBox([kept, picked, charts.figure], layout={"width": "100%"})
"""
#: a lab on stand-ins behind a frontend that stays, as Dynamo's does
FRONTEND = """
from labkit.dashboard import Explorer
from labkit.experiments import Exploration
from labkit.lab import Lab
from labkit.lab.engines import ENGINES
from labkit.spec import Workload
from tests.support.fake_engine import FakeDynamo, fake_node
ENGINES["other"] = lambda _: FakeDynamo(mark="dashboard", name="other")
load = Workload(isl=16, osl=12, concurrency=4, duration_s=5.0)
lab = Lab("demo", "2A", engine="other", node=fake_node(), results="runs", progress=lambda _: None, workload=load)
exploration = Exploration(lab)
exploration.start().result(60)
Explorer(exploration, hz=8.0)
"""
COUNT = """
from ipywidgets import Widget
from ipywidgets.widgets.widget import _instances
from labkit.dashboard import LiveFigure
while len(DRIVEN) > 1:
    await asyncio.sleep(0.05)
print("streams", len(DRIVEN), "figures", sum(isinstance(w, LiveFigure) for w in _instances.values()))
"""
#: the newest document that has the charts, and a data source of it
SOURCE = "(name) => Bokeh.documents.findLast((doc) => doc.get_model_by_name(name)).get_model_by_name(name)"
POINTS = f"() => ({SOURCE})('ttft:left').get_array('xs')[0]?.length ?? 0"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with jupyterlab(tmp_path_factory.mktemp("lab")) as running:
        yield running
        children = psutil.Process(running.pid).children(recursive=True)
    until(lambda: not any(child.is_running() and child.status() != "zombie" for child in children), "the end of every kernel")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """The browser's page; an exception in it fails the test."""
    wrong: list[str] = []

    def said(message: Any) -> None:
        if message.type == "error" and ("labkit" in message.text or "bokeh" in message.text.lower()):
            wrong.append(message.text)

    def thrown(error: Any) -> None:
        wrong.append(str(error))

    browser.on("console", said)
    browser.on("pageerror", thrown)
    yield browser
    browser.remove_listener("console", said)
    browser.remove_listener("pageerror", thrown)
    assert not wrong


def show(page: Any, server: Server, name: str, *cells: str) -> None:
    open_notebook(page, server.notebook(name, *(cells or (CELL,))))
    run_all(page)
    drawn(page)


def drawn(page: Any) -> None:
    page.wait_for_selector(".lk-board[data-draws]", timeout=60_000)


def more_kept(page: Any, more: int) -> None:
    """Until the kernel has kept that many further samples."""
    target = int(page.locator(".kept").inner_text()) + more
    page.wait_for_function("(target) => Number(document.querySelector('.kept').innerText) >= target", arg=target)


def draws(page: Any) -> int:
    return int(page.locator(".lk-board").get_attribute("data-draws"))


def test_charts_appear_grow_and_keep_their_history_over_a_reload(page: Any, server: Server) -> None:
    show(page, server, "grow.ipynb")
    assert page.locator(".lk-card").count() == 8
    before = page.evaluate(POINTS)
    assert before >= 190
    page.wait_for_function(f"(before) => ({POINTS})() >= before + 4", arg=before)
    assert page.locator(".lk-topology").inner_text() == "1P3D"
    assert page.locator(".lk-roles").inner_text().split("\n")[:2] == ["1 prefill", "3 decode"]  # one may have died since
    colors = page.evaluate(f"() => ({SOURCE})('utilisation:left').get_array('color')")
    assert set(colors) == {"#029E73", "#DE8F05", "#0173B2"}  # before the re-split and after it
    marks = page.evaluate(f"() => [...({SOURCE})('events').get_array('x')]")
    assert 22.0 in marks
    command(page, "docmanager:save")
    page.wait_for_function("() => !jupyterapp.shell.currentWidget.context.model.dirty")
    saved = (server.folder / "grow.ipynb").stat().st_size
    assert saved < 20_000
    page.reload()
    drawn(page)
    first = page.evaluate(f"() => ({SOURCE})('ttft:left').get_array('xs')[0][0]")
    assert first <= page.evaluate(f"() => ({SOURCE})('x').start") + 0.3
    assert page.evaluate(POINTS) > before
    again = draws(page)
    page.wait_for_function("(before) => Number(document.querySelector('.lk-board').dataset.draws) > before + 3", arg=again)


def test_a_cell_that_is_run_again_leaves_one_stream(page: Any, server: Server) -> None:
    show(page, server, "again.ipynb", CELL, COUNT)
    page.get_by_text("streams 1 figures 1").wait_for()
    run_all(page)
    page.wait_for_function("() => jupyterapp.shell.currentWidget.content.widgets[1].model.executionCount >= 4")
    page.get_by_text("streams 1 figures 1").wait_for()
    drawn(page)
    assert page.locator(".lk-board").count() == 1
    assert page.evaluate("() => Bokeh.documents.filter((doc) => doc.get_model_by_name('ttft:left')).length") == 1


CLOSE = """
button = widgets.Button(description="Close")
button.on_click(lambda _: charts.close())
task.add_done_callback(lambda _: setattr(picked, "value", f"fed {len(DRIVEN)}"))
button
"""


def test_closed_charts_leave_the_page_and_let_go(page: Any, server: Server) -> None:
    show(page, server, "close.ipynb", CELL, CLOSE)
    page.get_by_role("button", name="Close", exact=True).click()
    page.wait_for_function("() => document.querySelector('.picked')?.innerText === 'fed 0'")
    page.wait_for_function("() => !document.querySelector('.lk-board')")
    assert page.evaluate("() => Bokeh.documents.filter((doc) => doc.get_model_by_name('ttft:left')).length") == 0


def test_dark_reaches_cards_and_tooltips(page: Any, server: Server) -> None:
    show(page, server, "dark.ipynb")
    hover(page, "requests")
    assert page.evaluate("() => [...document.querySelectorAll('.lk-cross')].every((line) => line.style.display === 'block')")
    light = backgrounds(page)
    theme(page, "JupyterLab Dark")
    hover(page, "requests")
    dark = backgrounds(page)
    theme(page, "JupyterLab Light")
    assert all(min(color) > 220 for color in light), light
    assert all(max(color) < 60 for color in dark), dark
    assert page.locator(".lk-tip .lk-heads td").all_inner_texts() == ["running", "waiting"]
    assert page.locator(".lk-tip tr:not(.lk-heads) th").all_inner_texts() == [f"worker-{i}" for i in range(4)]
    assert "tabular-nums" in page.evaluate("() => getComputedStyle(document.querySelector('.lk-tip')).fontVariantNumeric")


def hover(page: Any, panel: str) -> None:
    plot = page.locator(f".lk-plot[data-panel={panel}]")
    plot.scroll_into_view_if_needed()
    width = plot.bounding_box()["width"]
    for x in (0.5, 0.51):
        plot.hover(position={"x": width * x, "y": 50}, force=True)
    page.locator(".lk-tip").wait_for(state="visible")


def backgrounds(page: Any) -> list[list[int]]:
    styles = page.evaluate(
        "() => ['.lk-tip', '.lk-card', '.lk-tile'].map((one) => getComputedStyle(document.querySelector(one)).backgroundColor)"
    )
    return [[int(part) for part in re.findall(r"\d+", style)[:3]] for style in styles]


#: Frames are made when the test says so, as by a browser that has no time; drawn on: how many pictures that makes.
HOLD_FRAMES = """() => {
  const real = window.requestAnimationFrame, held = [], board = document.querySelector(".lk-board")
  window.requestAnimationFrame = (frame) => held.push(frame)
  window.drawOn = () => {
    const before = Number(board.dataset.draws)
    window.requestAnimationFrame = real
    for (const frame of held.splice(0)) frame(performance.now())
    return Number(board.dataset.draws) - before
  }
}"""


def test_a_browser_that_is_slower_than_the_ticks_draws_the_newest_of_them_alone(page: Any, server: Server) -> None:
    """Found by the soak: each tick was drawn, so that on a busy machine the page fell behind further and further."""
    show(page, server, "slow.ipynb")
    page.evaluate(HOLD_FRAMES)
    target = int(page.locator(".kept").inner_text()) + 6
    page.wait_for_function("(target) => Number(document.querySelector('.kept').innerText) >= target", arg=target, polling=100)
    assert page.evaluate("() => drawOn()") == 1


def test_pause_stops_drawing_only_and_history_comes_back_to_live(page: Any, server: Server) -> None:
    show(page, server, "pause.ipynb")
    board = page.locator(".lk-board")
    page.get_by_role("button", name="Pause").click()
    still, end = draws(page), page.evaluate(f"() => ({SOURCE})('x').end")
    more_kept(page, 6)
    assert draws(page) == still
    assert page.locator(".lk-state").inner_text() == "❚❚ paused, recording"
    page.get_by_role("button", name="Live", exact=True).click()
    page.wait_for_function(
        f"(end) => ({SOURCE})('x').end > end && ({SOURCE})('ttft:left').get_array('xs')[0].at(-1) > end", arg=0
    )
    assert page.evaluate(f"() => ({SOURCE})('x').end") >= end
    page.locator(".lk-grid").focus()
    for key in ("+", "ArrowLeft"):
        page.keyboard.press(key)
    assert board.get_attribute("data-mode") == "history"
    start, stop = page.evaluate(f"() => [({SOURCE})('x').start, ({SOURCE})('x').end]")
    assert stop - start == pytest.approx(30)
    more_kept(page, 4)
    assert page.evaluate(f"() => ({SOURCE})('x').start") == start
    page.keyboard.press("End")
    assert board.get_attribute("data-mode") == "live"
    box = page.locator(".lk-plot[data-panel=itl]").bounding_box()
    page.mouse.move(box["x"] + 300, box["y"] + 80)
    page.mouse.down()
    page.mouse.move(box["x"] + 420, box["y"] + 80, steps=4)
    page.mouse.up()
    page.wait_for_function("() => document.querySelector('.lk-board').dataset.mode === 'history'")
    page.get_by_role("button", name="5 min").click()
    assert board.get_attribute("data-mode") == "live"
    assert page.evaluate(f"() => ({SOURCE})('x').end - ({SOURCE})('x').start") == pytest.approx(300)


def test_a_click_on_a_dot_tells_the_kernel_which_request(page: Any, server: Server) -> None:
    show(page, server, "dot.ipynb")
    page.get_by_role("button", name="Pause").click()
    x, y, request = page.evaluate(
        f"""() => {{
        const dots = ({SOURCE})('ttft:dots'), doc = dots.document, plot = doc.get_model_by_name('ttft')
        const {{ frame }} = Bokeh.index.find_one_by_id(plot.id)
        const box = document.querySelector('.lk-plot[data-panel=ttft]').getBoundingClientRect()
        const i = dots.get_array('x').findIndex((t) => t > doc.get_model_by_name('x').start + 1)
        return [box.left + frame.x_scale.compute(dots.get_array('x')[i]), box.top + frame.y_scale.compute(dots.get_array('y')[i]),
                dots.get_array('request')[i]]
    }}"""
    )
    page.mouse.move(x - 1, y)
    page.mouse.move(x, y)
    assert f"request {request}" in page.locator(".lk-tip footer").inner_text()
    page.mouse.click(x, y)
    page.wait_for_function("(text) => document.querySelector('.picked').innerText === text", arg=f"ttft {request}")


def test_a_ghost_can_be_switched_off_and_is_escaped(page: Any, server: Server) -> None:
    show(page, server, "ghost.ipynb")
    chips = page.locator(".lk-chips button")
    assert chips.all_inner_texts() == ["A", "B", "C <b>"]
    heights = f"() => [...({SOURCE})('ttft:ghosts').get_array('y1')]"
    assert page.evaluate(heights) == pytest.approx([310, 420, 220])
    assert len(page.evaluate(f"() => [...({SOURCE})('itl:ghosts').get_array('y1')]")) == 2  # one pin's ITL is not known
    chips.nth(1).click()
    assert page.evaluate(heights) == pytest.approx([310, 220])
    assert chips.nth(1).get_attribute("aria-pressed") == "false"


PLAIN = """
import ipywidgets as widgets
from labkit.dashboard import LiveFigure, pareto
from tests.support.live_feed import pins
picked = widgets.Label(); picked.add_class("picked")
figure = LiveFigure([pareto(pins(), accelerator="GPU")])
figure.on_tap(lambda what: setattr(picked, "value", f"{what['label']} {what['run']}"))
widgets.VBox([picked, figure], layout={"width": "100%"})
"""


def test_a_frontends_own_counters_have_charts_of_their_own(page: Any, server: Server) -> None:
    show(page, server, "frontend.ipynb", FRONTEND)
    page.wait_for_function("() => document.querySelectorAll('.lk-card').length === 10", timeout=60_000)
    words = page.locator(".lk-board").inner_text()
    assert "Frontend: latency" in words
    assert "Frontend: requests" in words
    values = f"(name) => (({SOURCE})(name)?.get_array('ys') ?? []).flatMap((ys) => [...ys]).filter(Number.isFinite)"
    page.wait_for_function(f"() => ({values})('frontend_latency:left').some((ms) => ms > 0)", timeout=60_000)
    in_flight = page.evaluate(f"() => ({values})('frontend_requests:left')")
    assert 0 <= max(in_flight) <= 4, "the load's, at most"


def test_any_figure_shows_tells_what_was_clicked_and_has_dark_tooltips(page: Any, server: Server) -> None:
    open_notebook(page, server.notebook("plain.ipynb", PLAIN))
    theme(page, "JupyterLab Dark")
    run_all(page)
    page.wait_for_function(
        "() => window.Bokeh?.documents.some((doc) => Bokeh.index.find_one_by_id(doc.get_model_by_name('pareto')?.id)?.frame)"
    )
    page.wait_for_selector(".lk-plain canvas", state="attached")
    x, y = page.evaluate(
        """() => {
        const plot = Bokeh.documents.findLast((doc) => doc.get_model_by_name('pareto')).get_model_by_name('pareto')
        const view = Bokeh.index.find_one_by_id(plot.id), box = view.el.getBoundingClientRect()
        return [box.left + view.frame.x_scale.compute(47), box.top + view.frame.y_scale.compute(1390)]
    }"""
    )
    page.mouse.move(x - 3, y)
    page.mouse.move(x, y)
    tooltip = page.locator(".bk-Tooltip")
    tooltip.wait_for(state="visible")
    words = tooltip.evaluate("(tip) => tip.shadowRoot.textContent")
    assert "24 req/s, 512 → 128" in words
    assert "[1,334.4, 1,459.5]" in words
    shade = tooltip.evaluate("(tip) => getComputedStyle(tip).backgroundColor")
    assert max(int(part) for part in re.findall(r"\d+", shade)[:3]) < 60
    page.mouse.click(x, y)
    page.wait_for_function("() => document.querySelector('.picked').innerText === 'B 2026-01-01-ab12'")
    theme(page, "JupyterLab Light")


def test_the_exported_page_replays_offline(page: Any, tmp_path: Path) -> None:
    samples = list(itertools.islice(feed(4), 480))
    history = ChartData()
    for sample in samples:
        history.append(sample)
    hostile = "</script><img src=x onerror=alert(1)>"
    history.note(LiveEvent(119.0, "note", hostile))
    slo = Slo(ttft_s=0.5)
    path = save_page(history, tmp_path / "a page.html", title=hostile, slo=slo, accelerator="GPU", pins=pins())
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.as_uri())
    page.wait_for_function("() => window.board")
    assert page.locator("h1").inner_text() == hostile
    assert page.locator("img").count() == 0
    page.evaluate(
        "() => { const time = document.getElementById('time'); time.value = 40; time.dispatchEvent(new Event('input')) }"
    )
    shown = page.evaluate("() => board.end")
    sample = next(sample for sample in reversed(samples) if sample.t_s <= shown)
    for tile in tiles(slo, "GPU"):
        box = page.locator(f".lk-tile[data-metric={tile.metric}]")
        value = getattr(sample.stats, tile.metric)
        assert box.locator(".lk-value").inner_text() == tile.text(value)
        assert box.get_attribute("data-verdict") == tile.verdict(value)
    assert page.evaluate("() => Math.max(...Bokeh.documents[0].get_model_by_name('events').get_array('x'))") == 36
    page.get_by_role("button", name="Play").click()
    page.wait_for_function("(before) => board.end > before + 1", arg=shown)
    page.get_by_role("button", name="Stop").click()
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
    assert len(asked) == 1
