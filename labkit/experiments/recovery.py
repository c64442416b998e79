"""What is done about what has died, as orders of an exploration: the others serve alone, or it comes back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from labkit.errors import LoadError
from labkit.serve.engines.attach import Attached

if TYPE_CHECKING:
    from labkit.experiments.exploration import Exploration

#: Nobody waits longer for a backlog on the living: the next order may be the restart.
_HURRY_S: Final = 2.0


def restart(exploration: Exploration, worker: str) -> None:
    """Start a worker again."""
    exploration.say("doing", f"restarting {worker}; the others go on")
    exploration.change_now(lambda: exploration.lab.restart(worker))


def leave_out(exploration: Exploration, worker: str) -> None:
    """Let the others serve alone; raises LoadError where there are none."""
    there = exploration.lab.deployment
    if isinstance(there, Attached) or worker not in there.dead or worker not in there.roles:
        return
    if (left := there.survivors) is None:
        raise LoadError("no worker is left that could serve", remedy=f"restart {worker}")
    exploration.say("doing", f"{worker} is dead: {left} serves on without it")
    exploration.change_now(lambda: exploration.lab.change(left, drain_timeout_s=_HURRY_S))


def another_router(exploration: Exploration) -> None:
    """Bring up another router over the living, where the present one has died; raises LoadError where there are none."""
    there = exploration.lab.deployment
    if isinstance(there, Attached) or there.fallen_router is None:
        return
    left = there.survivors if there.dead.keys() & there.roles else there.topology
    if left is None:
        raise LoadError("no worker is left that a router could send requests to", remedy="restart one of the dead workers")
    exploration.say("doing", f"another router over {left}")
    exploration.change_now(lambda: exploration.lab.change(left, drain_timeout_s=_HURRY_S))
