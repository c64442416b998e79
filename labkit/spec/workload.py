"""Workloads: how long prompts and answers are, when requests are sent, for how long, from which seed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final, Literal, Self, get_args

from labkit.errors import SpecError
from labkit.spec.arrivals import ARRIVALS, Profile, parse_profile
from labkit.spec.durations import Durations
from labkit.spec.lengths import Lengths

Api = Literal["completions", "chat"]
Warmup = Literal["given", "auto"]
#: Which answers stand in a conversation's history: those of the seed, or those that the server gave.
History = Literal["seeded", "served"]

#: No conversation has more turns; a larger number is a mistake, not a workload.
MOST_TURNS: Final = 1000
#: Room for what a chat template adds to a prompt for each turn that went before it.
TURN_TEMPLATE_TOKENS: Final = 16

_MOST: Final = 1e15  # what is larger is a mistake, and no float any more further on
_PROCESSES: Final = ("constant", "poisson", "gamma")
_TURNS: Final = (
    f"write a number of turns up to {MOST_TURNS}: 4, uniform:2-6, normal:5,2 (mean, deviation), lognormal:4,0.5 (median, sigma) "
    "or empirical:1,1,8 (drawn from these)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What is asked of a deployment. Same workload and seed, same requests, byte for byte.

    With ``turns`` the requests are those of conversations: each turn is sent when its think time has passed since the end of the
    answer before, and its prompt is the whole history and ``isl`` new tokens. A failed turn ends its conversation.

    When requests are sent is said once: by ``rate`` (open loop), by ``concurrency`` (closed loop), by ``arrivals`` that carry
    rates of their own, or by the times of a ``trace``. How many there are is said once: by ``duration_s`` or ``requests``; a
    trace without either is sent whole, and never more than once.

    Attributes:
        isl, osl: input and output lengths in tokens: a number, a text such as ``"uniform:100-900"``, or ``Lengths``; 512 and
            128 by default, with a trace ``"trace"``: those of its rows.
        rate: requests per second on average, sent whether or not earlier ones have ended; with ``turns`` conversations begun
            per second, as with ``arrivals``.
        concurrency: requests in flight at all times; a new one starts when one ends. With ``turns`` conversations.
        arrivals: ``constant``, ``poisson`` or ``gamma`` gaps between sends at ``rate``; or a rate that changes with time,
            without ``rate``: ``"ramp:1-8"``, ``"burst:10@5/20"``, ``"step:0=1,30=4"`` (``spec.arrivals``); or ``"trace"``.
            All are open loops.
        burstiness: shape of the gamma distribution; 1 is Poisson, below 1 is burstier (as in ``vllm bench serve``). Taken by
            ``gamma`` and by rates that change with time.
        trace: path of a file of real requests: JSON lines in Mooncake's format, or CSV in Azure's (``load.traces``). Equal
            ``hash_ids`` become equal tokens.
        time_scale: a trace's times are multiplied by it: 0.5 sends twice as fast.
        sample: ``requests`` rows of the trace drawn at random and sent at their own times, instead of its first ones.
        clip_tokens: most tokens of a prompt with its answer, such as the model's length; longer requests are cut, and counted.
            A conversation ends before the turn that would outgrow it; how many do, and the turns left out, are counted.
        prefix_groups, prefix_tokens: each prompt begins with the ``prefix_tokens`` tokens of one of so many groups, drawn at
            random; they are part of ``isl``, the same in the warm-up, and a shorter prompt is cut from them. All turns of a
            conversation begin with the same.
        turns: requests of a conversation: a number, or a text such as ``"uniform:2-6"``; at most 1000. ``None``: requests are
            apart from each other.
        think_s: seconds between the end of an answer and the next turn: a number, or a text such as ``"lognormal:2,0.5"`` or
            ``"exponential:1.5"``; 0 by default.
        history: which answers stand in it. ``seeded``: random tokens of exactly ``osl``, from the seed, whatever the server
            answered, so that the requests are the same byte for byte; a prefix cache is hit by the prompts, but not by what
            was generated. ``served``: what the server answered, by its token ids (completions) or its text (chat); the
            requests then depend on the server.
        duration_s: seconds over which requests are *sent* in the measure phase, after the warm-up.
        requests: number of requests of the measure phase instead of a duration. Turns are requests: the first so many are
            taken in the order of the conversations, the last of which may be cut short.
        warmup_s: seconds of the same load before the measure phase; excluded from every result.
        warmup: ``given``: what is sent in ``warmup_s`` and nothing else is warm-up. ``auto``: the lab also finds, when the
            load has ended, how many of the first requests of the measure phase still belong to it (``measure.warmup``), at most
            half; the same requests are sent either way.
        seed: drives lengths, contents, arrivals and samples.
        api: ``completions`` (prompts as token ids) or ``chat`` (text).
        timeout_s: a request that takes longer is recorded as a time-out.

    Raises:
        SpecError: a value out of range, or a combination that says two things at once.
    """

    isl: Lengths | str | int | None = None
    osl: Lengths | str | int | None = None
    rate: float | None = None
    concurrency: int | None = None
    arrivals: str | None = None
    burstiness: float = 1.0
    trace: str | Path | None = None
    time_scale: float = 1.0
    sample: bool = False
    clip_tokens: int | None = None
    prefix_groups: int = 0
    prefix_tokens: int = 0
    turns: Lengths | str | int | None = None
    think_s: Durations | str | float | None = None
    history: History | None = None
    duration_s: float | None = None
    requests: int | None = None
    warmup_s: float = 0.0
    warmup: Warmup = "given"
    seed: int = 0
    api: Api = "completions"
    timeout_s: float = 600.0

    def __post_init__(self) -> None:
        for name, usual in (("isl", 512), ("osl", 128)):
            value = getattr(self, name)
            usual_here = usual if self.trace is None else "trace"
            object.__setattr__(self, name, Lengths.parse(usual_here if value is None else value))
        for name in ("rate", "concurrency", "duration_s", "requests", "clip_tokens"):
            if getattr(self, name) is not None:
                _positive(name, getattr(self, name))
        for name in ("burstiness", "timeout_s", "time_scale"):
            _positive(name, getattr(self, name))
        self._check_numbers()
        if self.arrivals is None:
            timed = self.trace is not None and self.rate is None and self.concurrency is None
            object.__setattr__(self, "arrivals", "trace" if timed else "poisson")
        self._check_load()
        self._check_extent()
        if self.warmup not in get_args(Warmup):
            raise SpecError(f"unknown warmup {self.warmup!r}", remedy="use given, or auto to have its end found")
        self._check_turns()
        if self.api not in get_args(Api):
            raise SpecError(f"unknown api {self.api!r}", remedy=f"use one of {', '.join(get_args(Api))}")

    @property
    def profile(self) -> Profile | None:
        """The rate over time, where it changes."""
        return parse_profile(self.process)

    @property
    def process(self) -> str:
        """``arrivals``, never ``None``."""
        return self.arrivals or ""

    @property
    def needs_token_ids(self) -> bool:
        """Whether a later prompt repeats the tokens of an answer, which the server must list then."""
        return self.history == "served" and self.api == "completions"

    @property
    def is_open_loop(self) -> bool:
        """Whether sends follow a clock (a rate, or a trace's times) and not the completions."""
        return self.concurrency is None

    @property
    def longest(self) -> int | None:
        """Most tokens of one prompt and its answer; ``None`` where a file holds the lengths and nothing clips them."""
        isl, osl = Lengths.parse(self.isl or 0).longest, Lengths.parse(self.osl or 0).longest
        both = None if isl is None or osl is None else isl + osl
        if both is not None and self.turns is not None:
            turns = min(Lengths.parse(self.turns).longest or MOST_TURNS, MOST_TURNS)
            both = turns * both + (TURN_TEMPLATE_TOKENS * (turns - 1) if self.api == "chat" else 0)
        limits = [limit for limit in (both, self.clip_tokens) if limit is not None]
        return min(limits) if limits else None

    def with_seed(self, seed: int) -> Self:
        """The same workload from another seed."""
        return replace(self, seed=seed)

    def to_dict(self) -> dict[str, object]:
        """JSON-ready; ``from_dict`` reads it back."""
        drawn = {name: value for name in ("isl", "osl", "turns", "think_s") if (value := getattr(self, name)) is not None}
        return {**asdict(self), **{name: str(value) for name, value in drawn.items()}}

    @classmethod
    def from_dict(cls, data: dict[str, object]) -> Self:
        """The workload that ``to_dict`` wrote; an unknown key is a SpecError."""
        unknown = set(data) - set(cls.__dataclass_fields__)
        if unknown:
            raise SpecError(
                f"unknown workload parameter {sorted(unknown)[0]!r}", remedy=f"use {', '.join(cls.__dataclass_fields__)}"
            )
        return cls(**data)  # type: ignore[arg-type]

    def __str__(self) -> str:
        parts = [f"ISL {self.isl}, OSL {self.osl}"]
        if self.trace is not None:
            scale = f" at {self.time_scale:g} of its times" if self.time_scale != 1 else ""
            parts = [f"{'sample of ' if self.sample else ''}trace {Path(self.trace).name}{scale}"]
            parts += [f"{key.upper()} {value}" for key in ("isl", "osl") if str(value := getattr(self, key)) != "trace"]
        if self.prefix_groups:
            parts.append(f"{self.prefix_groups} shared prefixes of {self.prefix_tokens}")
        if self.turns is not None:
            parts.append(talk_text(self.to_dict()))
        what = "req/s" if self.turns is None else "conversations/s"
        if self.rate is not None:
            process = "" if self.arrivals != "gamma" else f" (burstiness {self.burstiness:g})"
            parts.append(f"{self.rate:g} {what} {self.arrivals}{process}")
        elif self.concurrency is not None:
            parts.append(f"{self.concurrency} concurrent{'' if self.turns is None else ' conversations'}")
        elif self.arrivals != "trace":
            parts.append(f"{self.arrivals} {what}")
        if self.duration_s is not None or self.requests is not None:
            parts.append(f"{self.duration_s:g} s" if self.duration_s is not None else f"{self.requests} requests")
        return ", ".join([*parts, f"seed {self.seed}"])

    def _check_numbers(self) -> None:
        if isinstance(self.warmup_s, bool) or not isinstance(self.warmup_s, int | float) or not 0 <= self.warmup_s <= _MOST:
            raise SpecError(
                f"workload warmup_s = {self.warmup_s!r} is not a number of seconds ≥ 0",
                remedy="use 0 for no warm-up; warmup='auto' leaves it to the lab",
            )
        for name in ("seed", "concurrency", "requests", "clip_tokens", "prefix_groups", "prefix_tokens"):
            value = getattr(self, name)
            if value is None and name in ("concurrency", "requests", "clip_tokens"):
                continue
            if not isinstance(value, int) or isinstance(value, bool):
                raise SpecError(f"workload {name} = {value!r} is not a whole number", remedy=f"give {name} as an integer")
        if self.seed < 0:
            raise SpecError(f"workload seed = {self.seed} is negative", remedy="seeds are whole numbers from 0")
        if self.clip_tokens == 1:
            raise SpecError("workload clip_tokens = 1 leaves no room", remedy="a prompt and its answer take 2 at least")
        groups, tokens = self.prefix_groups, self.prefix_tokens
        if min(groups, tokens) < 0 or (groups == 0) != (tokens == 0):
            raise SpecError(
                f"workload prefix_groups = {groups} with prefix_tokens = {tokens} describes no shared prefixes",
                remedy="give both, 1 or more, or neither",
            )

    def _check_load(self) -> None:
        if not isinstance(self.arrivals, str):
            raise SpecError(f"unknown arrivals {self.arrivals!r}", remedy=ARRIVALS)
        profile = self.profile
        if profile is not None:
            object.__setattr__(self, "arrivals", str(profile))
        elif self.arrivals not in (*_PROCESSES, "trace"):
            raise SpecError(f"unknown arrivals {self.arrivals!r}", remedy=ARRIVALS)
        if profile is not None or self.arrivals == "trace":
            for name in ("rate", "concurrency"):
                if getattr(self, name) is not None:
                    raise SpecError(
                        f"workload has {name} = {getattr(self, name)} and arrivals {self.arrivals!r}, which say when to send",
                        remedy=f"leave {name} out, or take other arrivals",
                    )
        else:
            _exactly_one(self, "rate", "concurrency", "open loop sends at a rate, closed loop keeps a concurrency")
        if self.trace is not None:
            if not isinstance(self.trace, str | Path) or not str(self.trace) or "\0" in str(self.trace):
                raise SpecError(f"workload trace = {self.trace!r} is not a path", remedy="name a file")
            object.__setattr__(self, "trace", os.fspath(self.trace))
            if self.prefix_groups:
                raise SpecError("workload has both a trace and prefix_groups", remedy="a trace brings its own shared prefixes")
        elif "trace" in (self.arrivals, str(self.isl), str(self.osl)):
            raise SpecError("workload takes lengths or times of a trace and has none", remedy="give trace= a file")
        if self.time_scale != 1 and self.arrivals != "trace":
            raise SpecError(
                f"workload time_scale = {self.time_scale:g} scales nothing",
                remedy="it is for the times of a trace: drop the rate",
            )

    def _check_extent(self) -> None:
        if self.trace is None or (self.duration_s is not None and self.requests is not None):
            _exactly_one(self, "duration_s", "requests", "say how long, or how many")
        if not isinstance(self.sample, bool) or (self.sample and (self.trace is None or self.requests is None)):
            raise SpecError(
                f"workload sample = {self.sample!r} has no trace and number of requests to draw",
                remedy="give trace= and requests=",
            )
        if self.profile is not None and self.profile.needs_duration and self.duration_s is None:
            raise SpecError(f"arrivals {self.arrivals!r} have no end", remedy="give duration_s= and not requests=")

    def _check_turns(self) -> None:
        if self.turns is None:
            for name in ("think_s", "history"):
                if getattr(self, name) is not None:
                    raise SpecError(
                        f"workload has {name} = {getattr(self, name)!r} and no turns", remedy="give turns=, 2 or more"
                    )
            return
        if self.trace is not None:
            raise SpecError("workload has both a trace and turns", remedy="a trace brings its own times and shared beginnings")
        if self.warmup == "auto":  # it leaves out the first requests by index; those of conversations are not the first in time
            raise SpecError(
                "workload has both turns and warmup = 'auto'", remedy="take warmup='given', warmup_s= a few conversations long"
            )
        try:
            turns = Lengths.parse(self.turns)
        except SpecError:
            raise SpecError(f"unknown number of turns {self.turns!r}", remedy=_TURNS) from None
        drawn_beyond = turns.kind in ("normal", "lognormal")  # by a tail that is cut off
        if turns.longest is None or (turns.a if drawn_beyond else turns.longest) > MOST_TURNS:
            raise SpecError(f"unknown number of turns {self.turns!r}", remedy=_TURNS)
        object.__setattr__(self, "turns", turns)
        object.__setattr__(self, "think_s", Durations.parse(0 if self.think_s is None else self.think_s))
        object.__setattr__(self, "history", "seeded" if self.history is None else self.history)
        if self.history not in get_args(History):
            raise SpecError(f"unknown history {self.history!r}", remedy=f"use one of {', '.join(get_args(History))}")


def talk_text(workload: Mapping[str, object]) -> str:
    """``4 turns, think 1.5 s`` of a workload as a dict; empty where it has no conversations."""
    turns, think_s = workload.get("turns"), workload.get("think_s")
    if turns is None:
        return ""
    think = "" if think_s in (None, "0") else f", think {think_s} s"
    return f"{turns} turns{think}{', served history' if workload.get('history') == 'served' else ''}"


def _exactly_one(workload: Workload, first: str, second: str, why: str) -> None:
    given = [name for name in (first, second) if getattr(workload, name) is not None]
    if len(given) != 1:
        what = f"both {first} and {second}" if given else f"neither {first} nor {second}"
        raise SpecError(f"workload has {what}", remedy=f"give exactly one: {why}")


def _positive(name: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= _MOST:
        raise SpecError(f"workload {name} = {value!r} is not a positive number", remedy=f"give {name} > 0, at most {_MOST:g}")
