"""What a reader must know before believing a window: marks with a sentence each."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from labkit.measure.counters import is_shared
from labkit.measure.digest import Digest
from labkit.measure.machine import held_gpus, machine_marks, workers_let_go
from labkit.measure.mark import Kind, Mark, grouped
from labkit.measure.metrics import is_open_loop, summarise, taken_in
from labkit.measure.outcomes import is_failure
from labkit.measure.records import Records, Window
from labkit.measure.saturation import saturation_of
from labkit.measure.simulated import simulated_marks
from labkit.measure.statistics import drift, least_values
from labkit.measure.timing import RequestMetrics, request_metrics
from labkit.measure.transport import Transport

__all__ = ["Kind", "Mark", "dummy_weights", "grouped", "held_gpus", "imported", "marks", "marks_of"]

#: A send later than this, or than this share of the median TTFT, is no longer the load that was asked for.
MOST_LAG_S: Final = 0.005
MOST_LAG_OF_TTFT: Final = 0.05
#: The first request's TTFT in medians of the others: more is a cold start, if no other was nearly as slow.
_COLD: Final = 3.0
_COLD_MARGIN: Final = 1.25


def marks(
    records: Records | Digest,
    window: Window,
    summary: Mapping[str, float | None] | None = None,
    *,
    dummy_weights: bool = False,
    gpus: Collection[str] | None = None,
    let_go: Collection[str] = (),
) -> list[Mark]:
    """Every mark of a window, warnings first.

    Args:
        records: of the run, or what was taken in of them.
        window: the measurement.
        summary: what ``summarise`` said of it; computed where absent.
        dummy_weights: whether the model's weights are random (the records do not know).
        gpus: sources of the GPUs that the split holds (``held_gpus``); all that were sampled by default.
        let_go: workers that a re-split ended (``workers_let_go``).
    """
    mine = taken_in(records, window)
    summary = summarise(mine, window) if summary is None else summary
    requests = request_metrics(mine)
    measured = requests.select(requests.measured)
    found = [
        _failures(mine, summary),
        _cancelled(summary),
        *_client(measured, window, summary),
        _few(summary),
        _saturated(mine, window),
        _drift(measured, window),
        _cold(measured),
        *machine_marks(mine, window, gpus, let_go),
        _straddled(summary),
        _mixed(measured, window),
        _uncounted(requests),
        _shared(window),
        Mark("dummy_weights", "the model's weights are dummies: times are real, the text is not", "note")
        if dummy_weights
        else None,
    ]
    once = grouped([("", (mark for mark in found if mark is not None))])
    return sorted((mark for mark, _ in once.values()), key=lambda mark: mark.severity != "warning")


def marks_of(
    records: Records | Digest, window: Window, manifest: Mapping[str, Any], summary: Mapping[str, float | None] | None = None
) -> list[Mark]:
    """Every mark of a window of a run, with what the run's manifest knows of it; ``summary`` as for ``marks``."""
    found = marks(
        records, window, summary, dummy_weights=dummy_weights(manifest), gpus=held_gpus(manifest, window),
        let_go=workers_let_go(manifest, window),
    )  # fmt: skip
    transport = Transport.of_manifest(manifest, window.epoch)
    of_run = [mark for mark in (transport.mark if transport else None, imported(manifest)) if mark is not None]
    of_run += simulated_marks(manifest, window)
    return sorted([*found, *of_run], key=lambda mark: mark.severity != "warning")


def _failures(records: Digest, summary: Mapping[str, float | None]) -> Mark | None:
    failed, requests = summary["failed"] or 0, summary["requests"] or 0
    if not requests:
        return Mark("failures", "no request was scheduled in the window")
    if not failed:
        return None
    table = records.requests.filter(pc.equal(records.requests.column("phase"), "measure"))
    failures = [outcome for outcome in table.column("outcome").unique().to_pylist() if is_failure(outcome)]
    table = table.filter(pc.is_in(table.column("outcome"), pa.array(failures, pa.string())))
    outcomes = {item["values"]: item["counts"] for item in pc.value_counts(table.column("outcome")).to_pylist()}
    counted = ", ".join(f"{count} {name}" for name, count in sorted(outcomes.items(), key=lambda item: -item[1]))
    reasons = table.column("reason").drop_null()
    first = f"; first reason: {reasons[0].as_py()}" if len(reasons) else ""
    left = pc.sum(pc.subtract(pc.subtract(table.column("turns"), table.column("turn")), 1)).as_py()
    unsent = f", and {left} later turns of their conversations were not sent" if left else ""
    text = f"{failed:.0f} of {requests:.0f} requests failed ({counted}{first}){unsent}; latencies are of the others"
    return Mark("failures", text)


def _cancelled(summary: Mapping[str, float | None]) -> Mark | None:
    """The longest of the requests under way are cancelled most often, so that those which ended look better than all do."""
    if not (count := summary["cancelled"] or 0):
        return None
    which = f"{count:.0f} of {summary['requests'] or 0:.0f} requests"
    return Mark("cancelled", f"{which} were cancelled by a stop of the load; latencies are of the others")


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
        text = "no stationary part was found in it: its figures depend on when it was cut"
        return Mark("not_stationary", text) if window.settled is False else None
    direction = "rose" if found.change > 0 else "fell"
    means = f"{found.first * 1e3:,.0f} ms in the first third of the window to {found.last * 1e3:,.0f} ms in the last"
    text = f"mean TTFT {direction} from {means} (Geweke z = {found.z:.1f}): its figures depend on when it was cut"
    return Mark("not_stationary", text)


def _saturated(records: Digest, window: Window) -> Mark | None:
    """Also where the load was stopped for it: then the window says in which words."""
    if window.stopped.startswith("saturated"):
        return Mark("saturated", f"stopped early: {window.stopped}")
    found = saturation_of(records, window)
    return None if found is None else Mark("saturated", f"{found} ({found.t_s:.0f} s after the first request)")


def _cold(measured: RequestMetrics) -> Mark | None:
    """The first request against the others, but those behind it that it held up."""
    ttft_s = measured.ttft_s[np.argsort(measured.scheduled_ns, kind="stable")]
    ttft_s = ttft_s[np.isfinite(ttft_s)]
    if len(ttft_s) < 5:
        return None
    median = float(np.median(ttft_s))
    slow = ttft_s > _COLD * median
    held_up = int(np.argmin(slow)) if not slow.all() else len(ttft_s)
    if not held_up or ttft_s[0] <= _COLD_MARGIN * ttft_s[held_up:].max(initial=0.0):
        return None
    first = f"the first request took {ttft_s[0]:.2g} s to its first token, {ttft_s[0] / median:.0f} times the median"
    return Mark("cold_start", f"{first}: the workers were cold; give the workload a warm-up (warmup_s, or warmup='auto')")


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


def _shared(window: Window) -> Mark | None:
    """A GPU is shared by design; workers that compute on one core stop each other, prefill and decode too."""
    if not is_shared(window):
        return None
    if window.accelerator == "GPU":
        return Mark("shared_gpu", "several workers share a GPU: each has a part of its memory and of its time", "note")
    return Mark("shared_core", "several workers share a core and stop each other: other splits may not be slowed like this one")


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
