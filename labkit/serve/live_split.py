"""The split that serves now: its router and roles, replaced by the next one while requests run, and proven by counters."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from labkit.errors import LaunchError, ResplitError
from labkit.serve.counters import Counters, read_counters
from labkit.serve.drain import Look
from labkit.serve.engines.base import Engine, EngineOptions
from labkit.serve.front import Front
from labkit.serve.models import ServedModel
from labkit.serve.patience import CalledOff, Patience, closed_meanwhile
from labkit.serve.pool import Pool, Progress, Worker
from labkit.serve.ports import PortLease
from labkit.serve.proof import RoleProof, prove
from labkit.serve.requests import complete, warm_pairs
from labkit.serve.situation import Pace
from labkit.spec import Role, Topology

CANARY_TOKENS = 96
_CANARY_ROUNDS = 5
_ROUTER_READY_S = 60.0


class LiveSplit:
    """A router in front of some workers of a pool, in their roles.

    Attributes:
        topology: the split; the one that is wished for before the first router is up.
        roles: worker name → role; empty where nothing serves.
        epoch: number of the router; one less than ``first_epoch`` before the first.
        front: the router; ``None`` where nothing serves.
        proof: what each worker did since the router came; empty before that was looked at.
        options: what the next router is started with.
    """

    def __init__(
        self,
        topology: Topology,
        engine: Engine,
        pool: Pool,
        model: ServedModel,
        *,
        vocab_size: int,
        logs: Path,
        pace: Pace,
        options: EngineOptions,
        progress: Progress,
        meeting: Path | None = None,
        first_epoch: int = 0,
        closing: threading.Event | None = None,
    ) -> None:
        self.topology, self.options = topology, options
        self.roles: dict[str, Role] = {}
        self.epoch = first_epoch - 1
        self.front: Front | None = None
        self.proof: tuple[RoleProof, ...] = ()
        self._engine, self._pool, self._model, self._vocab_size, self._logs = engine, pool, model, vocab_size, logs
        self._pace, self._progress, self._meeting = pace, progress, meeting
        self._retired: list[threading.Thread] = []
        self._closing = closing or threading.Event()

    @property
    def serving(self) -> tuple[Worker, ...]:
        """The workers that have a role."""
        return tuple(worker for worker in self._pool.workers if worker.name in self.roles)

    @property
    def failures(self) -> tuple[LaunchError, ...]:
        """Why workers with a role, or the router, have ended."""
        found = [worker.failure("serving") for worker in self.serving if not worker.tree.alive]
        if self.front is not None and not self.front.tree.alive:
            found.append(self.front.failure())
        return tuple(found)

    def counters(self) -> dict[str, Counters]:
        """Totals now of every worker with a role, by name."""
        return {worker.name: read_counters(worker.url) for worker in self.serving}

    def meet(self, fresh: Sequence[Worker]) -> None:
        """Let new workers hand over to and from every other, before the router sends them a request.

        Raises:
            LaunchError: a pair cannot.
        """
        began = time.monotonic()
        every, new = ([worker.url for worker in workers] for workers in (self._pool.living, fresh))
        pairs = warm_pairs(every, self._model.name, vocab_size=self._vocab_size, fresh=new)
        self._progress(f"{pairs} pairs of workers warmed in {time.monotonic() - began:.1f} s")

    def open(self, topology: Topology, roles: Mapping[str, Role], lease: PortLease | None = None) -> None:
        """Bring up the router of a split; nothing of the present one has changed when that fails.

        Raises:
            LaunchError: it does not come up, or a worker with a role is dead.
        """
        self._begin(topology, roles, self._bring_up(roles, lease))

    def _bring_up(self, roles: Mapping[str, Role], lease: PortLease | None = None) -> Front:
        self._must_live(roles)
        return Front(
            self._engine,
            self.epoch + 1,
            {worker.url: roles[worker.name] for worker in self._pool.workers if worker.name in roles},
            log=self._logs / f"router{self.epoch + 1}.log",
            ready_timeout_s=_ROUTER_READY_S,
            check=lambda: self._must_live(roles),
            lease=lease,
            options=self.options,
            meeting=self._meeting,
        )

    def _must_live(self, roles: Mapping[str, Role]) -> None:
        """Raises what makes it vain to wait for a router, or for proof: a worker of it is dead, or all of this is closed."""
        if self._closing.is_set():
            raise closed_meanwhile()
        for worker in self._pool.dead:
            if worker.name in roles:
                raise worker.failure("serving")

    def _begin(self, topology: Topology, roles: Mapping[str, Role], front: Front) -> None:
        self.epoch += 1
        self.topology, self.roles, self.front, self.proof = topology, dict(roles), front, ()

    def replace(
        self,
        topology: Topology,
        roles: Mapping[str, Role],
        on_switch: Callable[[], None],
        patience: Patience,
        *,
        ends: Collection[str] = (),
        back: bool = True,
    ) -> tuple[int, int | None]:
        """Bring up the router of the next split, send clients there, and let the present router drain.

        Called off or interrupted while that drains, the present split serves on, under a number of its own: clients are sent
        back, and the next router lives until its last client has left.

        Args:
            topology, roles: the next split.
            on_switch: called when another router takes the requests.
            patience: how the drain is waited for.
            ends: workers that end behind it.
            back: whether the present split can serve on; where it cannot, calling off ends the wait alone.

        Returns:
            The instants (``perf_counter_ns``) at which clients were sent, and at which the last one had left the old router;
            ``None`` for the latter where some are still connected. They keep it for as long as they need.

        Raises:
            LaunchError: as ``open``.
            CalledOff: it was.
        """
        old, before, began_ns = self.front, (self.topology, self.roles, self.proof), time.perf_counter_ns()
        self.open(topology, roles)
        if old is None:
            on_switch()
            return (switched_ns := time.perf_counter_ns()), switched_ns
        drained_ns: int | None = None
        ending = [worker for worker in self._pool.living if worker.name in ends and worker.name in before[1]]
        try:
            on_switch()
            switched_ns = time.perf_counter_ns()
            self._pace.swaps.append((switched_ns - began_ns) / 1e9)
            enough = Look(old.tree.name, patience, ending, alone=set(before[1].values()) == {Role.AGGREGATED})
            drained_ns = old.wait_drained(patience.limit_s, self._closing, enough)
        except BaseException as error:
            if back and old.tree.alive and isinstance(error, CalledOff | KeyboardInterrupt):
                self._take_back(old, *before, on_switch)
                raise
            if back or not isinstance(error, CalledOff):
                self._retire(old, drained=False)
                raise
        self._retire(old, drained_ns is not None)
        return switched_ns, drained_ns

    def prove(self, *, alone: bool = True) -> None:
        """Send canaries until every worker has served, then hold the counters against the roles.

        Where the split is not ``alone`` (an old router still feeds the workers) a contradiction proves nothing, and more canaries
        do not undo it: after one round the split counts as not verified.

        Raises:
            ResplitError: the counters contradict the roles.
        """
        before = self.counters()
        proof: tuple[RoleProof, ...] = ()
        for _ in range(_CANARY_ROUNDS if alone else 1):
            self._must_live({})
            self._send_canaries()
            proof = prove(self.roles, before, self.counters())
            if all(row.against is None for row in proof):
                break
        else:
            if alone:
                wrong = "\n".join(f"  {row}" for row in proof)
                raise ResplitError(
                    f"the split {self.topology} did not take effect:\n{wrong}",
                    remedy="look at the router's and the workers' logs; the KV transfer may have failed and been recomputed",
                )
        self.proof = proof

    def _send_canaries(self) -> None:
        """As many requests as reach every worker, where the router takes them in turn."""
        assert self.front is not None
        for _ in range(max(self.topology.count(role) for role in Role)):
            complete(self.front.url, self._model.name, CANARY_TOKENS, vocab_size=self._vocab_size)

    def end(self) -> None:
        """End the router: nothing serves from now on, until another is opened."""
        if self.front is not None:
            self.front.close()
        self.front, self.roles, self.proof = None, {}, ()

    def close(self) -> None:
        """End this router and those that still drain. Harmless when done twice."""
        self._closing.set()
        self.end()
        for thread in self._retired:
            thread.join()

    def _take_back(
        self, old: Front, topology: Topology, roles: dict[str, Role], proof: tuple[RoleProof, ...], on_switch: Callable[[], None]
    ) -> None:
        """Let a router that was to be replaced serve on, in the place of the one that came."""
        came = self.front
        assert came is not None
        self.epoch += 1
        old.epoch = self.epoch
        self.topology, self.roles, self.front, self.proof = topology, roles, old, proof
        self._retire(came, drained=False)
        on_switch()

    def _retire(self, old: Front, drained: bool) -> None:
        """End a router that nobody uses; one that is still in use is ended when its last client leaves."""
        if drained:
            old.close()
            return

        def end_when_left() -> None:
            old.wait_drained(float("inf"), self._closing)
            old.close()

        thread = threading.Thread(target=end_when_left, name=f"labkit-drain-{old.epoch}", daemon=True)
        thread.start()
        self._retired.append(thread)
