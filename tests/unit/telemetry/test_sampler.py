from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

import httpx
import pynvml
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labkit.telemetry.sampler import Sampler, WatchedWorker, next_tick
from labkit.telemetry.spans import Progress, RequestSpan

Configure = Callable[[str], None]


class Sink:
    """Keeps everything, and lets a test wait for something to have come."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, str, dict[str, float]]] = []
        self.notes: list[str] = []
        self.all_spans: list[RequestSpan] = []
        self._news = asyncio.Event()

    def samples(self, t_ns: int, source: str, values: Mapping[str, float]) -> None:
        self.rows.append((t_ns, source, dict(values)))
        self._news.set()

    def spans(self, spans: Sequence[RequestSpan]) -> None:
        self.all_spans += spans
        self._news.set()

    def note(self, t_ns: int, text: str) -> None:
        self.notes.append(text)
        self._news.set()

    def progress(self, step: Progress) -> None:
        self._news.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                self._news.clear()
                await self._news.wait()

    def of(self, source: str) -> list[dict[str, float]]:
        return [values for _, name, values in self.rows if name == source]


def sample(
    test: Callable[[Sampler, Sink], Awaitable[None]], *, gpus: Sequence[int] | None = (), hz: float = 50.0, **options: float
) -> Sink:
    async def run() -> Sink:
        sink = Sink()
        sampler = Sampler(sink, gpus=gpus, nvml_hz=hz, host_hz=hz, prometheus_hz=hz, **options)
        await sampler.start()
        try:
            await test(sampler, sink)
        finally:
            await sampler.stop()
        return sink

    return asyncio.run(run())


@given(
    start=st.integers(0, 10**15), period=st.integers(1, 10**10), tick=st.integers(0, 10**6), late=st.integers(-(10**10), 10**12)
)
def test_a_late_tick_is_skipped_and_never_made_up(start: int, period: int, tick: int, late: int) -> None:
    now = start + tick * period + late
    following, skipped = next_tick(start, period, tick, now)
    assert following == tick + 1 + skipped
    assert skipped >= 0
    if skipped:
        assert start + (following - 1) * period < now <= start + following * period


def test_a_tick_in_time_is_followed_by_the_next() -> None:
    assert next_tick(0, 100, 3, 310) == (4, 0)
    assert next_tick(0, 100, 3, 400) == (4, 0)
    assert next_tick(0, 100, 3, 655) == (7, 3)


def test_two_gpus_are_sampled_through_the_real_binding(fake_nvml: Configure) -> None:
    async def test(sampler: Sampler, sink: Sink) -> None:
        await sink.until(lambda: len(sink.of("gpu0")) > 2 and len(sink.of("gpu1")) > 2)
        assert not [key for key in sampler.missing if key.startswith("gpu")]

    sink = sample(test, gpus=None)
    assert sink.of("gpu1")[-1]["sm_occupancy_fraction"] == pytest.approx(0.31)
    assert not sink.notes
    instants = [t for t, source, _ in sink.rows if source == "gpu0"]
    assert instants == sorted(set(instants))


def test_a_gpu_lost_on_the_way_is_noted_once_and_so_is_its_return(fake_nvml: Configure) -> None:
    async def test(sampler: Sampler, sink: Sink) -> None:
        await sink.until(lambda: len(sink.of("gpu0")) > 2)
        fake_nvml("error nvmlDeviceGetPowerUsage:0 15\n")
        await sink.until(lambda: bool(sink.notes))
        assert sampler.missing["gpu0/power_w"] == "the GPU is lost (fell off the bus)"
        seen = len(sink.of("gpu0"))
        await sink.until(lambda: len(sink.of("gpu0")) > seen + 3)
        fake_nvml("")
        await sink.until(lambda: len(sink.notes) > 1)

    sink = sample(test, gpus=[0])
    assert sink.notes == ["gpu0/power_w: the GPU is lost (fell off the bus)", "gpu0/power_w: answers again"]


@pytest.mark.parametrize(
    ("code", "why"),
    [
        (1, "NVML is not initialised"),
        (3, "this card does not report it"),
        (4, "no permission to read it"),
        (9, "the NVIDIA driver is installed but not loaded"),
        (10, "the GPU does not answer in time"),
        (13, "this driver's NVML does not know it"),
        (15, "the GPU is lost (fell off the bus)"),
        (18, "NVML and the loaded driver differ in version: reload the driver or reboot"),
        (999, "NVML reports an unknown error"),
    ],
)
def test_a_gpu_that_answers_nothing_more_is_told_in_one_line_with_its_remedy_and_read_again(
    fake_nvml: Configure, code: int, why: str
) -> None:
    async def test(sampler: Sampler, sink: Sink) -> None:
        await sink.until(lambda: len(sink.of("gpu0")) > 2 and len(sink.of("gpu1")) > 2)
        fake_nvml(f"error *:1 {code}\n")
        await sink.until(lambda: bool(sink.notes))
        assert sampler.missing["gpu1"] == why
        seen = len(sink.of("gpu0"))
        await sink.until(lambda: len(sink.of("gpu0")) > seen + 3)
        assert "power_w" in sink.of("gpu0")[-1]
        assert sink.of("gpu1")[-1] == {}
        fake_nvml("")
        await sink.until(lambda: sink.notes[-1] == "gpu1: answers again")
        await sink.until(lambda: "sm_active_fraction" in sink.of("gpu1")[-1])

    note = sample(test, gpus=None).notes[0]
    assert note.startswith(f"gpu1: {why} → ")


def test_nvml_is_opened_again_where_no_gpu_answers_and_says_why_it_is_not(fake_nvml: Configure) -> None:
    mismatch = "NVML and the loaded driver differ in version: reload the driver or reboot"

    async def test(sampler: Sampler, sink: Sink) -> None:
        await sink.until(lambda: len(sink.of("gpu0")) > 2)
        fake_nvml("error *:0 1\nerror nvmlInitWithFlags 18\n")
        await sink.until(lambda: sampler.missing.get("gpu0") == mismatch)
        fake_nvml("")
        await sink.until(lambda: sink.notes[-1] == "gpu0: answers again")
        assert "gpu0" not in sampler.missing

    sample(test, gpus=[0])


def test_nvml_that_does_not_return_is_told_and_everything_else_goes_on(fake_nvml: Configure) -> None:
    async def test(sampler: Sampler, sink: Sink) -> None:
        await sink.until(lambda: len(sink.of("gpu0")) > 2)
        fake_nvml("hang nvmlDeviceGetPowerUsage 2500\n")
        await sink.until(lambda: bool(sink.notes))
        assert sampler.missing["gpu0"] == "NVML does not return: a GPU or its driver hangs"
        seen = len(sink.of("host"))
        await sink.until(lambda: len(sink.of("host")) > seen + 3)
        assert "gpu0" in sampler.missing, "the host was read meanwhile"
        fake_nvml("")
        await sink.until(lambda: sink.notes[-1] == "gpu0: answers again")
        assert not [key for key in sampler.missing if key.startswith("gpu")]

    sample(test, gpus=[0], hang_s=0.2)


def test_a_stop_in_the_middle_of_a_reading_gives_nvml_back(fake_nvml: Configure, capfd: pytest.CaptureFixture[str]) -> None:
    before = pynvml._nvmlLib_refcount

    async def test(sampler: Sampler, sink: Sink) -> None:
        await sink.until(lambda: len(sink.of("gpu0")) > 2)
        fake_nvml("hang nvmlDeviceGetPowerUsage 300\n")
        seen = len(sink.of("gpu0"))
        await sink.until(lambda: len(sink.of("gpu0")) > seen)  # and the next reading, a slow one, is on its way

    sample(test, gpus=[0])
    assert pynvml._nvmlLib_refcount == before
    assert "leaked" not in capfd.readouterr().err


def test_a_process_beside_the_workers_is_counted_on_its_gpu(fake_nvml: Configure) -> None:
    fake_nvml(f"pid 0 {os.getpid()}\n")

    async def test(sampler: Sampler, sink: Sink) -> None:
        await sink.until(lambda: len(sink.of("gpu0")) > 1 and _tells(sink, "host", "load_1m"))
        assert not _tells(sink, "gpu0", "foreign_processes"), "before workers are known everybody is a stranger"
        sampler.watch([WatchedWorker("w0", os.getpid())])
        await sink.until(lambda: _tells(sink, "gpu0", "foreign_processes") and _tells(sink, "w0", "processes"))
        seen = len(_told(sink, "gpu0", "foreign_processes"))
        await sink.until(lambda: len(_told(sink, "gpu0", "foreign_processes")) > seen)

    sink = sample(test, gpus=[0])
    assert _told(sink, "gpu0", "foreign_processes")[-1] == 1, "pid 4343; this process is the worker"


def test_a_worker_that_starts_beside_the_others_is_no_stranger(fake_nvml: Configure) -> None:
    """It loads its weights for a minute before it is told of: what the lab has started is the lab's own."""

    async def test(sampler: Sampler, sink: Sink) -> None:
        await sink.until(lambda: len(sink.of("gpu0")) > 1)
        fake_nvml(f"pid 0 {os.getpid()}\n")
        worker = await asyncio.create_subprocess_exec("sleep", "600")
        sampler.watch([WatchedWorker("w0", worker.pid)])
        try:
            await sink.until(lambda: _tells(sink, "gpu0", "foreign_processes") and _tells(sink, "w0", "processes"))
            seen = len(_told(sink, "gpu0", "foreign_processes"))
            await sink.until(lambda: len(_told(sink, "gpu0", "foreign_processes")) > seen)
        finally:
            worker.kill()
            await worker.wait()

    sink = sample(test, gpus=[0])
    assert _told(sink, "gpu0", "foreign_processes")[-1] == 1, "pid 4343; this process is the lab's"


def test_a_load_client_is_sampled_by_its_name_and_is_no_worker() -> None:
    async def test(sampler: Sampler, sink: Sink) -> None:
        sampler.watch([], None, {"load0": os.getpid()})
        await sink.until(lambda: _tells(sink, "load0", "cpu_cores"))
        assert "load0/metrics" not in sampler.missing

    assert _told(sample(test), "load0", "processes")[-1] >= 1


def _told(sink: Sink, source: str, metric: str) -> list[float]:
    return [values[metric] for values in sink.of(source) if metric in values]


def _tells(sink: Sink, source: str, metric: str) -> bool:
    return bool(_told(sink, source, metric))


@pytest.mark.parametrize(
    ("config", "gpus", "missing"),
    [
        ("error nvmlInitWithFlags 9\n", None, {"gpu": "the NVIDIA driver is installed but not loaded"}),
        ("gpus 0\n", None, {"gpu": "the driver sees no GPU"}),
        ("", (), {"gpu": "no GPU was asked for"}),
        ("", (5,), {"gpu5": "GPU 5: NVML: Invalid Argument"}),
    ],
)
def test_no_gpu_has_a_reason_and_the_rest_goes_on(
    fake_nvml: Configure, config: str, gpus: Sequence[int] | None, missing: dict[str, str]
) -> None:
    fake_nvml(config)

    async def test(sampler: Sampler, sink: Sink) -> None:
        await sink.until(lambda: len(sink.of("host")) > 2 and bool(sampler.missing))
        assert sampler.missing == missing

    assert sample(test, gpus=gpus).of("gpu0") == []


class Page:
    """A metrics page that a test can take down, on a real socket."""

    def __init__(self) -> None:
        self.status = 200
        self.hang = False
        self.server: asyncio.Server | None = None

    async def __aenter__(self) -> Page:
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self.server is not None
        self.server.close()

    @property
    def url(self) -> str:
        assert self.server is not None
        return f"http://127.0.0.1:{self.server.sockets[0].getsockname()[1]}/metrics"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                if self.hang:
                    await asyncio.Event().wait()
                body = b"vllm:num_requests_running 3\n"
                writer.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%s" % (self.status, len(body), body))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


def test_a_dead_page_is_a_gap_with_a_note_and_blocks_no_other() -> None:
    async def test(sampler: Sampler, sink: Sink) -> None:
        async with Page() as good, Page() as bad, Page() as stuck:
            stuck.hang = True
            pid = os.getpid()
            sampler.watch(
                [WatchedWorker("w0", pid, good.url), WatchedWorker("w1", pid, bad.url), WatchedWorker("w2", pid)], stuck.url
            )
            await sink.until(lambda: _has(sink, "w0") and _has(sink, "w1"))
            assert sampler.missing["w2/metrics"] == "this worker has no metrics page"
            bad.status = 503
            await sink.until(lambda: "w1/metrics" in sampler.missing)
            assert sampler.missing["w1/metrics"] == f"{bad.url}: HTTP 503"
            seen = len(sink.of("w0"))
            await sink.until(lambda: len(sink.of("w0")) > seen + 5)
            bad.status = 200
            await sink.until(lambda: "w1/metrics" not in sampler.missing)
            bad.status = 503
            await sink.until(lambda: "w1/metrics" in sampler.missing)
            sampler.watch([WatchedWorker("w0", pid, good.url)])
            await sink.until(lambda: len(sink.of("w0")) > seen + 10)
            assert not {"w1/metrics", "w2/metrics"} & set(sampler.missing), "what is not watched any more is not missing"

    sink = sample(test)
    assert sum("HTTP 503" in note for note in sink.notes) == 2
    assert "w1/metrics: answers again" in sink.notes
    assert not _has(sink, "router")


def test_a_worker_that_has_left_is_not_said_to_answer_again() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()

    async def test(sampler: Sampler, sink: Sink) -> None:
        sampler.watch([WatchedWorker("w0", os.getpid()), WatchedWorker("w1", gone.pid)])
        await sink.until(lambda: "w1" in sampler.missing)
        sampler.watch([WatchedWorker("w0", os.getpid())])
        assert "w1" not in sampler.missing
        assert sampler._followed({"w1": "it ended", "w1/cpu_cores": "it ended", "w0": "it ended"}) == {"w0": "it ended"}
        seen = len(sink.of("w0"))
        await sink.until(lambda: len(sink.of("w0")) > seen + 3)
        sampler.watch([WatchedWorker("w0", os.getpid()), WatchedWorker("w1", os.getpid())])
        await sink.until(lambda: bool(sink.of("w1")))

    sink = sample(test)
    assert [note for note in sink.notes if note.startswith("w1:")] == [f"w1: no process left of the tree of pid {gone.pid}"]


def _has(sink: Sink, source: str) -> bool:
    return any(values.get("vllm:num_requests_running") == 3 for values in sink.of(source))


def test_a_worker_whose_process_is_not_known_has_no_cpu_and_a_reason() -> None:
    async def test(sampler: Sampler, sink: Sink) -> None:
        sampler.watch([WatchedWorker("far", None), WatchedWorker("near", os.getpid())])
        await sink.until(lambda: len(sink.of("near")) >= 2)
        assert "not known here" in sampler.missing["far"]

    sink = sample(test)
    assert not sink.of("far")


def test_spans_arrive_and_settling_ends_when_it_is_quiet(fixtures: Path) -> None:
    body = (fixtures / "otlp_vllm_0.31_prefill_worker.bin").read_bytes()

    async def test(sampler: Sampler, sink: Sink) -> None:
        async with httpx.AsyncClient(trust_env=False) as client:
            await client.post(sampler.receiver.endpoint, content=body, headers={"Content-Type": "application/x-protobuf"})
        await sampler.settle(0.05, 10.0)

    assert {span.worker for span in sample(test).all_spans} == {"w0"}


def test_it_reports_its_own_cost() -> None:
    async def test(sampler: Sampler, sink: Sink) -> None:
        await sink.until(lambda: len(sink.of("telemetry")) > 1)

    own = sample(test).of("telemetry")[-1]
    assert 0 < own["cpu_cores"] < 1
    assert own["skipped_ticks_total"] >= 0
