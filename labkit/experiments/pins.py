"""Pins: stationary stretches of an exploration, each kept as a run of its own, with the interval of every figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from labkit.errors import LoadError
from labkit.experiments.conclude import slo_of
from labkit.experiments.conditions import conditions, workload_text
from labkit.experiments.points import RESAMPLES, estimates, tails
from labkit.lab.loads import endless
from labkit.live.pin import KIND, Pin
from labkit.measure.mark import warnings_in
from labkit.measure.metrics import summarise
from labkit.measure.records import Window
from labkit.measure.validity import marks_of
from labkit.measure.warmup import cut_warmup
from labkit.serve.deployment import Deployment
from labkit.serve.engines.attach import Attached
from labkit.serve.engines.base import EngineOptions
from labkit.spec import Workload
from labkit.store.cut_out import cut_out
from labkit.store.redact import REDACTED, redact_argv
from labkit.store.run import Run, list_runs, open_run


def keep_pin(run: Run, window: Window, label: str, *, name: str | None = None) -> Pin:
    """Keep a stretch of a run as a pin: its initial transient is left out where one is found (``measure.warmup``).

    Args:
        run: the exploration's, open or finished.
        window: the stretch; its measurement is that of the load.
        label: what the person calls it.
        name: of the pin's run; ``<run>-pin1`` and so on by default.

    Raises:
        StoreError: the run cannot be read, or the pin's run not be written.
    """
    epochs = [epoch for epoch in run.manifest.get("epochs") or () if epoch["epoch"] == window.epoch]
    options = epochs[-1].get("options") if epochs else None  # those of the run are what it was launched with
    kept = cut_out(
        run, window, kind=KIND, name=name or f"{run.id}-pin1", pin=label, origin_ns=_origin_ns(run), epochs=epochs,
        **({"options": options} if options is not None else {}),
    )  # fmt: skip
    kept.add_window(cut_warmup(kept.digest(), kept.windows[0]))
    return read_pin(kept)


def read_pin(run: Run, *, seed: int = 0, resamples: int = RESAMPLES) -> Pin:
    """The pin that a run of kind ``pin`` is; the figures are computed from its records."""
    (window,) = run.windows
    records, slo = run.digest(), slo_of(run)
    summary = summarise(records, window)
    origin_ns = int(run.manifest.get("origin_ns", window.start_ns))
    return Pin(
        label=str(run.manifest.get("pin", run.id)),
        topology=window.topology,
        workload=workload_text(window.workload),
        run=run.id,
        measurement=str(window.measurement),
        t_s=(window.stop_ns - origin_ns) / 1e9,
        window_s=window.length_s,
        metrics=estimates([(records, window)], slo, seed=seed, resamples=resamples),
        tails=tails(records, window),
        requests=int(summary["requests"] or 0),
        settings=conditions(([window], run.manifest)).settings,
        slo="" if slo is None else str(slo),
        settled=window.settled,
        cut=window.cut,
        warnings=warnings_in(marks_of(records, window, run.manifest, summary)),
    )


def pins_of(run: Run) -> list[Pin]:
    """The pins of an exploration that are beside it in the store, in the order in which they were made."""
    beside = [open_run(info.path) for info in list_runs(run.path.parent) if info.kind == KIND]
    return sorted((read_pin(kept) for kept in beside if kept.manifest.get("from") == run.id), key=lambda pin: pin.t_s)


def warnings_of(pins: Sequence[Pin]) -> list[str]:
    """What a reader must know of pins before believing them, each after the label of its pin."""
    return [f"{pin.label}: {warning}" for pin in pins for warning in pin.warnings]


def options_of(run: Run, now: EngineOptions) -> EngineOptions | None:
    """What a pin's workers were started with; ``None`` where its run does not say. No run holds a secret: those are of ``now``.

    Raises:
        LoadError: a secret that ``now`` has not.
    """
    kept = run.manifest.get("options")
    if not kept:
        return None
    options = EngineOptions.from_dict(kept)
    env = {name: now.extra_env.get(name, text) if REDACTED in text else text for name, text in options.extra_env.items()}
    own = dict(zip(pairwise(["", *redact_argv(now.extra_args)]), now.extra_args, strict=True))
    pairs = pairwise(["", *options.extra_args])
    args = tuple(own.get(pair, pair[1]) if REDACTED in pair[1] else pair[1] for pair in pairs)
    if lost := [name for name, text in (*env.items(), *((word, word) for word in args)) if REDACTED in text]:
        raise LoadError(
            f"no run keeps a secret, and what serves now lacks one that {run.id} was measured with: {lost[0]}",
            remedy="apply that split with options that have it, and pin it anew",
        )
    return replace(options, extra_env=env, extra_args=args)


def stretch(there: Deployment | Attached, load: Workload, measurement: int, start_ns: int, stop_ns: int) -> Window:
    """A stretch of an endless load, on the split that serves now."""
    workload = {**endless(load).to_dict(), "duration_s": round((stop_ns - start_ns) / 1e9, 1)}
    return Window(
        measurement=measurement, side=str(there.topology), topology=str(there.topology), repeat=0, epoch=there.epoch,
        start_ns=start_ns, measure_ns=start_ns, stop_ns=stop_ns, end_ns=stop_ns, accelerators=there.accelerators,
        accelerator=there.accelerator, workload=workload,
    )  # fmt: skip


def _origin_ns(run: Run) -> int:
    return int(run.manifest["clock"]["monotonic_ns"])
