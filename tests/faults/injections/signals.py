"""Signals to each process of the lab: killed, told to end, stopped for a while; and what a person's terminal sends."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

from tests.faults.expectation import UNHARMED, Expectation, endings, statuses
from tests.faults.injection import Injection
from tests.faults.stage import Moment, Stage
from tests.faults.victims import Process, Role, descendants

_LOADED: tuple[Moment, ...] = ("loading", "resplitting", "draining")
_SERVING: tuple[Moment, ...] = (*_LOADED, "closing")
_EVER: tuple[Moment, ...] = ("launching", *_SERVING)
_ANY: tuple[Moment, ...] = (*_EVER, "saving")
_GOES_ON = Expectation(endings=endings("finished"), statuses=statuses("finished"))


@dataclass(frozen=True, kw_only=True)
class NoFault(Injection):
    """The control: where this fails, the campaign is wrong, or the machine."""

    def strike(self, stage: Stage, moment: Moment, rng: random.Random) -> None:
        stage.strike()

    def expects(self, stage: Stage, moment: Moment) -> Expectation:
        return UNHARMED


@dataclass(frozen=True, kw_only=True)
class Signal(Injection):
    """One signal to one process, drawn among those of its role; a stopped one is continued after ``stopped_s``.

    Attributes:
        role: of the victim.
        number: of the signal.
        stopped_s: how long it is stopped.
        loaded, launching: what may come of it while load runs, and before there is any.
    """

    role: Role
    number: signal.Signals
    stopped_s: float = 0.0
    loaded: Expectation
    launching: Expectation = UNHARMED

    def strike(self, stage: Stage, moment: Moment, rng: random.Random) -> None:
        victim = rng.choice(stage.wait(lambda: stage.find(self.role), f"a {self.role}"))
        if self.number is signal.SIGSTOP:
            below = descendants(victim.pid) if self.role == "worker" else set()  # a worker hangs as a whole
            stop_for_a_while(stage, victim, [victim.pid, *below], self.stopped_s)
            return
        stage.strike(victim)
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim.pid, self.number)

    def expects(self, stage: Stage, moment: Moment) -> Expectation:
        if moment == "launching":
            return self.launching
        if moment in ("closing", "saving"):  # whatever ends then was about to
            return replace(self.loaded, cause=(), others=False, remedy=False)
        ended = stage.last("ended") or {}
        if self.role == "load shard" and self.number is signal.SIGSTOP and ended.get("how") == "error":
            return replace(self.loaded, cause=(r"load shard 0 \(process \d+\) has said nothing for",), remedy=True)
        if self.role == "worker" and self.number is signal.SIGSTOP and stage.setting.engine != "stand-ins":
            return _TIMED_OUT  # Dynamo's frontend forgets a worker that does not tell of itself for some seconds
        if self.role in ("worker", "engine core", "router", "supervisor"):
            begun, done = stage.last("resplitting"), stage.last("resplit")
            struck_ns = stage.struck_ns or 0
            if begun is not None and begun["t_ns"] < struck_ns and (done is None or struck_ns < done["t_ns"]):
                return replace(self.loaded, cause=(), others=False)  # one that goes, perhaps
            if done is not None and done["t_ns"] < struck_ns:
                return replace(self.loaded, others=False)  # each of the two is needed then
        return self.loaded


@dataclass(frozen=True, kw_only=True)
class Interrupt(Injection):
    """Ctrl-C on the terminal of a script."""

    def strike(self, stage: Stage, moment: Moment, rng: random.Random) -> None:
        stage.strike()
        stage.type_interrupt()

    def expects(self, stage: Stage, moment: Moment) -> Expectation:
        return Expectation(
            endings=endings("interrupted") if moment != "closing" else endings("interrupted", "finished"),
            statuses=statuses("interrupted") if moment != "closing" else statuses("interrupted", "finished"),
            cause=("interrupted",) if moment != "closing" else (),
        )


@dataclass(frozen=True, kw_only=True)
class HangUp(Injection):
    """The terminal's window is closed."""

    def strike(self, stage: Stage, moment: Moment, rng: random.Random) -> None:
        stage.strike()
        stage.close_terminal()

    def expects(self, stage: Stage, moment: Moment) -> Expectation:
        return Expectation(
            endings=endings("killed", "interrupted", "finished"), statuses=statuses("interrupted", "finished", "none"),
            path_hit=True,
        )  # fmt: skip


def stop_for_a_while(stage: Stage, victim: Process, pids: Collection[int], seconds: float) -> None:
    """Stop these processes, one of which is the victim, and let them go on after so many seconds, or when the scene is over."""
    stage.strike(victim)
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)

    def go_on() -> None:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    timer = threading.Timer(seconds, go_on)
    timer.daemon = True
    timer.start()
    stage.afterwards(timer.cancel)
    stage.afterwards(go_on)


def _signals(role: Role, words: str, names: dict[str, Expectation], **options: Any) -> tuple[Injection, ...]:
    """The usual signals to one role, each with what it may do: ``kill``, ``end`` (TERM), ``stop`` (5 s), ``stop-long`` (60 s).

    ``stops``: the moments at which it is stopped.
    """
    kinds = {
        "kill": ("SIGKILL", signal.SIGKILL, 0.0),
        "end": ("SIGTERM", signal.SIGTERM, 0.0),
        "stop": ("SIGSTOP for 5 s", signal.SIGSTOP, 5.0),
        "stop-long": ("SIGSTOP for 60 s", signal.SIGSTOP, 60.0),
    }
    made = []
    for kind, loaded in names.items():
        text, number, stopped_s = kinds[kind]
        given = {"moments": _SERVING, **options}
        stops = given.pop("stops", _LOADED)
        if number is signal.SIGSTOP:
            given = {**given, "moments": stops, "launching": loaded}
        name = f"{kind}-{(given.pop('called', None) or role).replace(' ', '-')}"
        made.append(
            Signal(name=name, what=f"{text} to {words}", role=role, number=number, stopped_s=stopped_s, loaded=loaded,
                   rare=stopped_s > 10, **given)
        )  # fmt: skip
    return tuple(made)


_DEAD_WORKER = replace(_GOES_ON, cause=(r"\bw\d+ died",), others=True, path_hit=True)
_NEVER_UP = Expectation(endings=endings("error"), statuses=statuses("failed"), cause=("died|ended|killed",), remedy=True)
_DEAD_ROUTER = replace(_GOES_ON, cause=(r"router\d* died",), path_hit=True)
_STALLED = replace(UNHARMED, end_s=200.0)
_SILENT = Expectation(endings=endings("finished", "error"), statuses=statuses("finished", "failed"), path_hit=True, end_s=300.0)
_TIMED_OUT = replace(_GOES_ON, path_hit=True, end_s=300.0)
_DEAD_SHARD = Expectation(
    endings=endings("error"), statuses=statuses("failed"), cause=(r"load shard 0 ended",), remedy=True, lost_s=1.0, path_hit=True
)  # fmt: skip
_DEAD_SAMPLER = replace(UNHARMED, cause=("sampler",))
_DEAD_KERNEL = Expectation(
    endings=endings("killed"), statuses=statuses("interrupted"), cause=("interrupted",), path_hit=True
)  # fmt: skip
_DEAD_NOTEBOOK = replace(_DEAD_KERNEL, cause=("the notebook's kernel died",), remedy=True)
_TOLD_TO_END = Expectation(
    endings=endings("interrupted"), statuses=statuses("interrupted"), cause=("interrupted",), path_hit=True
)

_WORKER = {"kill": _DEAD_WORKER, "end": _DEAD_WORKER, "stop": _STALLED, "stop-long": _TIMED_OUT}
_ROUTER = {"kill": _DEAD_ROUTER, "end": _DEAD_ROUTER, "stop": _STALLED, "stop-long": _TIMED_OUT}
_ANY_TREE = replace(_DEAD_WORKER, cause=("died",), others=False)
_SUPERVISOR = {"kill": _ANY_TREE, "end": _ANY_TREE, "stop": UNHARMED}
_SHARD = {"kill": _DEAD_SHARD, "end": _DEAD_SHARD, "stop": _STALLED, "stop-long": _SILENT}
_SAMPLER = {"kill": _DEAD_SAMPLER, "end": _DEAD_SAMPLER, "stop": UNHARMED, "stop-long": _STALLED}
_FORKS = {"kill": UNHARMED, "end": UNHARMED, "stop": UNHARMED, "stop-long": _STALLED}
_SCRIPT = {"kill": _DEAD_KERNEL, "end": _DEAD_KERNEL, "stop": _STALLED, "stop-long": _STALLED}
_BATCH = {"kill": _DEAD_NOTEBOOK, "end": _DEAD_NOTEBOOK, "stop": _STALLED, "stop-long": _STALLED}
_PAPERMILL = {
    "kill": replace(
        _DEAD_KERNEL, endings=endings("killed", "interrupted", "finished"), statuses=statuses("interrupted", "finished"), cause=()
    ),
    "end": _TOLD_TO_END,
    "stop": UNHARMED,
    "stop-long": _STALLED,
}
_EARLY_END = replace(_TOLD_TO_END, endings=endings("killed", "interrupted"), statuses=statuses("interrupted", "none"))

INJECTIONS: tuple[Injection, ...] = (
    NoFault(name="no-fault", what="nothing at all: the control", moments=("loading",)),
    *_signals("worker", "a worker's API server", _WORKER, moments=_EVER, launching=_NEVER_UP),
    *_signals(
        "engine core", "a worker's engine core", _WORKER,
        setting={"core": True}, engines=("stand-ins", "vllm"), moments=_EVER, launching=_NEVER_UP,
    ),
    *_signals("router", "the router, or Dynamo's frontend", _ROUTER),
    *_signals("supervisor", "the guardian of a worker or router", _SUPERVISOR, moments=_EVER, launching=_NEVER_UP),
    *_signals("load shard", "the load shard, which also writes requests and chunks", _SHARD, moments=_LOADED),
    *_signals("telemetry sampler", "the telemetry sampler, which also writes samples", _SAMPLER, moments=_EVER),
    *_signals(
        "fork server", "the fork server", _FORKS,
        setting={"forks": True}, engines=("stand-ins",), moments=_EVER, stops=("launching", *_LOADED),
    ),
    *_signals("kernel", "the script that holds the lab", _SCRIPT, moments=_ANY, launching=_DEAD_KERNEL),
    *_signals(
        "kernel", "the kernel of a notebook that `labkit run` executes", _BATCH,
        face="batch", called="batch kernel", moments=_ANY, launching=_DEAD_NOTEBOOK,
    ),
    *_signals(
        "kernel", "a Jupyter kernel", _SCRIPT,
        face="kernel", called="jupyter kernel", moments=_ANY, launching=_DEAD_KERNEL,
    ),
    *_signals("papermill", "`labkit run` itself", _PAPERMILL, face="batch", moments=_EVER, launching=_EARLY_END),
    Interrupt(name="interrupt", what="Ctrl-C on the terminal of a script", moments=_EVER, face="terminal"),
    HangUp(name="hang-up", what="the terminal of a script is closed (SIGHUP)", moments=_EVER, face="terminal"),
)  # fmt: skip
