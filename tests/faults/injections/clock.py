"""The wall clock is set while load runs.

The machine's own is left alone: ``hooks/machine.c`` moves what the scene's processes see of it, the kernel's stamps of arrivals
included, which the load's reader works with. Not moved are time stamps of files, and what programs of Go or Rust ask the kernel.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from tests.faults import truth
from tests.faults.expectation import UNHARMED, Expectation
from tests.faults.injection import Injection
from tests.faults.machine import load_library
from tests.faults.stage import Moment, Stage

_LONGEST_S = 120.0


@dataclass(frozen=True, kw_only=True)
class ClockStep(Injection):
    """The wall clock jumps.

    Attributes:
        step_s: how far.
    """

    step_s: int

    def prepare(self, stage: Stage, rng: random.Random) -> None:
        load_library(stage, FAULT_CLOCK=str(stage.setting.folder / "clock"))

    def strike(self, stage: Stage, moment: Moment, rng: random.Random) -> None:
        stage.strike()
        partial = stage.setting.folder / "clock.new"
        partial.write_text(str(self.step_s))
        partial.rename(stage.setting.folder / "clock")

        stage.afterwards(lambda: _look(stage))

    def expects(self, stage: Stage, moment: Moment) -> Expectation:
        return UNHARMED


def _look(stage: Stage) -> None:
    if stage.run is not None and (late := [text for text in map(_impossible, truth.recorded(stage.run).rows) if text]):
        stage.found.append(f"{len(late)} records have impossible instants: {late[0]}")


def _impossible(row: dict[str, object]) -> str:
    """Of a record: instants in another order than cause and effect, or further from each other than the scene is long."""
    sent, end = row.get("sent_ns"), row.get("end_ns")
    if not isinstance(sent, int) or not isinstance(end, int):
        return ""
    return "" if 0 <= end - sent < _LONGEST_S * 1e9 else f"request {row['request']} took {(end - sent) / 1e9:.1f} s"


INJECTIONS: tuple[Injection, ...] = tuple(
    ClockStep(
        name=f"clock-{name}", what=f"the wall clock jumps an hour {where}", moments=("launching", "loading", "resplitting"),
        step_s=step_s, engines=("stand-ins",),
    )
    for name, where, step_s in (("forwards", "ahead", 3600), ("backwards", "back", -3600))
)  # fmt: skip
