"""Every page that is made of a run whose names are programs, in a real browser: they are text, and nothing of them runs."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from labkit.cli.main import main
from labkit.dashboard import ChartData, save_page
from labkit.live import LiveEvent
from labkit.store.manifest import FILE
from tests.support.hostile import ALL, MARKER
from tests.support.jupyterlab import Server, chromium, jupyterlab, open_notebook, run_all
from tests.support.live_feed import feed, pins
from tests.support.saved_runs import said_elsewhere, saved_run
from tests.support.waiting import until

pytestmark = pytest.mark.browser

NOTEBOOK = """
from dataclasses import replace
import ipywidgets as widgets
from labkit.dashboard.form import Line
from labkit.dashboard.health_view import HealthView
from labkit.dashboard.load_form import LoadForm
from labkit.dashboard.pins_view import pins_table
from labkit.live.sample import RouterFault
from labkit.spec import Workload
from labkit.store import open_run
from tests.support.hostile import ALL, ENTRY, PATH
from tests.support.live_feed import pins
named = [replace(pin, label=f"{pin.label} {ALL}", topology=ALL, workload=ALL, run=ALL) for pin in pins()]
run = open_run("mine", __import__("pathlib").Path(RESULTS))
print(run, run.windows[0], run.manifest, PATH)  # half a character, printed as it is, ends ipykernel's stream
health = HealthView(print, print)
health.show([("w1", ALL)], RouterFault("router0", ALL, (ALL, ALL)), busy=False)
loads = [LoadForm(Workload(trace=PATH), print), LoadForm(Workload(trace=ENTRY, time_scale=0.5), print)]
assert [load.workload for load in loads] == [None, None], "there is no such file, which is told"
shown = [Line(ALL, "bad").widget, widgets.HTML(pins_table(named, ALL)), health.widget, *(load.widget for load in loads)]
widgets.VBox(shown)
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose every shown text is hostile."""
    folder = tmp_path_factory.mktemp("results")
    run = saved_run(folder, "mine")
    said = json.loads((run.path / FILE).read_text())
    said |= {
        "model": {"name": ALL, "source": ALL},
        "hardware": {"summary": ALL},
        "engines": {"name": ALL, "vllm": ALL},
        "reason": ALL,
    }
    for window in said["windows"]:
        window |= {"side": f"{window['side']} {ALL}", "cut": ALL, "stopped": ALL}
    said_elsewhere(run, **said)
    return folder


@pytest.fixture(scope="module")
def made(results: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The report, every interactive figure, and the page that replays an exploration."""
    folder = tmp_path_factory.mktemp("pages")
    assert main(["report", "mine", "--results", str(results), "--out", str(folder / "report.html")]) == 0
    assert main(["export", "mine", "--results", str(results), "--format", "html", "--out", str(folder)]) == 0
    history = ChartData()
    for sample in itertools.islice(feed(4), 60):
        history.append(sample)
    for kind in ("note", "fault", "resplit"):
        history.note(LiveEvent(5.0, kind, ALL))
    named = [replace(pin, label=f"{pin.label} {ALL}", topology=ALL, workload=ALL, run=ALL) for pin in pins()]
    save_page(history, folder / "replay.html", title=ALL, subtitle=ALL, about={ALL: ALL}, accelerator=ALL, pins=named)
    return sorted(folder.glob("*.html"))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture
def watched(browser: Any) -> Iterator[dict[str, list[str]]]:
    """What a program of the names would be seen by: a dialog, an error of the page, a request to elsewhere."""
    seen: dict[str, list[str]] = {"dialog": [], "error": [], "request": []}

    def dialog(one: Any) -> None:
        seen["dialog"].append(one.message)
        one.dismiss()

    listeners = {
        "dialog": dialog,
        "pageerror": lambda error: seen["error"].append(str(error)),
        "request": lambda request: seen["request"].append(request.url),
    }
    for name, listener in listeners.items():
        browser.on(name, listener)
    yield seen
    for name, listener in listeners.items():
        browser.remove_listener(name, listener)


def test_no_page_of_a_run_executes_its_names(browser: Any, made: list[Path], watched: dict[str, list[str]]) -> None:
    assert {"report.html", "replay.html"} < {path.name for path in made}
    assert len(made) > 6
    for path in made:
        browser.goto(path.as_uri())
        if path.name != "report.html":
            browser.wait_for_function("() => window.board || window.Bokeh?.documents?.length")
        if path.name in ("report.html", "replay.html"):
            shown = browser.evaluate("() => document.body.innerText")
            assert "<script>" in shown, "it can be read"
            assert not set("\u202e\u2066\x1b") & set(shown), path.name
        assert browser.evaluate(f"() => window.{MARKER}") is None, path.name
        handlers = "() => document.querySelectorAll('[onerror], [onload], [onclick]').length"
        assert browser.evaluate(handlers) == 0, path.name
        assert browser.evaluate("() => document.querySelectorAll('a[href^=\"javascript:\"]').length") == 0, path.name
    assert watched["dialog"] == []
    assert watched["error"] == []
    assert [url for url in watched["request"] if not url.startswith(("file:", "data:", "blob:"))] == [], "nothing is fetched"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with jupyterlab(tmp_path_factory.mktemp("lab")) as running:
        yield running
        children = psutil.Process(running.pid).children(recursive=True)
    until(lambda: not any(child.is_running() and child.status() != "zombie" for child in children), "the end of every kernel")


def test_no_cell_executes_the_names_of_a_run(browser: Any, server: Server, results: Path, watched: dict[str, list[str]]) -> None:
    open_notebook(browser, server.notebook("hostile.ipynb", f"RESULTS = {str(results)!r}", NOTEBOOK))
    run_all(browser)
    browser.wait_for_selector(".lk-line", timeout=200_000)
    browser.wait_for_selector(".jp-OutputArea table", timeout=60_000)
    assert browser.evaluate(f"() => window.{MARKER}") is None
    assert watched["dialog"] == []
    assert browser.evaluate("() => document.querySelectorAll('.jp-OutputArea img[src=\"x\"]').length") == 0
    assert browser.evaluate("() => document.querySelectorAll('.jp-OutputArea a[href^=\"javascript:\"]').length") == 0
    for place in (".lk-line", ".lk-fallen .lk-line", ".lk-last"):
        assert "<script>" in browser.evaluate(f"() => document.querySelector('.jp-OutputArea {place}').innerText"), place
    assert browser.evaluate(
        "() => [...document.querySelectorAll('.jp-OutputArea input')].some(one => one.value.includes('<img'))"
    )
    assert browser.evaluate(
        "() => [...document.querySelectorAll('.jp-OutputArea option')].some(one => one.text.includes('<img'))"
    )
    assert browser.evaluate("() => document.querySelectorAll('.lk-line').length") >= 5, "each form says that it has no such trace"


@pytest.mark.parametrize("path", ["/api/contents", "/api/kernels", "/lab", "/api/terminals"])
def test_a_server_as_make_lab_starts_it_asks_for_its_token(server: Server, path: str) -> None:
    """Whoever reaches a notebook server runs programs as its user."""
    for headers in ({}, {"Authorization": "token x"}, {"Authorization": f"token {'0' * 32}"}):
        answer = httpx.get(server.url + path, headers=headers, timeout=10, follow_redirects=True)
        assert answer.status_code in (401, 403) or answer.url.path == "/login", (path, answer.status_code)
    assert (
        httpx.get(server.url + "/api/contents", headers={"Authorization": f"token {server.token}"}, timeout=10).status_code == 200
    )
