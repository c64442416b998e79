"""A notebook whose cells a person runs in any order and again. The campaign writes it without the lab's code."""

from __future__ import annotations

from collections.abc import Iterator

#: Name → source, as it stands in the notebook.
CELLS = {
    "launch": "lab = Lab(topology=setting.split, results=setting.results, **arguments)\nserving(lab)",
    "load": "load = lab.load(endless)",
    "measure": "lab.measure(short)",
    "resplit": "lab.resplit(setting.then)",
    "back": "lab.resplit(setting.split)",
    "show": "lab",
    "stop": "load.stop()",
    "close": "lab.close()",
}


def sources(file: str, order: list[str]) -> Iterator[str]:
    """The cells to execute, the first and the last included."""
    yield f"from tests.faults.cells import *\nglobals().update(begin({file!r}))"
    for name in order:
        body = "\n".join(f"    {line}" for line in CELLS[name].splitlines())
        yield f"with cell({name!r}):\n{body}"
    yield "from tests.faults.cells import _diary\nclose_labs()\n_diary.say('ended', how='finished')"
