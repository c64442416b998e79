"""A run's records as the samples that a watch would have shown: an exploration is replayed from disk by the code that drew it."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from labkit.live.gauges import Gauges, Reading
from labkit.live.sample import EventKind, LiveEvent, Sample
from labkit.live.window import WINDOW_S, LiveWindow
from labkit.load.feed import Batch
from labkit.measure.columns import UNKNOWN, Ints, bools, ints
from labkit.measure.metrics import is_open_loop
from labkit.measure.outcomes import is_failure
from labkit.measure.records import REQUESTS, Records, Window
from labkit.spec.slo import Slo
from labkit.spec.topology import Role

_KINDS: Final = frozenset(get_args(EventKind))
_NEVER: Final = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True)
class Split:
    """Who served from an instant on, as an epoch of the manifest tells.

    Attributes:
        devices: worker → its ``gpus`` and ``cores``.
    """

    start_ns: int
    topology: str
    roles: Mapping[str, Role]
    devices: Mapping[str, Mapping[str, Any]]

    @property
    def accelerators(self) -> float:
        """Those that the workers with a role compute on, each counted once; 0 where that is not known."""
        held = [self.devices[name] for name in self.roles if name in self.devices]
        return float(len({number for devices in held for number in devices.get("gpus") or devices.get("cores") or ()}))


def samples_of(
    records: Records,
    windows: Sequence[Window],
    manifest: Mapping[str, Any],
    *,
    hz: float = 4.0,
    slo: Slo | None = None,
    window_s: float = WINDOW_S,
    start_ns: int | None = None,
    stop_ns: int | None = None,
) -> Iterator[Sample]:
    """The samples of a run, one a tick, made as they are asked for.

    Every event is known here at its own instant: a live sample shows the same a fraction of a second later. What a run does not
    record is not there: that a worker had died is known from its fault on, by the name that its text begins with, until a split
    that it is part of begins.

    Args:
        records: of the run; their order does not matter.
        windows: its measurements.
        manifest: for the splits, and the instant at which the lab began.
        hz: ticks per second.
        slo: for goodput and what is slow.
        window_s: length of the sliding window.
        start_ns, stop_ns: from the lab's beginning to the last thing recorded by default.
    """
    origin_ns = int(manifest.get("clock", {}).get("monotonic_ns") or min((w.start_ns for w in windows), default=0))
    events, splits, telemetry = _events(records.events, origin_ns), splits_of(manifest), _Telemetry(records.samples)
    load = _Load(records, windows)
    begin = origin_ns if start_ns is None else start_ns
    end = max([begin, load.end_ns, *(event[0] for event in events)]) if stop_ns is None else stop_ns
    window, gauges = LiveWindow(window_s, slo=slo, origin_ns=origin_ns), Gauges()
    held = next((one.accelerators for one in windows), 0.0)
    epoch_starts = [split.start_ns for split in splits]
    causes: dict[str, str] = {}
    told, served = 0, -1
    for number in range(1, int((end - begin) / 1e9 * hz) + 2):
        now = begin + int(number / hz * 1e9)
        window.add(load.until(now))
        gauges.take(telemetry.until(now))
        at = bisect_right(epoch_starts, now) - 1
        split = splits[at] if at >= 0 else Split(now, "", {}, {})
        if at != served:  # whoever has a role in it lives
            served, causes = at, {name: cause for name, cause in causes.items() if name not in split.roles}
        ticked = window.tick(now, accelerators=split.accelerators or held)
        fresh = bisect_right(events, now, key=lambda event: event[0])
        new, told = events[told:fresh], max(fresh, told)
        for t_ns, event in new:
            name = event.text.split(" ", 1)[0]
            if event.kind == "fault" and name in split.roles and t_ns >= split.start_ns:
                causes[name] = event.text
        yield Sample(
            t_s=(now - origin_ns) / 1e9, t_ns=now, topology=split.topology, stats=ticked.stats,
            workers=gauges.workers(now, split.roles, causes), devices=gauges.devices(now, split.roles, split.devices),
            frontend=gauges.frontend(now), events=tuple(event for _, event in new),
            slow_ttft=ticked.slow_ttft, slow_itl=ticked.slow_itl,
        )  # fmt: skip


def splits_of(manifest: Mapping[str, Any]) -> list[Split]:
    """The splits of a run, by their start."""
    epochs = sorted(manifest.get("epochs") or (), key=lambda epoch: epoch["start_ns"])
    return [
        Split(
            start_ns=epoch["start_ns"],
            topology=str(epoch.get("topology", "")),
            roles={name: Role(role) for name, role in (epoch.get("roles") or {}).items()},
            devices=epoch.get("devices") or {},
        )
        for epoch in epochs
    ]


class _Load:
    """Requests and chunks in the order in which they happened, handed out up to an instant."""

    def __init__(self, records: Records, windows: Sequence[Window]) -> None:
        requests, chunks = records.requests, records.chunks
        self._closed_loop = [window.measurement for window in windows if not is_open_loop(window)]
        self._begun = sorted((window.start_ns, window.measurement) for window in windows)
        request, sent = ints(requests, "request"), ints(requests, "sent_ns", UNKNOWN)
        was_sent = np.flatnonzero(sent != UNKNOWN)
        self._sent = _by_time(sent[was_sent], request[was_sent])
        ended = ints(requests, "end_ns", _NEVER)
        order = np.argsort(ended, kind="stable")
        self._ended_ns, self._ended = ended[order], requests.take(pa.array(order)).select(REQUESTS.names)
        t_ns = ints(chunks, "t_ns")
        columns = (ints(chunks, "request"), ints(chunks, "tokens", UNKNOWN).astype(np.int16), bools(chunks, "text"))
        self._chunks = _by_time(t_ns, *columns)
        ends = [int(times[-1]) for times in (self._sent[0], self._ended_ns, self._chunks[0]) if len(times)]
        self.end_ns = max((end for end in ends if end != _NEVER), default=0)
        was_sent_by_end = np.asarray(pc.is_valid(self._ended.column("sent_ns")).to_numpy(), np.int64)
        self._sent_ended = np.concatenate([np.zeros(1, np.int64), np.cumsum(was_sent_by_end)])
        self._at = [0, 0, 0]
        self._failed: Counter[int] = Counter()

    def until(self, now_ns: int) -> Batch:
        """What happened since the call before and no later than ``now_ns``."""
        begin, end = self._at, [bisect_right(times, now_ns) for times in (self._sent[0], self._ended_ns, self._chunks[0])]
        self._at = end
        sent, ended, chunk = (slice(a, b) for a, b in zip(begin, end, strict=True))
        rows = [tuple(row.values()) for row in self._ended.slice(ended.start, ended.stop - ended.start).to_pylist()]
        number, outcome = REQUESTS.names.index("measurement"), REQUESTS.names.index("outcome")
        self._failed.update(row[number] for row in rows if is_failure(row[outcome]))
        begun = bisect_right(self._begun, (now_ns, _NEVER)) - 1
        measurement = self._begun[begun][1] if begun >= 0 else -1
        t_ns, request, tokens, text = (column[chunk] for column in self._chunks)
        return Batch(
            watch=1, shard=0, since_ns=0, until_ns=now_ns + 1, running=False,
            closed_loop=self._closed_loop, in_flight=end[0] - int(self._sent_ended[end[1]]), oldest=0,
            failed=self._failed[measurement],
            sent=list(zip(self._sent[1][sent].tolist(), self._sent[0][sent].tolist(), strict=True)), ended=rows,
            request=request.tobytes(), t_ns=t_ns.tobytes(), tokens=tokens.tobytes(), text=text.tobytes(),
        )  # fmt: skip


class _Telemetry:
    """Samples in order of time, the newest of each metric handed out up to an instant."""

    def __init__(self, samples: pa.Table) -> None:
        kept = samples.filter(pc.is_valid(samples.column("value")))
        order = pa.array(np.argsort(ints(kept, "t_ns"), kind="stable"))
        self._table = kept.take(order)
        self._t_ns = ints(self._table, "t_ns")
        self._at = 0

    def until(self, now_ns: int) -> dict[tuple[str, str], Reading]:
        """The newest readings since the call before."""
        begin, self._at = self._at, int(np.searchsorted(self._t_ns, now_ns, "right"))
        part = self._table.slice(begin, self._at - begin).to_pydict()
        rows = zip(part["t_ns"], part["source"], part["metric"], part["value"], strict=True)
        return {(source, metric): Reading(t_ns, value) for t_ns, source, metric, value in rows}


def _by_time(t_ns: Ints, *columns: Any) -> tuple[Any, ...]:
    order = np.argsort(t_ns, kind="stable")
    return t_ns[order], *(column[order] for column in columns)


def _events(events: pa.Table, origin_ns: int) -> list[tuple[int, LiveEvent]]:
    rows = zip(*(events.column(name).to_pylist() for name in ("t_ns", "kind", "text", "data")), strict=True)
    steps = ("launch", True)  # of a worker's start, from the telemetry: not marked live either
    known = [(t, live_event(t, kind, text, origin_ns)) for t, kind, text, data in rows if (kind, data is not None) != steps]
    return sorted(known, key=lambda event: event[0])


def live_event(t_ns: int, kind: str, text: str, origin_ns: int) -> LiveEvent:
    """An event of a run as charts mark it: its first line."""
    known: EventKind = kind if kind in _KINDS else "note"  # type: ignore[assignment]
    return LiveEvent((t_ns - origin_ns) / 1e9, known, text.partition("\n")[0])
