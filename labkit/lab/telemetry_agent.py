"""The handle of the telemetry sampler, which runs as a process of its own (``telemetry_process``) in its own session."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import labkit
from labkit.errors import LaunchError
from labkit.live.gauges import Reading
from labkit.serve.interrupts import held_back
from labkit.telemetry.sampler import WatchedWorker
from labkit.telemetry.spans import Progress

__all__ = ["TelemetryAgent", "WatchedWorker"]

_START_S: Final = 60.0
#: Of ``missing``: the sampler itself.
SAMPLER: Final = "telemetry"


class TelemetryAgent:
    """The running sampler, as its parent holds it.

    Attributes:
        otlp_endpoint: what a worker's ``--otlp-traces-endpoint`` takes.
        pid: the sampler's process.
    """

    def __init__(self, process: subprocess.Popen[bytes], log: Path, on_progress: Callable[[Progress], None] | None) -> None:
        self._process = process
        self._log = log
        self._on_progress = on_progress
        self._latest: dict[tuple[str, str], Reading] = {}
        self._missing: dict[str, str] = {}
        self._heard = threading.Condition()
        self._closed = False
        self.otlp_endpoint = ""
        self.pid = process.pid
        self._reader = threading.Thread(target=self._read, name="telemetry reader", daemon=True)

    @classmethod
    def start(
        cls,
        run_dir: Path,
        *,
        gpus: Sequence[int] | None = None,
        nvml_hz: float = 10.0,
        host_hz: float = 4.0,
        prometheus_hz: float = 2.0,
        on_progress: Callable[[Progress], None] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Self:
        """Start the process and wait until it samples.

        Args:
            run_dir: the run's folder; segments go to ``segments/``, its log to ``logs/telemetry.log``.
            gpus: NVML indices to read; ``None`` for all that the node has, ``()`` for none.
            nvml_hz, host_hz, prometheus_hz: readings per second.
            on_progress: called (on the reader's thread) for every finished step of a worker's start.
            env: variables beside this process's own.

        Raises:
            LaunchError: the process died or did not answer; the message ends with its log.
        """
        log = Path(run_dir) / "logs" / "telemetry.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        package = str(Path(labkit.__file__).parents[1])
        path = os.pathsep.join(part for part in (package, os.environ.get("PYTHONPATH", "")) if part)
        with ExitStack() as undo:
            with held_back():
                with log.open("ab") as errors:
                    process = subprocess.Popen(
                        [sys.executable, "-m", "labkit.lab.telemetry_process"],
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                        stderr=errors,
                        start_new_session=True,
                        env={**os.environ, "PYTHONPATH": path, **(env or {})},
                    )
                agent = cls(process, log, on_progress)
                agent._reader.start()
                undo.callback(agent._kill)
            rates = {"nvml_hz": nvml_hz, "host_hz": host_hz, "prometheus_hz": prometheus_hz}
            gpus_asked = None if gpus is None else list(gpus)
            agent._send({"run_dir": str(run_dir), "gpus": gpus_asked, "lab_pids": [os.getpid()], **rates})
            with agent._heard:
                agent._heard.wait_for(lambda: agent.otlp_endpoint or process.poll() is not None, timeout=_START_S)
            if not agent.otlp_endpoint:
                why = "did not answer" if process.poll() is None else f"exited with code {process.poll()}"
                agent._kill()  # what it still had to say is in its log then
                tail = log.read_text(errors="replace")[-1000:].strip()
                raise LaunchError(f"the telemetry sampler {why}: {tail or 'its log is empty'}", remedy=f"read {log}")
            undo.pop_all()
        return agent

    def watch(
        self, workers: Sequence[WatchedWorker], router: str | None = None, clients: Mapping[str, int] | None = None
    ) -> None:
        """Replace the watched workers, the router's metrics page, and the load clients (name → process id); at any time."""
        self._send({"watch": [asdict(worker) for worker in workers], "router": router, "clients": dict(clients or {})})

    @property
    def missing(self) -> dict[str, str]:
        """``source`` or ``source/metric`` → why there is no value now."""
        with self._heard:
            missing = dict(self._missing)
        if not self._closed and self._process.poll() is not None:
            missing[SAMPLER] = f"the sampler exited with code {self._process.returncode}: read {self._log}"
        return missing

    def latest(self) -> dict[tuple[str, str], float]:
        """(source, metric) → the last value heard; it may be old where ``missing`` names the source."""
        with self._heard:
            return {key: reading.value for key, reading in self._latest.items()}

    def readings(self) -> dict[tuple[str, str], Reading]:
        """The same with the instant of each."""
        with self._heard:
            return dict(self._latest)

    def wait_for(self, condition: Callable[[Self], bool], timeout_s: float) -> bool:
        """Wait until ``condition(self)`` holds, looked at whenever something is heard; whether it does."""
        with self._heard:
            return self._heard.wait_for(lambda: condition(self), timeout=timeout_s)

    def close(self, *, spans_s: float = 2.0) -> None:
        """Wait up to ``spans_s`` for spans that are still on their way, flush and end the process; a second call does nothing."""
        if self._closed:
            return
        self._closed = True
        self._send({"close": spans_s})
        try:
            self._process.wait(timeout=spans_s + 10.0)
        except subprocess.TimeoutExpired:
            self._kill()
        self._reader.join(timeout=5.0)
        self._hang_up()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"TelemetryAgent(pid {self.pid}, {len(self._latest)} values, {len(self._missing)} missing)"

    def _send(self, message: Mapping[str, object]) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError, ValueError):
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            message = json.loads(line)
            if "progress" in message and self._on_progress is not None:
                self._on_progress(Progress(**message["progress"]))
            with self._heard:
                self.otlp_endpoint = message.get("hello", self.otlp_endpoint)
                self._missing = message.get("missing", self._missing)
                for source, t_ns, values in message.get("latest", ()):
                    self._latest.update({(source, metric): Reading(t_ns, value) for metric, value in values.items()})
                self._heard.notify_all()
        self._process.wait()
        with self._heard:
            self._heard.notify_all()

    def _kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join(timeout=5.0)
        self._hang_up()

    def _hang_up(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()
