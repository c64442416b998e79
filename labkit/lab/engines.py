"""The engines that a lab can launch, by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from labkit.errors import MissingEngine, SpecError
from labkit.serve.engines.base import Engine
from labkit.serve.engines.dynamo import Dynamo
from labkit.serve.engines.mocker import Mocker
from labkit.serve.engines.vllm import Vllm
from labkit.serve.interpreter import engine_python, versions

#: Engines by the name that ``Lab(engine=…)`` takes; each is made from the interpreter that holds it.
ENGINES: dict[str, Callable[[str], Engine]] = {"vllm": Vllm, "dynamo": Dynamo, "mocker": Mocker}


#: The engine where none is named.
USUAL: Final = "vllm"
#: The engine whose workers compute nothing.
SIMULATED: Final = "mocker"


def known_engine(name: str | None) -> str:
    """This name, or that of the usual engine for ``None``; starts nothing and looks for no package.

    Raises:
        SpecError: there is no such engine.
    """
    if name is None:
        return USUAL
    if name not in ENGINES:
        raise SpecError(f"unknown engine {name!r}", remedy=f"use one of {', '.join(ENGINES)}")
    return name


def engine_named(name: str) -> tuple[Engine, dict[str, str]]:
    """The engine of this name, and the versions found in its interpreter.

    Raises:
        SpecError, MissingEngine: there is none, or it is not installed.
    """
    known_engine(name)
    python = str(engine_python())
    found, made = versions(Path(python)), ENGINES[name](python)
    if lacking := made.missing(tuple(found)):
        raise MissingEngine(
            f"{lacking} is not installed for {python}",
            remedy="run `make setup`, or let LABKIT_ENGINE_PYTHON name the interpreter that has it",
        )
    return made, found
