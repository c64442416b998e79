"""Which blows a campaign deals, in which order, at which moments: all of it from the seed."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import count, islice

from tests.faults.injection import Injection
from tests.faults.setting import EngineName
from tests.faults.stage import Moment

#: The engines of one plan; of several, stand-ins come three times as often as the mocker.
ENGINES: Mapping[str, tuple[EngineName, ...]] = {
    "cheap": ("stand-ins", "stand-ins", "stand-ins", "mocker"),
    "stand-ins": ("stand-ins",),
    "mocker": ("mocker",),
    "vllm": ("vllm",),
}
#: Cheap engines, and real workers in every eleventh case: 200 and 20 of 220. Each part deals its blows as a plan of its own.
ALL = "all"
_REAL_EVERY = 11
#: ended requests at ``loading``: half of them before the re-split, half after it
_MOST_ANSWERS: Mapping[str, int] = {"stand-ins": 55, "mocker": 55, "vllm": 9}


@dataclass(frozen=True, slots=True)
class Case:
    """One blow of a campaign: ``number`` counts from 1, ``nth`` ended request is waited for at ``loading``."""

    number: int
    injection: Injection
    engine: EngineName
    moment: Moment
    nth: int
    seed: str

    def __str__(self) -> str:
        at = f"loading {self.nth}" if self.moment == "loading" else self.moment
        return f"{self.injection.name} at {at} on {self.engine}"


def cases(known: Mapping[str, Injection], engine: str, seed: int) -> Iterator[Case]:
    """Without an end; every injection that the engine can bear comes once before any comes again, and the rare ones never again
    unless there are no others.

    How many are taken changes none of them; another set of injections changes all.

    Args:
        known: injections by name.
        engine: one of ``ENGINES``, or ``ALL``.
        seed: of everything.
    """
    if engine == ALL:
        cheap, real = cases(known, "cheap", seed), cases(known, "vllm", seed)
        for number in count(1):
            first, second = (real, cheap) if number % _REAL_EVERY == 0 else (cheap, real)
            case = next(first, None) or next(second, None)  # a few chosen ones may all be for one part
            if case is None:
                return
            yield replace(case, number=number)
    rng = random.Random(f"{seed} {engine}")
    able = [one for one in known.values() if set(one.engines) & set(ENGINES[engine])]
    number, once = 0, True
    while able:
        rng.shuffle(able)
        for one in able:
            number += 1
            chosen = rng.choice([name for name in ENGINES[engine] if name in one.engines])
            nth = 1 + int(rng.random() * _MOST_ANSWERS[chosen])
            yield Case(number, one, chosen, rng.choice(one.moments), nth, f"{seed} {engine} {number}")
        if once:
            able, once = [one for one in able if not one.rare] or able, False


def planned(known: Mapping[str, Injection], engine: str, seed: int, count: int) -> list[Case]:
    """The first so many."""
    return list(islice(cases(known, engine, seed), count))
