"""Files of a saved run are truncated or lose a bit, or a newer labkit wrote them: no other numbers may come of it unsaid.

The scene's own run is copied away when it is over, and the copy is hurt: the oracle judges the run itself like any other.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.faults.expectation import UNHARMED, Expectation
from tests.faults.injection import Injection
from tests.faults.stage import ROOT, Moment, Stage
from tests.support.waiting import until

_ASKED_S = 300
_HURTS = 40
Said = tuple[int, str, str]


@dataclass(frozen=True, kw_only=True)
class DamagedFile(Injection):
    """One file of a run's copy is hurt, everything that reads runs is asked; a few times, at other places of other files.

    Attributes:
        how: ``flip`` a bit, ``cut`` the end, or let a ``newer`` labkit have written it.
        which: pattern of the files.
        torn: hurt a run that was cut off, which still has its segments. That more of one is missing than was not written cannot
            be known, so that other numbers are let pass there.
    """

    how: str
    which: str
    torn: bool = False

    def strike(self, stage: Stage, moment: Moment, rng: random.Random) -> None:
        stage.strike()
        until(lambda: not stage.alive, "the end of the scene", 60.0)
        run = stage.setting.results / "older-torn" if self.torn else stage.run
        if run is None:
            return  # the oracle finds that
        folder = stage.setting.folder / "copies"
        for source, name in ((run, "hurt"), (stage.setting.results / "older", "other")):
            shutil.copytree(source, folder / name)
        hurts = [self._drawn(folder / "hurt", rng) for _ in range(1 if self.how == "newer" else _HURTS)]
        (folder / "hurts.json").write_text(json.dumps(hurts))
        before = _bytes_of(folder / "other")
        env = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "300", "TMPDIR": str(stage.setting.tmp)}
        subprocess.run([sys.executable, "-m", "tests.faults.asking", str(folder)], env=env, timeout=_ASKED_S, check=True)
        whole, *said = json.loads((folder / "said.json").read_text())
        for hurt, answers in zip(hurts, said, strict=True):
            words = f"{hurt['path']} {hurt['how']} {hurt['at']}.{hurt['bit']}"
            for first, answer in zip(whole, answers, strict=False):
                stage.found += [f"{words}: {found}" for found in self._wrong(first, answer, hurt["path"])]
        if _bytes_of(folder / "other") != before:
            stage.found.append("another run has changed")

    def expects(self, stage: Stage, moment: Moment) -> Expectation:
        return UNHARMED

    def _drawn(self, run: Path, rng: random.Random) -> dict[str, object]:
        path = rng.choice([path for path in sorted(run.rglob(self.which)) if path.is_file() and path.stat().st_size])
        at = rng.randrange(path.stat().st_size)
        return {"path": str(path.relative_to(run)), "how": self.how, "at": at, "bit": rng.randrange(8)}

    def _wrong(self, whole: Said, now: Said, hurt: str) -> list[str]:
        """A traceback; other numbers without a word; an error that does not name the file, or not what to do."""
        code, out, error = now
        if "Traceback" in error or "Traceback" in out:
            return [f"a traceback: {error.strip()[-300:]}"]
        if code == 0:
            told = out == whole[1] or hurt.rpartition("/")[2] in out + error or "unreadable" in out
            return [] if told or (self.torn and self.how == "cut") else [f"other words: {_difference(whole[1], out)}"]
        if code == whole[0]:
            return []
        named = hurt in error or (self.how == "newer" and "hurt has schema version" in error)
        return [] if named and "→" in error else [f"exit {code} without file or remedy: {error.strip()[-300:]}"]


def _difference(one: str, other: str) -> str:
    pairs = zip(one.splitlines(), other.splitlines(), strict=False)
    return next((f"{a[:150]!r} / {b[:150]!r}" for a, b in pairs if a != b), f"{len(one)} and {len(other)} characters")


def _bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


_SHORT = {"then": "", "answers": 12}
_KINDS = (
    ("manifest", "manifest.json", "the manifest", False),
    ("table", "*.parquet", "a table (Parquet)", False),
    ("log", "*.log", "a log", False),
    ("segment", "*.arrows", "a segment of a run that was cut off", True),
)

INJECTIONS: tuple[Injection, ...] = (
    *(
        DamagedFile(name=f"{how}-{kind}", what=f"{words} {text} of a saved run", moments=("closing",), how=how, which=which,
                    torn=torn, setting=_SHORT, engines=("stand-ins",))
        for how, words in (("flip", "a bit flips in"), ("cut", "the end is missing of"))
        for kind, which, text, torn in _KINDS
    ),
    DamagedFile(
        name="newer-schema", what="a newer labkit wrote the run", moments=("closing",), how="newer", which="manifest.json",
        setting=_SHORT, engines=("stand-ins",),
    ),
)  # fmt: skip
