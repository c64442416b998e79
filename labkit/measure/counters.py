"""Values over a window from sampled telemetry: growth of counters, means of gauges. Missing samples are ``None``, never 0."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from labkit.measure.records import Window
from labkit.measure.timing import Floats, Ints
from labkit.spec.topology import Topology


class Series(NamedTuple):
    """Samples of one metric of one source, in time order, without nulls."""

    t_ns: Ints
    value: Floats


def series(samples: pa.Table, metric: str) -> dict[str, Series]:
    """Every source's samples of a metric: ``{"w0": Series(…), …}``; empty where nobody answered."""
    rows = samples.filter(pc.equal(samples.column("metric").cast(pa.string()), metric))
    rows = rows.filter(pc.is_valid(rows.column("value")))
    source = np.asarray(rows.column("source").cast(pa.string()).to_numpy(zero_copy_only=False))
    t_ns = np.asarray(rows.column("t_ns").to_numpy(), dtype=np.int64)
    value = np.asarray(rows.column("value").to_numpy(), dtype=np.float64)
    finite = np.isfinite(value)
    found = {}
    for name in sorted(set(source[finite])):
        mine = np.flatnonzero((source == name) & finite)
        mine = mine[np.argsort(t_ns[mine], kind="stable")]
        found[str(name)] = Series(t_ns[mine], value[mine])
    return found


def growth(counter: Series, start_ns: int, stop_ns: int) -> float | None:
    """How much a counter grew from its last sample at or before the start to its last one at or before the stop.

    A counter that falls was reset (its process restarted) and grew by its new value. ``None`` with fewer than two samples.
    """
    first = max(int(np.searchsorted(counter.t_ns, start_ns, "right")) - 1, 0)
    values = counter.value[first : int(np.searchsorted(counter.t_ns, stop_ns, "right"))]
    if len(values) < 2:
        return None
    steps = np.diff(values)
    return float(np.where(steps >= 0, steps, values[1:]).sum())


def total_growth(samples: pa.Table, metric: str, window: Window) -> float | None:
    """Growth of a counter over a window's measure phase, summed over its sources; ``None`` where none was sampled twice."""
    grown = [growth(counter, window.measure_ns, window.stop_ns) for counter in series(samples, metric).values()]
    known = [value for value in grown if value is not None]
    return sum(known) if known else None


def means(samples: pa.Table, metric: str, window: Window) -> dict[str, float]:
    """Mean of a gauge's samples in the measure phase, per source that has any."""
    found = {}
    for source, gauge in series(samples, metric).items():
        inside = gauge.value[(gauge.t_ns >= window.measure_ns) & (gauge.t_ns < window.stop_ns)]
        if len(inside):
            found[source] = float(inside.mean())
    return found


def is_shared(window: Window) -> bool:
    """Whether workers share a GPU or core: the topology holds fewer accelerators than its workers would on their own."""
    if window.accelerator not in ("GPU", "core") or window.topology == "attached" or not window.accelerators:
        return False
    return window.accelerators < Topology(window.topology).accelerators


def energy_j(samples: pa.Table, window: Window) -> tuple[float | None, str]:
    """Joules that the GPUs of the topology took in the window, from NVML's total-energy counters; or ``None`` and why."""
    if window.accelerator == "GPU" and is_shared(window):
        return None, "GPUs are shared: their energy cannot be told apart"
    grown = {gpu: growth(counter, window.measure_ns, window.stop_ns) for gpu, counter in series(samples, "energy_j").items()}
    known = [value for value in grown.values() if value is not None]
    if not known:
        return None, "no energy counter was sampled"
    if len(known) != window.accelerators:
        return None, f"{len(known)} GPUs were sampled, the topology holds {window.accelerators:g}"
    return sum(known), ""
