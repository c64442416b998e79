"""A node of a Ray cluster dies with the workers on it, is told to end, or hangs for a while as a whole."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import uuid
from dataclasses import dataclass, replace

from tests.faults.expectation import UNHARMED, Expectation, endings, statuses
from tests.faults.injection import Injection
from tests.faults.injections.signals import stop_for_a_while
from tests.faults.stage import Moment, Stage
from tests.faults.victims import Process
from tests.support.ray_nodes import OTHER, RayNodes, two_ray_nodes

#: A node that is silent for so long may be taken for dead by Ray's head, and ends when it wakes then. If it is not, the lab has
#: said that it does not answer.
FORGOTTEN_S = 30.0


@dataclass(frozen=True, kw_only=True)
class HurtNode(Injection):
    """A signal to the raylet of the node that is not the head, or SIGSTOP to everything on that node.

    Attributes:
        number: of the signal.
        stopped_s: how long the node is stopped.
    """

    number: signal.Signals
    stopped_s: float = 0.0

    def prepare(self, stage: Stage, rng: random.Random) -> None:
        cluster = two_ray_nodes(f"ray-{uuid.uuid4().hex}")
        nodes = cluster.__enter__()
        stage.afterwards(lambda: cluster.__exit__(None, None, None))
        stage.alter(nodes=nodes.address)
        _CLUSTERS[stage.setting.mark] = nodes

    def strike(self, stage: Stage, moment: Moment, rng: random.Random) -> None:
        nodes = _CLUSTERS.pop(stage.setting.mark)
        raylet = nodes.raylet(OTHER)
        victim = Process(raylet, "w1")  # the worker that it takes along
        if self.number is signal.SIGSTOP:
            stop_for_a_while(stage, victim, nodes.all_of(OTHER), self.stopped_s)
            return
        stage.strike(victim)
        with contextlib.suppress(ProcessLookupError):
            os.kill(raylet, self.number)

    def expects(self, stage: Stage, moment: Moment) -> Expectation:
        if self.number is signal.SIGSTOP and self.stopped_s < FORGOTTEN_S:
            return replace(UNHARMED, end_s=200.0)
        how = "(died, and took w1 along|has not answered for 10 s)" if self.stopped_s else "died, and took w1 along"
        return Expectation(
            endings=endings("finished", "error"), statuses=statuses("finished", "failed"), path_hit=True,
            others=moment == "loading", cause=() if moment == "closing" else (rf"node {OTHER} {how}",),
            end_s=200.0,
        )  # fmt: skip


_CLUSTERS: dict[str, RayNodes] = {}

INJECTIONS: tuple[Injection, ...] = tuple(
    HurtNode(
        name=f"{kind}-ray-node", what=f"{what} of two Ray nodes", moments=moments, engines=("stand-ins",), setting={"then": "1A"},
        number=number, stopped_s=stopped_s, rare=True,
    )
    for kind, what, number, stopped_s, moments in (
        ("kill", "SIGKILL to the raylet of one", signal.SIGKILL, 0.0, ("loading", "closing")),
        ("end", "SIGTERM to the raylet of one", signal.SIGTERM, 0.0, ("loading", "closing")),
        ("stop", "SIGSTOP for 5 s to all processes of one", signal.SIGSTOP, 5.0, ("loading",)),
        ("stop-long", "SIGSTOP for 60 s to all processes of one", signal.SIGSTOP, 60.0, ("loading",)),
    )
)  # fmt: skip
