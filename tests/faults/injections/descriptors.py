"""A process of the lab gets no further file descriptors."""

from __future__ import annotations

import random
import resource
from dataclasses import dataclass
from pathlib import Path

from tests.faults.expectation import Expectation, endings, statuses
from tests.faults.injection import Injection
from tests.faults.stage import Moment, Stage
from tests.faults.victims import Role


@dataclass(frozen=True, kw_only=True)
class NoDescriptors(Injection):
    """The limit of a running process becomes what it has open.

    Attributes:
        role: of the process.
    """

    role: Role

    def strike(self, stage: Stage, moment: Moment, rng: random.Random) -> None:
        victim = stage.wait(lambda: stage.find(self.role), f"a {self.role}")[0]
        limits = resource.prlimit(victim.pid, resource.RLIMIT_NOFILE)
        opened = max(int(path.name) for path in Path(f"/proc/{victim.pid}/fd").iterdir()) + 1
        stage.strike(victim)
        resource.prlimit(victim.pid, resource.RLIMIT_NOFILE, (min(opened, limits[0]), limits[1]))
        stage.notes.append(f"{victim.name}: {opened} descriptors at most")

    def expects(self, stage: Stage, moment: Moment) -> Expectation:
        ended = stage.last("ended") or {}
        failed = (stage.last("measured") or {}).get("counts", {})
        told = ended.get("how") == "error" or any(name not in ("ok", "cancelled") for name in failed)
        return Expectation(
            endings=endings("finished", "error"), statuses=statuses("finished", "failed", "interrupted"), path_hit=True,
            cause=("Too many open files|descriptor",) if told else (), remedy=ended.get("how") == "error",
            lost_s=2.5 if ended.get("how") == "error" else None,
        )  # fmt: skip


_WHOM: tuple[tuple[Role, str, tuple[Moment, ...]], ...] = (
    ("kernel", "the script that holds the lab", ("launching", "loading", "closing")),
    ("load shard", "the load shard", ("loading",)),
    ("telemetry sampler", "the telemetry sampler", ("loading",)),
)

INJECTIONS: tuple[Injection, ...] = tuple(
    NoDescriptors(
        name=f"no-descriptors-{role.replace(' ', '-')}", what=f"no more file descriptors for {words}", moments=moments, role=role
    )
    for role, words, moments in _WHOM
)  # fmt: skip
