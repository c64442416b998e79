"""The pins: on two Pareto charts, in a table, as ghosts behind the live charts; any of them can be measured again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from labkit.dashboard.form import W, button, field, let_go, row
from labkit.dashboard.live_figure import LiveFigure
from labkit.dashboard.pareto import WARNED, Against, named, pareto, remarks
from labkit.harmless import escaped
from labkit.live.pin import Pin, ttft_of
from labkit.spec.slo import Slo

#: column: (metric, factor to the unit shown, decimals, heading)
_COLUMNS: Final = (
    ("output_tok_s_per_accelerator", 1.0, 1, "tok/s per {accelerator}"),
    ("tok_s_per_user", 1.0, 1, "tok/s per user"),
    ("ttft_p50_s", 1e3, 0, "TTFT p50 ms"),
    ("ttft_p99_s", 1e3, 0, "TTFT p99 ms"),
    ("itl_p50_s", 1e3, 1, "ITL p50 ms"),
    ("itl_p99_s", 1e3, 1, "ITL p99 ms"),
    ("goodput_hz", 1.0, 2, "goodput req/s"),
    ("slo_attainment", 1e2, 0, "meet the SLO %"),
)


class PinsView:
    """``widget`` is to be displayed.

    Args:
        accelerator: what one is called here.
        slo: by which the lab judges now, when it is asked.
        on_rerun: measure this pin's split and load again.
        on_ghosts: the pins whose distributions are to stand behind the live charts.
    """

    def __init__(
        self,
        accelerator: str,
        *,
        slo: Callable[[], Slo],
        on_rerun: Callable[[Pin], object],
        on_ghosts: Callable[[Sequence[Pin]], None],
    ) -> None:
        self._accelerator, self._slo, self._on_ghosts = accelerator, slo, on_ghosts
        self._pins: tuple[Pin, ...] = ()
        self._told: Slo | None = None  # the SLO that the table is held against
        self._figures: list[LiveFigure] = []
        self._charts = W.HBox(layout=W.Layout(width="100%"))
        self._remarks = W.HTML(layout=W.Layout(width="100%"))
        self._table = W.HTML(layout=W.Layout(width="100%", overflow="auto"))
        self._pick = W.Dropdown(options=())
        self._again = button("Re-run this point", "repeat", "Apply its split, send its load, and pin it again")
        self._again.on_click(lambda _: self._rerun(on_rerun))
        self._behind = W.Checkbox(value=True, description="as faint lines behind the live charts", indent=False)
        self._behind.observe(lambda _: self._ghosts(), "value")
        self._empty = W.HTML('<div class="lk-line">no pin yet: press Pin when the charts are level</div>')
        self._tools = row(
            field("", self._pick, "The pin that is measured again"),
            self._again,
            field("", self._behind, "Show what each pin measured, p50 and p99, behind the lines of now"),
        )
        self.widget = W.VBox([self._empty], layout=W.Layout(width="100%"))

    def show(self, pins: Sequence[Pin]) -> None:
        """Show these pins; nothing is done where they are those that are shown, under the same SLO."""
        slo = self._slo()
        if (tuple(pins), slo) == (self._pins, self._told):
            return
        self._pins, self._told = tuple(pins), slo
        if pins:
            charts = [pareto(pins, against=against, accelerator=self._accelerator) for against in charts_of(pins)]
            if self._figures:
                for figure, chart in zip(self._figures, charts, strict=True):
                    figure.replace([chart])
            else:
                self._figures = [LiveFigure([chart]) for chart in charts]
                self._charts.children = tuple(self._figures)
            self._remarks.value = pins_remarks(pins)
            self._table.value = pins_table(pins, self._accelerator, slo)
            labels = [pin.label for pin in pins]
            chosen = self._pick.value
            self._pick.options = labels
            self._pick.value = chosen if chosen in labels else labels[-1]
            self.widget.children = (self._charts, self._remarks, self._table, self._tools)
        else:
            self.widget.children = (self._empty,)
        self._ghosts()

    def close(self) -> None:
        """Take it off the page."""
        let_go(self.widget, self._empty, self._charts, self._remarks, self._table, self._tools)

    def _ghosts(self) -> None:
        self._on_ghosts(self._pins if self._behind.value else ())

    def _rerun(self, on_rerun: Callable[[Pin], object]) -> None:
        for pin in self._pins:
            if pin.label == self._pick.value:
                on_rerun(pin)
                return


def charts_of(pins: Sequence[Pin]) -> tuple[Against, Against]:
    """What pins are drawn against, a chart each."""
    return "tok_s_per_user", ttft_of(pins)


def pins_remarks(pins: Sequence[Pin]) -> str:
    """What the charts of ``charts_of`` leave out and why, and their signs, as escaped HTML."""
    return "".join(f'<div class="lk-remark">{escaped(text)}</div>' for text in remarks(pins, charts_of(pins)))


def pins_table(pins: Sequence[Pin], accelerator: str, slo: Slo | None = None) -> str:
    """A row a pin, each figure with its 95 % interval; a dash where it is not known. SLOs are told unless all are this one.

    Below it are the warnings of each pin.
    """
    told = {pin.slo for pin in pins} != {"" if slo is None else str(slo)}
    heads = "".join(f"<th>{escaped(head.format(accelerator=accelerator))}</th>" for *_, head in _COLUMNS)
    rows = "".join(
        f"<tr><th>{escaped(named(pin))}</th><td>{escaped(pin.topology)}</td><td>{escaped(pin.workload)}</td>"
        f"<td>{pin.window_s:.0f}</td><td>{pin.requests or '–'}</td>{_stationary(pin)}{_slo(pin) if told else ''}"
        f"{''.join(_cell(pin, *column) for column in _COLUMNS)}"
        f"<td><code>{escaped(pin.run)}</code></td></tr>"
        for pin in pins
    )
    names = ("pin", "split", "load", "s", "requests", "stationary", *(["SLO"] if told else []))
    first = "".join(f"<th>{head}</th>" for head in names)
    table = f'<table class="lk-pins"><thead><tr>{first}{heads}<th>run</th></tr></thead><tbody>{rows}</tbody></table>'
    warned = "".join(
        f"<li>{WARNED}<b>{escaped(pin.label)}</b>: {escaped(warning)}</li>" for pin in pins for warning in pin.warnings
    )
    below = f'<ul class="lk-warned">{warned}</ul>' if warned else ""
    return f'<div class="lk-wide">{table}</div>{below}'


def _stationary(pin: Pin) -> str:
    return f'<td class="lk-stationary" title="{escaped(pin.cut)}">{pin.stationary}</td>'


def _slo(pin: Pin) -> str:
    return f'<td class="lk-slo" title="what goodput is held against">{escaped(pin.slo or "none")}</td>'


def _cell(pin: Pin, metric: str, scale: float, decimals: int, _head: str) -> str:
    estimate = pin.metrics.get(metric)
    if estimate is None:
        return "<td>–</td>"
    interval = ""
    if estimate.low is not None and estimate.high is not None:
        interval = f"<small>[{estimate.low * scale:,.{decimals}f}, {estimate.high * scale:,.{decimals}f}]</small>"
    return f"<td>{estimate.value * scale:,.{decimals}f} {interval}</td>"
