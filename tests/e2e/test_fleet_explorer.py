"""Notebook 02 on a fleet of simulated workers, in a real browser: the slider that chooses among many splits, a slow dot that
opens its request, every kind of load in the form, and a launch that is interrupted. One lab is shared, and the tests follow one
another as a person's acts would."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from labkit.figures import style
from labkit.serve.interpreter import engine_python, versions
from labkit.serve.timing import save_timing
from labkit.store.run import Run, list_runs, open_run
from tests.support.jupyterlab import chromium, command
from tests.support.live_lab import TIMES, ask, launch, line, served, write_notebook
from tests.support.profiles import handmade_profile
from tests.support.waiting import MARK, marked, until

pytestmark = [
    pytest.mark.browser,
    pytest.mark.engine,
    pytest.mark.timeout(600),
    pytest.mark.skipif("ai-dynamo" not in versions(engine_python()), reason="ai-dynamo is not installed"),
]

HINT = "Aggregated workers do both; P prefill and D decode. Tab to it, then the arrow keys or Space"
APPLY = "button[title^='Bring the lab']"
PAUSE = "button[title^='stop drawing']"
START = "button[title^='Send this load']"
#: a control of the load's form, by the caption above it
CONTROL = ".lk-controls .lk-field:has(label:text-is('{}')) :is(input, select)"
SOURCE = "(name) => Bokeh.documents.findLast((doc) => doc.get_model_by_name(name)).get_model_by_name(name)"
#: colours of the workers' lines in sight
COLORS = f"() => [...new Set(({SOURCE})('requests:left').get_array('color'))]"
#: name, role and colour of each worker of the split that is wished for
STRIP = """() => [...document.querySelectorAll('.lk-strip .lk-worker')].map((one) => {
  const name = one.querySelector('b').innerText
  return [name, one.innerText.replace(name, '').trim(), one.style.getPropertyValue('--role')] })"""
#: a dot of the ITL chart whose request has ended long ago: where it is on the page, and the request
DOT = f"""() => {{
  const dots = ({SOURCE})('itl:dots'), doc = dots.document, at = dots.get_array('x'), last = ({TIMES})().at(-1)
  const i = at.findLastIndex((t) => t < last - 8)
  if (i < 0 || at[i] < doc.get_model_by_name('x').start + 1) return null
  const {{ frame }} = Bokeh.index.find_one_by_id(doc.get_model_by_name('itl').id)
  const box = document.querySelector('.lk-plot[data-panel=itl]').getBoundingClientRect()
  return [box.left + frame.x_scale.compute(at[i]), box.top + frame.y_scale.compute(dots.get_array('y')[i])]
}}"""
WATERFALL = "() => Bokeh.documents.findLast((doc) => doc.get_model_by_name('waterfall'))?.get_model_by_name('waterfall')"


@dataclass(frozen=True, slots=True)
class Opened:
    """The notebook in a browser, its cells run.

    Attributes:
        folder: of the run that is explored.
    """

    page: Any
    folder: Path

    @property
    def run(self) -> Run:
        """As it is on disk now."""
        return open_run(self.folder)


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory, mark: str) -> Iterator[Opened]:
    folder = tmp_path_factory.mktemp("fleet")
    os.environ[MARK] = own = f"{mark}-fleet"
    timing = save_timing([handmade_profile(kv_transfer_bytes_s=50e9)], folder / "timing")
    fleet = {"engine": "mocker", "timing": str(timing), "topology": "6A", "isl": 200, "osl": 20, "rate": 4.0}
    try:
        with served(folder / "lab") as server, chromium(folder / "profile") as page:
            launch(page, write_notebook(server, **fleet, tpot_slo_s=0.001))  # no step is so short: each gap is a dot
            (explored,) = list_runs(server.folder / "results")
            yield Opened(page, explored.path)
            command(page, "kernelmenu:shutdown")
            until(lambda: open_run(explored.path).status != "running", "the end of the run with its kernel", 120)
        until(lambda: not marked(own), "the end of every process", 60)
    finally:
        os.environ[MARK] = mark


def roles(page: Any, *counts: str) -> None:
    """Until so many workers have each role."""
    page.wait_for_function(
        "(counts) => document.querySelector('.lk-roles').innerText.split('\\n').join() === counts.join()",
        arg=list(counts),
        timeout=120_000,
    )


def test_the_slider_of_many_splits_is_moved_by_keys_and_its_split_applied(opened: Opened) -> None:
    page = opened.page
    handle = page.locator(".lk-controls .noUi-handle")
    assert handle.count() == 1
    assert page.locator("button[title='6 aggregated']").count() == 0, "six splits are too many for buttons"
    assert handle.get_attribute("title") == handle.get_attribute("aria-label") == HINT
    readout = page.locator(".lk-controls .widget-slider .widget-readout")
    assert readout.inner_text() == "6A"
    line(page, "6A serves already")
    assert page.locator(APPLY).is_disabled()
    roles(page, "6 aggregated")
    assert {role for _, role, _ in page.evaluate(STRIP)} == {"aggregated"}
    assert page.evaluate(COLORS) == [style.AGGREGATED]

    handle.focus()
    page.keyboard.press("ArrowRight")
    line(page, "6A → 1P5D:")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    line(page, "6A → 3P3D:")
    page.keyboard.press("ArrowLeft")
    line(page, "6A → 2P4D:")
    plan = page.locator(".lk-controls .lk-line", has_text="6A → 2P4D:").first.inner_text()
    assert "the frontend goes on" in plan
    assert "simulated, without weights" in plan
    assert readout.inner_text() == "2P4D"
    wished = [("prefill", style.PREFILL)] * 2 + [("decode", style.DECODE)] * 4
    assert [(role, color) for _, role, color in page.evaluate(STRIP)] == wished, "as it will be"
    roles(page, "6 aggregated")

    page.locator(APPLY).focus()
    page.keyboard.press("Enter")
    line(page, "new split took requests")
    roles(page, "2 prefill", "4 decode")
    page.wait_for_function("() => document.querySelector('.lk-topology').innerText === '2P4D'", timeout=60_000)
    page.wait_for_function(f"(color) => ({COLORS})().includes(color)", arg=style.PREFILL, timeout=60_000)
    assert set(page.evaluate(COLORS)) == {style.AGGREGATED, style.PREFILL, style.DECODE}, "before the re-split, and after it"
    assert [(role, color) for _, role, color in page.evaluate(STRIP)] == wished
    assert (handle.get_attribute("title"), readout.inner_text()) == (HINT, "2P4D")
    assert page.locator(APPLY).is_disabled(), "it serves"
    before = page.evaluate(TIMES)[-1]
    page.wait_for_function(f"(before) => ({TIMES})().at(-1) > before + 2", arg=before, timeout=60_000)
    run = opened.run
    epochs = run.manifest["epochs"]
    assert [(epoch["topology"], epoch["verified"]) for epoch in epochs] == [("6A", True), ("2P4D", True)]
    requests = run.records(chunks=False).requests
    assert set(requests["outcome"].to_pylist()) == {"ok"}, "no request failed"
    assert set(requests["epoch"].to_pylist()) == {epoch["epoch"] for epoch in epochs}
    assert page.locator("[data-metric=failed] .lk-value").inner_text() == "0"


def test_a_click_on_a_slow_dot_opens_the_waterfall_of_that_request(opened: Opened) -> None:
    page = opened.page
    page.locator(".lk-plot[data-panel=itl]").scroll_into_view_if_needed()
    page.wait_for_function(f"() => ({DOT})() !== null", timeout=60_000)
    page.locator(PAUSE).click()
    page.wait_for_function("() => document.querySelector('.lk-board').dataset.mode === 'paused'")
    x, y = page.evaluate(DOT)
    page.mouse.move(x - 1, y)
    page.mouse.move(x, y)
    words = page.locator(".lk-tip footer").inner_text()
    assert words.startswith("request ")
    assert words.endswith("ms · click to open")
    request = int(words.split()[1].rstrip(":"))
    page.get_by_role("tab", name="Pins", selected=True).wait_for()
    page.mouse.click(x, y)
    page.get_by_role("tab", name="One request", selected=True).wait_for()
    page.wait_for_function(f"() => ({WATERFALL})()", timeout=60_000)
    title = page.evaluate(f"() => ({WATERFALL})().title.text")
    assert title.startswith(f"Request {request}, 200 tokens in, 20 out, TTFT ")
    assert len(page.evaluate(f"() => [...({SOURCE})('tokens').get_array('x')]")) == 20, "a tick for each token"
    page.locator(".lk-page .lk-plain canvas").locator("visible=true").first.wait_for()
    page.locator(PAUSE).click()


def test_a_closed_loop_and_a_trace_are_sent_from_the_form(opened: Opened, tmp_path: Path) -> None:
    page = opened.page

    def control(caption: str) -> Any:
        return page.locator(CONTROL.format(caption))

    control("arrivals").select_option("closed loop")
    control("in flight").fill("3")
    control("in flight").press("Enter")
    assert control("requests/s").count() == 0, "it belongs to an open loop"
    page.locator(START).click()
    line(page, "3 concurrent")
    page.wait_for_function("() => document.querySelector('[data-metric=in_flight] .lk-value').innerText === '3'", timeout=60_000)

    control("arrivals").select_option("trace")
    control("trace file").fill(str(tmp_path / "none.csv"))
    control("trace file").press("Enter")
    line(page, "cannot read")
    assert page.locator(START).is_disabled()
    rows = [f"2023-11-16 18:{at // 60:02d}:{at % 60:02d},{100 + at},5" for at in range(600)]
    trace = tmp_path / "requests.csv"
    trace.write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *rows]) + "\n")
    control("trace file").fill(str(trace))
    control("trace file").press("Enter")
    page.locator(START).click()
    line(page, "sending trace requests.csv")
    before = page.evaluate(TIMES)[-1]
    page.wait_for_function(f"(before) => ({TIMES})().at(-1) > before + 2", arg=before, timeout=60_000)
    requests = opened.run.records(chunks=False).requests.to_pylist()
    assert {row["outcome"] for row in requests} <= {"ok"}, "a load that is replaced is followed to its end"
    sent = [row["isl"] for row in requests if row["measurement"] == max(row["measurement"] for row in requests)]
    assert sent == list(range(100, 100 + len(sent))), "the rows of the trace, in their order"


def test_an_interrupted_launch_leaves_no_worker_and_the_cell_can_be_run_again(opened: Opened) -> None:
    page, results = opened.page, opened.folder.parent
    launching = "exploration = explore(preset.model, preset.side_a, workload=work, slo=slo, **asked)"
    execute = """(code) => { const kernel = jupyterapp.shell.currentWidget.sessionContext.session.kernel
      window.reply = kernel.requestExecute({ code }).done.then((reply) => reply.content.ename ?? reply.content.status) }"""
    page.evaluate(execute, launching)
    until(lambda: len(list_runs(results)) == 2, "a second run, where a lab is being launched", 60)
    until(workers, "a worker on its way", 60)
    command(page, "notebook:interrupt-kernel")
    assert page.evaluate("() => window.reply") == "KeyboardInterrupt"
    until(lambda: not workers(), "the end of every worker", 60)
    assert {run.status for run in list_runs(results)} == {"finished", "interrupted"}
    page.evaluate(execute, launching)
    assert page.evaluate("() => window.reply") == "ok"
    assert ask(page, "str(exploration.lab.deployment.topology)") == "6A"
    page.evaluate(execute, "from labkit.experiments import end; end(exploration)")
    assert page.evaluate("() => window.reply") == "ok"
    assert not workers()


def workers() -> list[int]:
    """Living processes of Dynamo's mocker that this lab has started."""
    found = []
    for number in marked(os.environ[MARK]):
        with contextlib.suppress(OSError):
            if b"dynamo.mocker" in Path(f"/proc/{number}/cmdline").read_bytes():
                found.append(number)
    return found
