"""What the cells of ``notebook.py`` use in their kernel: each says what came of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from labkit import Lab, Workload, close_labs
from tests.faults.engines import lab_arguments
from tests.faults.scene import Diary
from tests.faults.setting import Setting

__all__ = ["Lab", "begin", "cell", "close_labs", "serving"]

_diary: Diary


def begin(file: str | Path) -> dict[str, Any]:
    """What the first cell defines."""
    global _diary  # of the one notebook of this kernel
    setting = Setting.load(Path(file))
    _diary = Diary(setting.states)
    _diary.say("launching")
    endless = Workload(isl=setting.isl, osl=setting.osl, rate=setting.rate, duration_s=600.0, arrivals="constant")
    short = Workload(isl=setting.isl, osl=setting.osl, concurrency=2, requests=6)
    return {"setting": setting, "arguments": lab_arguments(setting), "endless": endless, "short": short}


def serving(lab: Lab) -> None:
    """Say which run it is."""
    _diary.say("serving", run=str(lab.run.path))


@contextlib.contextmanager
def cell(name: str) -> Iterator[None]:
    """Say what came of a cell; its error is shown all the same."""
    try:
        yield
    except Exception as error:
        _diary.say("cell", name=name, error=type(error).__name__, message=str(error), remedy=getattr(error, "remedy", ""))
        raise
    else:
        _diary.say("cell", name=name, error="")
