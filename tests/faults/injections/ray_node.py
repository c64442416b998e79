"""A node of a Ray cluster dies, with the workers on it."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import uuid
from dataclasses import dataclass

from tests.faults.expectation import Expectation, endings, statuses
from tests.faults.injection import Injection
from tests.faults.stage import Moment, Stage
from tests.faults.victims import Process
from tests.support.ray_nodes import OTHER, RayNodes, two_ray_nodes


@dataclass(frozen=True, kw_only=True)
class KillNode(Injection):
    """SIGKILL to the raylet of the node that is not the head."""

    def prepare(self, stage: Stage, rng: random.Random) -> None:
        cluster = two_ray_nodes(f"ray-{uuid.uuid4().hex}")
        nodes = cluster.__enter__()
        stage.afterwards(lambda: cluster.__exit__(None, None, None))
        stage.alter(nodes=nodes.address)
        _CLUSTERS[stage.setting.mark] = nodes

    def strike(self, stage: Stage, moment: Moment, rng: random.Random) -> None:
        raylet = _CLUSTERS.pop(stage.setting.mark).raylet(OTHER)
        stage.strike(Process(raylet, "w1"))  # the worker that it takes along
        with contextlib.suppress(ProcessLookupError):
            os.kill(raylet, signal.SIGKILL)

    def expects(self, stage: Stage, moment: Moment) -> Expectation:
        return Expectation(
            endings=endings("finished", "error"), statuses=statuses("finished", "failed"), path_hit=True,
            others=moment == "loading", cause=() if moment == "closing" else (rf"node {OTHER} died, and took w1 along",),
            end_s=200.0,
        )  # fmt: skip


_CLUSTERS: dict[str, RayNodes] = {}

INJECTIONS: tuple[Injection, ...] = (
    KillNode(
        name="kill-ray-node", what="SIGKILL to the raylet of one of two Ray nodes", moments=("loading", "closing"),
        engines=("stand-ins",), setting={"then": "1A"}, rare=True,
    ),
)  # fmt: skip
