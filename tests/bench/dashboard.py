"""What the live charts cost: eight charts at 4 Hz, 16 workers, 240 points a line, in a real JupyterLab and a real Chromium.

    python tests/bench/dashboard.py [--rounds 3] [--seconds 20]

CPU time from /proc over a round, per second of wall time; messages as the browser counts them. The kernel makes its samples
beforehand, so that drawing them is what is measured. It is measured once more after 400 other workers have come and gone, as a
hundred re-splits of four workers leave behind where each starts its workers anew. Wants a quiet machine.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

from report import Value, write  # noqa: E402

from tests.support.jupyterlab import Server, chromium, jupyterlab, no_browser, open_notebook, run_all  # noqa: E402

TICKS_BEFORE, GONE = 260, 400
CELL = """
import asyncio, itertools
from dataclasses import replace
from labkit.dashboard import Charts
from labkit.spec.slo import Slo
from tests.support.live_feed import drive, feed
samples = list(itertools.islice(feed(16, calm=True), {ticks}))
charts = Charts(Slo(ttft_s=0.5), accelerator="GPU")
for n in range({gone} // 16):
    others = (replace(one, name=f"gone{{16 * n + k}}") for k, one in enumerate(samples[n].workers))
    charts.push(replace(samples[n], workers=tuple(others)))
for sample in samples[{gone} // 16:{before}]: charts.push(sample)
task = asyncio.create_task(drive(charts, iter(samples[{before}:])))
charts.figure
"""


def cpu_s(processes: list[psutil.Process]) -> float:
    """CPU time of processes so far, user and system."""
    total = 0.0
    for process in processes:
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue
        total += times.user + times.system
    return total


def measure(page: Any, server: Server, frames: list[int], seconds: float) -> dict[str, float]:
    """One round."""
    lab = psutil.Process(server.pid)
    kernel_and_server = [lab, *lab.children(recursive=True)]
    browser = [process for process in psutil.Process().children(recursive=True) if "chrom" in process.name()]

    def drawn() -> int:
        return int(page.evaluate("() => document.querySelector('.lk-board')?.dataset.draws ?? 0"))

    before = cpu_s(kernel_and_server), cpu_s(browser), sum(frames), drawn(), time.monotonic()
    page.wait_for_timeout(seconds * 1000)
    after = cpu_s(kernel_and_server), cpu_s(browser), sum(frames), drawn(), time.monotonic()
    lab_s, browser_s, messages, draws, wall_s = (b - a for a, b in zip(before, after, strict=True))
    return {
        "kernel and server": lab_s / wall_s * 100,
        "browser": browser_s / wall_s * 100,
        "websocket messages": messages / wall_s,
        "pictures": draws / wall_s,
    }


#: how many lines are drawn, and the points of the shortest
LINES = """() => {
  const panels = ["ttft", "itl", "throughput", "requests", "kv", "utilisation", "memory_use", "power_w"]
  const find = (panel, axis) => [...Bokeh.documents.at(-1).get_model_by_name(`${panel}:${axis}`).get_array("xs")]
  const lines = panels.flatMap((panel) => [...find(panel, "left"), ...find(panel, "right")])
  return [lines.length, Math.min(...lines.map((xs) => xs.length))]
}"""


def run(rounds: int, seconds: float, gone: int) -> tuple[dict[str, float], list[dict[str, float]], list[int]]:
    """Idle first, then with the charts, and how many lines are drawn."""
    frames = [0, 0]

    def connected(socket: Any) -> None:
        for way, name in enumerate(("framereceived", "framesent")):
            socket.on(name, lambda _, way=way: frames.__setitem__(way, frames[way] + 1))

    with (
        tempfile.TemporaryDirectory() as folder,
        jupyterlab(Path(folder) / "lab") as server,
        chromium(Path(folder) / "profile") as page,
    ):
        page.on("websocket", connected)
        ticks = TICKS_BEFORE + int((rounds * seconds + 120) * 4)
        open_notebook(page, server.notebook("cost.ipynb", CELL.format(ticks=ticks, before=TICKS_BEFORE + gone // 16, gone=gone)))
        page.wait_for_timeout(5000)
        idle = measure(page, server, frames, seconds)
        run_all(page)
        page.wait_for_selector(".lk-board[data-draws]", timeout=60_000)
        page.locator(".lk-grid").scroll_into_view_if_needed()
        page.wait_for_timeout(5000)
        points = page.evaluate(LINES)
        return idle, [measure(page, server, frames, seconds) for _ in range(rounds)], points


def main() -> int:
    """Print the table, write ``results/bench/dashboard.json``; 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20.0)
    options, _ = parser.parse_known_args()  # `make bench` hands every benchmark the same arguments
    if (missing := no_browser()) is not None:
        raise SystemExit(missing)
    values = [value for gone in (0, GONE) for value in told(*run(options.rounds, options.seconds, gone), gone)]
    Console().print(f"[dim]{write('dashboard', values)}[/dim]")
    return 0 if all(value.holds is not False for value in values) else 1


def told(idle: dict[str, float], rounds: list[dict[str, float]], points: list[int], gone: int) -> list[Value]:
    """The table, and its values."""
    after = f", after {gone} others" if gone else ""
    targets = {"kernel and server": ("% of a core", 3.0), "browser": ("% of a core", 40.0), "websocket messages": ("/s", 20.0)}
    table = Table(title=f"8 charts, 16 workers{after}, {points[0]} lines of at least {points[1]} points, 4 Hz")
    for heading in ("", "median", "least", "most", "idle lab", "target"):
        table.add_column(heading, justify="left" if not heading else "right")
    values = []
    for name in rounds[0]:
        seen = [one[name] for one in rounds]
        median = statistics.median(seen)
        unit, most = targets.get(name, ("/s", None))
        target = "≥ 3.9 /s" if most is None else f"≤ {most:g} {unit}"
        holds = median >= 3.9 if most is None else median <= most
        numbers = (f"{number:.1f}" for number in (median, min(seen), max(seen), idle[name]))
        table.add_row(f"{name}, {unit}", *numbers, f"{target} {'✓' if holds else '✗'}")
        values.append(Value(f"{name}{after}", round(median, 2), unit, None, target, holds))
        values.append(Value(f"{name}{after}, the same JupyterLab without charts", round(idle[name], 2), unit))
    values += [Value(f"lines{after}", points[0], ""), Value(f"points of the shortest line{after}", points[1], "")]
    Console().print(table)
    return values


if __name__ == "__main__":
    sys.exit(main())
