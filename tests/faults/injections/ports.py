"""A port is stolen between its choice and its use, while workers are launched or while the split changes.

The lab keeps a chosen port bound, so that no process gets it by asking for any; what steals it asks for just that one, and sets
SO_REUSEADDR, as a server that is started with this port would.
"""

from __future__ import annotations

import contextlib
import random
import socket
import threading
from dataclasses import dataclass
from pathlib import Path

from tests.faults.expectation import Expectation, endings, statuses
from tests.faults.injection import Injection
from tests.faults.stage import Moment, Stage

#: Of the ports in the order of their choice those of the first worker, the second and the router, and of the next router; a
#: stand-in never listens on the others, which are of side channels.
_AT_LAUNCH, _AT_RESPLIT = (1, 4, 7), (9,)


@dataclass(frozen=True, kw_only=True)
class StolenPort(Injection):
    """One of the first ports that are chosen, listened on by somebody else before the lab's server does."""

    def prepare(self, stage: Stage, rng: random.Random) -> None:
        folder = stage.setting.folder / "ports"
        folder.mkdir()
        stage.alter(env={**stage.setting.env, "FAULT_STEAL": str(folder)}, hooks="tests.faults.hooks.steal_port")
        _steal(stage, folder, rng.choice(_AT_LAUNCH if "launching" in self.moments else _AT_RESPLIT))

    def strike(self, stage: Stage, moment: Moment, rng: random.Random) -> None:
        stage.strike()  # whoever steals is at work since before the start

    def expects(self, stage: Stage, moment: Moment) -> Expectation:
        told = (stage.last("ended") or {}).get("how") == "error"
        return Expectation(
            endings=endings("finished", "error"), statuses=statuses("finished", "failed"), path_hit=True,
            cause=("port|in use",) if told else (), remedy=told,
        )  # fmt: skip


def _steal(stage: Stage, folder: Path, nth: int) -> None:
    """Listen on the n-th port that is chosen from now on, until the scene is over."""
    over, thieves, seen = threading.Event(), list[socket.socket](), set[str]()

    def watch() -> None:
        while not over.wait(0.01):
            for path in folder.glob("chosen-*"):
                port = path.name.partition("-")[2]
                if port in seen:
                    continue
                seen.add(port)
                if len(seen) == nth:
                    thief = socket.socket()
                    thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    thieves.append(thief)
                    with contextlib.suppress(OSError):  # not on this address
                        thief.bind(("127.0.0.1", int(port)))
                        thief.listen()
                        (folder / "stolen").touch()
                        stage.notes.append(f"port {port} was stolen, the {nth}. that was chosen")
                (folder / f"done-{port}").touch()

    thread = threading.Thread(target=watch, daemon=True)
    (folder / "wanted").touch()
    thread.start()

    def give_back() -> None:
        over.set()
        thread.join()
        for thief in thieves:
            thief.close()
        if not (folder / "stolen").exists():
            stage.found.append("no port was stolen")

    stage.afterwards(give_back)


INJECTIONS: tuple[Injection, ...] = (
    StolenPort(
        name="stolen-port", what="a chosen port is stolen before a worker or router listens on it", moments=("launching",),
        engines=("stand-ins",),
    ),
    StolenPort(
        name="stolen-port-resplit", what="a port that a re-split chose is stolen", moments=("resplitting",),
        engines=("stand-ins",),
    ),
)  # fmt: skip
