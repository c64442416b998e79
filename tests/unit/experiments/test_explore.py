"""One exploration a process, and its end."""

from __future__ import annotations

from importlib import import_module
from typing import cast

import pytest

from labkit.experiments.exploration import Exploration

explore = import_module("labkit.experiments.explore")  # the package's own name for it is the function


class Part:
    """Something that is closed once, and may be interrupted while it is."""

    def __init__(self, interrupted: bool = False) -> None:
        self.interrupted, self.closed = interrupted, 0

    def close(self) -> None:
        self.closed += 1
        if self.interrupted:
            raise KeyboardInterrupt


class Explored(Part):
    def __init__(self, interrupted: bool) -> None:
        super().__init__(interrupted)
        self.lab = Part()


@pytest.mark.parametrize("interrupted", [False, True])
def test_an_interrupted_end_still_closes_the_lab(interrupted: bool, monkeypatch: pytest.MonkeyPatch):
    explored = Explored(interrupted)
    monkeypatch.setattr(explore, "_under_hand", [explored])
    try:
        explore.end(cast(Exploration, explored))
    except KeyboardInterrupt:
        assert interrupted
    else:
        assert not interrupted
    assert (explored.closed, explored.lab.closed) == (1, 1)
    assert explore._under_hand == []
