"""What an injection is: one kind of blow, at one of its moments. A module of ``injections/`` lists its own in ``INJECTIONS``."""

from __future__ import annotations

import importlib
import pkgutil
import random
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

from tests.faults.expectation import Expectation
from tests.faults.setting import EngineName, Face
from tests.faults.stage import Moment, Stage

EVERYWHERE: tuple[EngineName, ...] = ("stand-ins", "mocker", "vllm")


@dataclass(frozen=True, kw_only=True)
class Injection(ABC):
    """One kind of blow.

    Attributes:
        name: unique, in kebab case; as ``--only`` takes it.
        what: in words, for the report's table.
        moments: at which it makes sense.
        engines: on which it does.
        face: how the experiment is run.
        setting: values of ``Setting`` that it needs.
        rare: slow; it comes once and is not repeated.
    """

    name: str
    what: str
    moments: tuple[Moment, ...]
    engines: tuple[EngineName, ...] = EVERYWHERE
    face: Face = "script"
    setting: dict[str, Any] = field(default_factory=dict)
    rare: bool = False

    def prepare(self, stage: Stage, rng: random.Random) -> None:
        """Before the scene starts: ``stage.alter(env=…)``, folders, limits. ``rng`` is the case's own."""
        return

    @abstractmethod
    def strike(self, stage: Stage, moment: Moment, rng: random.Random) -> None:
        """The blow. Calls ``stage.strike(victim)`` right before it, and ``stage.afterwards(…)`` for what must be taken back."""

    @abstractmethod
    def expects(self, stage: Stage, moment: Moment) -> Expectation:
        """What may come of it; asked when the scene is over."""

    def examine(self, stage: Stage) -> list[str]:
        """What this blow alone can be asked about a scene that is over: a sentence for each thing that should not be."""
        return []


def registered() -> dict[str, Injection]:
    """Every injection by name, of all modules of ``injections/``, in their order."""
    from tests.faults import injections

    found: dict[str, Injection] = {}
    for module in sorted(pkgutil.iter_modules(injections.__path__), key=lambda one: one.name):
        for one in importlib.import_module(f"{injections.__name__}.{module.name}").INJECTIONS:
            assert one.name not in found, f"two injections are called {one.name}"
            found[one.name] = one
    return found
