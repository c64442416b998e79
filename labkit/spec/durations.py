"""How long somebody takes: a distribution of seconds, in the words of ``Lengths`` where they fit."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Final, Literal

from labkit.errors import SpecError
from labkit.spec.lengths import plain

DurationKind = Literal["fixed", "uniform", "normal", "lognormal", "exponential", "empirical"]

#: No pause is longer; a larger number is a mistake, not a workload.
MOST_S: Final = 86_400.0

_DURATIONS: Final = (
    f"write seconds up to {MOST_S:.0f}: 1.5, uniform:1-5, exponential:2 (mean), normal:2,0.5 (mean, deviation), "
    "lognormal:2,0.5 (median, sigma) or empirical:0.5,2,9 (drawn from these)"
)
_NUMBER: Final = r"[0-9]{1,9}(?:\.[0-9]{1,30})?"
_TEXT: Final = re.compile(rf"(?:(uniform|exponential|normal|lognormal):)?({_NUMBER})(?:[-,]({_NUMBER}))?")
_LIST: Final = re.compile(rf"empirical:({_NUMBER}(?:,{_NUMBER})*)")


@dataclass(frozen=True, slots=True)
class Durations:
    """Seconds, 0 or more. Draws are clipped to [0, one day].

    ``a`` and ``b`` are: fixed (seconds, –), uniform (least, most), exponential (mean, –), normal (mean, standard deviation),
    lognormal (median, sigma of the logarithm). ``values`` are those of an empirical distribution, each as likely as the next.
    """

    kind: DurationKind
    a: float = 0.0
    b: float = 0.0
    values: tuple[float, ...] = ()

    @classmethod
    def parse(cls, text: str | float | Durations) -> Durations:
        """``1.5`` or ``"lognormal:2,0.5"`` as a distribution; raises SpecError on anything else."""
        if isinstance(text, Durations):
            return text
        number = isinstance(text, int | float) and not isinstance(text, bool)
        squeezed = (plain(text) if number and math.isfinite(text) else str(text)).replace(" ", "")  # type: ignore[arg-type]
        if listed := _LIST.fullmatch(squeezed):
            found = cls("empirical", values=tuple(map(float, listed[1].split(","))))
        elif (match := _TEXT.fullmatch(squeezed)) and not isinstance(text, bool):
            kind, a, b = match[1] or "fixed", match[2], match[3]
            if (b is None) != (kind in ("fixed", "exponential")):
                raise SpecError(f"{text!r} describes no durations of 0 s or more", remedy=_DURATIONS)
            found = cls(kind, float(a), float(b or 0))  # type: ignore[arg-type]
        else:
            raise SpecError(f"unknown duration {text!r}", remedy=_DURATIONS)
        if not found._can_be_meant():
            raise SpecError(f"{text!r} describes no durations of 0 s or more", remedy=_DURATIONS)
        return found

    def _can_be_meant(self) -> bool:
        if max((self.a, *self.values)) > MOST_S:
            return False
        match self.kind:
            case "uniform":
                return self.a <= self.b <= MOST_S
            case "exponential" | "lognormal":
                return self.a > 0
            case _:
                return True

    def __str__(self) -> str:
        match self.kind:
            case "fixed":
                return plain(self.a)
            case "uniform":
                return f"uniform:{plain(self.a)}-{plain(self.b)}"
            case "exponential":
                return f"exponential:{plain(self.a)}"
            case "empirical":
                return f"empirical:{','.join(map(plain, self.values))}"
            case _:
                return f"{self.kind}:{plain(self.a)},{plain(self.b)}"
