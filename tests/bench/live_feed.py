"""What a watch costs: a load shard's CPU with it against without, in turns, and the tick of the window that takes it in.

A shard follows ``--streams`` streams of a token every 20 ms from the mock server; the watch reads its live copy four times a
second, as a lab's does, in this process.

    python tests/bench/live_feed.py [--streams 240] [--seconds 8] [--repeats 3]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

from report import Value, write  # noqa: E402

from labkit.lab.load_agent import LoadAgent  # noqa: E402
from labkit.live.window import LiveWindow  # noqa: E402
from labkit.spec import Workload  # noqa: E402

TICK_S, ISL, OSL = 0.25, 64, 100


class Looker:
    """Reads and ticks on a thread of its own until it is ended."""

    def __init__(self, agent: LoadAgent, number: int) -> None:
        self._agent, self._number = agent, number
        self._window = LiveWindow(since_ns=time.perf_counter_ns())
        self._ended = threading.Event()
        self.cost_ms: list[float] = []
        self.gaps = self.lost = 0
        agent.watch(number)
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def end(self) -> None:
        self._ended.set()
        self._thread.join()
        self._agent.watch(0)

    def _look(self) -> None:
        while not self._ended.wait(TICK_S):
            before = time.thread_time()
            for batch in self._agent.feed.read(self._number):
                self._window.add(batch)
            stats = self._window.tick(self._window.horizon_ns(time.perf_counter_ns()), accelerators=1).stats
            self.cost_ms.append((time.thread_time() - before) * 1e3)
            self.gaps, self.lost = max(self.gaps, stats.gaps), stats.lost


def main() -> None:
    """Print CPU seconds of each run, the ratios and the ticks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=240)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--repeats", type=int, default=3)
    asked, _ = parser.parse_known_args()  # `make bench` hands every benchmark the same arguments
    with tempfile.TemporaryDirectory() as folder:
        server = subprocess.Popen(
            [sys.executable, str(HERE / "mock_server.py"), "--log", f"{folder}/log.npz"], stdout=subprocess.PIPE, text=True
        )
        assert server.stdout is not None
        url = f"http://127.0.0.1:{server.stdout.readline().strip()}"
        try:
            values = compare(url, Path(folder), asked.streams, asked.seconds, asked.repeats)
        finally:
            server.terminate()
            server.wait()
            server.stdout.close()
    print(f"written to {write('live_feed', values)}")


def compare(url: str, folder: Path, streams: int, seconds: float, repeats: int) -> list[Value]:
    """Runs without and with a watch, in turns; the order changes from pair to pair."""
    ratios, median_ms, most_ms, lost = [], list[float](), list[float](), 0
    with LoadAgent.start(folder) as agent:
        agent.target(0, url, "mock", vocab=4096)
        first = 0
        for pair in range(repeats):
            cpu_s: dict[bool, float] = {}
            for watched in (False, True) if pair % 2 else (True, False):
                looker = Looker(agent, 2 * pair + 1) if watched else None
                load = Workload(isl=ISL, osl=OSL, concurrency=streams, duration_s=seconds)
                result = agent.run(2 * pair + watched, load, first_request=first).wait(120)
                first, cpu_s[watched] = result.next_request, result.cpu_s
                if looker is not None:
                    looker.end()
                    ticks = sorted(looker.cost_ms[-int(seconds / TICK_S / 2) :])
                    median_ms.append(statistics.median(ticks))
                    most_ms.append(ticks[-1])
                    lost += looker.lost
                    print(
                        f"  tick: median {median_ms[-1]:.1f} ms, most {ticks[-1]:.1f} ms of CPU, "
                        f"with {looker.gaps} gaps in the window; {looker.lost} batches lost"
                    )
            ratios.append(cpu_s[True] / cpu_s[False])
            print(f"  shard: {cpu_s[False]:.2f} s without, {cpu_s[True]:.2f} s with a watch: {ratios[-1]:.3f}")
    print(f"shard's CPU with a watch / without, {streams / 0.02:.0f} chunks/s: median {statistics.median(ratios):.3f}")
    return [
        Value("chunks of the load", round(streams / 0.02), "/s"),
        Value("shard's CPU, watched / not, median", round(statistics.median(ratios), 3), "", "the same load without a watch"),
        *(Value(f"the same of pair {pair}", round(ratio, 3), "") for pair, ratio in enumerate(ratios, 1)),
        Value("CPU of a tick, median", round(statistics.median(median_ms), 1), "ms"),
        Value("CPU of a tick, most", round(max(most_ms), 1), "ms"),
        Value("batches lost", lost, "", None, "0", lost == 0),
    ]


if __name__ == "__main__":
    main()
