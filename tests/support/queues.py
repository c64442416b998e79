"""Records of splits whose truth is known: prompts queue for x prefill workers (M/D/x, round robin), gaps depend on y alone.

With ``shared`` above 0 every worker beyond two slows all others down, as workers on the same cores do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from labkit.measure.records import Records, Window
from labkit.spec import Role, Topology, Workload
from tests.support.handmade import MS, SECOND, records, request, window

PREFILL_S = 0.3
TOKENS = 12


def queued(
    splits: Sequence[str], *, repeats: int = 3, rate: float = 2.6, length_s: float = 40.0, shared: float = 0.0
) -> tuple[Records, dict[str, Any]]:
    """``(records, manifest)``: a window for each split in each repeat, with the same requests in all windows of a repeat."""
    work = Workload(isl=8, osl=TOKENS, rate=rate, duration_s=length_s)
    plays = [(split, split, repeat, _constant(Topology(split))) for repeat in range(repeats) for split in splits]
    return _records(plays, work, lambda repeat: _poisson(repeat, ((0.0, rate),), length_s), shared)


def stepped(
    *, rates: tuple[float, float] = (1.0, 4.5), at_s: tuple[float, float, float] = (15.0, 40.0, 60.0), repeats: int = 2
) -> Records:
    """A load step against 1P3D throughout (``stays``), and with 2P2D during the step (``shifts``)."""
    (low, high), (up_s, down_s, length_s) = rates, at_s
    work = Workload(isl=8, osl=TOKENS, arrivals=f"step:0={low},{up_s}={high},{down_s}={low}", duration_s=length_s)
    split = lambda t: Topology("2P2D" if up_s <= t < down_s else "1P3D")  # noqa: E731
    plays = [
        (side, "1P3D", repeat, of_time)
        for repeat in range(repeats)
        for side, of_time in (("stays", _constant(Topology("1P3D"))), ("shifts", split))
    ]
    return _records(plays, work, lambda repeat: _poisson(repeat, ((0.0, low), (up_s, high), (down_s, low)), length_s), 0.0)[0]


def _constant(topology: Topology) -> Callable[[float], Topology]:
    return lambda _: topology


def _poisson(seed: int, rates: Sequence[tuple[float, float]], length_s: float) -> list[float]:
    rng, at_s, found = np.random.default_rng([7, seed]), 0.0, []
    while True:
        rate = next(rate for start_s, rate in reversed(rates) if at_s >= start_s)
        at_s += rng.exponential(1 / rate)
        if at_s >= length_s:
            return found
        found.append(at_s)


def _records(
    plays: Sequence[tuple[str, str, int, Callable[[float], Topology]]],
    work: Workload,
    sends: Callable[[int], list[float]],
    shared: float,
) -> tuple[Records, dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    windows: list[Window] = []
    epochs: list[dict[str, Any]] = []
    start, length = 100 * SECOND, int((work.duration_s or 0) * SECOND)
    for number, (side, split, repeat, of_time) in enumerate(plays):
        rng, free_s = np.random.default_rng([11, repeat]), [0.0] * 4
        for index, sent_s in enumerate(sends(repeat)):
            topology = of_time(sent_s)
            prefill, decode = topology.count(Role.PREFILL), topology.count(Role.DECODE)
            slower = 1 + shared * (prefill + decode - 2)
            worker = index % prefill
            free_s[worker] = max(free_s[worker], sent_s) + PREFILL_S * slower
            gaps_s = (0.012 + 0.012 / decode) * slower * rng.lognormal(0, 0.1, TOKENS - 1)
            times_ns = start + ((free_s[worker] + np.append(0.0, np.cumsum(gaps_s))) * 1e9).astype(np.int64)
            at = start + int(sent_s * 1e9)
            rows.append(
                request(
                    len(rows), [(int(t), 1, True) for t in times_ns], measurement=number, epoch=number, index=index,
                    scheduled_ns=at, sent_ns=at + MS,
                )
            )  # fmt: skip
        cores = 2.0 if shared else float(Topology(split).accelerators)
        windows.append(
            window(
                measurement=number, side=side, topology=split, repeat=repeat, epoch=number, start_ns=start, measure_ns=start,
                stop_ns=start + length, end_ns=start + 3 * length, accelerators=cores, workload=work.with_seed(repeat),
            )
        )  # fmt: skip
        roles = [str(role) for role, _ in Topology(split).workers]
        epochs.append(
            {
                "epoch": number, "topology": split, "start_ns": start, "roles": {f"w{n}": role for n, role in enumerate(roles)},
                "devices": {f"w{n}": {"gpus": [], "cores": [n % 2 if shared else n]} for n in range(len(roles))},
            }
        )  # fmt: skip
        start += 4 * length
    return records(rows, windows=windows), {"epochs": epochs}
