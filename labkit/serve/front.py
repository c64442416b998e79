"""The router in front of a pool: one process for each epoch, kept until its last request has ended."""

from __future__ import annotations

import shlex
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

from labkit.errors import LaunchError
from labkit.serve.engines.base import Engine, EngineOptions, RouterSpec
from labkit.serve.engines.failures import explain, last_lines
from labkit.serve.interrupts import held_back
from labkit.serve.ports import PortLease, free_ports
from labkit.serve.processes import ProcessTree
from labkit.serve.requests import is_up
from labkit.spec import Role

_POLL_S = 0.02
_SETTLE_S = 0.2  # a client that was told of the next router may still be about to connect to this one
_ESTABLISHED = "01"


class Front:
    """A running router.

    Attributes:
        epoch: its number in the deployment.
        url: where clients send requests.
        metrics_url: its Prometheus page.
        mode: how it chooses workers; ``None`` is the engine's own way.
    """

    def __init__(
        self,
        engine: Engine,
        epoch: int,
        roles: Mapping[str, Role],
        *,
        log: Path,
        ready_timeout_s: float,
        check: Callable[[], None] = lambda: None,
        lease: PortLease | None = None,
        options: EngineOptions | None = None,
        meeting: Path | None = None,
    ) -> None:
        """Start a router over ``roles`` (worker URL → role) and wait until it answers.

        Args:
            engine: builds its command.
            epoch: its number.
            roles: whom it sends requests to.
            log: its log.
            ready_timeout_s: longest wait for it.
            check: called while it is waited for; raises where waiting is in vain.
            lease: of the port that it listens on, given up with it; a free one by default.
            options: of the deployment.
            meeting: folder through which it finds workers that register.

        Raises:
            LaunchError: it died, or did not answer in time.
        """
        self.epoch = epoch
        with ExitStack() as undo:
            own = undo.enter_context(lease or free_ports(1)).ports[0]
            metrics = undo.enter_context(free_ports(1)).ports[0]
            options = options or EngineOptions()
            spec = RouterSpec(port=own, metrics_port=metrics, workers=roles, options=options, meeting=meeting)
            self.url, self.metrics_url, self.mode = f"http://127.0.0.1:{own}", engine.router_metrics(spec), options.router_mode
            self._port = own
            command = engine.router(spec)
            with held_back():
                self.tree = ProcessTree(f"router{epoch}", command.argv, env=command.env, log=log)
                undo.callback(self.tree.stop)
            self._await_ready(ready_timeout_s, check)
            self._undo = undo.pop_all()

    def _await_ready(self, timeout_s: float, check: Callable[[], None]) -> None:
        deadline = time.monotonic() + timeout_s
        while not is_up(self.url):
            if not self.tree.alive:
                raise self.failure()
            check()
            if time.monotonic() > deadline:
                raise LaunchError(
                    f"{self.tree.name} did not answer within {timeout_s:g} s\n  log: {self.tree.log}",
                    remedy="a worker that the router waits for may be dead: look at the workers' logs beside it",
                )
            time.sleep(_POLL_S)

    def failure(self) -> LaunchError:
        """Why the router ended."""
        why = explain(self.tree.log_tail(), self.tree.exit)
        return LaunchError(
            f"{self.tree.name} died: {why.cause}\n  command: {shlex.join(self.tree.argv)}\n  log: {self.tree.log}",
            remedy=why.remedy,
        )

    @property
    def last_lines(self) -> tuple[str, ...]:
        """What its log says last."""
        return last_lines(self.tree.log_tail())

    @property
    def connections(self) -> int:
        """Clients connected to it now, also those that it has not accepted yet."""
        local = f"0100007F:{self._port:04X}"
        rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
        return sum(1 for row in rows if row[1] == local and row[3] == _ESTABLISHED)

    def wait_drained(
        self, timeout_s: float, give_up: threading.Event | None = None, enough: Callable[[int], bool] = lambda _: False
    ) -> int | None:
        """Wait until no client is connected any more, and none comes for a moment.

        Args:
            timeout_s: longest wait.
            give_up: ends it.
            enough: called with the number of clients while there are some; whether they need not be waited for.

        Returns:
            The instant (``perf_counter_ns``) at which the last one was gone; ``None`` where some are still connected.
        """
        deadline = time.monotonic() + timeout_s
        give_up = give_up or threading.Event()
        empty_ns: int | None = None
        while self.tree.alive:
            now_ns = time.perf_counter_ns()
            if left := self.connections:
                empty_ns = None
                if time.monotonic() > deadline or enough(left):
                    return None
            elif empty_ns is None:
                empty_ns = now_ns
            elif now_ns - empty_ns > _SETTLE_S * 1e9:
                return empty_ns
            if give_up.wait(_POLL_S):
                return None
        return empty_ns or time.perf_counter_ns()

    def close(self) -> None:
        """End the router and give its ports back."""
        self._undo.close()
