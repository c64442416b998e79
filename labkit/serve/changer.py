"""Carries out plans on a pool and its split: workers started, traffic moved, others ended, roles proven."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from labkit.errors import HardwareError, LabError, LaunchError, SpecError
from labkit.serve.cluster import Cluster
from labkit.serve.engines.base import EngineOptions, Place, Plan
from labkit.serve.hardware import Node
from labkit.serve.live_split import LiveSplit
from labkit.serve.models import ServedModel
from labkit.serve.nearest import nearest
from labkit.serve.patience import CalledOff, Patience
from labkit.serve.placing import first_places
from labkit.serve.pool import Pool, Progress
from labkit.serve.ports import PortLease
from labkit.serve.processes import stop_all
from labkit.serve.resplit import Resplit
from labkit.serve.situation import Pace, in_order, kinds_of, roles_of, survivors
from labkit.spec import Role, Topology

_GRACE_S: Final = 10.0  # for requests on workers that a change which is called off had started


class Changer:
    """Launches a split on a pool and changes both, one plan at a time.

    Attributes:
        options: what workers and router are started with.
        whole: roles on the last split that was wished for, and not for want of a worker that was dead.
        lost: why nothing serves any more; ``None`` while something does.
    """

    def __init__(self, pool: Pool, split: LiveSplit, pace: Pace, options: EngineOptions, progress: Progress) -> None:
        self.options, self.whole = options, dict[str, Role]()
        self.lost: LaunchError | None = None
        self._pool, self._split, self._pace, self._progress = pool, split, pace, progress

    def launch(
        self,
        topology: Topology,
        model: ServedModel,
        node: Node,
        *,
        share: bool,
        kept: bool,
        lease: PortLease | None,
        patience: Patience,
    ) -> None:
        """Start the first workers, open the split and prove it; ``kept``: workers keep the roles that they start with."""
        try:
            places = first_places(kinds_of(topology, kept=kept), model, node, share=share)
        except (SpecError, HardwareError) as error:
            if not isinstance(node, Cluster):
                raise
            raise _with_nearest(error, topology, model, node, share=share, kept=kept) from None
        self.whole = roles_of(topology, places)
        self._start(places, self.whole, patience)
        self._split.open(topology, self.whole, lease)
        self._split.prove()

    def carry_out(self, plan: Plan, follow: Callable[[], None], patience: Patience | None) -> Resplit:
        """Do what a plan says; ``follow`` is called when other workers take the requests. Raises what the plan or a step does."""
        if plan.why is not None:
            raise plan.why
        split = self._split
        before, called, patience = split.topology, time.perf_counter_ns(), patience or Patience()
        wanted, options = plan.wanted or before, plan.options or self.options
        if plan.kind == "nothing":
            return Resplit(
                before=before, after=wanted, url=self._url, plan=plan, called_ns=called,
                ready_s=None, switched_s=0.0, drained_s=0.0, proven_s=0.0, proof=split.proof,
            )  # fmt: skip
        self._progress(plan.text)
        roles, ready_s, earlier = roles_of(wanted, in_order((*plan.keeps, *plan.starts))), None, self.options
        if plan.starts:
            if plan.makes_room:
                self._make_room(plan, follow, patience)
            self._set(options)
            try:
                self._start(plan.starts, roles, patience)
            except BaseException as error:
                self._set(earlier)
                self._note_loss(plan, error)
                raise
            ready_s = _since(called)
            if plan.makes_room:
                self._pace.rooms.append(ready_s - self._pace.starts[-1])
        self._set(options)
        held = [worker.place for worker in self._pool.workers]
        self._pool.keep(plan.keeps)
        ends = [name for name in plan.ends if name not in roles]
        try:
            back = plan.meanwhile in (None, before)
            switched_ns, drained_ns = split.replace(wanted, roles, follow, patience, ends=ends, back=back)
        except (CalledOff, KeyboardInterrupt):
            self._pool.keep(held)
            self._pool.end([place.name for place in plan.starts if place.name not in split.roles], grace_s=_GRACE_S)
            self._set(earlier)
            raise
        except LaunchError:
            if not plan.starts:
                self._set(earlier)
            raise
        self.lost = None
        self._pool.end(ends)
        living = [worker.place for worker in self._pool.living]
        if not self._pool.dead or wanted != survivors(self.whole, living):  # the wish was for more than to leave out the dead
            self.whole = roles
        split.prove(alone=drained_ns is not None)
        return Resplit(
            before=before, after=wanted, url=self._url, plan=plan, called_ns=called, ready_s=ready_s,
            switched_s=(switched_ns - called) / 1e9, drained_s=None if drained_ns is None else (drained_ns - called) / 1e9,
            proven_s=_since(called), proof=split.proof,
        )  # fmt: skip

    @property
    def _url(self) -> str:
        assert self._split.front is not None
        return self._split.front.url

    def _set(self, options: EngineOptions) -> None:
        self.options = self._split.options = options

    def _start(self, places: Sequence[Place], roles: Mapping[str, Role], patience: Patience) -> None:
        """Start workers, and let each hand over to and from every other."""
        self._pool.start(places, self.options, roles, patience)
        fresh = [worker for worker in self._pool.living if worker.name in {place.name for place in places}]
        began = time.monotonic()
        try:
            self._split.meet(fresh)
        except BaseException:
            stop_all([worker.tree for worker in fresh])
            raise
        self._pace.starts.append(max(worker.ready_s for worker in fresh) + time.monotonic() - began)

    def _make_room(self, plan: Plan, follow: Callable[[], None], patience: Patience) -> None:
        """Before workers start: end those whose devices they need, while others serve where the plan says so."""
        if plan.meanwhile is None:
            self._split.end()
        elif plan.meanwhile != self._split.topology:
            self._split.replace(plan.meanwhile, roles_of(plan.meanwhile, plan.keeps), follow, patience, ends=plan.ends)
        again = {place.name for place in plan.starts}  # they are ended right before they start, and keep their ports
        self._pool.end([name for name in plan.ends if name not in again])

    def _note_loss(self, plan: Plan, error: BaseException) -> None:
        """Where nothing serves any more, remember why, and end what has no use."""
        if self._split.front is None:
            self.lost = error if isinstance(error, LaunchError) else LaunchError("no worker serves", remedy="call change again")
            if not plan.keeps:
                self._pool.close()


def _with_nearest(
    error: SpecError | HardwareError, topology: Topology, model: ServedModel, node: Node, *, share: bool, kept: bool
) -> LabError:
    """The error, with the closest split that the nodes of a cluster have room for."""

    def possible(other: Topology) -> bool:
        try:
            first_places(kinds_of(other, kept=kept), model, node, share=share)
        except (SpecError, HardwareError):
            return False
        return True

    closest = nearest(topology, possible)
    hint = f"the nearest that is possible is {closest}; or " if closest else ""
    return type(error)(f"{topology}: {error.what}", remedy=f"{hint}{error.remedy}")


def _since(called_ns: int) -> float:
    return (time.perf_counter_ns() - called_ns) / 1e9
