"""A split whose router stays: workers register with it in roles that they keep; others drain, and end."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice, product
from typing import Any, Final

from labkit.errors import LaunchError
from labkit.serve.counters import metrics_page
from labkit.serve.drain import Look
from labkit.serve.engines.base import Registry
from labkit.serve.front import Front
from labkit.serve.live_split import CANARY_TOKENS, LiveSplit
from labkit.serve.patience import CalledOff, Patience
from labkit.serve.pool import Worker
from labkit.serve.ports import PortLease
from labkit.serve.processes import Tree
from labkit.serve.requests import WARM_TOKENS, ask_json, complete
from labkit.spec import Role, Topology

_REGISTERED_S: Final = 60.0
_POLL_S: Final = 0.05
_LEFT_S: Final = 0.25
#: A request that the router has chosen a worker for is with it by then.
_ON_ITS_WAY_S: Final = 0.2
#: While two sets of workers serve, the router draws one first, and refuses an aimed request where that is the wrong one.
_TRIES: Final = 60

Pair = tuple[Worker, Worker | None]  # who decodes (or does all), and who prefills for it


class StandingSplit(LiveSplit):
    """As ``LiveSplit``, for engines with a registry.

    An epoch begins when the router knows the workers of its split and no others. From the moment at which new workers register
    until then both sets serve; a request of that time counts for the earlier epoch.
    A router is replaced only where it has died, or is to choose workers in another way.
    """

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._met: set[tuple[int, ...]] = set()  # process ids of pairs
        self._known: dict[Tree, str] = {}  # by which names workers have registered

    def meet(self, fresh: object) -> None:
        """Nothing yet: new workers are met through the router, once they have registered with it."""

    def open(self, topology: Topology, roles: Mapping[str, Role], lease: PortLease | None = None) -> None:
        """Bring up the router, where none stands, and wait until it knows the workers of a split and each pair has met."""
        front = self._ready(topology, roles, lease)
        self._await(front, roles, alone=True)
        self._begin(topology, roles, front)

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
        """Let new workers register and meet the others, then let those of ``ends`` drain while the others serve.

        Arguments, result and errors are those of ``LiveSplit.replace``. Called off before workers drain, the present split serves
        on; afterwards there is no way back, and calling off ends the wait alone.
        """
        old, began_ns = self.front, time.perf_counter_ns()
        front = self._ready(topology, roles)
        try:
            if back and patience.call_off.is_set():
                raise CalledOff("the change was called off before a worker drained", remedy="what served before serves on")
            self._withdraw(ends, patience)
            ending = self._pool.drain(ends)
            self._await(front, roles, alone=True)
        except BaseException:
            if front is not old:
                front.close()
            raise
        self._begin(topology, roles, front)
        on_switch()
        switched_ns = time.perf_counter_ns()
        self._pace.swaps.append((switched_ns - began_ns) / 1e9)
        drained_ns = self._wait_ended(ending, patience)
        if old is not None and old is not front:
            left_ns = old.wait_drained(patience.limit_s, self._closing) if old.tree.alive else switched_ns
            self._retire(old, left_ns is not None)
            drained_ns = None if drained_ns is None or left_ns is None else max(drained_ns, left_ns)
        return switched_ns, drained_ns

    def _ready(self, topology: Topology, roles: Mapping[str, Role], lease: PortLease | None = None) -> Front:
        """A router that knows these workers, each pair of which has met. Where that fails new workers are ended."""
        stands = self.front is not None and self.front.tree.alive and self.front.mode == self.options.router_mode
        front = self.front if stands else None
        self._forget_dead()
        try:
            front = front or self._bring_up(roles, lease)
            self._await(front, roles, alone=False)
            self._warm(front, roles)
        except BaseException as error:
            if front is not None and front is not self.front:
                front.close()
            if self.roles and isinstance(error, LaunchError):
                self._pool.end([name for name in roles if name not in self.roles])
            raise
        return front

    def _await(self, front: Front, roles: Mapping[str, Role], *, alone: bool) -> None:
        """Wait until the router counts the workers of each role, or more where others serve beside them (not ``alone``)."""
        wanted = {role: list(roles.values()).count(role) for role in Role}
        deadline = time.monotonic() + _REGISTERED_S
        while True:
            found = self._registry.registered(ask_json(front.url + self._registry.ready_path(self._model.name)))
            if all(found.get(role, 0) == count if alone else found.get(role, 0) >= count for role, count in wanted.items()):
                return
            if not front.tree.alive:
                raise front.failure()
            self._must_live(roles)
            if time.monotonic() > deadline:
                counts = ", ".join(f"{found.get(role, 0)} of {count} {role.noun}" for role, count in wanted.items())
                raise LaunchError(
                    f"{front.tree.name} knows {counts} workers after {_REGISTERED_S:g} s\n  log: {front.tree.log}",
                    remedy="look at the workers' logs beside it: they register once their model is loaded",
                )
            time.sleep(_POLL_S)

    def _withdraw(self, ends: Collection[str], patience: Patience) -> None:
        """Let the router choose these workers no more, while it still reaches them for what it has begun.

        A worker that ends takes its address away at once, and a request that is on its way to it would be refused, or one whose
        prefill runs. Prefills are withdrawn first: those that decode are needed until the last prefill is done.
        """
        for prefills in (True, False):
            workers = [
                worker
                for worker in self._pool.living
                if worker.name in ends and (self.roles.get(worker.name) is Role.PREFILL) == prefills
            ]
            for worker in workers:
                self._remove(self._registry.cards, self._known.get(worker.tree))
            if workers and not self._closing.wait(_ON_ITS_WAY_S) and prefills:
                self._wait_ended(workers, patience)

    def _remove(self, pattern: Callable[[str], str], identity: str | None) -> None:
        """Take entries of a worker from the folder of the meeting."""
        for entry in self._meeting.glob(pattern(identity)) if self._meeting and identity else ():
            entry.unlink(missing_ok=True)

    def _forget_dead(self) -> None:
        """Remove what killed workers have left in the folder: until it expires the router counts them, and sends them requests.

        Those that were asked to end have taken theirs away.
        """
        for tree in [tree for tree in self._known if not tree.alive]:
            self._remove(self._registry.entries, self._known.pop(tree))

    def _warm(self, front: Front, roles: Mapping[str, Role]) -> None:
        """Send each pair that has not met the requests that no user shall wait for: a connector's handshake takes seconds."""
        pairs = [pair for pair in self._pairs(roles) if _pids(pair) not in self._met]
        if not pairs:
            return
        began = time.monotonic()
        headers = self._aims(pairs)
        with ThreadPoolExecutor(max_workers=len(roles)) as threads:
            list(threads.map(lambda aimed: self._send(front, WARM_TOKENS, aimed), headers))
        self._met |= {_pids(pair) for pair in pairs}
        what = f"{len(pairs)} pairs of workers" if pairs[0][1] is not None else "new workers"
        self._progress(f"{what} warmed through the router in {time.monotonic() - began:.1f} s")

    def _send_canaries(self) -> None:
        """One to each worker, aimed: a router that goes by load or cache may leave some out for long."""
        assert self.front is not None
        for aimed in self._aims(_each_once(*self._sides(self.roles))):
            self._send(self.front, (CANARY_TOKENS,), aimed)

    def _pairs(self, roles: Mapping[str, Role]) -> list[Pair]:
        """Who meets whom: everybody, or each worker somebody where pairs have nothing to agree on."""
        sides = self._sides(roles)
        return list(product(*sides)) if self._registry.handshakes else _each_once(*sides)

    def _sides(self, roles: Mapping[str, Role]) -> tuple[list[Worker], list[Worker | None]]:
        """Workers that answer, and those that prefill for them: ``None`` alone where each does its own."""
        workers = [worker for worker in self._pool.workers if worker.name in roles]
        prefills = [worker for worker in workers if roles[worker.name] is Role.PREFILL]
        return [worker for worker in workers if roles[worker.name] is not Role.PREFILL], [*prefills] or [None]

    def _aims(self, pairs: Collection[Pair]) -> list[Mapping[str, str]]:
        workers = {worker.name: worker for pair in pairs for worker in pair if worker is not None}
        ids = {name: self._registry.identity(metrics_page(worker.url)) for name, worker in workers.items()}
        for name, known in ids.items():
            if known is None:
                raise LaunchError(
                    f"{name} does not tell the name under which it registered, on {workers[name].url}/metrics",
                    remedy="this version of the engine may tell it in another way: use the one of the locked environment",
                )
        self._known |= {worker.tree: ids[name] or "" for name, worker in workers.items()}
        return [
            self._registry.aim(ids[worker.name] or "", None if prefill is None else ids[prefill.name])
            for worker, prefill in pairs
        ]

    def _send(self, front: Front, lengths: Sequence[int], aimed: Mapping[str, str]) -> None:
        for tokens in lengths:
            complete(front.url, self._model.name, tokens, vocab_size=self._vocab_size, headers=aimed, tries=_TRIES)

    def _wait_ended(self, ending: list[Worker], patience: Patience) -> int | None:
        """The instant at which the last request on these had ended; ``None`` where some are left when the wait is over."""
        names = ", ".join(worker.name for worker in ending)
        look = Look(names, patience, ending, alone=False)
        deadline = time.monotonic() + patience.limit_s
        while left := sum(worker.requests_left for worker in ending if worker.tree.alive):
            try:
                look(left)
            except CalledOff:
                return None
            if time.monotonic() > deadline or self._closing.wait(_LEFT_S):
                return None
        return time.perf_counter_ns()

    @property
    def _registry(self) -> Registry:
        assert self._engine.registry is not None
        return self._engine.registry


def _each_once(others: Sequence[Worker], prefills: Sequence[Worker | None]) -> list[Pair]:
    count = max(len(others), len(prefills))
    return list(zip(islice(cycle(others), count), islice(cycle(prefills), count), strict=True))


def _pids(pair: Pair) -> tuple[int, ...]:
    return tuple(worker.tree.pid for worker in pair if worker is not None)
