"""The load as a form: lengths, how requests arrive, how many; what cannot be meant is explained below it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from labkit.dashboard.form import Line, W, field, heading, row
from labkit.errors import LabError
from labkit.load.schedule import Schedule
from labkit.spec import Workload

_CLOSED: Final = "closed loop"
_TRACE: Final = "trace"
_ARRIVALS: Final = ("poisson", "constant", "gamma", _CLOSED, _TRACE)


class LoadForm:
    """Fields of a workload. ``widget`` is to be displayed.

    Args:
        workload: what the fields show first; what they have no place for (seed, turns, prefixes) stays as it is there.
        on_change: called when a field has changed.
    """

    def __init__(self, workload: Workload, on_change: Callable[[], None]) -> None:
        self._base, self._on_change = workload, on_change
        self._isl = W.Text(value=str(workload.isl), continuous_update=False)
        self._osl = W.Text(value=str(workload.osl), continuous_update=False)
        self._arrivals = W.Dropdown(options=_ARRIVALS, value=_process(workload))
        self._rate = W.BoundedFloatText(value=workload.rate or 1.0, min=0.01, max=1e6, step=0.5)
        self._concurrency = W.BoundedIntText(value=workload.concurrency or 8, min=1, max=100_000)
        self._burstiness = W.BoundedFloatText(value=workload.burstiness, min=0.01, max=100.0, step=0.1)
        self._trace = W.Text(value=str(workload.trace or ""), placeholder="requests.jsonl", continuous_update=False)
        self._line = Line()
        self._amount = W.VBox(layout=W.Layout(width="100%"))
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
        for widget in (self._isl, self._osl, self._arrivals, self._rate, self._concurrency, self._burstiness, self._trace):
            widget.observe(lambda _: self._changed(), "value")
        self._arrange()

    @property
    def workload(self) -> Workload | None:
        """What the fields ask for; ``None`` where that cannot be meant, and the line below them says why."""
        kind = self._arrivals.value
        asked: dict[str, Any] = {"isl": self._isl.value.strip(), "osl": self._osl.value.strip()}
        if kind == _CLOSED:
            asked["concurrency"] = self._concurrency.value
        elif kind == _TRACE:
            asked |= {"trace": self._trace.value.strip(), "isl": None, "osl": None}
        else:
            asked |= {"rate": self._rate.value, "arrivals": kind}
            asked |= {"burstiness": self._burstiness.value} if kind == "gamma" else {}
        kept = {
            name: value
            for name, value in self._base.to_dict().items()
            if name
            in ("seed", "api", "timeout_s", "turns", "think_s", "history", "prefix_groups", "prefix_tokens", "clip_tokens")
        }
        whole = {} if kind == _TRACE else {"duration_s": 3600.0}
        try:
            workload = Workload.from_dict({**kept, **asked, **whole})
            Schedule(workload)  # a trace that cannot be read is told now
        except LabError as error:
            self._line.say(str(error), "bad")
            return None
        self._line.say("")
        return workload

    def show(self, workload: Workload) -> None:
        """Fill the fields from a workload."""
        self._base = workload
        self._isl.value, self._osl.value = str(workload.isl), str(workload.osl)
        self._arrivals.value = _process(workload)
        self._rate.value = workload.rate or self._rate.value
        self._concurrency.value = workload.concurrency or self._concurrency.value
        self._burstiness.value = workload.burstiness
        self._trace.value = str(workload.trace or "")

    def _changed(self) -> None:
        self._arrange()
        self._on_change()

    def _arrange(self) -> None:
        kind = self._arrivals.value
        names = {_CLOSED: ["concurrency"], _TRACE: ["trace"], "gamma": ["rate", "burstiness"]}.get(kind, ["rate"])
        self._amount.children = (row(*(self._fields[name] for name in names)),)


def _process(workload: Workload) -> str:
    if workload.concurrency is not None:
        return _CLOSED
    if workload.trace is not None:
        return _TRACE
    return workload.arrivals if workload.arrivals in _ARRIVALS else "poisson"
