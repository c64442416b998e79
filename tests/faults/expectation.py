"""What a fault may do, and what must be said of it. The oracle holds the scene to it; all else is the same for every fault."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

#: How a scene may end: to its end; with an error of the lab's; by an interrupt; killed, without a word.
Ending = Literal["finished", "error", "interrupted", "killed"]
Status = Literal["finished", "failed", "interrupted", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """Of one injection at one moment.

    Attributes:
        endings: how the scene may end.
        statuses: what the run may say of itself; ``none``: it need not be there.
        cause: words (regular expressions, any case) each of which the lab must say where a person reads it: in the error,
            in a line that it tells, or in ``labkit show``.
        remedy: whether the lab must say what to do about it.
        harmless: no request may fail.
        path_hit: the fault lies between worker and client, so that a request which a server answered in full may have failed.
        repeats: the fault repeats parts of answers: the chunks of a failed request may hold more than a server wrote.
        lost_s: records of requests that ended in this time before the blow may be missing; ``None``: none may.
        others: after a fault in one worker, every request that reached another must be answered in full, and recorded so.
        opens: ``labkit show`` must open the run.
        end_s: longest time from the blow to the end of the scene.
    """

    endings: frozenset[Ending]
    statuses: frozenset[Status]
    cause: tuple[str, ...] = ()
    remedy: bool = False
    harmless: bool = False
    path_hit: bool = False
    repeats: bool = False
    lost_s: float | None = None
    others: bool = False
    opens: bool = True
    end_s: float = 150.0


def endings(*which: Ending) -> frozenset[Ending]:
    """A set of them."""
    return frozenset(which)


def statuses(*which: Status) -> frozenset[Status]:
    """A set of them."""
    return frozenset(which)


UNHARMED = Expectation(endings=endings("finished"), statuses=statuses("finished"), harmless=True)
