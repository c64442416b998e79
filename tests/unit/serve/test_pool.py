"""Workers start together, tell their progress, and end together; one that cannot start is explained."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from labkit.errors import LaunchError
from labkit.serve.engines.base import EngineOptions, Place
from labkit.serve.hardware import assign
from labkit.serve.hosts import LocalHost
from labkit.serve.pool import Pool, Progress
from labkit.serve.requests import is_up
from tests.support.fake_engine import MODEL, FakeEngine, fake_node, log_file
from tests.support.waiting import marked, until

Launch = Callable[..., Pool]


def places(workers: int) -> list[Place]:
    return [Place(f"w{index}", 1, held) for index, held in enumerate(assign([1] * workers, fake_node()))]


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def launch(engine: FakeEngine, tmp_path: Path, said: list[str]) -> Iterator[Launch]:
    pools: list[Pool] = []

    def begin(
        workers: int = 2, *, ready_timeout_s: float = 20.0, options: EngineOptions | None = None, progress: Progress | None = None
    ) -> Pool:
        pool = Pool(
            engine, MODEL, logs=tmp_path / "logs", otlp_endpoint=None, progress=progress or said.append,
            ready_timeout_s=ready_timeout_s, hosts=LocalHost(fake_node()),
        )  # fmt: skip
        pools.append(pool)
        pool.start(places(workers), options or EngineOptions())
        return pool

    yield begin
    for pool in pools:
        pool.close()


def test_all_are_ready_and_told_in_stages(launch: Launch, engine: FakeEngine, said: list[str], tmp_path: Path):
    engine.everywhere = ["--wait-for", str(tmp_path / "go")]
    telling = threading.Thread(
        target=lambda: (until(lambda: sum("reading" in line for line in said) == 3), (tmp_path / "go").touch())
    )
    telling.start()
    pool = launch(3)
    telling.join()
    assert [worker.name for worker in pool.workers] == ["w0", "w1", "w2"]
    assert len({worker.url for worker in pool.workers}) == 3
    assert all(is_up(worker.url) for worker in pool.workers)
    assert pool.dead == ()
    for name in ("w0", "w1", "w2"):
        mine = [line for line in said if line.startswith(f"{name}: ")]
        assert mine[0] == f"{name}: starting"
        assert mine[-1].startswith(f"{name}: ready after ")
        assert any("reading arguments" in line for line in mine[:-1])
        assert (tmp_path / "logs" / f"{name}.log").is_file()
    pool.close()
    assert not marked(engine.mark)
    pool.close()


def test_a_long_silence_is_told_and_lines_come_one_at_a_time(
    launch: Launch, engine: FakeEngine, said: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("labkit.serve.pool._SILENCE_S", 0.2)
    engine.everywhere = ["--wait-for", str(tmp_path / "go")]
    within, overlaps = threading.Lock(), []

    def tell(line: str) -> None:
        overlaps.append(not within.acquire(blocking=False))
        said.append(line)
        if all(sum(f"{name}: still reading arguments (" in line for line in said) > 1 for name in ("w0", "w1", "w2")):
            (tmp_path / "go").touch()
        within.release()

    launch(3, progress=tell)
    assert len(overlaps) > 12
    assert not any(overlaps)


def test_options_reach_the_workers(launch: Launch):
    pool = launch(1, options=EngineOptions(extra_args=("--model", "other"), extra_env={"SEEN": "1"}))
    environ = Path(f"/proc/{pool.workers[0].tree.pid}/environ").read_bytes().split(b"\0")
    assert b"SEEN=1" in environ
    assert pool.workers[0].tree.argv[-2:] == ("--model", "other")


def test_one_that_dies_is_explained_and_the_others_end(launch: Launch, engine: FakeEngine, tmp_path: Path):
    log = "(EngineCore pid=3) ERROR 11-23 18:11:30 [core.py:1] torch.OutOfMemoryError: CUDA out of memory."
    engine.faults = {
        "w0": ["--never-ready"],
        "w1": ["--say", log_file(tmp_path, log), "--exit", "1"],
    }
    with pytest.raises(LaunchError) as raised:
        launch(3, ready_timeout_s=600.0)
    assert not marked(engine.mark)
    what = raised.value.what
    assert "w1 died while" in what
    assert "torch.OutOfMemoryError: CUDA out of memory." in what
    assert "worker --port" in what.partition("command: ")[2]
    assert str(tmp_path / "logs" / "w1.log") in what
    assert "does not fit" in raised.value.remedy


def test_one_that_is_never_ready_is_given_up(launch: Launch, engine: FakeEngine):
    engine.faults = {"w1": ["--never-ready"]}
    with pytest.raises(LaunchError, match=r"w1 was not ready after 0\.6 s \(last stage: starting the server\)") as raised:
        launch(2, ready_timeout_s=0.6)
    assert "ready_timeout_s" in raised.value.remedy


@pytest.mark.parametrize(
    ("options", "cause", "remedy"),
    [
        (["--exit", "0"], "exited with code 0 and no error in its log", "read the whole log"),
        (["--exit", "-9"], "killed by SIGKILL", "out-of-memory killer"),
        (["--exit", "-4"], "killed by SIGILL", "float32"),
        (["--no-such-flag"], "error: unrecognized arguments: --no-such-flag", "extra_args"),
    ],
)
def test_ends_without_an_exception(launch: Launch, engine: FakeEngine, options: list[str], cause: str, remedy: str):
    engine.faults = {"w0": options}
    with pytest.raises(LaunchError) as raised:
        launch(1)
    assert cause in raised.value.what
    assert remedy in raised.value.remedy


def test_a_missing_executable_ends_those_that_run(launch: Launch, engine: FakeEngine):
    engine.python = "/nowhere/python"
    with pytest.raises(LaunchError, match="w0 cannot be started: /nowhere/python"):
        launch(2)


def test_a_worker_that_dies_later_is_among_the_dead(launch: Launch):
    pool = launch(2)
    os.kill(pool.workers[1].tree.pid, signal.SIGKILL)
    until(lambda: pool.dead, "the death")
    (dead,) = pool.dead
    assert dead.name == "w1"
    assert "w1 died while serving: it was killed by SIGKILL" in dead.failure("serving").what
    pool.close()


def test_an_interrupt_while_starting_leaves_nothing(engine: FakeEngine, tmp_path: Path):
    def interrupt(line: str) -> None:
        raise KeyboardInterrupt

    pool = Pool(
        engine, MODEL, logs=tmp_path, otlp_endpoint=None, progress=interrupt, ready_timeout_s=20.0, hosts=LocalHost(fake_node())
    )
    with pytest.raises(KeyboardInterrupt):
        pool.start(places(2), EngineOptions())
    assert not marked(engine.mark)
    assert pool.workers == pool.dead == ()
    pool.close()
