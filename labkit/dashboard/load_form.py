"""The load as a form: lengths, how requests arrive, how many; what cannot be meant is explained below it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from labkit.dashboard.form import Line, W, field, heading, let_go, row
from labkit.errors import LabError
from labkit.load.schedule import Schedule
from labkit.spec import Workload

_CLOSED: Final = "closed loop"
_TRACE: Final = "trace"
_KEPT: Final = ("seed", "api", "timeout_s", "turns", "think_s", "history", "prefix_groups", "prefix_tokens", "clip_tokens")
_ARRIVALS: Final = ("poisson", "constant", "gamma", _CLOSED, _TRACE)


class LoadForm:
    """Fields of a workload. ``widget`` is to be displayed.

    Args:
        workload: what the fields show first. What they have no place for (seed, turns, prefixes) stays as it is there; arrivals
            that they have none for are an entry of their own. Until a field is changed it is what is asked for, as it is.
        on_change: called when a field has changed.
    """

    def __init__(self, workload: Workload, on_change: Callable[[], None]) -> None:
        self._base, self._on_change, self._quiet = workload, on_change, False
        self._isl = W.Text(value=str(workload.isl), continuous_update=False)
        self._osl = W.Text(value=str(workload.osl), continuous_update=False)
        self._arrivals = W.Dropdown(options=_offered(workload), value=_process(workload))
        self._rate = W.BoundedFloatText(value=workload.rate or 1.0, min=0.01, max=1e6, step=0.5)
        self._concurrency = W.BoundedIntText(value=workload.concurrency or 8, min=1, max=100_000)
        self._burstiness = W.BoundedFloatText(value=workload.burstiness, min=0.01, max=100.0, step=0.1)
        self._trace = W.Text(value=str(workload.trace or ""), placeholder="requests.jsonl", continuous_update=False)
        self._line = Line()
        self._amount = row()
        self._fields = {
            "rate": field(
                "requests/s", self._rate, "Requests sent per second on average, whether or not earlier ones have ended"
            ),
            "burstiness": field("burstiness", self._burstiness, "Shape of the gamma gaps: 1 is Poisson, below 1 is burstier"),
            "concurrency": field(
                "in flight", self._concurrency, "Requests in flight at all times: a new one starts when one ends"
            ),
            "trace": field(
                "trace file", self._trace, "JSON lines in Mooncake's format, or CSV in Azure's; sent at its own times"
            ),
        }
        lengths = row(
            field("input tokens", self._isl, 'Tokens of a prompt: 512, or "uniform:100-900", "lognormal:500,0.6"'),
            field("output tokens", self._osl, "Tokens of an answer, written the same way"),
        )
        process = field(
            "arrivals", self._arrivals, "When requests are sent: on a clock (open loop), or when one has ended (closed)"
        )
        self.widget = W.VBox([heading("Load"), lengths, row(process), self._amount, self._line.widget])
        for widget in self._inputs:
            widget.observe(lambda _: self._changed(), "value")
        self._shown = self._values
        self._arrange()

    @property
    def workload(self) -> Workload | None:
        """What the fields ask for; ``None`` where that cannot be meant, and the line below them says why."""
        try:
            workload = self._asked()
            Schedule(workload)  # a trace that cannot be read is told now
        except LabError as error:
            self._line.say(str(error), "bad")
            return None
        self._line.say("")
        return workload

    def show(self, workload: Workload) -> None:
        """Fill the fields from a workload."""
        self._quiet = True
        try:
            self._base = workload
            self._isl.value, self._osl.value = str(workload.isl), str(workload.osl)
            self._arrivals.options = _offered(workload)
            self._arrivals.value = _process(workload)
            self._rate.value = workload.rate or self._rate.value
            self._concurrency.value = workload.concurrency or self._concurrency.value
            self._burstiness.value = workload.burstiness
            self._trace.value = str(workload.trace or "")
        finally:
            self._quiet = False
        self._shown = self._values
        self._changed()

    def close(self) -> None:
        """Let go of it, also of the fields that are out of sight."""
        let_go(self.widget, *self._fields.values())

    @property
    def _inputs(self) -> tuple[Any, ...]:
        return self._isl, self._osl, self._arrivals, self._rate, self._concurrency, self._burstiness, self._trace

    @property
    def _values(self) -> tuple[Any, ...]:
        return tuple(widget.value for widget in self._inputs)

    def _asked(self) -> Workload:
        if self._values == self._shown:
            return self._base
        kind, base = self._arrivals.value, self._base.to_dict()
        asked: dict[str, Any] = {"isl": self._isl.value.strip(), "osl": self._osl.value.strip()}
        if kind == _own(self._base):
            return Workload.from_dict({**base, **asked})
        if kind == _CLOSED:
            asked["concurrency"] = self._concurrency.value
        elif kind == _TRACE:
            asked |= {"trace": self._trace.value.strip(), "isl": None, "osl": None}
        else:
            asked |= {"rate": self._rate.value, "arrivals": kind}
            asked |= {"burstiness": self._burstiness.value} if kind == "gamma" else {}
        whole = {} if kind == _TRACE else {"duration_s": 3600.0}
        return Workload.from_dict({**{name: base[name] for name in _KEPT if name in base}, **asked, **whole})

    def _changed(self) -> None:
        if self._quiet:
            return
        self._arrange()
        self._on_change()

    def _arrange(self) -> None:
        kind = self._arrivals.value
        names = {_CLOSED: ["concurrency"], _TRACE: ["trace"], "gamma": ["rate", "burstiness"], _own(self._base): []}
        self._amount.children = tuple(self._fields[name] for name in names.get(kind, ["rate"]))


def _offered(workload: Workload) -> tuple[str, ...]:
    own = _own(workload)
    return _ARRIVALS if own is None else (*_ARRIVALS, own)


def _own(workload: Workload) -> str | None:
    """Arrivals that the fields have no place for, in words; ``None`` where they have one."""
    if workload.profile is not None:
        return workload.process
    if workload.trace is None:
        return None
    plain = Workload(trace=workload.trace)
    if all(getattr(workload, name) == getattr(plain, name) for name in ("isl", "osl", "arrivals", "time_scale")):
        return None
    return str(replace(workload, duration_s=None, requests=None, sample=False, seed=0)).removesuffix(", seed 0")


def _process(workload: Workload) -> str:
    if (own := _own(workload)) is not None:
        return own
    if workload.concurrency is not None:
        return _CLOSED
    return _TRACE if workload.trace is not None else workload.process
