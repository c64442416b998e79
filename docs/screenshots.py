"""Pictures of the live lab for the manual, of a real run: notebook 02 in a real JupyterLab, real workers, real load.

    make screenshots        # or: .venv/bin/python docs/screenshots.py [--out FOLDER] [--rates 0.7 1.2]

Needs what ``make setup`` installs, and Chromium. Takes about six minutes: a deployment is launched, loaded at two rates in each
of two splits, each of the four is pinned, and one slow request is opened. Figures on the pictures are this machine's, while a
browser draws on it: a comparison to be quoted is made without one (``make demo``).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.support.jupyterlab import Server, chromium, jupyterlab, no_browser, open_notebook, run_all, theme  # noqa: E402

#: CSS pixels; two device pixels each. High enough for the whole explorer at once.
SIZE, SCALE = (1600, 1800), 2.0
LAUNCH_S, STEP_S = 240.0, 180.0
MARGIN = 4
#: seconds from the newest mark across the charts (a load, a re-split, a pin) or their beginning to now; -1 without a point
SINCE = """() => {
  const board = Bokeh.documents.findLast((doc) => doc.get_model_by_name('events'))
  const marks = board.get_model_by_name('events').get_array('x'), line = board.get_model_by_name('ttft:left').get_array('xs')[0]
  return line?.length ? line.at(-1) - Math.max(line[0], ...marks) : -1
}"""


def main(argv: list[str] | None = None) -> int:
    """Take them all; 1 where something that it needs is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images")
    parser.add_argument("--rates", type=float, nargs=2, default=(0.7, 1.2), help="requests per second, lower one first")
    parser.add_argument("--seconds", type=float, default=40.0, help="load at each split and rate before it is pinned")
    asked = parser.parse_args(argv)
    if (missing := no_browser()) is not None:
        print(f"screenshots: {missing}", file=sys.stderr)
        return 1
    asked.out.mkdir(parents=True, exist_ok=True)
    low, high = asked.rates
    with tempfile.TemporaryDirectory() as scratch, jupyterlab(Path(scratch) / "lab") as server:
        text = (ROOT / "notebooks" / "02_explore.ipynb").read_text("utf-8")
        (server.folder / "explore.ipynb").write_text(text.replace("rate = None", f"rate = {low}"), encoding="utf-8")
        with chromium(Path(scratch) / "hand") as page:  # at a scale that costs the workers little
            opened(page, server)
            run_all(page)
            explore(page, low, high, asked.seconds)
        with chromium(Path(scratch) / "camera", SIZE, scale=SCALE) as page:
            opened(page, server)
            for path in shots(page, asked.out):
                print(f"{path.stat().st_size / 1000:5.0f} kB  {path}", flush=True)
    return 0


def opened(page: Any, server: Server) -> None:
    """Open the notebook; a second browser finds what the first one left."""
    page.set_default_timeout(STEP_S * 1000)
    open_notebook(page, f"{server.url}/lab/workspaces/explore/tree/explore.ipynb?token={server.token}")
    page.evaluate("() => { jupyterapp.shell.collapseLeft(); jupyterapp.shell.collapseRight() }")


def shown(page: Any) -> None:
    """Until the charts are drawn, from their beginning."""
    page.locator(".lk-controls").scroll_into_view_if_needed(timeout=LAUNCH_S * 1000)  # charts that nobody sees are not drawn
    page.wait_for_selector(".lk-board[data-draws]")
    page.get_by_role("button", name="all", exact=True).click()


def explore(page: Any, low: float, high: float, seconds: float) -> None:
    """What an engineer does in some minutes: both splits at the first rate and a higher one, a pin of each."""
    shown(page)
    for number, (topology, rate) in enumerate([("2A", low), ("1P1D", low), ("1P1D", high), ("2A", high)], 1):
        if page.locator(".lk-topology").inner_text() != topology:
            split(page, topology)
        load(page, rate)  # anew: every pin gets the same requests from the first on
        pin(page, number, seconds)
    page.evaluate("() => jupyterapp.commands.execute('docmanager:save')")
    page.wait_for_function("() => !jupyterapp.shell.currentWidget.context.model.dirty")


def split(page: Any, topology: str) -> None:
    """Choose it, read the plan, apply it."""
    page.get_by_role("button", name=topology, exact=True).click()
    said(page, "swaps the router")
    page.locator("button[title^='Bring the lab']").click()
    said(page, "new split took requests")
    page.wait_for_function(f"() => ({SINCE})() < 10")


def load(page: Any, rate: float) -> None:
    """Replace the load by one of another rate."""
    field = page.locator(".lk-controls .widget-vbox", has=page.locator("label[title^='Requests sent per second']")).last
    field.locator("input").fill(f"{rate:g}")
    field.locator("input").press("Enter")
    page.locator("button[title^='Send this load']").click()
    said(page, "sending")
    page.wait_for_function(f"() => ({SINCE})() < 10")


def pin(page: Any, number: int, seconds: float) -> None:
    """Let it become level, then keep it."""
    page.wait_for_function(f"seconds => ({SINCE})() > seconds", arg=seconds)
    page.locator("button[title^='Keep what was measured']").click()
    page.locator(".lk-pins tbody tr").nth(number - 1).wait_for()


def said(page: Any, words: str) -> None:
    """Until the controls say so."""
    page.locator(".lk-controls .lk-line", has_text=words).first.wait_for()


def shots(page: Any, out: Path) -> list[Path]:
    """Look at everything, in light; and at the whole once more in dark."""
    shown(page)
    page.get_by_role("tab", name="One request").click()
    page.locator("button[title^='List the worst']").click()
    chooser = page.locator("select[title^='Requests by how far']")
    page.wait_for_function("box => [...box.options].some((one) => one.label.includes('gap'))", arg=chooser.element_handle())
    worst = chooser.evaluate("box => [...box.options].findIndex((one) => one.label.includes('gap'))")
    chooser.select_option(index=worst)
    below = page.locator(".lk-explorer .lk-pages")
    below.locator(".lk-plain").locator("visible=true").first.wait_for()
    made = [picture(page, below, out / "explore-request.png")]
    page.get_by_role("tab", name="Pins").click()
    made.append(picture(page, below, out / "explore-pareto.png"))
    page.get_by_role("tab", name="Distributions").click()
    below.locator(".lk-line", has_text="first tokens").wait_for()
    made.append(picture(page, below, out / "explore-distributions.png"))
    page.get_by_role("tab", name="Pins").click()
    whole = page.locator(".lk-explorer")
    made.append(picture(page, whole, out / "explore-light.png"))
    theme(page, "JupyterLab Dark")
    made.append(picture(page, whole, out / "explore-dark.png"))
    return made


def picture(page: Any, what: Any, path: Path) -> Path:
    """A part of the page as it is painted next, in a palette: a tenth of the size, and the eye sees no difference."""
    page.mouse.move(1, 1)  # no tooltip in the way
    page.locator(".lk-explorer").evaluate("element => element.scrollIntoView({ block: 'start' })")
    drawn = page.evaluate("() => Number(document.querySelector('.lk-board').dataset.draws)")
    page.wait_for_function("drawn => Number(document.querySelector('.lk-board').dataset.draws) > drawn + 2", arg=drawn)
    box = what.bounding_box()
    clip = {name: box[name] - MARGIN for name in ("x", "y")} | {name: box[name] + 2 * MARGIN for name in ("width", "height")}
    page.screenshot(path=str(path), clip=clip, scale="device")
    with Image.open(path) as full:
        small = full.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    small.save(path, optimize=True)
    return path


if __name__ == "__main__":
    raise SystemExit(main())
