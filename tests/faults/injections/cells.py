"""Cells of a notebook that are run in any order and again. Nothing is hurt; what goes wrong must be said, and nothing be lost."""

from __future__ import annotations

import random
from dataclasses import dataclass

from tests.faults.expectation import UNHARMED, Expectation
from tests.faults.injection import Injection
from tests.faults.stage import Moment, Stage

_WHILE_OPEN = ("launch", "load", "measure", "resplit", "back", "show", "stop")
_ONCE_CLOSED = ("load", "measure", "resplit", "show", "stop", "close")


@dataclass(frozen=True, kw_only=True)
class AnyOrder(Injection):
    """Launched, then cells at random, then closed, then some more."""

    def prepare(self, stage: Stage, rng: random.Random) -> None:
        order = ["launch", *rng.choices(_WHILE_OPEN, k=rng.randint(6, 9)), "close", *rng.choices(_ONCE_CLOSED, k=3)]
        stage.alter(cells=order)
        stage.notes.append(" ".join(order))

    def strike(self, stage: Stage, moment: Moment, rng: random.Random) -> None:
        stage.strike()

    def expects(self, stage: Stage, moment: Moment) -> Expectation:
        return UNHARMED

    def examine(self, stage: Stage) -> list[str]:
        ran = [one for one in stage.states if one["state"] == "cell"]
        found = [] if len(ran) == len(stage.setting.cells) else [f"{len(ran)} of {len(stage.setting.cells)} cells were run"]
        closed = False
        for at, one in enumerate(ran):
            name, error, which = one["name"], one["error"], f"cell {at} ({one['name']})"
            if error == "NameError" and name == "stop" and "'load'" in one["message"]:
                continue  # the person's own: no load has been started
            if error and not one["remedy"]:
                found.append(f"{which} ended with {error}: {one['message'][:200]}")
            if name == "launch" and at and not error:
                found.append(f"{which} launched a second lab on the same devices")
            if closed and name in ("load", "measure", "resplit") and "is closed" not in one.get("message", ""):
                found.append(f"{which} of a closed lab says {one.get('message') or 'nothing'}")
            closed = closed or name == "close"
        return found


INJECTIONS: tuple[Injection, ...] = (
    AnyOrder(
        name="any-order", what="cells of a notebook are run in any order, and again", moments=("launching",),
        engines=("stand-ins",), face="kernel",
    ),
)  # fmt: skip
