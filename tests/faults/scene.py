"""The experiment under fault, in a process of its own: ``python -m tests.faults.scene SETTING``; notebooks call ``play``.

It does what a person's script does: launch, load, re-split in the middle, measure, close; and says where it stands in
``states.jsonl``, a file and not its output, which a closed terminal or a dead notebook would take with it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from labkit.errors import LabError
from labkit.lab.lab import Lab
from labkit.lab.load_fleet import LoadFleet
from labkit.lab.measurement import RunningLoad
from labkit.serve.patience import Draining
from labkit.spec import Workload
from tests.faults.engines import lab_arguments
from tests.faults.setting import Setting

_POLL_S = 0.05


class Diary:
    """Says states: a JSON line each, written whole."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)

    def say(self, state: str, **facts: object) -> None:
        line = {"state": state, "t_ns": time.monotonic_ns(), "pid": os.getpid(), **facts}
        os.write(self._fd, json.dumps(line, default=str).encode() + b"\n")


def play(file: str | Path) -> None:
    """The whole experiment. What it raises is what a person would see."""
    setting = Setting.load(Path(file))
    diary = Diary(setting.states)
    diary.say("launching")

    def progress(line: str) -> None:
        diary.say("said", line=line)
        print(line, flush=True)

    if setting.proxy:
        _send_through(setting.proxy)
    try:
        _experiment(setting, diary, progress)
    except BaseException as error:
        remedy = getattr(error, "remedy", "")
        diary.say("ended", how="error", type=type(error).__name__, message=str(error), remedy=remedy)
        raise
    diary.say("ended", how="finished")


def _experiment(setting: Setting, diary: Diary, progress: Callable[[str], None]) -> None:
    arguments = lab_arguments(setting)
    lab = Lab(
        topology=setting.split, results=setting.results, progress=progress, shards=setting.shards,
        workload=_workload(setting), **arguments,
    )  # fmt: skip
    with lab:
        diary.say("serving", run=str(lab.run.path))
        lab.changes.on_wait = lambda: _say_drain(lab, diary)
        _tell_saving(lab, diary)
        load = lab.load()
        diary.say("loading")
        _follow(load, setting.answers, setting.most_s, diary)
        if setting.then:
            diary.say("resplitting")
            try:
                done = lab.resplit(setting.then)
            except LabError as error:  # a person reads it, and lets the load run on
                progress(str(error))
                diary.say("resplit", failed=type(error).__name__, message=str(error), remedy=error.remedy)
            else:
                diary.say("resplit", proof=str(done))
            now = load.progress.done if load.progress else 0
            _follow(load, now + setting.answers, setting.most_s, diary)
        diary.say("ending")
        load.finish()
        measured = load.wait()
        diary.say("measured", counts=dict(measured.counts))
        progress(repr(measured))
        diary.say("closing")
    diary.say("closed")


def _workload(setting: Setting) -> Workload:
    return Workload(
        isl=setting.isl, osl=setting.osl, rate=setting.rate, duration_s=600.0, arrivals="constant", timeout_s=setting.timeout_s
    )


def _follow(load: RunningLoad, ended: int, most_s: float, diary: Diary) -> None:
    """Until so many requests have ended, or the load cannot go on, or the wait is over."""
    deadline, told = time.monotonic() + most_s, -1
    while not load.over and time.monotonic() < deadline:
        done = load.progress.done if load.progress else 0
        if done != told:
            told = done
            diary.say("answers", count=done, failed=load.progress.failed if load.progress else 0)
        if done >= ended:
            return
        time.sleep(_POLL_S)


def _say_drain(lab: Lab, diary: Diary) -> None:
    if isinstance(lab.changes.waiting, Draining):
        diary.say("draining")


def _tell_saving(lab: Lab, diary: Diary) -> None:
    finish = lab.run.finish

    def told(*args: Any, **kwargs: Any) -> None:
        diary.say("saving")
        finish(*args, **kwargs)

    lab.run.finish = told  # type: ignore[method-assign]


def _send_through(proxy: str) -> None:
    """Let the load go to the proxy, which passes it on to the port that its path names."""
    direct = LoadFleet.target

    def target(self: LoadFleet, epoch: int, url: str, model: str, **settings: Any) -> None:
        direct(self, epoch, f"{proxy}/up/{url.rpartition(':')[2].strip('/')}", model, **settings)

    LoadFleet.target = target  # type: ignore[method-assign]


if __name__ == "__main__":
    play(sys.argv[1])
