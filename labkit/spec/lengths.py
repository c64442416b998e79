"""How many tokens prompts and answers have: a distribution, a list, a file, or the rows of a trace."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, Literal

from labkit.errors import SpecError

LengthKind = Literal["fixed", "uniform", "normal", "lognormal", "empirical", "file", "trace"]

#: No prompt or answer is longer; a larger number is a mistake, not a workload.
MOST_TOKENS: Final = 10_000_000

_LENGTHS: Final = (
    "write 512, uniform:100-900, normal:512,64 (mean, deviation), lognormal:512,0.5 (median, sigma), "
    "empirical:128,512,900 (drawn from these) or file:PATH (drawn from a length a line, or from a trace's column)"
)
_LENGTH_TEXT: Final = re.compile(r"(?:(?P<kind>uniform|normal|lognormal):)?(?P<a>[0-9.]+)(?:[-,](?P<b>[0-9.]+))?")
_LIST_TEXT: Final = re.compile(r"empirical:([0-9]{1,8}(?:,[0-9]{1,8})*)")


@dataclass(frozen=True, slots=True)
class Lengths:
    """Token counts of prompts or answers. Draws are rounded and clipped to at least 1 token.

    ``a`` and ``b`` are: fixed (length, –), uniform (least, most), normal (mean, standard deviation),
    lognormal (median, sigma of the logarithm). ``values`` are those of an empirical distribution, each as likely as the next
    (a length that stands there twice comes twice as often). ``path`` is the file that holds such values. The kind ``trace``
    draws nothing: request *i* has the length of row *i* of the workload's trace.
    """

    kind: LengthKind
    a: float = 0.0
    b: float = 0.0
    values: tuple[int, ...] = ()
    path: str = ""

    @classmethod
    def parse(cls, text: str | int | Lengths) -> Lengths:
        """``512`` or ``"uniform:100-900"`` as a distribution; raises SpecError on anything else."""
        if isinstance(text, Lengths):
            return text
        if isinstance(text, str) and text == "trace":
            return cls("trace")
        if isinstance(text, str) and text.startswith("file:") and text != "file:":
            return cls("file", path=text.removeprefix("file:"))
        squeezed = str(text).replace(" ", "")
        if listed := _LIST_TEXT.fullmatch(squeezed):
            values = tuple(int(value) for value in listed[1].split(","))
            if min(values) < 1 or max(values) > MOST_TOKENS:
                raise SpecError(f"token length {text!r} describes no lengths of 1 to {MOST_TOKENS}", remedy=_LENGTHS)
            return cls("empirical", values=values)
        return cls._drawn(text, squeezed)

    @classmethod
    def _drawn(cls, text: str | int, squeezed: str) -> Lengths:
        match = _LENGTH_TEXT.fullmatch(squeezed)
        if match is None or isinstance(text, bool):
            raise SpecError(f"unknown token length {text!r}", remedy=_LENGTHS)
        kind, a, b = match["kind"] or "fixed", match["a"], match["b"]
        try:
            lengths = cls(kind, float(a), float(b) if b else 0.0)  # type: ignore[arg-type]
        except ValueError:
            raise SpecError(f"unknown token length {text!r}", remedy=_LENGTHS) from None
        whole = kind not in ("fixed", "uniform") or (lengths.a.is_integer() and lengths.b.is_integer())
        paired = (b is None) == (kind == "fixed")
        bounded = 1 <= lengths.a <= MOST_TOKENS and (
            lengths.a <= lengths.b <= MOST_TOKENS if kind == "uniform" else math.isfinite(lengths.b)
        )
        if not (whole and paired and bounded):
            raise SpecError(f"token length {text!r} describes no lengths of 1 to {MOST_TOKENS}", remedy=_LENGTHS)
        return lengths

    @property
    def typical(self) -> float | None:
        """The centre of the distribution in tokens: mean, or median for lognormal; ``None`` where only a file knows."""
        match self.kind:
            case "uniform":
                return (self.a + self.b) / 2
            case "empirical":
                return sum(self.values) / len(self.values)
            case "file" | "trace":
                return None
            case _:
                return self.a

    @property
    def longest(self) -> int | None:
        """A length that draws do not exceed, for all practical purposes: the most, or five deviations above the centre.

        ``None`` where only a file knows.
        """
        match self.kind:
            case "fixed":
                return round(self.a)
            case "uniform":
                return round(self.b)
            case "normal":
                return round(min(self.a + 5 * self.b, MOST_TOKENS))
            case "lognormal":
                return round(min(self.a * math.exp(min(5 * self.b, 100.0)), MOST_TOKENS))
            case "empirical":
                return max(self.values)
            case _:
                return None

    def __str__(self) -> str:
        match self.kind:
            case "fixed":
                return plain(self.a)
            case "uniform":
                return f"uniform:{plain(self.a)}-{plain(self.b)}"
            case "empirical":
                return f"empirical:{','.join(map(str, self.values))}"
            case "file":
                return f"file:{self.path}"
            case "trace":
                return "trace"
            case _:
                return f"{self.kind}:{plain(self.a)},{plain(self.b)}"


def plain(value: float) -> str:
    """Every digit and no exponent, so that what is written (1000000, not 1e+06) can be read back."""
    return f"{Decimal(str(value)):f}".removesuffix(".0")
