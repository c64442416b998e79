"""The autopilot of notebook 02, started by its button in a real JupyterLab on real workers, and what it leaves: pins, a page."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from labkit.store.run import Run, list_runs, open_run
from tests.support.jupyterlab import Server, chromium, open_notebook, run_all
from tests.support.live_lab import NOTEBOOK, served, shown
from tests.support.waiting import until

pytestmark = [pytest.mark.browser, pytest.mark.engine, pytest.mark.timeout(900)]

#: labels of the points on the Pareto charts
POINTS = """() => [...new Set(Bokeh.documents.flatMap((doc) => doc.roots()).filter((root) => root.name === 'pareto')
  .flatMap((root) => root.renderers).flatMap((one) => one.data_source.data.label ?? []))]"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with served(tmp_path / "lab") as running:
        yield running


def said(page: Any, words: str, timeout_s: float = 180.0) -> str:
    """The state at the top, once it says so."""
    line = page.locator(".lk-controls .lk-line", has_text=words).first
    line.wait_for(timeout=timeout_s * 1000)
    return str(line.inner_text())


def field(page: Any, tooltip: str) -> Any:
    """The field that is explained so."""
    return page.locator(f"input[title^='{tooltip}']")


def labkit(*words: object) -> str:
    """What a command prints."""
    done = subprocess.run([sys.executable, "-m", "labkit.cli.main", *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + done.stdout
    return " ".join(done.stdout.split())


def test_the_autopilot_is_called_off_and_flies_to_its_end(server: Server, tmp_path: Path) -> None:
    text = NOTEBOOK.read_text(encoding="utf-8")
    for name, value in (("rate", "1.0"), ("isl", "256"), ("osl", "16")):
        assert f"{name} = None" in text
        text = text.replace(f"{name} = None", f"{name} = {value}")
    (server.folder / "explore.ipynb").write_text(text, encoding="utf-8")
    with chromium(tmp_path / "profile") as page:
        open_notebook(page, f"{server.url}/lab/workspaces/explore/tree/explore.ipynb?token={server.token}")
        run_all(page)
        shown(page, 180)
        explain_what_is_impossible(page)
        call_off_in_the_middle(page)
        best = fly(page)
        page.locator("button[title^='Apply its split']").click()
        said(page, "again as run")
        page.locator("button[title^='The exploration so far']").click()
        said(page, "saved")
        assert page.locator(".lk-pins tbody tr").count() == len(page.evaluate(POINTS)) == 4
        (explored,) = [info for info in list_runs(server.folder / "results") if info.kind == "explore"]
        page.evaluate("() => jupyterapp.commands.execute('kernelmenu:shutdown')")
        until(lambda: open_run(explored.path).status != "running", "the end of the run with its kernel", 120)
        replays_offline(page, explored.path / "exploration.html", best)
    results = server.folder / "results"
    pins = sorted((open_run(info.path) for info in list_runs(results) if info.kind == "pin"), key=lambda run: run.id)
    assert [pin.windows[0].topology for pin in pins[:3]] == ["2A", "2A", "1P1D"]
    pins_are_runs(pins[1:], results, tmp_path)


def explain_what_is_impossible(page: Any) -> None:
    """Before anything is done: a third worker shares a core, a model that does not fit cannot be launched."""
    page.locator("button[title^='How many workers']").click()
    workers = field(page, "Workers of the pool")
    workers.fill("3")
    workers.press("Enter")
    assert "share core" in said(page, "starts w2")
    workers.fill("2")
    workers.press("Enter")
    said(page, "serves already")


def call_off_in_the_middle(page: Any) -> None:
    """The first split is pinned; while the second is measured it is called off, and the lab says what it leaves."""
    seconds = field(page, "Length of a stretch")
    seconds.fill("5")
    seconds.press("Enter")
    page.locator("button[title^='Every split of the pool']").click()
    said(page, "autopilot 2 of 2: 1P1D, measured")
    page.locator("button[title^='End what is being waited for']").click()
    left = said(page, "called off")
    assert "1P1D serves and the load goes on" in left
    assert "pinned so far: 2A" in left
    page.wait_for_function("() => document.querySelector('.lk-topology').innerText === '1P1D'", timeout=60_000)
    assert page.locator(".lk-pins tbody tr").count() == 1


def fly(page: Any) -> str:
    """To the end: the pool is in the split that the sentence names, and every split is on the chart."""
    page.locator("button[title^='Every split of the pool']").click()
    verdict = said(page, "serves now")
    best = verdict.rsplit(" serves now", 1)[0].split()[-1]
    assert best in ("2A", "1P1D")
    assert "req/s Poisson, ISL 256, OSL 16; each split measured once" in verdict
    assert "SLO (TPOT ≤ 50 ms)" in verdict
    page.wait_for_function("best => document.querySelector('.lk-topology').innerText === best", arg=best, timeout=60_000)
    page.wait_for_function(f"() => ({POINTS})().length === 3", timeout=60_000)
    return best


def replays_offline(page: Any, file: Path, best: str) -> None:
    """From a file, without a network: charts, re-splits, pins; nothing is asked for and nothing goes wrong."""
    wrong: list[str] = []
    context = page.context
    context.set_offline(True)
    alone = context.new_page()
    alone.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
    alone.on("pageerror", lambda error: wrong.append(str(error)))
    alone.on("request", lambda request: wrong.append(request.url) if request.url.startswith(("http", "ws")) else None)
    alone.goto(file.as_uri())
    alone.evaluate("() => ready")
    assert alone.title().startswith("Exploration of demo on ")
    assert "dummy weights" in alone.locator(".about").inner_text()
    assert alone.evaluate("() => board.columns.n") > 100
    splits = alone.evaluate("() => board.splits.map((split) => split[1]).filter(Boolean)")
    assert splits[:2] == ["2A", "1P1D"]
    kinds = alone.locator(".happened td:nth-child(2)").all_inner_texts()
    assert {"launch", "load", "resplit", "pin"} <= set(kinds)
    assert alone.locator(".lk-pins tbody tr").count() == 4
    alone.locator(".happened tr", has_text="2A → 1P1D").first.locator(".when").click()
    before = alone.evaluate("() => board.end")
    alone.locator("#play").click()
    alone.wait_for_function("before => board.end > before", arg=before, timeout=30_000)
    assert wrong == []


def pins_are_runs(pins: list[Run], results: Path, tmp_path: Path) -> None:
    """Shown, compared and exported by the commands that do so with any run."""
    first, second = pins[0], pins[1]
    shown = labkit("show", first.id, "--results", results)
    assert "2A (verified by counters)" in shown
    compared = labkit("compare", first.id, second.id, "--results", results)
    assert "Disaggregated (1P1D), against Aggregated (2A)" in compared
    written = labkit("export", second.id, "--format", "json,csv", "--out", tmp_path / "out", "--results", results)
    assert "tidy-requests.csv" in written
    assert (tmp_path / "out" / "vllm-bench-0-1P1D-1.json").is_file()
