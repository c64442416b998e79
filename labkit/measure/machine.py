"""Marks of what the machine did while a window was measured: other processes, clocks, restarts. Read from its telemetry alone."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from labkit.measure.counters import Series, means, series, total_growth
from labkit.measure.digest import Digest
from labkit.measure.mark import Mark
from labkit.measure.records import Records, Window
from labkit.measure.timing import Bools

#: CPU that others used, in cores: on a CPU every tenth of a core is missing from a worker; beside GPUs a core is.
MOST_FOREIGN_CORES: Final[Mapping[str, float]] = {"core": 0.1, "GPU": 1.0}
MOST_STEAL: Final = 0.02
#: A load client is one thread: closer to a whole core than this, it and not the server sets the pace.
MOST_CLIENT_CORES: Final = 0.85
#: NVML's clock event reasons that hold a GPU below what its work asks for; the other bits (idle, settings) do not.
POWER_CAP: Final = 0x004
SLOWDOWNS: Final[Mapping[int, str]] = {
    0x008: "hardware slowdown", 0x020: "thermal slowdown (software)", 0x040: "thermal slowdown (hardware)", 0x080: "power brake",
}  # fmt: skip
_SELDOM: Final = 0.05  # of a window's samples: less is a moment
_CLOCK_DROP: Final = 0.10
_BUSY: Final = 0.5
_MOST_HITS: Final = 0.01
_COUNTERS: Final = ("vllm:prompt_tokens_total", "vllm:generation_tokens_total")


def machine_marks(
    records: Records | Digest, window: Window, gpus: Collection[str] | None = None, let_go: Collection[str] = ()
) -> list[Mark]:
    """Every mark that telemetry gives; what was not sampled gives none.

    Args:
        records: of the run.
        window: the measurement.
        gpus: sources of the GPUs that the topology holds (``gpu0``); all by default.
        let_go: workers that were ended on purpose.
    """
    samples = _during(records.samples, window)
    found = [
        *_cpu(samples, window),
        _foreign_gpu(samples, window, gpus),
        _throttled(samples, window, gpus),
        _clock_drop(samples, window, gpus),
        _restarts(records, samples, window, let_go),
        _prefix_hits(samples, window),
    ]
    return [mark for mark in found if mark is not None]


def busy_client(client: str, cores: float) -> Mark | None:
    """The mark of a load client that used so much of a core."""
    if cores <= MOST_CLIENT_CORES:
        return None
    text = f"the load client {client} used {cores:.0%} of the one core that it can use: it, and not the server, may set the pace"
    return Mark("client_limited", text)


def held_gpus(manifest: Mapping[str, Any], window: Window) -> frozenset[str] | None:
    """Sources of the GPUs that a window's split holds, as the run's manifest tells; ``None`` where it does not."""
    for epoch in manifest.get("epochs") or ():
        if epoch.get("epoch") == window.epoch and epoch.get("gpus"):
            return frozenset(f"gpu{index}" for held in epoch["gpus"].values() for index in held)
    return None


def workers_let_go(manifest: Mapping[str, Any], window: Window) -> frozenset[str]:
    """Workers that re-splits up to a window's end ended: they served in an earlier epoch, and do not in the last one."""
    epochs = [epoch for epoch in manifest.get("epochs") or () if epoch.get("start_ns", 0) <= window.end_ns]
    served = [frozenset(epoch.get("roles") or ()) for epoch in epochs]
    return frozenset().union(*served) - served[-1] if served else frozenset()


def _during(samples: pa.Table, window: Window) -> pa.Table:
    """Samples of the load and of the two seconds before it, in which a counter's value at the beginning was read."""
    t_ns = samples.column("t_ns")
    since = window.start_ns - 2_000_000_000
    return samples.filter(pc.and_(pc.greater_equal(t_ns, since), pc.less_equal(t_ns, window.end_ns)))


def _measured(found: Mapping[str, Series], window: Window, gpus: Collection[str] | None = None) -> dict[str, Series]:
    inside = {}
    for source, (t_ns, value) in found.items():
        keep = (t_ns >= window.measure_ns) & (t_ns < window.stop_ns)
        if keep.any() and (gpus is None or source in gpus):
            inside[source] = Series(t_ns[keep], value[keep])
    return inside


def _cpu(samples: pa.Table, window: Window) -> list[Mark | None]:
    foreign = max(means(samples, "foreign_cpu_cores", window).values(), default=0.0)
    steal = max(means(samples, "cpu_steal_fraction", window).values(), default=0.0)
    clients = {source: cores for source, cores in means(samples, "cpu_cores", window).items() if source.startswith("load")}
    client, busiest = max(clients.items(), key=lambda item: item[1], default=("", 0.0))
    return [
        Mark("foreign_cpu", f"other processes of this node used {foreign:.2g} cores meanwhile")
        if foreign > MOST_FOREIGN_CORES.get(window.accelerator, MOST_FOREIGN_CORES["core"])
        else None,
        Mark("steal", f"the hypervisor took {steal:.1%} of the CPU time away meanwhile") if steal > MOST_STEAL else None,
        busy_client(client, busiest),
    ]


def _foreign_gpu(samples: pa.Table, window: Window, gpus: Collection[str] | None) -> Mark | None:
    counted = _measured(series(samples, "foreign_processes"), window, gpus)
    guests = {source: int(found.value.max()) for source, found in counted.items() if found.value.max() > 0}
    if not guests:
        return None
    held = _measured(series(samples, "foreign_memory_bytes"), window, guests)
    memory = sum(float(found.value.max()) for found in held.values())
    size = f", with {memory / 2**30:.3g} GiB of its memory" if memory else ""
    return Mark(
        "foreign_gpu", f"{_plural(sum(guests.values()), 'other process', 'es')} computed on {_names(guests)} meanwhile{size}"
    )


def _throttled(samples: pa.Table, window: Window, gpus: Collection[str] | None) -> Mark | None:
    masks = _measured(series(samples, "clock_event_reasons"), window, gpus)
    slowed: dict[str, float] = {}
    reasons: set[str] = set()
    for source, found in masks.items():
        mask = found.value.astype(np.int64)
        part = float(np.mean((mask & sum(SLOWDOWNS)) > 0))
        if part > 0:
            slowed[source] = part
            reasons |= {name for bit, name in SLOWDOWNS.items() if np.any(mask & bit)}
    capped = {source: float(np.mean((found.value.astype(np.int64) & POWER_CAP) > 0)) for source, found in masks.items()}
    capped = {source: share for source, share in capped.items() if share > _SELDOM}
    if slowed:
        share = f"for up to {max(slowed.values()):.0%} of the time"
        return Mark("throttled", f"{_names(slowed)} was held down {share}: {', '.join(sorted(reasons))}")
    if capped:
        share = f"for up to {max(capped.values()):.0%} of the time"
        return Mark("throttled", f"{_names(capped)} ran at its power cap {share}", "note")
    return None


def _clock_drop(samples: pa.Table, window: Window, gpus: Collection[str] | None) -> Mark | None:
    """Clocks of the moments in which a GPU worked: an idle one may rest."""
    clocks = _measured(series(samples, "sm_clock_mhz"), window, gpus)
    worked = _measured(series(samples, "gpu_busy_fraction"), window, gpus)
    dropped: dict[str, tuple[float, float]] = {}
    for source, clock in clocks.items():
        if source not in worked:
            continue
        busy: Bools = np.isin(clock.t_ns, worked[source].t_ns[worked[source].value >= _BUSY])
        mhz = clock.value[busy]
        if len(mhz) and np.mean(mhz < (1 - _CLOCK_DROP) * mhz.max()) > _SELDOM:
            dropped[source] = float(mhz.max()), float(np.percentile(mhz, 5))
    if not dropped:
        return None
    high, low = min(dropped.values(), key=lambda pair: pair[1] / pair[0])
    return Mark("clock_drop", f"the SM clock of {_names(dropped)} fell from {high:.0f} to {low:.0f} MHz while it worked")


def _restarts(records: Records | Digest, samples: pa.Table, window: Window, let_go: Collection[str]) -> Mark | None:
    restarted, died = set(), set()
    for counter in _COUNTERS:
        for source, found in series(samples, counter).items():
            if source != "router" and np.any(np.diff(found.value) < 0):
                restarted.add(source)
    for source, found in series(samples, "processes").items():
        alive = found.value[found.t_ns >= window.start_ns]
        ended = len(alive) and alive.max() > 0 == alive.min()  # one that was replaced before is 0 throughout
        if source.startswith("w") and source not in let_go and ended:
            died.add(source)
    faults = records.events.filter(pc.equal(records.events.column("kind"), "fault"))
    inside = pc.and_(
        pc.greater_equal(faults.column("t_ns"), window.start_ns), pc.less_equal(faults.column("t_ns"), window.end_ns)
    )
    texts = list(dict.fromkeys(text.splitlines()[0] for text in faults.filter(inside).column("text").to_pylist()))
    said = [f"{_names(restarted)} restarted meanwhile: its counters began again"] if restarted else []
    said += texts or ([f"{_names(died)} ended meanwhile"] if died else [])
    return Mark("restart", "; ".join(said)) if said else None


def _prefix_hits(samples: pa.Table, window: Window) -> Mark | None:
    if _shares(window.workload):
        return None
    hits, asked = (total_growth(samples, f"vllm:prefix_cache_{what}_total", window) for what in ("hits", "queries"))
    if not hits or not asked or hits / asked <= _MOST_HITS:
        return None
    return Mark(
        "prefix_hits",
        f"{hits / asked:.0%} of the prompt tokens came from a prefix cache, and the workload shares no prefixes: they were sent "
        "before, with the same seed",
    )


def _shares(workload: Mapping[str, Any]) -> bool:
    """Whether prompts that begin alike are meant: groups, conversations, the blocks of a trace; a CSV has lengths alone."""
    blocks = str(workload.get("isl")) == "trace" and not str(workload.get("trace")).lower().endswith(".csv")
    return bool(workload.get("prefix_groups") or workload.get("turns") or blocks)


def _names(sources: Collection[str]) -> str:
    return ", ".join(sorted(sources))


def _plural(count: int, noun: str, ending: str) -> str:
    return f"{count} {noun}{ending if count != 1 else ''}"
