"""Notebook 02 in a real JupyterLab, looked at by a real browser, on real workers: an afternoon in two minutes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from labkit.store.run import list_runs, open_run
from tests.support.jupyterlab import Server, chromium, command
from tests.support.live_lab import MARKS, TAILS, TIMES, launch, line, oldest, open_tab, served, shown, write_notebook
from tests.support.waiting import until

pytestmark = [pytest.mark.browser, pytest.mark.engine, pytest.mark.timeout(900)]

#: how far the TTFT chart's points reach past the newest mark (the re-split)
SINCE = f"() => ({TIMES})().at(-1) - Math.max(...({MARKS})())"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with served(tmp_path / "lab") as running:
        yield running


def test_an_afternoon(server: Server, tmp_path: Path) -> None:
    with chromium(tmp_path / "profile") as page:
        launch(page, write_notebook(server, rate=0.8))
        page.get_by_role("button", name="1P1D").click()
        line(page, "swaps the router")
        page.locator("button[title^='Bring the lab']").click()
        line(page, "new split took requests")
        page.wait_for_function("() => document.querySelector('.lk-topology').innerText === '1P1D'", timeout=60_000)
        command(page, "docmanager:save")
        page.wait_for_function("() => !jupyterapp.shell.currentWidget.context.model.dirty")
        before = oldest(page)
        page.reload()
        shown(page)
        assert oldest(page) == before, "history intact"
        page.wait_for_function(f"() => ({SINCE})() > 10", timeout=120_000)  # at 0.8 requests a second some have come by then
        page.locator("button[title^='Keep what was measured']").click()
        page.locator(".lk-pins tbody tr").wait_for(timeout=180_000)
        assert page.locator(".lk-pins tbody td").first.inner_text() == "1P1D"
        open_tab(page, "Distributions")
        page.locator(".lk-line", has_text="first tokens").wait_for(timeout=60_000)
        page.wait_for_function(f"() => ({TAILS})('ttft').length > 1 && ({TAILS})('itl').length > 10", timeout=60_000)
        before_ms = page.evaluate(f"() => ({TAILS})('itl')")
        page.wait_for_function(f"before => String(({TAILS})('itl')) !== String(before)", arg=before_ms, timeout=60_000)
        open_tab(page, "One request")
        page.locator("button[title^='List the worst']").click()
        chooser = page.locator("select[title^='Requests by how far']")
        page.wait_for_function("(box) => box.options.length > 1", arg=chooser.element_handle(), timeout=60_000)
        chooser.select_option(index=1)
        page.locator(".lk-plain").last.wait_for()
        page.locator("button[title^='The exploration so far']").click()
        line(page, "saved")
        (explored,) = [info for info in list_runs(server.folder / "results") if info.kind == "explore"]
        run = open_run(explored.path)
        assert run.status == "running"
        assert (run.path / "exploration.html").stat().st_size > 100_000
        page.evaluate("() => jupyterapp.commands.execute('kernelmenu:shutdown')")
        until(lambda: open_run(explored.path).status != "running", "the end of the run with its kernel", 120)
    pins = [open_run(info.path) for info in list_runs(server.folder / "results") if info.kind == "pin"]
    assert [pin.windows[0].topology for pin in pins] == ["1P1D"]
    assert {row["outcome"] for row in run.records().requests.to_pylist()} <= {"ok", "cancelled"}
