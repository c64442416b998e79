"""Notebook 02 in a real browser: opened, asked, and held against what its controls say."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from tests.support.jupyterlab import Server, command, jupyterlab, open_notebook, run_all
from tests.support.waiting import until

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "02_explore.ipynb"
_MODEL = "Bokeh.documents.findLast((doc) => doc.get_model_by_name('ttft:left'))?.get_model_by_name"
#: times of the TTFT chart's points, and of the marks across all charts
TIMES = f"() => {_MODEL}('ttft:left').get_array('xs')[0] ?? []"
MARKS = f"() => [...{_MODEL}('events').get_array('x')]"
#: latencies at which the line of now, of ``ttft`` or ``itl``, falls
TAILS = """(latency) => {
  const name = `${latency}:now`, doc = Bokeh.documents.findLast((doc) => doc.get_model_by_name(name))
  return [...(doc?.get_model_by_name(name).get_array("x") ?? [])]
}"""
#: contrast of every visible text with what lies behind it (WCAG 2.2, 1.4.3), worst first: [ratio, element, words]
CONTRAST = (Path(__file__).parent / "contrast.js").read_text("utf-8")


@contextmanager
def served(folder: Path) -> Iterator[Server]:
    """A JupyterLab; whatever its kernels started must be gone soon after it."""
    with jupyterlab(folder) as running:
        yield running
        children = psutil.Process(running.pid).children(recursive=True)
    until(lambda: not any(child.is_running() and child.status() != "zombie" for child in children), "the end of everything", 60)


def write_notebook(server: Server, **values: Any) -> str:
    """A copy of the notebook with other values for its parameters, such as a gentle ``rate``; its address."""
    text = NOTEBOOK.read_text(encoding="utf-8")
    for name, value in values.items():
        given = json.dumps(f"{name} = {value!r}")[1:-1]
        text, found = re.subn(rf'(?<="){name} = [^\s\\]+', lambda _, given=given: given, text)
        assert found == 1, name
    (server.folder / "explore.ipynb").write_text(text, encoding="utf-8")
    return f"{server.url}/lab/workspaces/explore/tree/explore.ipynb?token={server.token}"


def launch(page: Any, address: str) -> None:
    """Open it, run every cell, and wait until the charts have something to show."""
    open_notebook(page, address)
    run_all(page)
    shown(page, 180)
    page.wait_for_function(f"() => ({TIMES})().length > 20", timeout=120_000)


def shown(page: Any, timeout_s: float = 60.0) -> None:
    """Until the charts are drawn, and in sight: those that nobody sees are not drawn."""
    page.wait_for_selector(".lk-board[data-draws]", timeout=timeout_s * 1000)
    page.locator(".lk-controls").scroll_into_view_if_needed()


def line(page: Any, words: str, timeout_s: float = 180.0) -> None:
    """Until the state at the top says so."""
    page.locator(".lk-controls .lk-line", has_text=words).first.wait_for(timeout=timeout_s * 1000)


def oldest(page: Any) -> float:
    """When the history begins that the charts can show."""
    page.locator("button[title='show everything']").click()
    first = page.evaluate(f"() => {_MODEL}('x').start")  # not of a line: a long one is drawn thinned
    page.locator("button[title='show the last 1 min']").click()
    return float(first)


def save(page: Any) -> None:
    """The notebook: a page that is reloaded shows what was saved."""
    command(page, "docmanager:save")
    page.wait_for_function("() => !jupyterapp.shell.currentWidget.context.model.dirty")


def open_tab(page: Any, name: str) -> None:
    """One of those below the charts."""
    page.get_by_role("tab", name=name).click()
    page.get_by_role("tab", name=name, selected=True).wait_for()


def ask(page: Any, expression: str) -> Any:
    """The value of an expression in the notebook's kernel, where it is a literal."""
    answer = page.evaluate(
        """async (expression) => {
          const kernel = jupyterapp.shell.currentWidget.sessionContext.session.kernel
          const reply = await kernel.requestExecute({ code: "", user_expressions: { it: expression }, store_history: false }).done
          return reply.content.user_expressions.it
        }""",
        expression,
    )
    assert answer["status"] == "ok", answer
    return ast.literal_eval(answer["data"]["text/plain"])
