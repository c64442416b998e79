from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from labkit.telemetry.host import HOST, LAB, HostSampler

TICK_S = 1 / os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


class FakeProc:
    """A /proc of our own, with a clock: processes, CPU ticks of two cores, memory, load."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.now_ns = 10**12
        self.ticks = [[0, 0, 0, 1000, 0, 0, 0, 0, 0, 0] for _ in range(2)]
        (path / "meminfo").write_text("MemTotal: 1000 kB\nMemFree: 10 kB\nMemAvailable: 400 kB\nHugePages_Total: 0\n")
        (path / "loadavg").write_text("1.25 0.9 0.4 1/100 4242\n")
        self.spend()

    def clock(self) -> int:
        return self.now_ns

    def spend(self, **ticks: int) -> None:
        """Ticks of core 0; the rest of the time is idle on both cores."""
        names = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
        for name, value in ticks.items():
            self.ticks[0][names.index(name)] += value
        lines = [f"cpu  {' '.join(str(a + b) for a, b in zip(*self.ticks, strict=True))}"]
        lines += [f"cpu{i} {' '.join(map(str, core))}" for i, core in enumerate(self.ticks)]
        (self.path / "stat").write_text("\n".join([*lines, "intr 5 5", "ctxt 1"]) + "\n")

    def process(
        self, pid: int, *, parent: int, session: int, cpu: int = 0, rss: int = 1, started: int = 7, state: str = "S"
    ) -> None:
        fields = [
            state,
            parent,
            session,
            session,
            0,
            -1,
            0,
            0,
            0,
            0,
            0,
            cpu - cpu // 2,
            cpu // 2,
            0,
            0,
            20,
            0,
            3,
            0,
            started,
            0,
            rss,
        ]
        (self.path / str(pid)).mkdir(exist_ok=True)
        (self.path / str(pid) / "stat").write_text(f"{pid} (a) b) c) {' '.join(map(str, fields))} 0 0\n")

    def vanish(self, pid: int) -> None:
        (self.path / str(pid) / "stat").unlink()
        (self.path / str(pid)).rmdir()


@pytest.fixture
def proc(tmp_path: Path) -> FakeProc:
    proc = FakeProc(tmp_path)
    proc.process(100, parent=1, session=100)  # the kernel
    proc.process(200, parent=100, session=200, rss=10)  # a worker with its core, below a supervisor of the lab
    proc.process(201, parent=200, session=200, rss=20)
    proc.process(300, parent=1, session=300)  # somebody else
    return proc


@pytest.fixture
def sampler(proc: FakeProc) -> HostSampler:
    sampler = HostSampler([100], proc=proc.path, clock=proc.clock)
    sampler.watch({"w0": 200})
    return sampler


def test_the_members_of_trees_are_those_of_the_last_look(proc: FakeProc, sampler: HostSampler) -> None:
    assert sampler.members(["w0"]) == frozenset()
    sampler.read()
    assert sampler.members(["w0", "unknown"]) == {200, 201}
    assert sampler.members([LAB]) == {100}


def test_the_first_reading_has_no_rates(sampler: HostSampler) -> None:
    reading = sampler.read()
    assert reading.values["w0"] == {"processes": 2, "rss_bytes": 30 * PAGE, "threads": 6}
    assert reading.values[HOST] == {
        "memory_total_bytes": 1000 * 1024,
        "memory_available_bytes": 400 * 1024,
        "memory_used_bytes": 600 * 1024,
        "load_1m": 1.25,
    }


def test_cores_and_shares_are_over_the_time_between_two_readings(proc: FakeProc, sampler: HostSampler) -> None:
    sampler.read()
    proc.now_ns += 10**9
    proc.process(200, parent=100, session=200, cpu=30, rss=10)
    proc.process(201, parent=200, session=200, cpu=20, rss=20)
    proc.process(100, parent=1, session=100, cpu=5)
    proc.process(300, parent=1, session=300, cpu=15)
    proc.spend(user=60, system=10, idle=110, iowait=10, steal=10)
    reading = sampler.read()
    assert reading.values["w0"]["cpu_cores"] == pytest.approx(50 * TICK_S)
    assert reading.values[LAB]["cpu_cores"] == pytest.approx(5 * TICK_S)
    host = reading.values[HOST]
    assert host["cpu_busy_fraction"] == pytest.approx(0.35)
    assert host["cpu_iowait_fraction"] == pytest.approx(0.05)
    assert host["cpu_steal_fraction"] == pytest.approx(0.05)
    assert host["core0_busy_fraction"] == pytest.approx(0.35)
    assert "core1_busy_fraction" not in host  # its counters stand still
    assert host["foreign_cpu_cores"] == pytest.approx((70 - 55) * TICK_S)
    assert not reading.missing


def test_a_vanished_child_is_no_error_and_a_vanished_tree_has_a_reason(proc: FakeProc, sampler: HostSampler) -> None:
    sampler.read()
    proc.vanish(201)
    proc.now_ns += 10**8
    assert sampler.read().values["w0"]["processes"] == 1
    proc.vanish(200)
    proc.now_ns += 10**8
    reading = sampler.read()
    assert reading.values["w0"] == {"processes": 0}
    assert reading.missing == {"w0": "no process left of the tree of pid 200"}


def test_an_orphan_still_belongs_to_its_worker(proc: FakeProc, sampler: HostSampler) -> None:
    sampler.read()
    proc.vanish(200)
    proc.process(201, parent=1, session=200, rss=20)
    proc.now_ns += 2 * 10**9
    assert sampler.read().values["w0"]["rss_bytes"] == 20 * PAGE


def test_a_zombie_and_a_pid_used_again_do_not_count(proc: FakeProc, sampler: HostSampler) -> None:
    sampler.read()
    proc.process(200, parent=100, session=200, state="Z")
    proc.process(201, parent=1, session=900, cpu=99, started=8)
    proc.now_ns += 10**8
    assert sampler.read().values["w0"] == {"processes": 0}


def test_a_child_born_later_is_found_at_the_next_look(proc: FakeProc, sampler: HostSampler) -> None:
    sampler.read()
    proc.process(202, parent=201, session=202)
    proc.now_ns += 10**8
    assert sampler.read().values["w0"]["processes"] == 2
    proc.now_ns += 10**9
    assert sampler.read().values["w0"]["processes"] == 3


def test_watching_others_takes_effect_at_once(proc: FakeProc, sampler: HostSampler) -> None:
    sampler.read()
    sampler.watch({"w1": 300})
    reading = sampler.read()
    assert "w0" not in reading.values
    assert reading.values["w1"]["processes"] == 1
    assert reading.values[LAB]["processes"] == 3


def test_a_node_without_counters_says_so(proc: FakeProc, sampler: HostSampler) -> None:
    (proc.path / "stat").write_text("")
    (proc.path / "meminfo").unlink()
    reading = sampler.read()
    assert set(reading.missing) == {"host/cpu_busy_fraction", "host/memory_used_bytes"}
    assert reading.values[HOST] == {"load_1m": 1.25}


def test_a_real_tree_is_read_and_its_death_survived() -> None:
    child = "import subprocess, sys\nprint(subprocess.Popen([sys.executable, '-c', 'input()']).pid, flush=True)\ninput()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", child], start_new_session=True, **pipes) as root:  # type: ignore[call-overload]
        grandchild = os.pidfd_open(int(root.stdout.readline()))
        sampler = HostSampler()
        sampler.watch({"w0": root.pid})
        reading = sampler.read()
        assert reading.values["w0"]["processes"] == 2
        assert reading.values["w0"]["rss_bytes"] > 2**20
        assert reading.values[LAB]["processes"] >= 1
        os.killpg(root.pid, signal.SIGKILL)
        root.wait()
        assert select.select([grandchild], [], [], 30)[0]
        os.close(grandchild)
    assert sampler.read().missing == {"w0": f"no process left of the tree of pid {root.pid}"}
