"""An afternoon at one lab: does anything grow? Memory, descriptors, threads and the browser's heap, while all of it is in use.

    python -m tests.bench.soak [--minutes 60] [--compress 1] [--requests 1000000] [--split 2P2D]

A real JupyterLab's kernel holds an exploration on a fleet of Dynamo's mockers, and a real Chromium looks at its explorer all
the time. Load runs without an end; every five minutes the fleet is re-split, every seven a pin is made, every ten a worker is
killed with SIGKILL and started again: each of these for the first time before the end of the warm-up. ``--compress`` plays the
same afternoon in so many times less time: the steps come so much closer, and so do the requests, of which there are as many, or
as many as the machine carries with a few in flight. Answers are two tokens long, so that many can be had of few cores.

Each series is judged from the end of its warm-up (the first fifth) on: a line by least squares, whose slope has an interval
from a moving-block bootstrap of the residuals (neighbours resemble each other). *Level*: zero lies in the interval, or an hour
at its upper end adds less than a fiftieth. The kernel keeps what its charts can show (4 hours of samples,
``labkit.live.history``), so its memory grows by that much until then: it is judged without that, and the table has all three.
So are the browser's nodes without those that list what was done (pins, log). At the end ``labkit show`` opens the run.

Every process but the browser and this one is found by its part (``tests.faults.victims``), memory is the
anonymous part of the PSS (``smaps_rollup``): pages of files count for more as soon as another process no longer maps them.
"""

from __future__ import annotations

import argparse
import ast
import csv
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import psutil
from rich.console import Console
from rich.table import Table

from tests.bench.report import RESULTS, Value, write
from tests.faults.victims import part_of
from tests.support.jupyterlab import Server, chromium, jupyterlab, no_browser, open_notebook, run_all

SAMPLE_S: Final = 10.0
_ANSWER_MS: Final = 60_000
#: Seconds of the afternoon between two of each.
RESPLIT_S, PIN_S, KILL_S = 300.0, 420.0, 600.0
#: Requests in flight: a machine that is too slow sends fewer a second, and no backlog grows.
CONCURRENCY: Final = 24
#: How long a request takes, as seen on two cores: a few steps more than tokens, and so long at frontend, client and kernel.
MORE_STEPS, AROUND_S, MARGIN = 0.6, 0.012, 1.1
WARM_PART: Final = 0.2
LEVEL_PART: Final = 0.02
RESAMPLES: Final = 2000
MOST_SHOW_S, MOST_SHOW_GB = 10.0, 2.0
#: The memory that is judged: what the charts keep is meant to grow, up to its limit.
WITHOUT_KEPT: Final = "kernel without what is kept for the charts: memory, MB"
#: These write the run's files, too.
_STORES: Final = frozenset({"telemetry sampler", "load shard"})
SETUP = """
import numpy as np
from pathlib import Path
from labkit import Lab, Workload
from labkit.dashboard import Explorer
from labkit.experiments import Exploration
from labkit.serve.engines.base import EngineOptions
from labkit.serve.timing import save_timing
from tests.support.profiles import handmade_profile
profile = handmade_profile(
    prefill_s=np.array([0.001, 0.0011]), itl_s=np.full((2, 2), {step_s}), kv_transfer_bytes_s=50e9, extrapolate=True
)
work = Workload(isl=32, osl={osl}, concurrency={concurrency}, duration_s=60.0)
options = EngineOptions(timing=save_timing([profile], Path("timing")))
lab = Lab(
    "llama-3.1-8b", {split!r}, engine="mocker", workload=work, options=options, results={results!r}, name="soak",
    progress=lambda line: None,
)
exploration = Exploration(lab)
exploration.start().result()
explorer = Explorer(exploration)
explorer
"""
ASK = """async ([expression, most_ms]) => {
  const { kernel } = window.jupyterapp.shell.currentWidget.sessionContext.session
  const ask = { code: "", store_history: false, user_expressions: { it: expression } }
  const late = new Promise((done) => setTimeout(() => done(null), most_ms))
  const answer = await Promise.race([kernel.requestExecute(ask).done, late])
  if (answer === null) return "?"
  const it = answer.content.user_expressions.it
  return it.status === "ok" ? it.data["text/plain"] : `!${it.ename}: ${it.evalue}`
}"""
#: Runs code in the notebook's kernel, behind what it was asked before, and says why it failed.
EXECUTE = """async ([code, most_ms]) => {
  const { kernel } = window.jupyterapp.shell.currentWidget.sessionContext.session
  const late = new Promise((done) => setTimeout(() => done(null), most_ms))
  const answer = await Promise.race([kernel.requestExecute({ code, store_history: false }).done, late])
  if (answer === null) return "no answer"
  const { content } = answer
  return content.status === "ok" ? "" : `${content.ename}: ${content.evalue}`
}"""
#: Name and process of the last worker whose role others have, too: without it the split can serve.
VICTIM = """(lambda there: next(
    f"{one.name} {one.tree.pid}" for one in reversed(there.workers)
    if one.name in there.roles and list(there.roles.values()).count(there.roles[one.name]) > 1
))(lab.deployment)"""
PROGRESS = "*((p.done, p.failed) if (p := exploration._load.progress) else (0, 0))"
#: A tick's own numbers, what Python needs for it, and for each of its dots.
KEPT_BYTES = (
    "sum(8 * len(one.numbers) + 600 + 130 * len(one.slow_ttft + one.slow_itl) for one in list(explorer.watch.history._samples))"
    " + explorer.charts.history._values.nbytes"
)
#: Nodes that list what was done: pins, in charts and tables, lines of the log, and where they are chosen.
LISTED = """() => {
  const within = (part) => {
    const walker = document.createTreeWalker(part)
    let sum = 0
    for (let node = walker.nextNode(); node; node = walker.nextNode()) {
      sum += 1 + (node.shadowRoot ? 1 + within(node.shadowRoot) : 0)
    }
    return sum
  }
  return [...document.querySelectorAll('.lk-pages, .lk-chips')].reduce((sum, part) => sum + within(part), 0)
}"""


@dataclass(slots=True)
class Series:
    """What was seen of everything, a row a sample: ``t_s`` since the load began, then every quantity by name."""

    rows: list[dict[str, float]] = field(default_factory=list)

    def column(self, name: str) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Instants and values where there is one."""
        found = [(row["t_s"], row[name]) for row in self.rows if name in row]
        return np.array([t for t, _ in found]), np.array([value for _, value in found])

    def save(self) -> None:
        """Write ``results/bench/soak.csv``, also of a soak that is cut short."""
        RESULTS.mkdir(parents=True, exist_ok=True)
        with (RESULTS / "soak.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, ["t_s", *self.names], restval="")
            writer.writeheader()
            writer.writerows({name: round(value, 2) for name, value in row.items()} for row in self.rows)

    @property
    def names(self) -> list[str]:
        return list(dict.fromkeys(name for row in self.rows for name in row if name != "t_s"))


@dataclass(frozen=True, slots=True)
class Slope:
    """Of a quantity after warm-up, per hour, with its 95 % interval; ``level`` is the median."""

    level: float
    per_hour: float
    low: float
    high: float

    @property
    def is_level(self) -> bool:
        return bool(self.low <= 0.0 or self.high < LEVEL_PART * self.level)


def slope(t_s: npt.NDArray[np.float64], values: npt.NDArray[np.float64], seed: int = 0) -> Slope | None:
    """Least squares from the end of warm-up on, the residuals drawn again in blocks; ``None`` for fewer than 12 samples."""
    warm = t_s >= t_s[-1] * WARM_PART if len(t_s) else np.zeros(0, bool)
    t, y = t_s[warm] / 3600.0, values[warm]
    count = len(t)
    if count < 12:
        return None
    rng, centred = np.random.default_rng(seed), t - t.mean()
    weights = centred / (centred @ centred)
    found = float(weights @ y)
    residuals = y - y.mean() - found * centred
    block = max(2, round(count ** (1 / 3)) * 2)
    starts = rng.integers(0, count - block + 1, (RESAMPLES, -(-count // block)))
    drawn = residuals[(starts[:, :, None] + np.arange(block)).reshape(RESAMPLES, -1)[:, :count]]
    low, high = np.percentile(found + drawn @ weights, (2.5, 97.5))
    return Slope(float(np.median(y)), found, float(low), float(high))


# --- what is sampled ---


def of_process(pid: int) -> dict[str, float]:
    """Memory in MB, descriptors and threads; empty for one that is gone."""
    root = Path(f"/proc/{pid}")
    try:
        rollup = (root / "smaps_rollup").read_text()
        anonymous_kb = next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss_Anon:"))
        threads = next(int(line.split()[1]) for line in (root / "status").read_text().splitlines() if line.startswith("Threads:"))
        return {"memory, MB": anonymous_kb * 1024 / 1e6, "descriptors": len(list((root / "fd").iterdir())), "threads": threads}
    except (OSError, StopIteration):
        return {}


def parts(server: int) -> dict[str, list[int]]:
    """The processes below JupyterLab by their part; those of one part are added up."""
    found: dict[str, list[int]] = {}
    for process in psutil.Process(server).children(recursive=True):
        part = part_of(process.pid)
        with suppress(psutil.Error):
            if part is None and "ipykernel_launcher" in process.cmdline():
                part = ("kernel", "kernel")
        if part is not None and part[0] != "supervisor":
            found.setdefault(part[0] + " and store" * (part[0] in _STORES), []).append(process.pid)
    return found


@dataclass(slots=True)
class Watcher:
    """Samples the lab, and the page that shows it."""

    page: Any
    server: Server
    series: Series = field(default_factory=Series)
    _began: float = field(default_factory=time.monotonic)
    _drawn: tuple[float, int] = (0.0, 0)
    _cpu_s: dict[str, float] = field(default_factory=dict)
    _session: Any = None

    def sample(self) -> dict[str, float]:
        """Everything now, as another row."""
        now_s = time.monotonic() - self._began
        row = {"t_s": now_s}
        for part, pids in parts(self.server.pid).items():
            seen = [one for pid in pids if (one := of_process(pid))]
            for name in ("memory, MB", "descriptors", "threads"):
                row[f"{part}: {name}"] = sum(one[name] for one in seen)
        row["JupyterLab: memory, MB"] = of_process(self.server.pid).get("memory, MB", 0.0)
        row |= self._browser(now_s)
        asked = time.monotonic()
        told = ask(self.page, f"({KEPT_BYTES}, {PROGRESS})")
        if told != "?":
            kept, done, failed = ast.literal_eval(told)
            row |= {"kept for the charts, MB": kept / 1e6, "kernel's answer, ms": (time.monotonic() - asked) * 1e3}
            if "kernel: memory, MB" in row:
                row[WITHOUT_KEPT] = row["kernel: memory, MB"] - kept / 1e6
            row |= {"requests": done, "failed": failed}
        self.series.rows.append(row)
        self.series.save()
        return row

    def _browser(self, now_s: float) -> dict[str, float]:
        if self._session is None:
            self._session = self.page.context.new_cdp_session(self.page)
            self._session.send("Performance.enable")
        self._session.send("HeapProfiler.collectGarbage")
        told = {one["name"]: one["value"] for one in self._session.send("Performance.getMetrics")["metrics"]}
        drawn = int(self.page.evaluate("() => document.querySelector('.lk-board')?.dataset.draws ?? 0"))
        before_s, before = self._drawn
        self._drawn = (now_s, drawn)
        found = {
            "browser: JS heap, MB": told["JSHeapUsedSize"] / 1e6,
            "browser: DOM nodes": told["Nodes"] - int(self.page.evaluate(LISTED)),
            "browser: event listeners": told["JSEventListeners"],
        }
        if before_s:
            found["browser: pictures per s"] = (drawn - before) / (now_s - before_s)
        return found


def execute(page: Any, code: str) -> None:
    """Run code in the notebook's kernel."""
    if wrong := page.evaluate(EXECUTE, [code, _ANSWER_MS]):
        raise SystemExit(f"in the kernel, {code.strip()!r}: {wrong}")


def ask(page: Any, expression: str) -> str:
    """An expression's value there, as Python shows it; ``?`` where no answer came (one is lost with a websocket)."""
    told = str(page.evaluate(ASK, [expression, _ANSWER_MS]))
    if told.startswith("!"):
        raise SystemExit(f"in the kernel, {expression!r}: {told[1:]}")
    return told


# --- the afternoon ---


@dataclass(frozen=True, slots=True)
class Afternoon:
    """What is played.

    Attributes:
        seconds: of the wall.
        compress: by how much closer the steps come.
        splits: that take turns.
    """

    seconds: float
    compress: float
    splits: Sequence[str]

    def steps(self) -> Iterator[tuple[float, str]]:
        """When and what: ``split``, ``pin``, ``kill``, ``restart``; in order, the last of them well before the end."""
        every = {"split": RESPLIT_S, "pin": PIN_S, "kill": KILL_S}
        times = [  # a kill lies between two re-splits: one of the same instant ends the worker that is to be started again
            ((n * gap_s - RESPLIT_S / 3 * (kind == "kill")) / self.compress, kind)
            for kind, gap_s in every.items()
            for n in range(1, 1 + int(self.seconds * self.compress / gap_s))
        ]
        times += [(t + 15.0, "restart") for t, kind in times if kind == "kill"]
        yield from ((t, kind) for t, kind in sorted(times) if t < self.seconds - 20.0)


def play(page: Any, watcher: Watcher, afternoon: Afternoon) -> dict[str, int]:
    """Carry the steps out and sample between them; how many of each were done."""
    began, steps, done, killed = time.monotonic(), list(afternoon.steps()), dict[str, int](), ""
    next_sample = 0.0
    while (now := time.monotonic() - began) < afternoon.seconds:
        if steps and steps[0][0] <= now:
            kind = steps.pop(0)[1]
            if kind == "split":
                execute(page, f"exploration.apply({afternoon.splits[done.get('split', 0) % len(afternoon.splits)]!r})")
            elif kind == "pin":
                execute(page, "exploration.pin()")
            elif kind == "kill":
                killed, pid = ask(page, VICTIM).strip("'").split()
                os.kill(int(pid), signal.SIGKILL)
            else:
                execute(page, f"exploration.restart({killed!r})")
            done[kind] = done.get(kind, 0) + 1
        elif now >= next_sample:
            row = watcher.sample()
            next_sample = max(next_sample + SAMPLE_S, time.monotonic() - began)
            if len(watcher.series.rows) % 6 == 0:
                done_now, kernel_mb = row.get("requests", 0.0), row.get("kernel: memory, MB", 0.0)
                print(f"{now:6.0f} s  {done_now:10,.0f} requests  kernel {kernel_mb:.0f} MB", flush=True)
        else:
            page.wait_for_timeout(200)
    return done


def show(run: Path) -> tuple[float, float, float]:
    """`labkit show`, in a process of its own: seconds, CPU seconds and peak memory in GB."""
    command = [sys.executable, "-m", "labkit.cli.main", "show", str(run)]
    began = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert child.stdout is not None
    said = child.stdout.read()
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"labkit show failed:\n{said.decode()}")
    return time.perf_counter() - began, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024 / 1e9


def soak(afternoon: Afternoon, split: str, rate: float, osl: int, folder: Path) -> tuple[Series, dict[str, int], list[Value]]:
    """All of it."""
    results = folder / "results"
    with jupyterlab(folder / "lab") as server, chromium(folder / "profile") as page:
        step_s = (CONCURRENCY / (MARGIN * rate) - AROUND_S) / (osl + MORE_STEPS)
        cell = SETUP.format(concurrency=CONCURRENCY, step_s=step_s, osl=osl, split=split, results=str(results))
        page.set_default_timeout(180_000)
        open_notebook(page, server.notebook("soak.ipynb", cell))
        run_all(page)
        page.wait_for_selector(".lk-board[data-draws]", timeout=180_000)
        page.locator(".lk-grid").scroll_into_view_if_needed()
        watcher = Watcher(page, server)
        done = play(page, watcher, afternoon)
        failed = ask(page, "[one.text for one in exploration.said if one.kind == 'failed']")
        began = time.monotonic()
        execute(page, "explorer.close(); exploration.close(); lab.close()")
        closed_s = time.monotonic() - began
    seconds, cpu_s, peak_gb = show(results / "soak")
    series = watcher.series
    requests = int(series.column("requests")[1][-1])
    enough = requests >= 1_000_000
    print(f"orders that failed: {failed}")
    values = [
        Value("requests", requests, "", None, "10⁶", enough),
        Value("failed requests (a worker is killed now and then)", float(series.column("failed")[1][-1]), ""),
        Value("closing the lab, its run kept", round(closed_s, 1), "s"),
        Value("labkit show", round(seconds, 2), "s", None, f"≤ {MOST_SHOW_S:g} for 10⁶ requests", seconds <= MOST_SHOW_S),
        Value("labkit show, CPU", round(cpu_s, 2), "s"),
        Value("labkit show, peak memory", round(peak_gb, 2), "GB", None, f"≤ {MOST_SHOW_GB:g}", peak_gb <= MOST_SHOW_GB),
        Value("orders that failed", 0 if failed == "[]" else failed.count("', '") + 1, "", None, "0", failed == "[]"),
    ]
    return series, done, values


# --- what is said of it ---


def judged(series: Series) -> list[tuple[str, Slope]]:
    """Every quantity that can be, with its slope."""
    kept = [name for name in series.names if name not in ("requests", "failed")]
    return [(name, found) for name in kept if (found := slope(*series.column(name))) is not None]


def report(series: Series, done: dict[str, int], values: list[Value], about: str) -> int:
    """The table and the file; 1 where something of the lab's own grows, or charts are not live at the end."""
    table = Table(title=about)
    for heading in ("", "level", "per hour", "95 % interval", ""):
        table.add_column(heading, justify="left" if not heading else "right")
    own = ("kernel", "load shard", "telemetry", "browser")
    for name, found in judged(series):
        steady = name.startswith(own) and name != "kernel: memory, MB" and "pictures" not in name and "answer" not in name
        verdict = found.is_level if steady else None
        mark = "" if verdict is None else "level" if verdict else "GROWS"
        table.add_row(name, f"{found.level:,.1f}", f"{found.per_hour:+,.2f}", f"{found.low:+,.2f} – {found.high:+,.2f}", mark)
        target = "level" if steady else None
        values.append(Value(f"{name}, median after warm-up", round(found.level, 2), ""))
        values.append(Value(f"{name}, slope", round(found.per_hour, 3), "per h", None, target, verdict))
        values.append(Value(f"{name}, slope, low", round(found.low, 3), "per h"))
        values.append(Value(f"{name}, slope, high", round(found.high, 3), "per h"))
    _, pictures = series.column("browser: pictures per s")
    last = float(np.median(pictures[-3:])) if len(pictures) else 0.0
    values.append(Value("pictures at the end", round(last, 2), "/s", None, "≥ 3", bool(last >= 3.0)))
    values += [Value(f"{kind}s", count, "") for kind, count in done.items()]
    values.append(Value("minutes on the wall", round(series.rows[-1]["t_s"] / 60, 1), "min"))
    console = Console(width=140)
    console.print(table)
    for value in values:
        if value.target and not value.name.endswith("slope"):
            console.print(f"{value.name}: {value.value} {value.unit} (target {value.target}) {'✓' if value.holds else '✗'}")
    console.print(f"[dim]{write('soak', values)}[/dim]")
    return 0 if all(value.holds is not False for value in values) else 1


def main(argv: Sequence[str] | None = None) -> int:
    """Play it and say what was seen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0, help="of the afternoon")
    parser.add_argument("--compress", type=float, default=1.0, help="times less on the wall")
    parser.add_argument("--requests", type=int, default=1_000_000, help="in all")
    parser.add_argument("--osl", type=int, default=2)
    parser.add_argument("--split", default="2P2D")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # everything that was started ends with this
    options, _ = parser.parse_known_args(argv)  # `make bench` hands every benchmark the same arguments
    if (missing := no_browser()) is not None:
        raise SystemExit(missing)
    seconds = options.minutes * 60.0 / options.compress
    rate = round(options.requests / seconds, 1)
    splits = ("1P3D", "4A", "3P1D", options.split)
    about = f"{options.minutes:g} min of afternoon in {seconds / 60:g} min, {rate:g} requests/s of {options.osl} tokens"
    print(about, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        found = soak(Afternoon(seconds, options.compress, splits), options.split, rate, options.osl, Path(folder))
    return report(*found, about=about)


if __name__ == "__main__":
    sys.exit(main())
