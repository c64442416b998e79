"""Does an open dashboard disturb the load? The latencies of one load with the explorer open against closed, in turns.

    python tests/bench/watched.py [--pairs 6] [--seconds 15]

A real JupyterLab's kernel holds a lab on the mock server, and a real Chromium looks at its notebook all the time. A pair sends
the same requests twice: with the explorer open and drawing, and with it closed (its watch is stopped then). The order changes
from pair to pair: closed, open, open, closed. Percentiles, ratios and their intervals are those of ``labkit compare``.

The server and the load shard have a core to themselves, and kernel, JupyterLab, browser and this process the others: how much
a browser takes of a core that a client needs is a matter of how many cores there are. What is left is what the lab does to the
load by itself: a watched shard packs and writes a live copy of what it records, on the core of the server that is to be in time.
Of a late shard the latencies would say nothing, as instants are the kernel's; so its CPU seconds stand beside them. A server that
waits for a token that is due soon polls, and so takes all that the shard leaves. Wants a quiet machine.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

from report import Value, write  # noqa: E402

from labkit.experiments.compare import Comparison, compare  # noqa: E402
from labkit.store.run import open_run  # noqa: E402
from tests.support.jupyterlab import Server, chromium, jupyterlab, no_browser, open_notebook, run_all  # noqa: E402

RATE, ISL, OSL = 40, 64, 100
SIDES = ("closed", "open")
KEYS = ("ttft_p50_s", "ttft_p99_s", "itl_p50_s", "itl_p99_s")
MOST = 1.05
#: Seconds from the last send to the end of its answer: 200 ms and a hundred tokens every 20 ms.
DRAIN_S = 2.5
SETTLE_S = 3.0
STAGE = """
import ipywidgets as W
stage = W.VBox(layout={"width": "100%"})
stage
"""
#: Exploration and explorer, as ``labkit.dashboard.present`` makes them.
ATTACH = """
from labkit import Lab, Workload
from labkit.dashboard import Explorer
from labkit.experiments import Exploration
def work(seed, seconds):
    return Workload(isl={isl}, osl={osl}, rate={rate}, duration_s=seconds, seed=seed)
lab = Lab.attach({url!r}, "mock", vocab=4096, accelerators=1, accelerator="core", workload=work(0, 60), name={name!r},
                 results={results!r}, progress=lambda line: None)
exploration = Exploration(lab)
"""
OPEN = "explorer = Explorer(exploration); stage.children = [explorer.widget]"
CLOSE = "explorer.close(); stage.children = []"
BEGIN = "load = lab.load(work({seed}, {seconds}), side={side!r}, repeat={repeat})"
#: Runs code in the notebook's kernel, behind what it was asked before, and says why it failed.
EXECUTE = """async (code) => {
  const { kernel } = window.jupyterapp.shell.currentWidget.sessionContext.session
  const { content } = await kernel.requestExecute({ code, store_history: false }).done
  return content.status === "ok" ? "" : `${content.ename}: ${content.evalue}`
}"""


@dataclass(frozen=True, slots=True)
class Turn:
    """One measurement.

    Attributes:
        cpu_s: what the load shard took.
        pictures: drawn in the browser, a second.
    """

    cpu_s: float
    pictures: float


@dataclass(frozen=True, slots=True)
class Bench:
    """The lab in its kernel, and the page that shows it."""

    page: Any
    shard: psutil.Process

    @classmethod
    def begin(cls, page: Any, server: Server, url: str, results: Path, core: int) -> Bench:
        """Attach the lab, bring its shard to the server's core, and let everything have happened once."""
        open_notebook(page, server.notebook("watched.ipynb", STAGE))
        run_all(page)
        execute(page, ATTACH.format(url=url, isl=ISL, osl=OSL, rate=RATE, name="watched", results=str(results)))
        (shard,) = (
            process
            for process in psutil.Process(server.pid).children(recursive=True)
            if "labkit.lab.load_agent" in process.cmdline()
        )
        for thread in shard.threads():
            os.sched_setaffinity(thread.id, {core})
        bench = cls(page, shard)
        bench.turn("open", -1, 3.0, "warm-up")
        return bench

    def turn(self, state: str, repeat: int, seconds: float, side: str) -> Turn:
        """Open the explorer, if so, send the load, close it again."""
        shown = state == "open"
        if shown:
            execute(self.page, OPEN)
            self.page.wait_for_selector(".lk-board[data-draws]", timeout=60_000)
            self.page.locator(".lk-grid").scroll_into_view_if_needed()
        self.page.wait_for_timeout(SETTLE_S * 1000)
        cpu_s, drawn = self._cpu_s(), self._drawn()
        execute(self.page, BEGIN.format(seed=repeat + 1, seconds=seconds, side=side, repeat=repeat))
        self.page.wait_for_timeout(seconds * 1000)
        pictures = (self._drawn() - drawn) / seconds
        self.page.wait_for_timeout(DRAIN_S * 1000)
        execute(self.page, "load.wait()")
        cpu_s = self._cpu_s() - cpu_s
        if shown:
            execute(self.page, CLOSE)
            self.page.wait_for_function("() => !document.querySelector('.lk-board')", polling=200)
        if shown != (pictures > 1):
            raise SystemExit(f"{pictures:.1f} pictures a second with the explorer {state}: this compares nothing")
        return Turn(cpu_s, pictures)

    def _cpu_s(self) -> float:
        times = self.shard.cpu_times()
        return times.user + times.system

    def _drawn(self) -> int:
        return int(self.page.evaluate("() => document.querySelector('.lk-board')?.dataset.draws ?? 0"))


def execute(page: Any, code: str) -> None:
    """Run code in the notebook's kernel."""
    if wrong := page.evaluate(EXECUTE, code):
        raise SystemExit(f"in the kernel, {code.strip()!r}: {wrong}")


@contextmanager
def mock_server(folder: Path, core: int) -> Iterator[str]:
    """Its address."""
    argv = ["taskset", "-c", str(core), sys.executable, str(HERE / "mock_server.py"), "--log", str(folder / "truth.npz")]
    server = subprocess.Popen(argv, stdout=subprocess.PIPE)
    assert server.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(server.stdout.readline())}"
    finally:
        server.terminate()
        server.wait()
        server.stdout.close()


def measure(folder: Path, pairs: int, seconds: float, core: int) -> tuple[Comparison, dict[str, list[Turn]]]:
    """All turns, and the two sides compared; by side the turns in the order of their pairs."""
    results, turns = folder / "results", {side: list[Turn]() for side in SIDES}
    with (
        mock_server(folder, core) as url,
        jupyterlab(folder / "lab") as server,
        chromium(folder / "profile") as page,
    ):
        bench = Bench.begin(page, server, url, results, core)
        for pair in range(pairs):
            for side in SIDES if pair % 2 == 0 else SIDES[::-1]:
                turns[side].append(bench.turn(side, pair, seconds, side))
            print(f"pair {pair + 1} of {pairs} done", flush=True)
        execute(page, "exploration.close(); lab.close()")
    run = open_run("watched", results)
    found = compare(run.digest(), *SIDES, manifest=run.manifest)
    if any(found.failed):
        raise SystemExit(f"{found.failed[0]} requests failed with the explorer closed, {found.failed[1]} with it open")
    return found, turns


def report(found: Comparison, turns: dict[str, list[Turn]], seconds: float) -> int:
    """The table, and the file."""
    table = Table(title=f"{found.repeats} pairs of {seconds:g} s, {RATE} requests/s of {OSL} tokens, {found.requests} requests")
    for heading in ("", "closed", "open", "ratio", "95 % interval", "high end"):
        table.add_column(heading, justify="left" if not heading else "right")
    values, target = [], f"high end of the interval ≤ {MOST}"
    for key in KEYS:
        row = found.row(key)
        if row.a is None or row.b is None or row.ratio is None:
            raise SystemExit(f"{row.label}: {row.reason}")
        low, ratio, high = row.ratio.low, row.ratio.estimate, row.ratio.high
        holds = high <= MOST
        sides = (f"{value * 1e3:.3f} ms" for value in (row.a, row.b))
        table.add_row(row.label, *sides, f"{ratio:.4f}", f"{low:.4f} – {high:.4f}", f"≤ {MOST} {'✓' if holds else '✗'}")
        values += [
            Value(f"{row.label}, open / closed", round(ratio, 4), "", "explorer closed", target, holds),
            Value(f"{row.label}, open / closed, low", round(low, 4), "", "explorer closed"),
            Value(f"{row.label}, open / closed, high", round(high, 4), "", "explorer closed"),
            Value(f"{row.label}, closed", round(row.a * 1e3, 4), "ms"),
            Value(f"{row.label}, open", round(row.b * 1e3, 4), "ms"),
        ]
    cpu_s = {side: statistics.mean(turn.cpu_s for turn in turns[side]) for side in SIDES}
    ratios = [watched.cpu_s / alone.cpu_s for alone, watched in zip(*(turns[side] for side in SIDES), strict=True)]
    median, pictures = statistics.median(ratios), statistics.mean(turn.pictures for turn in turns["open"])
    table.add_row("shard's CPU", *(f"{cpu_s[side]:.2f} s" for side in SIDES), f"{median:.3f}")
    table.add_row("pictures", "none", f"{pictures:.1f} /s")
    values += [Value(f"CPU of the load shard, a turn, {side}", round(cpu_s[side], 2), "s") for side in SIDES]
    values += [
        Value("CPU of the load shard, open / closed, median of the pairs", round(median, 3), "", "explorer closed"),
        *(Value(f"the same of pair {pair + 1}", round(one, 3), "", "explorer closed") for pair, one in enumerate(ratios)),
        Value("pictures, open", round(pictures, 2), "/s"),
        Value("pairs", found.repeats, ""),
        Value("requests", found.requests, ""),
    ]
    console = Console()
    console.print(table)
    console.print("[dim]shard's CPU: mean of the turns, median of the pairs' ratios[/dim]")
    for note in found.notes:
        console.print(f"[dim]{note}[/dim]")
    console.print(f"[dim]{write('watched', values)}[/dim]")
    return 0 if all(value.holds is not False for value in values) else 1


def main() -> int:
    """Print the table, write ``results/bench/watched.json``; 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=15.0)
    options, _ = parser.parse_known_args()  # `make bench` hands every benchmark the same arguments
    if (missing := no_browser()) is not None:
        raise SystemExit(missing)
    cores = os.sched_getaffinity(0)
    if len(cores) < 2:
        raise SystemExit("needs two cores: one for the server and the load, one for the lab and the browser")
    core = min(cores)
    os.sched_setaffinity(0, cores - {core})  # all that is started from here on inherits it
    with tempfile.TemporaryDirectory() as folder:
        found, turns = measure(Path(folder), options.pairs, options.seconds, core)
    return report(found, turns, options.seconds)


if __name__ == "__main__":
    sys.exit(main())
