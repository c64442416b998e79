"""Records of requests whose time in every stage is given: the oracle of what a diagnosis says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa

from labkit.measure.records import SPANS, Records, Window
from labkit.measure.stages import STAGES
from labkit.spec import Role, Topology, Workload
from tests.support.handmade import MS, SECOND, records, request, window

#: Seconds of a request that has waited for nobody.
CALM: Mapping[str, float] = {
    "send_lag": 0.0005, "routing": 0.002, "queue": 0.001, "prefill": 0.3, "handover": 0.0, "kv_wait": 0.0, "first_token": 0.001,
    "decode": 0.6,
}  # fmt: skip
SPLIT: Mapping[str, float] = {**CALM, "handover": 0.005, "kv_wait": 0.01, "first_token": 0.02}
TOKENS = 4
Sample = tuple[str, str, float]


@dataclass(frozen=True)
class SideOf:
    """What a side is made of.

    Attributes:
        topology: of its windows.
        seconds: of each stage; a request's are these times a factor of its own, the same on every side.
        samples: ``(source, metric, value)``, constant through the window.
        counters: the same; the value is what the counter grows by within the window.
    """

    topology: str
    seconds: Mapping[str, float]
    samples: Sequence[Sample] = ()
    counters: Sequence[Sample] = ()
    alter: Callable[[int, dict[str, float]], dict[str, float]] = field(default=lambda _, seconds: seconds)


def staged(*sides: SideOf, requests: int = 40, spread: float = 0.1, seed: int = 0) -> tuple[Records, dict[str, Any]]:
    """``(records, manifest)``: one window a side, a request a second, each with spans of the workers that it passed."""
    rows: list[dict[str, Any]] = []
    spans: list[dict[str, Any]] = []
    windows: list[Window] = []
    epochs: list[dict[str, Any]] = []
    samples: list[tuple[int, str, str, float | None]] = []
    length = requests * SECOND
    for number, side in enumerate(sides):
        topology, start = Topology(side.topology), (100 + number * (requests + 60)) * SECOND
        factors = np.random.default_rng(seed).lognormal(0, spread, requests)
        names = [f"w{index}" for index in range(len(topology.workers))]
        roles = dict(zip(names, (role for role, _ in topology.workers), strict=True))
        for index in range(requests):
            seconds = side.alter(index, {stage: side.seconds[stage] * factors[index] for stage in STAGES})
            row, told = _request(len(rows), number, index, start + index * SECOND, seconds, roles)
            rows.append(row)
            spans += told
        windows.append(
            window(
                measurement=number, side=side.topology, topology=side.topology, epoch=number, start_ns=start, measure_ns=start,
                stop_ns=start + length, end_ns=start + length + 30 * SECOND, accelerators=float(topology.accelerators),
                workload=Workload(rate=1.0, requests=requests, isl=8, osl=TOKENS),
            )
        )  # fmt: skip
        epochs.append(
            {
                "epoch": number, "topology": side.topology, "start_ns": start,
                "roles": {name: str(role) for name, role in roles.items()},
                "devices": {name: {"cores": [at]} for at, name in enumerate(names)},
            }
        )  # fmt: skip
        for t_ns in (start + SECOND, start + length - SECOND):
            samples += [(t_ns, *sample) for sample in side.samples]
        samples += [(start, source, metric, 0.0) for source, metric, _ in side.counters]
        samples += [(start + length - SECOND, *counter) for counter in side.counters]
    made = records(rows, windows=windows, samples=samples)
    return replace(made, spans=pa.Table.from_pylist(spans, schema=SPANS)), {"epochs": epochs}


def _request(
    number: int, measurement: int, index: int, at_ns: int, seconds: Mapping[str, float], roles: Mapping[str, Role]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    bounds = at_ns + np.rint(np.cumsum([0.0, *(seconds[stage] for stage in STAGES)]) * 1e9).astype(np.int64)
    _, sent, arrived, begun, prefilled, handed, stepped, first, last = (int(bound) for bound in bounds)
    tokens = np.linspace(first, last, TOKENS).astype(np.int64)
    row = request(
        number, [(int(t), 1, True) for t in tokens], measurement=measurement, epoch=measurement, index=index, scheduled_ns=at_ns,
        sent_ns=sent, end_ns=last + MS, sent_id=f"r{number}", server_id=f"cmpl-r{number}",
    )  # fmt: skip

    def span(worker: str, start: int, step: int, end: int, decoded: int) -> dict[str, Any]:
        return {
            "worker": worker, "server_id": f"cmpl-r{number}", "start_ns": start, "queue_s": (step - start) / 1e9,
            "prefill_s": (end - step) / 1e9, "decode_s": (decoded - end) / 1e9, "ttft_s": (end - start) / 1e9,
            "e2e_s": (decoded - start) / 1e9, "prompt_tokens": 8, "output_tokens": TOKENS,
        }  # fmt: skip

    def nth(role: Role) -> str:
        held = [name for name, own in roles.items() if own is role]
        return held[index % len(held)]

    if Role.DECODE not in roles.values():
        return row, [span(nth(Role.AGGREGATED), arrived, begun, prefilled, last)]
    return row, [
        span(nth(Role.PREFILL), arrived, begun, prefilled, prefilled),
        span(nth(Role.DECODE), handed, stepped, stepped, last),
    ]


def without_spans(made: Records, requests: Iterable[int]) -> Records:
    """The same where no worker told of some requests."""
    silent = {f"cmpl-r{number}" for number in requests}
    return replace(
        made, spans=pa.Table.from_pylist([row for row in made.spans.to_pylist() if row["server_id"] not in silent], schema=SPANS)
    )
