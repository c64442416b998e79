"""The split as a row of workers that change their roles, and below it the pool: how many workers, their TP, their flags."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from labkit.dashboard.form import W, field, fold, heading, let_go, row
from labkit.errors import SpecError
from labkit.figures import style
from labkit.harmless import escaped
from labkit.serve.engines.base import EngineOptions
from labkit.serve.hardware import MOST_SHARING
from labkit.spec.topology import Group, Role, Topology, splits

#: With more splits than this a slider takes the place of buttons.
_MOST_BUTTONS: Final = 5
_HINT: Final = "Aggregated workers do both; P prefill and D decode. Tab to it, then the arrow keys or Space"


class SplitForm:
    """What split and pool are wished for. ``widget`` is to be displayed.

    Only what can be is offered: the splits of a pool of so many workers. Prefill and decode workers may differ in TP.

    Args:
        topology: what serves now.
        roles: worker name → role now.
        options: what workers are started with now.
        on_change: called when something else is wished for.
        most: accelerators of the node, for the pool's limits.
        share: whether workers may share one.
    """

    def __init__(
        self,
        topology: Topology,
        roles: Mapping[str, Role],
        options: EngineOptions,
        on_change: Callable[[], None],
        *,
        most: int,
        share: bool = True,
    ) -> None:
        self._on_change = on_change
        self._options = options
        self._quiet = False
        self._named: tuple[Topology, Mapping[str, Role]] = (topology, roles)
        tps = dict(topology.workers)
        workers = max(most * (MOST_SHARING if share else 1), len(topology.workers))
        self._workers = W.BoundedIntText(value=len(topology.workers), min=1, max=workers)
        self._tp_prefill = W.BoundedIntText(value=tps.get(Role.PREFILL, topology.workers[0][1]), min=1, max=max(most, 1))
        self._tp_decode = W.BoundedIntText(value=tps.get(Role.DECODE, topology.workers[0][1]), min=1, max=max(most, 1))
        self._chunk = W.Text(value=_text(options.max_num_batched_tokens), placeholder="engine's choice", continuous_update=False)
        self._seqs = W.Text(value=_text(options.max_num_seqs), placeholder="engine's choice", continuous_update=False)
        self._strip = W.HTML(layout=W.Layout(width="100%"))
        self._place = W.VBox(layout=W.Layout(width="100%"))
        self._picker: Any = None
        pool = W.VBox(
            [
                row(
                    field(
                        "workers", self._workers, f"Workers of the pool, {workers} at most; another number starts or ends some"
                    ),
                    field("TP prefill", self._tp_prefill, "Accelerators of a prefill worker, and of an aggregated one"),
                    field("TP decode", self._tp_decode, "Accelerators of a decode worker"),
                ),
                row(
                    field("max batched tokens", self._chunk, "Most tokens of one engine step: the chunk of chunked prefill"),
                    field("max sequences", self._seqs, "Most requests of one engine step"),
                ),
            ]
        )
        folded = fold("Pool", "How many workers, their TP, and what they are started with", pool)
        self.widget = W.VBox([heading("Split"), self._place, self._strip, folded])
        for widget in (self._workers, self._tp_prefill, self._tp_decode):
            widget.observe(lambda _: self._offer(None), "value")
        for widget in (self._chunk, self._seqs):
            widget.observe(lambda _: self._changed(), "value")
        self._offer(topology)

    @property
    def topology(self) -> Topology:
        """The split that is wished for."""
        return Topology(self._picker.value)

    @property
    def options(self) -> EngineOptions:
        """The flags that are wished for; SpecError names a value that cannot be meant."""
        return replace(
            self._options,
            max_num_batched_tokens=_number("max batched tokens", self._chunk.value),
            max_num_seqs=_number("max sequences", self._seqs.value),
        )

    def show(self, topology: Topology, roles: Mapping[str, Role], options: EngineOptions) -> None:
        """Turn to what serves now, with the names of the workers that do."""
        self._named, self._options = (topology, roles), options
        other = topology != self.topology
        self._quiet = True
        try:
            self._chunk.value, self._seqs.value = _text(options.max_num_batched_tokens), _text(options.max_num_seqs)
            if other:
                self._workers.value = len(topology.workers)
                tps = dict(topology.workers)
                self._tp_prefill.value = tps.get(Role.PREFILL, tps.get(Role.AGGREGATED, self._tp_prefill.value))
                self._tp_decode.value = tps.get(Role.DECODE, self._tp_decode.value)
        finally:
            self._quiet = False
        if other:
            self._offer(topology)
        else:
            self._strip.value = self._boxes()

    def _offer(self, chosen: Topology | None) -> None:
        """The splits of the pool that is asked for, as near to the one before as there is."""
        if self._quiet:
            return
        offered = [str(one) for one in _splits(self._workers.value, self._tp_prefill.value, self._tp_decode.value)]
        before = str(chosen) if chosen is not None else str(self._picker.value)
        if before not in offered and chosen is not None:
            offered.append(before)
        value = before if before in offered else _nearest(before, offered)
        kind = W.ToggleButtons if len(offered) <= _MOST_BUTTONS else W.SelectionSlider
        # A browser keeps what it has shown of a widget that is closed, so none is made where the one before can turn.
        # (A slider does not take other options.)
        if isinstance(self._picker, kind) and (kind is W.ToggleButtons or tuple(self._picker.options) == tuple(offered)):
            self._turn(offered, value)
        else:
            self._replace(kind, offered, value)
        self._changed()

    def _turn(self, offered: Sequence[str], value: str) -> None:
        quiet, self._quiet = self._quiet, True
        try:
            with self._picker.hold_sync():
                if tuple(self._picker.options) != tuple(offered):
                    self._picker.tooltips = _tips(offered)
                    self._picker.options = offered
                self._picker.value = value
        finally:
            self._quiet = quiet

    def _replace(self, kind: Any, offered: Sequence[str], value: str) -> None:
        self._picker = kind(options=offered, value=value)
        if kind is W.ToggleButtons:
            self._picker.style.button_width = "auto"
            self._picker.tooltips = _tips(offered)
        self._picker.observe(lambda _: self._changed(), "value")
        before_it = self._place.children
        self._place.children = (row(field("", self._picker, _HINT)),)
        let_go(*before_it)

    def _changed(self) -> None:
        if self._quiet:
            return
        self._strip.value = self._boxes()
        self._on_change()

    def _boxes(self) -> str:
        serving, roles = self._named
        return strip(self.topology, roles if self.topology == serving else {})


def strip(topology: Topology, roles: Mapping[str, Role]) -> str:
    """The workers as coloured boxes, each with its name and role.

    Args:
        roles: worker name → role, where they are known: a split without a dead ``w0`` begins with ``w1``.
    """
    boxes = []
    for number, (role, tp) in enumerate(topology.workers):
        before = sum(other is role for other, _ in topology.workers[:number])
        name = next(itertools.islice((name for name, has in roles.items() if has is role), before, None), f"w{number}")
        tip = f"{name}: {role.noun}" + (f", {tp} accelerators" if tp > 1 else "")
        boxes.append(
            f'<span class="lk-worker" style="--role:{style.ROLE[role]}" title="{escaped(tip)}">'
            f"<b>{escaped(name)}</b>{escaped(role.noun)}{f' ×{tp}' if tp > 1 else ''}</span>"
        )
    return f'<div class="lk-strip" role="img" aria-label="{escaped(_words(topology))}">{"".join(boxes)}</div>'


def _splits(workers: int, prefill_tp: int, decode_tp: int) -> list[Topology]:
    """Every split of a pool of so many; where the TPs differ, the disaggregated ones, and all aggregated of the first."""
    if prefill_tp == decode_tp:
        return list(splits(workers, prefill_tp))
    mixed = [
        Topology([Group(count, Role.PREFILL, prefill_tp), Group(workers - count, Role.DECODE, decode_tp)])
        for count in range(1, workers)
    ]
    return [Topology([Group(workers, Role.AGGREGATED, prefill_tp)]), *mixed]


def _nearest(before: str, offered: Sequence[str]) -> str:
    was = Topology(before)
    return min(offered, key=lambda text: _distance(was, Topology(text)))


def _distance(one: Topology, other: Topology) -> tuple[bool, float]:
    def share(topology: Topology) -> float:
        return topology.count(Role.PREFILL) / len(topology.workers)

    return one.is_disaggregated != other.is_disaggregated, abs(share(one) - share(other))


def _words(topology: Topology) -> str:
    return ", ".join(f"{group.count} {group.role.noun}" for group in topology.groups)


def _tips(offered: Sequence[str]) -> list[str]:
    return [_words(Topology(one)) for one in offered]


def _text(number: int | None) -> str:
    return "" if number is None else str(number)


def _number(name: str, text: str) -> int | None:
    text = text.strip().replace(",", "")
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise SpecError(f"{name} = {text!r} is not a whole number above 0", remedy="write a number, or leave it empty")
    return int(text)
