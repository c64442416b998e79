"""File systems that are full, or become read-only, in the middle."""

from __future__ import annotations

import random
import threading
from dataclasses import dataclass
from pathlib import Path

from tests.faults.expectation import UNHARMED, Expectation, endings, statuses
from tests.faults.injection import Injection
from tests.faults.machine import fill, load_library, mount_small
from tests.faults.stage import Moment, Stage

#: Rows wait for a second before they are written, and their request may have ended a second before.
_UNWRITTEN_S = 2.5


@dataclass(frozen=True, kw_only=True)
class FullDisk(Injection):
    """The results' file system is filled but for a few bytes.

    Attributes:
        for_s: after so long there is room again; 0: never.
    """

    for_s: float = 0.0

    def prepare(self, stage: Stage, rng: random.Random) -> None:
        mount_small(stage, stage.setting.results, "8m")

    def strike(self, stage: Stage, moment: Moment, rng: random.Random) -> None:
        stage.strike()
        filler = fill(stage.setting.results, rng.choice((0, 0, 512, 4096)))
        stage.afterwards(lambda: filler.unlink(missing_ok=True))
        if self.for_s:
            timer = threading.Timer(self.for_s, lambda: filler.unlink(missing_ok=True))
            timer.start()
            stage.afterwards(timer.cancel)

    def expects(self, stage: Stage, moment: Moment) -> Expectation:
        if self.for_s:
            return Expectation(
                endings=endings("finished", "error"), statuses=statuses("finished", "failed", "interrupted"), path_hit=True,
                lost_s=_UNWRITTEN_S,
            )  # fmt: skip
        return Expectation(
            endings=endings("finished", "error"), statuses=statuses("finished", "failed", "interrupted"), path_hit=True,
            lost_s=_UNWRITTEN_S, cause=() if moment in ("closing", "saving") else ("No space left",),
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ReadOnlyDisk(Injection):
    """The results' folder cannot be written any more, open files neither, as after an error of the device."""

    def prepare(self, stage: Stage, rng: random.Random) -> None:
        trigger = stage.setting.folder / "read-only"
        load_library(stage, FAULT_READ_ONLY=str(trigger), FAULT_FOLDER=str(stage.setting.results))

    def strike(self, stage: Stage, moment: Moment, rng: random.Random) -> None:
        stage.strike()
        (stage.setting.folder / "read-only").touch()

    def expects(self, stage: Stage, moment: Moment) -> Expectation:
        return Expectation(
            endings=endings("finished", "error"), statuses=statuses("failed", "interrupted"), path_hit=True, lost_s=_UNWRITTEN_S,
            cause=("Read-only file system",), remedy=True,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class FullElsewhere(Injection):
    """Shared memory or the folder for temporary files has no room from the start of the blow.

    Attributes:
        shared_memory: /dev/shm; else TMPDIR.
    """

    shared_memory: bool

    def prepare(self, stage: Stage, rng: random.Random) -> None:
        mount_small(stage, self._folder(stage), "256k")

    def strike(self, stage: Stage, moment: Moment, rng: random.Random) -> None:
        stage.strike()
        filler = fill(self._folder(stage), 0)
        stage.afterwards(lambda: filler.unlink(missing_ok=True))

    def expects(self, stage: Stage, moment: Moment) -> Expectation:
        if stage.setting.engine == "stand-ins" and self.shared_memory:
            return UNHARMED
        return Expectation(
            endings=endings("finished", "error"), statuses=statuses("finished", "failed"), path_hit=True,
            cause=("space|memory",) if stage.last("ended") and stage.last("ended")["how"] == "error" else (),  # type: ignore[index]
        )  # fmt: skip

    def _folder(self, stage: Stage) -> Path:
        return Path("/dev/shm") if self.shared_memory else stage.setting.tmp


INJECTIONS: tuple[Injection, ...] = (
    FullDisk(name="disk-full", what="the results' disk is full in the middle of a write", moments=("loading", "saving")),
    FullDisk(name="disk-full-3-s", what="the results' disk is full for 3 s", moments=("loading",), for_s=3.0),
    ReadOnlyDisk(
        name="disk-read-only", what="the results' file system becomes read-only", moments=("loading", "saving"),
    ),
    FullElsewhere(name="shm-full", what="/dev/shm is full", moments=("launching", "resplitting"), shared_memory=True),
    FullElsewhere(name="tmpdir-full", what="TMPDIR is full", moments=("launching", "resplitting"), shared_memory=False),
)  # fmt: skip
