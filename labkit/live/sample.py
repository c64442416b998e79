"""What the lab knows at one instant of a live exploration: pure data, one ``Sample`` a tick, four ticks a second.

Latencies are those of a sliding window that ends at the tick (``LiveStats.window_s``), computed by ``measure`` from the same
events that the records keep. ``None`` is "not known", never 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from labkit.spec.topology import Role

EventKind = Literal["launch", "resplit", "load", "fault", "pin", "note"]


@dataclass(frozen=True, slots=True)
class LiveStats:
    """What clients see.

    Attributes:
        window_s: length of the sliding window; shorter where the watch has only begun.
        requests: first tokens in the window, of which the TTFT quantiles are.
        gaps: gaps between tokens in the window, of which the ITL quantiles are.
        sent_hz, done_hz: requests sent and ended per second.
        failed: requests that did not end well, since the load began; those that the lab stopped are none of them.
        in_flight: requests under way now.
        output_tok_s, output_tok_s_per_accelerator: output tokens per second.
        tok_s_per_user: 1 / median TPOT of the requests that ended well within the window; a median ITL would hide stalls.
        goodput_hz: requests per second that ended within the window and met the SLO.
        end_ns: where the window ends: the last instant whose events are all known, a fraction of a second before the tick.
        lost: batches of live events that were dropped on their way since the watch began; rates of a window that lacks some are
            ``None``, and what is on disk lacks nothing.
    """

    window_s: float
    requests: int = 0
    gaps: int = 0
    sent_hz: float | None = None
    done_hz: float | None = None
    failed: int = 0
    in_flight: int = 0
    output_tok_s: float | None = None
    output_tok_s_per_accelerator: float | None = None
    tok_s_per_user: float | None = None
    goodput_hz: float | None = None
    ttft_p50_s: float | None = None
    ttft_p99_s: float | None = None
    itl_p50_s: float | None = None
    itl_p99_s: float | None = None
    end_ns: int = 0
    lost: int = 0


@dataclass(frozen=True, slots=True)
class WorkerSample:
    """One worker. ``cause`` says why it is not alive."""

    name: str
    role: Role
    alive: bool = True
    cause: str = ""
    running: float | None = None
    waiting: float | None = None
    kv_cache_use: float | None = None  # 0 to 1
    kv_transfer_bytes_s: float | None = None  # received from prefill workers


@dataclass(frozen=True, slots=True)
class RouterFault:
    """A router that has died: no request is served until there is another. ``log`` is what it said last."""

    name: str
    cause: str
    log: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DeviceSample:
    """A GPU, or the cores of one worker where there is no GPU."""

    name: str  # "GPU 0", "core 1"
    worker: str  # the worker, or the workers with "+" between
    role: Role
    utilisation: float | None = None  # 0 to 1
    memory_use: float | None = None  # 0 to 1
    power_w: float | None = None


@dataclass(frozen=True, slots=True)
class FrontendSample:
    """What a frontend tells of the requests that pass through it: the lab's, its own canaries and other clients'.

    Attributes:
        in_flight, queued: requests now; queued are those that have no first token yet.
        output_tok_s: output tokens per second, over the last seconds.
        ttft_s, itl_s, duration_s: means over what ended in the last seconds, on the frontend's own clock.
    """

    in_flight: float | None = None
    queued: float | None = None
    output_tok_s: float | None = None
    ttft_s: float | None = None
    itl_s: float | None = None
    duration_s: float | None = None


@dataclass(frozen=True, slots=True)
class LiveEvent:
    """Something that is marked across all charts."""

    t_s: float
    kind: EventKind
    text: str


@dataclass(frozen=True, slots=True)
class Dot:
    """A slow request (its TTFT) or a slow token (the gap before it), drawn as a dot; ``request`` leads to the waterfall."""

    t_s: float
    request: int
    value_s: float


@dataclass(frozen=True, slots=True)
class Sample:
    """One tick.

    Attributes:
        t_s: seconds since the lab began.
        t_ns: the same on the records' clock.
        topology: the split that serves new requests.
        events: since the last tick.
        router: why no router takes requests; ``None`` while one does.
        frontend: what the router tells of requests; ``None`` where it tells nothing that is known here.
        slow_ttft, slow_itl: the slowest since the last tick, at most a few each, and only beyond the SLO or the window's p99;
            where there is neither for TTFT, beyond twice its median of the last minute.
    """

    t_s: float
    t_ns: int
    topology: str
    stats: LiveStats
    workers: tuple[WorkerSample, ...] = ()
    devices: tuple[DeviceSample, ...] = ()
    events: tuple[LiveEvent, ...] = ()
    router: RouterFault | None = None
    slow_ttft: tuple[Dot, ...] = ()
    slow_itl: tuple[Dot, ...] = ()
    frontend: FrontendSample | None = None
