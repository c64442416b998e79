"""The live lab on real workers, in real browsers: its buttons, a worker that dies, dark theme, interrupts, a second browser.

One launch is shared, and the tests follow one another as a person's acts would: each leaves two workers that serve under load.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from labkit.store.run import Run, list_runs, open_run
from tests.support.jupyterlab import Server, chromium, command, run_all, theme
from tests.support.live_lab import (
    CONTRAST,
    MARKS,
    TIMES,
    ask,
    launch,
    line,
    oldest,
    open_tab,
    save,
    served,
    shown,
    write_notebook,
)
from tests.support.waiting import MARK, marked, until

pytestmark = [pytest.mark.browser, pytest.mark.engine, pytest.mark.timeout(600)]

START, PAUSE, STOP = (
    f"button[title^='{words}']" for words in ("Send this load", "Send nothing more; req", "Send nothing more, and")
)
RESTART = ".lk-fallen button"
WORKERS = "[worker.tree.pid for worker in exploration.lab.deployment.workers]"
#: one stream: threads that watch, and what feeds figures in the kernel
STREAMS = """(sum(t.name == "labkit watch" for t in __import__("threading").enumerate()),
  sorted(type(w._content).__name__ for w in __import__("ipywidgets").widgets.widget._instances.values()
         if type(w).__name__ == "LiveFigure" and w._content is not None))"""
ONE = (1, ["Charts", "TailsView"])
FOCUS = """() => { const here = document.activeElement
  return here?.closest('.lk-explorer') && [here.closest('[title]')?.title || here.ariaLabel, here.outerHTML.slice(0, 200)] }"""
UNNAMED = """() => [...document.querySelectorAll('.lk-explorer :is(button, input, select, [tabindex="0"])')]
  .filter((one) => !(one.closest('[title]')?.title || one.ariaLabel || one.closest('.widget-html')))
  .map((one) => one.outerHTML.slice(0, 200))"""


@dataclass(frozen=True, slots=True)
class Opened:
    """The notebook in a browser, its cells run.

    Attributes:
        folder: of the run that is explored.
    """

    page: Any
    address: str
    server: Server
    folder: Path

    @property
    def run(self) -> Run:
        """As it is on disk now."""
        return open_run(self.folder)

    @property
    def outcomes(self) -> list[dict[str, Any]]:
        """Requests on disk."""
        return self.run.records(chunks=False).requests.to_pylist()


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory, mark: str) -> Iterator[Opened]:
    folder = tmp_path_factory.mktemp("health")
    os.environ[MARK] = own = f"{mark}-health"
    try:
        with served(folder / "lab") as server, chromium(folder / "profile") as page:
            address = write_notebook(server, rate=0.8)
            launch(page, address)
            (explored,) = list_runs(server.folder / "results")
            yield Opened(page, address, server, explored.path)
        until(lambda: not marked(own), "the end of every process", 60)
    finally:
        os.environ[MARK] = mark


def tile(page: Any, metric: str, condition: str, timeout_s: float = 60.0) -> None:
    """Until a tile shows a number for which a condition on ``it`` holds."""
    page.wait_for_function(
        f"""() => {{ const it = Number(document.querySelector('[data-metric={metric}] .lk-value').innerText.replace(',', ''))
          return {condition} }}""",
        timeout=timeout_s * 1000,
    )


def grows(page: Any) -> None:
    """Until the charts have points that they do not have now."""
    page.wait_for_function(f"(before) => ({TIMES})().at(-1) > before + 2", arg=page.evaluate(TIMES)[-1], timeout=60_000)


def serves(page: Any, topology: str) -> None:
    page.wait_for_function("(split) => document.querySelector('.lk-topology').innerText === split", arg=topology, timeout=120_000)


@contextmanager
def another(opened: Opened) -> Iterator[Any]:
    """The same notebook in a browser that knows nothing of the first."""
    context = opened.page.context.browser.new_context(viewport={"width": 1680, "height": 1050})
    try:
        page = context.new_page()
        page.goto(opened.address)
        shown(page)
        yield page
    finally:
        context.close()


def test_start_pause_and_stop_do_what_they_say(opened: Opened) -> None:
    page = opened.page
    tile(page, "output_tok_s", "it > 0")
    page.locator(PAUSE).click()
    line(page, "nothing more is sent; requests under way go on")
    tile(page, "in_flight", "it === 0")
    tile(page, "output_tok_s", "it === 0")
    assert page.locator(PAUSE).is_disabled()
    assert page.locator(START).inner_text().strip() == "Start"
    for _ in range(2):
        page.locator(START).click()
        line(page, "sending ISL")
        tile(page, "in_flight", "it > 0")
        assert page.locator(START).inner_text().strip() == "Replace"
        grows(page)
        tile(page, "output_tok_s", "it > 0")
        tile(page, "in_flight", "it > 0")
        page.locator(STOP).click()
        line(page, "stopped")
        tile(page, "in_flight", "it === 0")
        tile(page, "failed", "it === 0")
        assert page.locator(STOP).is_disabled()
    page.locator(START).click()
    tile(page, "output_tok_s", "it > 0")
    outcomes = {row["outcome"] for row in opened.outcomes}
    assert outcomes <= {"ok", "cancelled"}, "a stop fails no request"
    marks = [event["text"] for event in opened.run.records(chunks=False).events.to_pylist() if event["kind"] == "load"]
    assert sum("sends nothing more" in text for text in marks) == 1, "the pause"
    assert sum(text.startswith("load on") for text in marks) == 4


def test_every_control_has_a_name_and_the_keyboard_reaches_it(opened: Opened) -> None:
    page = opened.page
    for words in ("How many workers", "Serve another model"):
        page.locator(f"button[title^='{words}']").focus()
        page.keyboard.press("Space")
        page.locator(f"button[title^='{words}'] .fa-caret-down").wait_for()
    assert page.evaluate(UNNAMED) == []
    page.locator("button[title='2 aggregated']").focus()
    stops = []
    while (here := page.evaluate(FOCUS)) is not None and len(stops) < 100:
        stops.append(here)
        page.keyboard.press("Tab")
    assert all(name or "widget-html" in element for name, element in stops), stops  # a text that scrolls is a stop, too
    reached = {name for name, _ in stops}
    enabled = page.evaluate(
        "() => [...document.querySelectorAll('.lk-controls :is(button, input, select):enabled')].map((one) => one.title)"
    )
    assert set(enabled) <= reached
    tabs = page.locator(".lk-explorer [role=tab]")
    tabs.first.focus()
    for chosen in ("Distributions", "One request", "Log", "Pins"):
        page.keyboard.press("ArrowRight")
        page.get_by_role("tab", name=chosen, selected=True).wait_for()


def test_an_interrupt_a_second_browser_and_one_that_comes_back(opened: Opened) -> None:
    page = opened.page
    pids = ask(page, WORKERS)
    command(page, "notebook:interrupt-kernel")
    grows(page)
    assert ask(page, "exploration.running")
    assert ask(page, "[worker.tree.pid for worker in exploration.lab.deployment.workers]") == pids
    save(page)
    first = oldest(page)
    with another(opened) as second:
        assert oldest(second) == first
        for one in (page, second):
            assert one.locator(".lk-board").count() == 1
        open_tab(second, "Log")
        page.get_by_role("tab", name="Log", selected=True).wait_for()
        open_tab(page, "Pins")
        second.locator(PAUSE).click()
        line(page, "nothing more is sent")
        page.wait_for_function(f'() => document.querySelector("{PAUSE}").disabled')
        page.locator(START).click()
        line(second, "sending ISL")
        grows(page)
        grows(second)
        assert ask(second, STREAMS) == ONE
        page.goto("about:blank")
        grows(second)
    page.goto(opened.address)
    shown(page)
    assert oldest(page) == first, "history intact"
    times = page.evaluate(
        "() => [...Bokeh.documents.findLast((d) => d.get_model_by_name('x')).get_model_by_name('ttft:left').get_array('xs')[0]]"
    )
    assert times == sorted(set(times)), "no point twice"
    assert ask(page, STREAMS) == ONE
    page.locator(PAUSE).click()
    line(page, "nothing more is sent")
    page.locator(START).click()
    line(page, "sending ISL")


def test_a_killed_worker_turns_red_the_other_serves_and_a_button_brings_it_back(opened: Opened) -> None:
    page = opened.page
    tile(page, "output_tok_s", "it > 0")
    before = page.evaluate(TIMES)[-1]
    victim = ask(page, "exploration.lab.deployment.workers[1].tree.pid")
    below = psutil.Process(victim).children(recursive=True)
    os.kill(victim, signal.SIGKILL)
    card = page.locator(".lk-fallen")
    card.wait_for(timeout=30_000)
    assert "w1 died while serving: it was killed by SIGKILL" in card.inner_text()
    red, green, blue = page.evaluate(
        """() => { const pen = document.createElement('canvas').getContext('2d')
          pen.fillStyle = getComputedStyle(document.querySelector('.lk-fallen')).borderLeftColor
          pen.fillRect(0, 0, 1, 1)
          return [...pen.getImageData(0, 0, 1, 1).data].slice(0, 3) }"""
    )
    assert red > 2 * max(green, blue)
    page.locator(".lk-dead", has_text="1 dead").wait_for()
    serves(page, "1A")
    line(page, "new split took requests")
    grows(page)
    page.locator("button[title='show everything']").click()
    assert sum(mark >= before for mark in page.evaluate(MARKS)) >= 2, "the death and the split without it are marked"
    page.locator("button[title='show the last 1 min']").click()
    page.locator(RESTART).click()
    line(page, "restarting w1")
    serves(page, "2A")
    card.wait_for(state="detached", timeout=60_000)
    line(page, "new split took requests")
    grows(page)
    (left_out,) = (epoch["epoch"] for epoch in opened.run.manifest["epochs"] if epoch["topology"] == "1A")
    failed = [row for row in opened.outcomes if row["outcome"] not in ("ok", "cancelled")]
    assert all(row["epoch"] < left_out for row in failed), "none after the dead worker was left out"
    assert all(row["reason"] for row in failed)
    assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in below)
    kernel = psutil.Process(ask(page, "__import__('os').getpid()"))
    assert not [child for child in kernel.children(recursive=True) if child.status() == psutil.STATUS_ZOMBIE]


def test_a_dead_router_is_told_and_another_takes_over_while_the_workers_go_on(opened: Opened) -> None:
    page = opened.page
    tile(page, "output_tok_s", "it > 0")
    pids = ask(page, WORKERS)
    name, victim = ask(page, "(exploration.lab.deployment.front.tree.name, exploration.lab.deployment.front.tree.pid)")
    os.kill(victim, signal.SIGKILL)
    card = page.locator(".lk-fallen")
    card.wait_for(timeout=30_000)
    assert f"{name} died: it was killed by SIGKILL. No request is served" in card.inner_text()
    assert card.locator("pre").inner_text().strip(), "its last words"
    tile(page, "output_tok_s", "it === 0")
    assert page.locator(PAUSE).is_enabled(), "the load goes on"
    card.get_by_role("button", name="New router").click()
    line(page, "new split took requests")
    card.wait_for(state="detached", timeout=60_000)
    tile(page, "output_tok_s", "it > 0")
    serves(page, "2A")
    assert ask(page, WORKERS) == pids, "no worker started again"
    epoch = ask(page, "exploration.lab.deployment.epoch")
    until(lambda: sum(row["epoch"] == epoch for row in opened.outcomes) > 3, "answers of the new router on disk", 60)
    assert {row["outcome"] for row in opened.outcomes if row["epoch"] == epoch} <= {"ok", "cancelled"}


def test_a_start_is_called_off_with_a_button_and_what_serves_goes_on(opened: Opened) -> None:
    page = opened.page
    pids, epoch = ask(page, WORKERS), ask(page, "exploration.lab.deployment.epoch")
    assert ask(page, "exploration.apply('3A').cancelled()") is False
    button = page.locator("button[title^='Wait no longer']:not([disabled])")
    button.wait_for(timeout=60_000)
    page.locator(".lk-line", has_text="starting: w2").wait_for()
    button.click()
    line(page, "called off while w2 started")
    button.wait_for(state="hidden")
    assert ask(page, WORKERS) == pids
    assert ask(page, "(str(exploration.lab.deployment.topology), exploration.lab.deployment.epoch)") == ("2A", epoch)
    grows(page)
    tile(page, "output_tok_s", "it > 0")


def test_dark_reaches_everything(opened: Opened) -> None:
    page = opened.page
    since = ask(page, "exploration._since_ns")  # a pin of no request is refused
    until(lambda: any(row["scheduled_ns"] > since for row in opened.outcomes), "a request since the last change", 60)
    page.locator("button[title^='Keep what was measured']").click()
    page.locator(".lk-pins tbody tr").first.wait_for(timeout=120_000)
    open_tab(page, "One request")
    page.locator("button[title^='List the worst']").click()
    chooser = page.locator("select[title^='Requests by how far']")
    page.wait_for_function("(box) => box.options.length > 1", arg=chooser.element_handle(), timeout=60_000)
    chooser.select_option(index=1)
    page.locator(".lk-plain:visible").last.wait_for()
    page.locator("input[title^='Tokens of a prompt']").fill("many")
    page.keyboard.press("Tab")
    page.locator(".lk-line.bad").wait_for()
    for look in ("JupyterLab Dark", "JupyterLab Light"):
        theme(page, look)
        ground = page.evaluate("() => getComputedStyle(document.querySelector('.lk-controls')).backgroundColor")
        assert (max(map(int, ground.strip("rgb()").split(","))) < 60) is (look == "JupyterLab Dark"), ground
        for tab in ("Pins", "One request", "Log"):
            open_tab(page, tab)
            words = page.evaluate(CONTRAST, ".lk-explorer")
            assert len(words) > 60
            assert [found for found in words if found[0] < 4.5] == [], f"{look}, {tab}"
    page.locator("input[title^='Tokens of a prompt']").fill("256")
    page.keyboard.press("Tab")


def test_cells_that_are_run_again_leave_one_lab_and_one_stream(opened: Opened) -> None:
    page = opened.page
    first = oldest(page)
    cells = page.evaluate("() => jupyterapp.shell.currentWidget.content.widgets.map((cell) => cell.model.sharedModel.source)")
    (present,) = (index for index, text in enumerate(cells) if text.startswith("present("))
    save(page)
    with another(opened) as second:
        _run_again(opened, second, present, first)


def _run_again(opened: Opened, second: Any, present: int, first: float) -> None:
    """The cell that shows the explorer, then all; the other browser, in which nothing was run, follows."""
    page = opened.page
    board = page.locator(".lk-board").element_handle()
    page.evaluate("(index) => { jupyterapp.shell.currentWidget.content.activeCellIndex = index }", present)
    command(page, "notebook:run-cell")
    page.wait_for_function("(board) => !board.isConnected", arg=board)
    shown(page)
    assert oldest(page) == first, "history intact"
    assert page.locator(".lk-explorer").count() == 1
    assert ask(page, STREAMS) == ONE
    grows(page)
    grows(second)
    assert oldest(second) == first
    assert (second.locator(".lk-board").count(), second.locator(".lk-explorer").count()) == (1, 1)
    pids = ask(page, WORKERS)
    board = page.locator(".lk-board").element_handle()
    run_all(page)
    page.wait_for_function("(board) => !board.isConnected", arg=board, timeout=180_000)
    shown(page)
    for one in (page, second):
        one.wait_for_function(f"() => ({TIMES})().length > 8", timeout=60_000)
    grows(second)
    second.locator(PAUSE).click()
    line(page, "nothing more is sent")
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert ask(page, STREAMS) == ONE
    assert page.locator(".lk-explorer").count() == 1
    runs = [open_run(info.path) for info in list_runs(opened.server.folder / "results") if info.kind == "explore"]
    assert sorted(run.status for run in runs) == ["finished", "running"]
    command(page, "kernelmenu:shutdown")
    until(lambda: all(open_run(run.path).status != "running" for run in runs), "the end of the run with its kernel", 60)
