"""Plays the cases of a plan one after the other and judges each."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults.leftovers import Around
from tests.faults.oracle import Verdict, fingerprint, judge
from tests.faults.plan import Case
from tests.faults.stage import NotPossible, SceneEnded, Stage
from tests.support.saved_runs import saved_run

#: Values of ``Setting`` that an engine needs: real workers on a CPU answer a few requests a second, for long enough that some are
#: left to drain.
OF_ENGINE: Mapping[str, dict[str, Any]] = {
    "stand-ins": {},
    "mocker": {"osl": 12},
    "vllm": {"rate": 2.0, "isl": 64, "osl": 96, "answers": 6, "split": "2A", "then": "1P1D", "most_s": 60.0},
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """One case that was played.

    Attributes:
        hit: at what moment, whom; empty where the scene was over before.
        folder: of the scene, kept where something was found.
        impossible: why this machine does not allow the blow; empty where it was dealt.
    """

    case: Case
    verdict: Verdict
    hit: str
    seconds: float
    folder: Path | None
    impossible: str = ""

    @property
    def failed(self) -> bool:
        """Whether anything was found."""
        return bool(self.verdict.findings)


def play(case: Case, *, keep: bool = False, **setting: Any) -> Outcome:
    """Play one case; nothing of it is left, but for the folder where something was found, or that ``keep`` keeps.

    Args:
        case: which blow, where and when.
        keep: the folder in any case.
        setting: values of ``Setting`` in the place of the engine's usual ones.
    """
    began, rng = time.monotonic(), random.Random(case.seed)
    injection = case.injection
    stage = Stage(**{**OF_ENGINE[case.engine], "engine": case.engine, "face": injection.face, **setting, **injection.setting})
    found: list[str] = []
    try:
        for name, finish in (("older", True), ("older-torn", False)):
            saved_run(stage.setting.results, name, ("2A", "1P1D"), finish=finish, duration_s=4.0)
        older = fingerprint(stage.setting.results, "older*")
        before = Around.now()
        try:
            injection.prepare(stage, rng)
            stage.start()
            stage.wait_moment(case.moment, case.nth)
            injection.strike(stage, case.moment, rng)
        except SceneEnded as error:
            found.append(f"the scene ended before {error}: {stage.said.strip()[-300:]}")
        except Exception as error:
            found.append(f"the campaign could not deal the blow: {type(error).__name__}: {str(error)[-300:]}")
        expected = injection.expects(stage, case.moment)
        if not stage.wait_end(expected.end_s):
            found.append(f"the scene did not end within {expected.end_s:g} s; it last said {stage.states[-1:]}")
        expected = injection.expects(stage, case.moment)  # again: it may depend on what came of it
        stage.mend()
        stage.hang_up_kernel()
        try:
            verdict = judge(stage, expected, before, older)
            found += injection.examine(stage) if stage.struck_ns is not None else []
        except Exception as error:
            verdict = Verdict("killed", "", {}, (f"the oracle failed: {type(error).__name__}: {str(error)[:300]}",))
        verdict = Verdict(verdict.ending, verdict.status, verdict.counts, (*found, *stage.found, *verdict.findings))
        kept = keep or bool(verdict.findings)
        hit = f"{stage.at}: {stage.victim.name} ({stage.victim.pid})" if stage.victim else stage.at
        return Outcome(case, verdict, hit, time.monotonic() - began, stage.setting.folder if kept else None)
    except NotPossible as error:
        kept = keep
        nothing = Verdict("finished", "", {}, ())
        return Outcome(case, nothing, "", time.monotonic() - began, stage.setting.folder if kept else None, str(error))
    except BaseException:
        kept = True
        raise
    finally:
        stage.clear(keep=kept)
