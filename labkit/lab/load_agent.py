"""A load shard as a process: the handle that the lab holds, and the process itself (``python -m labkit.lab.load_agent``).

The two speak JSON lines over the process's stdin and stdout; keys travel there and nowhere else. The shard appends its own
segments (``segments/requests-shardN.arrows``, ``segments/chunks-shardN.arrows``), so a slow or dead parent costs pictures,
never records; what it shows to who watches goes through a pipe of its own (``load.feed``). The end of stdin means stop, flush
and exit, whatever became of the parent; SIGINT is the parent's affair.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NoReturn, Self

import labkit
from labkit.errors import LabError, LoadError
from labkit.load.feed import Feed
from labkit.load.progress import LoadResult, Progress
from labkit.load.target import VLLM, Dialect, Target
from labkit.serve.interrupts import held_back
from labkit.spec import Workload

_START_S: Final = 30.0
_CLOSE_S: Final = 15.0
_SILENT_S: Final = 2.0  # while it sends it tells its progress four times a second
_RESTART: Final = "the run's records up to here are kept; start a new agent"


class LoadRun:
    """One measurement's load, running in the shard.

    Attributes:
        progress: the latest, ``None`` before the first (they come at 4 Hz).
        next_request: the first request id that is free, once nothing more is sent.
    """

    def __init__(self, agent: LoadAgent, measurement: int) -> None:
        self._agent = agent
        self.measurement = measurement
        self.progress: Progress | None = None
        self.result: LoadResult | None = None
        self.error: LoadError | None = None
        self.next_request: int | None = None

    def wait(self, timeout: float | None = None) -> LoadResult:
        """Block until every request has ended.

        Raises:
            LoadError: the load could not be run, the shard died, or ``timeout`` seconds passed.
        """
        self._agent.wait_for(
            lambda: self.result is not None or self.error is not None, timeout, f"the end of measurement {self.measurement}"
        )
        if self.result is None:
            assert self.error is not None
            raise self.error
        return self.result

    @property
    def alive(self) -> bool:
        """Whether the shard is there to end it."""
        return self._agent.alive

    def stop(self) -> None:
        """Send nothing more and cancel what is under way; ``wait`` then returns soon."""
        self._agent.send({"do": "stop", "measurement": self.measurement})

    def finish(self) -> None:
        """Send nothing more and follow what is under way to its end; ``next_request`` is told soon."""
        self._agent.send({"do": "finish", "measurement": self.measurement})

    def must_be_heard(self) -> None:
        """Raise LoadError where the shard has said nothing for seconds, though it should have."""
        silent_s = self._agent.silent_s
        if self.alive and silent_s > _SILENT_S:
            who = f"load shard {self._agent.shard} (process {self._agent.pid})"
            raise LoadError(
                f"{who} has said nothing for {silent_s:.0f} s: it is stopped, or has no CPU",
                remedy="let it go on (kill -CONT), or free cores; what it had recorded is kept",
            )

    @property
    def sends(self) -> bool:
        """Whether it may still send a request."""
        return self.result is None and self.error is None and self.next_request is None


class LoadAgent:
    """Handle of a load shard. Make one with ``start``; a context manager.

    Attributes:
        first_sent: epoch → instant of this shard's first request to it.
        feed: what it sends while it is watched.
    """

    def __init__(self, process: subprocess.Popen[bytes], shard: int, log: Path, changed: threading.Condition, feed: Feed) -> None:
        self.shard, self.feed = shard, feed
        self.pid = process.pid
        self.on_progress: Callable[[Progress], None] | None = None
        self._process, self._log = process, log
        self._changed = changed
        self._send_lock = threading.Lock()
        self._ready = False
        self._gone = False
        self._heard_s = time.monotonic()
        self._runs: dict[int, LoadRun] = {}
        self.first_sent: dict[int, int] = {}
        self._drained: dict[int, int] = {}
        self._refusal: LoadError | None = None
        self._reader = threading.Thread(target=self._read, name=f"load shard {shard}", daemon=True)
        self._reader.start()

    @classmethod
    def start(
        cls,
        run_dir: Path,
        *,
        shard: int = 0,
        cores: Sequence[int] | None = None,
        changed: threading.Condition | None = None,
    ) -> Self:
        """Start the process in a session of its own and wait until it is ready.

        Args:
            run_dir: the run's folder; segments and the shard's log go there.
            shard: number of the shard, unique in the run.
            cores: pin it to these.
            changed: notified of whatever it says; shards that are waited for together share one.

        Raises:
            LoadError: it did not become ready; the cause from its log is named.
        """
        log = run_dir / "logs" / f"load-shard{shard}.log"
        receiving, sending = os.pipe()
        argv = [sys.executable, "-W", "ignore::RuntimeWarning:runpy", "-m", "labkit.lab.load_agent", str(run_dir), str(shard)]
        argv.append(str(sending))
        if cores is not None:
            argv.append(",".join(map(str, cores)))
        home = str(Path(labkit.__file__).parent.parent)
        paths = os.environ.get("PYTHONPATH")
        env = {**os.environ, "PYTHONPATH": os.pathsep.join([home, paths] if paths else [home])}
        env.pop("OPENAI_API_KEY", None)
        with ExitStack() as undo:
            with held_back():
                try:
                    log.parent.mkdir(parents=True, exist_ok=True)
                    with log.open("ab") as errors:
                        process = subprocess.Popen(
                            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=env, start_new_session=True,
                            pass_fds=(sending,),
                        )  # fmt: skip
                except OSError as error:
                    os.close(receiving)
                    why = f"cannot start a load shard for {run_dir}: {error}"
                    raise LoadError(why, remedy="check rights and free space") from error
                finally:
                    os.close(sending)
                agent = cls(process, shard, log, changed or threading.Condition(), Feed(receiving))
                undo.callback(agent.close)
            agent.wait_for(lambda: agent._ready, _START_S, "the shard's start")
            undo.pop_all()
        return agent

    @property
    def alive(self) -> bool:
        """Whether the shard's process still speaks."""
        return not self._gone

    def target(
        self,
        epoch: int,
        url: str,
        model: str,
        *,
        vocab: int,
        api_key: str | None = None,
        dialect: Dialect = VLLM,
        tokenizer: Path | None = None,
        writes_at_once: bool = False,
    ) -> None:
        """From now on new requests go to ``url`` and carry ``epoch``; those under way stay where they are.

        Raises:
            LoadError: a URL or key that cannot be used, or the shard died. What only the shard can tell (a vocabulary too
                small, an unreadable tokenizer) is raised by the next wait.
        """
        folder = str(tokenizer.resolve()) if tokenizer else None
        target = Target(url, model, vocab, api_key, dialect, folder, writes_at_once)
        self.send({"do": "target", "epoch": epoch, "target": target.to_dict()})

    def run(
        self,
        measurement: int,
        workload: Workload,
        *,
        first_request: int = 0,
        shards: int = 1,
        start_ns: int | None = None,
    ) -> LoadRun:
        """Start the workload in the background, with request ids from ``first_request``.

        Args:
            measurement: ``Window.measurement``.
            workload: what to send.
            first_request: first free request id; the result's ``next_request`` is the next.
            shards: how many shards share the workload; this one sends every ``shards``-th request.
            start_ns: when to begin, so that shards begin together; at once by default.

        Raises:
            LoadError: a measurement is running that was not finished, or the shard died.
        """
        for running in self._runs.values():
            if not self._gone and running.sends:
                raise LoadError(f"measurement {running.measurement} is still running", remedy="wait for it, or finish it")
        self._runs = {number: one for number, one in self._runs.items() if one.result is None and one.error is None}
        run = self._runs[measurement] = LoadRun(self, measurement)
        order = {"measurement": measurement, "workload": workload.to_dict(), "first_request": first_request}
        self.send({"do": "run", **order, "shards": shards, "start_ns": start_ns})
        return run

    def watch(self, number: int) -> None:
        """Let it send a live copy to ``feed``, for the watch of this number; 0: no more."""
        self.send({"do": "watch", "number": number})

    def first_sent_ns(self, epoch: int, timeout: float | None = None) -> int:
        """The instant at which the first request of an epoch was sent; waits for it.

        Raises:
            LoadError: none was sent within ``timeout`` seconds, or the shard died.
        """
        self.wait_for(lambda: epoch in self.first_sent, timeout, f"the first request of epoch {epoch}")
        return self.first_sent[epoch]

    def wait_drained(self, epoch: int, timeout: float | None = None) -> int:
        """The instant from which no request of a past epoch was under way; waits for it.

        Raises:
            LoadError: some still were after ``timeout`` seconds, or the shard died.
        """
        self.wait_for(lambda: epoch in self._drained, timeout, f"the last request of epoch {epoch}")
        return self._drained[epoch]

    def hang_up(self) -> None:
        """Tell the process to stop, flush and end, and do not wait for it; ``close`` does."""
        with self._send_lock, contextlib.suppress(OSError):
            assert self._process.stdin is not None
            self._process.stdin.close()

    def close(self) -> None:
        """Stop, flush and end the process; a second call does nothing."""
        self.hang_up()
        try:
            self._process.wait(_CLOSE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(_CLOSE_S)
        assert self._process.stdout is not None
        self._process.stdout.close()
        self.feed.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def send(self, order: dict[str, Any]) -> None:
        """Give the process an order; raises LoadError where it is gone."""
        assert self._process.stdin is not None
        try:
            with self._send_lock:
                self._process.stdin.write(json.dumps(order).encode() + b"\n")
                self._process.stdin.flush()
        except (OSError, ValueError) as error:
            raise self._death() from error

    def wait_for(self, reached: Callable[[], bool], timeout: float | None, what: str) -> None:
        """Block until ``reached``; raises LoadError after ``timeout`` seconds, on a refused order, or where the shard is gone."""
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            while self._refusal is not None or not reached():
                if self._refusal is not None:
                    refusal, self._refusal = self._refusal, None
                    raise refusal
                if self._gone:
                    raise self._death()
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    raise LoadError(
                        f"waited {timeout:g} s in vain for {what}", remedy="give it more time, or look whether the server answers"
                    )
                self._changed.wait(left)

    @property
    def silent_s(self) -> float:
        """Seconds since it was heard."""
        return time.monotonic() - self._heard_s

    def mourn(self) -> NoReturn:
        """Raise what became of a process that is gone."""
        raise self._death()

    def _death(self) -> LoadError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)
        try:
            tail = self._log.read_text(errors="replace").strip().splitlines()[-1:]
        except OSError:
            tail = []
        why = f": {tail[0]}" if tail else ""
        return LoadError(f"load shard {self.shard} ended with code {self._process.returncode}{why}", remedy=_RESTART)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            progress = None
            with self._changed:
                self._heard_s = time.monotonic()
                try:
                    progress = self._heard(json.loads(line))
                except (ValueError, KeyError, TypeError) as error:
                    self._refusal = LoadError(f"load shard {self.shard} said {line[:80]!r}: {error}", remedy=_RESTART)
                self._changed.notify_all()
            if progress is not None and self.on_progress is not None:
                with contextlib.suppress(Exception):  # a picture that fails must not end the reading
                    self.on_progress(progress)
        with self._changed:
            self._gone = True
            self._changed.notify_all()

    def _heard(self, message: dict[str, Any]) -> Progress | None:
        said, run = message.pop("said"), self._runs.get(message.pop("measurement", -1))
        match said:
            case "ready":
                self._ready = True
            case "progress":
                by_epoch = {int(epoch): count for epoch, count in message.pop("in_flight_by_epoch").items()}
                progress = Progress(**message, in_flight_by_epoch=by_epoch)
                if run is not None:
                    run.progress = progress
                return progress
            case "first_sent":
                self.first_sent[message["epoch"]] = message["t_ns"]
            case "drained":
                self._drained[message["epoch"]] = message["t_ns"]
            case "finished":
                assert run is not None
                run.next_request = message["next_request"]
            case "result":
                assert run is not None
                run.result = LoadResult(**message)
            case "error":
                error = LoadError(message["what"], remedy=message["remedy"])
                if run is not None and message["do"] == "run":
                    run.error = error
                else:
                    self._refusal = error
        return None


def main() -> int:
    """The process: ``RUN_DIR SHARD FEED [CORES]``."""
    from labkit.lab.load_process import serve

    run_dir, shard, feed, *cores = sys.argv[1:]
    try:
        if cores:
            os.sched_setaffinity(0, {int(core) for core in cores[0].split(",")})
        return serve(Path(run_dir), int(shard), int(feed))
    except (LabError, OSError) as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    raise SystemExit(main())
