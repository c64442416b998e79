"""What a reader must know before believing a window: marks with a sentence each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import pyarrow.compute as pc

from labkit.measure.counters import is_shared, means
from labkit.measure.digest import Digest, digest
from labkit.measure.metrics import is_open_loop, of_measurement, summarise
from labkit.measure.records import Records, Window
from labkit.measure.statistics import drift, least_values
from labkit.measure.timing import RequestMetrics, request_metrics

Kind = Literal[
    "failures", "send_lag", "client_limited", "few_requests", "not_stationary", "foreign_cpu", "steal", "shared_gpu",
    "dummy_weights", "straddled", "mixed_splits", "uncounted_tokens", "imported",
]  # fmt: skip

#: A send later than this, or than this share of the median TTFT, is no longer the load that was asked for.
MOST_LAG_S: Final = 0.005
MOST_LAG_OF_TTFT: Final = 0.05
#: CPU that others used, in cores: on a CPU every tenth of a core is missing from a worker; beside GPUs a core is.
MOST_FOREIGN_CORES: Final[Mapping[str, float]] = {"core": 0.1, "GPU": 1.0}
MOST_STEAL: Final = 0.02


@dataclass(frozen=True, slots=True)
class Mark:
    """One condition of a result: a ``note`` to be printed with it, or a ``warning`` that it may mislead."""

    kind: Kind
    text: str
    severity: Literal["note", "warning"] = "warning"


def marks(
    records: Records | Digest, window: Window, summary: Mapping[str, float | None] | None = None, *, dummy_weights: bool = False
) -> list[Mark]:
    """Every mark of a window, warnings first.

    Args:
        records: of the run, or what was taken in of them.
        window: the measurement.
        summary: what ``summarise`` said of it; computed where absent.
        dummy_weights: whether the model's weights are random (the records do not know).
    """
    records = records if isinstance(records, Digest) else digest(records, windows=(window,))
    summary = summarise(records, window) if summary is None else summary
    mine = of_measurement(records, window)
    requests = request_metrics(mine)
    measured = requests.select(requests.measured)
    found = [
        _failures(mine, summary),
        *_client(measured, window, summary),
        _few(summary),
        _drift(measured, window),
        *_host(records, window),
        _straddled(summary),
        _mixed(measured, window),
        _uncounted(requests),
        Mark("shared_gpu", "several workers share a GPU: each has a part of its memory and of its time", "note")
        if is_shared(window)
        else None,
        Mark("dummy_weights", "the model's weights are dummies: times are real, the text is not", "note")
        if dummy_weights
        else None,
    ]
    return sorted((mark for mark in found if mark is not None), key=lambda mark: mark.severity != "warning")


def _failures(records: Digest, summary: Mapping[str, float | None]) -> Mark | None:
    failed, requests = summary["failed"] or 0, summary["requests"] or 0
    if not requests:
        return Mark("failures", "no request was scheduled in the window")
    if not failed:
        return None
    table = records.requests.filter(pc.equal(records.requests.column("phase"), "measure"))
    table = table.filter(pc.not_equal(table.column("outcome"), "ok"))
    outcomes = {item["values"]: item["counts"] for item in pc.value_counts(table.column("outcome")).to_pylist()}
    counted = ", ".join(f"{count} {name}" for name, count in sorted(outcomes.items(), key=lambda item: -item[1]))
    reasons = table.column("reason").drop_null()
    first = f"; first reason: {reasons[0].as_py()}" if len(reasons) else ""
    return Mark("failures", f"{failed:.0f} of {requests:.0f} requests failed ({counted}{first}); latencies are of the others")


def _client(measured: RequestMetrics, window: Window, summary: Mapping[str, float | None]) -> list[Mark | None]:
    lag = summary["send_lag_p99_s"] if summary["send_lag_p99_s"] is not None else summary["send_lag_max_s"]
    if lag is None or not is_open_loop(window):
        return []
    limit = max(MOST_LAG_S, MOST_LAG_OF_TTFT * (summary["ttft_p50_s"] or 0))
    growing = drift((measured.scheduled_ns - window.measure_ns) / 1e9, measured.send_lag_s)
    late = Mark("send_lag", f"requests were sent up to {lag * 1e3:.3g} ms late (p99): more than {limit * 1e3:.3g} ms spoils TTFT")
    behind = growing is not None and not growing.stationary and growing.change > 0
    text = "the load client fell further behind its schedule while it ran: it, and not the server, limits the rate"
    return [late if lag > limit else None, Mark("client_limited", text) if lag > limit and behind else None]


def _few(summary: Mapping[str, float | None]) -> Mark | None:
    completed, needed = summary["completed"] or 0, least_values(99)
    if completed >= needed:
        return None
    return Mark("few_requests", f"{completed:.0f} requests completed: p99 of a request's values needs {needed}", "note")


def _drift(measured: RequestMetrics, window: Window) -> Mark | None:
    from_schedule = is_open_loop(window) and bool(np.isfinite(measured.ttft_from_schedule_s).any())
    ttft_s = np.where(measured.ok, measured.ttft_from_schedule_s if from_schedule else measured.ttft_s, np.nan)
    found = drift((measured.scheduled_ns - window.measure_ns) / 1e9, ttft_s)
    if found is None or found.stationary:
        return None
    direction = "rose" if found.change > 0 else "fell"
    return Mark(
        "not_stationary",
        f"TTFT {direction} by {abs(found.change):.0%} from the first to the last third of the window (Geweke z = {found.z:.1f}): "
        "its figures depend on when it was cut",
    )


def _host(records: Digest, window: Window) -> list[Mark | None]:
    foreign = max(means(records.samples, "foreign_cpu_cores", window).values(), default=0.0)
    steal = max(means(records.samples, "cpu_steal_fraction", window).values(), default=0.0)
    return [
        Mark("foreign_cpu", f"other processes of this node used {foreign:.2g} cores meanwhile")
        if foreign > MOST_FOREIGN_CORES[window.accelerator]
        else None,
        Mark("steal", f"the hypervisor took {steal:.1%} of the CPU time away meanwhile") if steal > MOST_STEAL else None,
    ]


def _mixed(measured: RequestMetrics, window: Window) -> Mark | None:
    """A window in which the split changed is not a measurement of the split that it is named after."""
    other = int((measured.epoch != window.epoch).sum())
    if not other:
        return None
    return Mark(
        "mixed_splits",
        f"the split changed while it ran: {other} of {len(measured)} requests went to another than {window.topology}",
    )


def _straddled(summary: Mapping[str, float | None]) -> Mark | None:
    count = summary["straddled"] or 0
    return Mark("straddled", f"{count:.0f} requests were alive across a re-split: two topologies served them") if count else None


def _uncounted(requests: RequestMetrics) -> Mark | None:
    done = requests.ok & requests.measured
    unknown = int((np.isnan(requests.tpot_s) & ~requests.single & done).sum())
    if not unknown:
        return None
    text = f"the server did not count the tokens of {unknown} of {int(done.sum())} answers: TPOT and ITL are undefined"
    return Mark("uncounted_tokens", text, "note")


def dummy_weights(manifest: Mapping[str, Any]) -> bool:
    """Whether a run's manifest says that its model has random weights."""
    model = manifest.get("model")
    return bool(model.get("dummy_weights")) if isinstance(model, Mapping) else "dummy weights" in str(model)


def imported(manifest: Mapping[str, Any]) -> Mark | None:
    """The mark of a run that another tool measured: which tool, and what it did not record; ``None`` for the lab's own."""
    source = manifest.get("source")
    if manifest.get("kind") != "import" or not isinstance(source, Mapping):
        return None
    tool = " ".join(str(source[key]) for key in ("tool", "version") if source.get(key))
    lacks = ", ".join(str(name) for name in source.get("not_recorded") or ())
    return Mark(
        "imported", f"measured by {tool or 'another tool'} and imported{f'; not recorded: {lacks}' if lacks else ''}", "note"
    )
