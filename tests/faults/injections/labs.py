"""A second lab in the same folder, that wants the same name, and is killed: the first must not notice."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import uuid
from dataclasses import dataclass, replace

from tests.faults.expectation import UNHARMED, Expectation
from tests.faults.injection import Injection
from tests.faults.stage import ROOT, Moment, Stage
from tests.support.waiting import MARK, marked, until

_NAME = "wanted-by-both"


@dataclass(frozen=True, kw_only=True)
class TwoLabs(Injection):
    """Launched while the first is at work, loaded, and killed with SIGKILL while both run, or earlier where the first ends."""

    def prepare(self, stage: Stage, rng: random.Random) -> None:
        stage.alter(env={**stage.setting.env, "LABKIT_RUN_NAME": _NAME})

    def strike(self, stage: Stage, moment: Moment, rng: random.Random) -> None:
        folder = stage.setting.folder / "second"
        second = replace(stage.setting, folder=folder, mark=f"faults-{uuid.uuid4().hex}", then="", proxy="")
        for path in (folder, second.tmp, second.truth):
            path.mkdir()
        second.results.symlink_to(stage.setting.results)
        env = {**os.environ, **second.env, MARK: second.mark, "TMPDIR": str(second.tmp), "PYTHONPATH": str(ROOT)}
        stage.strike()
        with second.out.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.scene", str(second.save())], env=env, cwd=folder, stdout=out, stderr=out,
                stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        enough = rng.choice(('"loading"', '"serving"', '"launching"'))
        try:
            with contextlib.suppress(AssertionError):
                until(lambda: enough in (second.states.read_text() if second.states.exists() else ""), enough, 60.0)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        with contextlib.suppress(AssertionError):
            until(lambda: not marked(second.mark), "the end of the second lab's processes", 20.0)
        for pid in marked(second.mark):
            stage.found.append(f"process {pid} of the killed lab is left")
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        stage.notes.append(f"killed after {enough}")
        other = [
            path for path in stage.setting.results.glob(f"{_NAME}*") if str(path) != (stage.last("serving") or {}).get("run")
        ]
        for run in other:
            if json.loads((run / "manifest.json").read_text())["process"]["pid"] == process.pid:
                stage.found += _interrupted(str(run), env)

    def expects(self, stage: Stage, moment: Moment) -> Expectation:
        return UNHARMED


def _interrupted(run: str, env: dict[str, str]) -> list[str]:
    shown = subprocess.run(
        [sys.executable, "-m", "labkit.cli.main", "show", run], env=env, capture_output=True, text=True, timeout=120, check=False
    )
    good = shown.returncode == 0 and "interrupted" in shown.stdout
    return [] if good else [f"the killed lab's run is shown as {(shown.stdout + shown.stderr).strip()[-300:]}"]


INJECTIONS: tuple[Injection, ...] = (
    TwoLabs(
        name="two-labs", what="a second lab in the same folder, of the same name, is killed", moments=("loading", "resplitting"),
        engines=("stand-ins", "mocker"), setting={"answers": 60},
    ),
)  # fmt: skip
