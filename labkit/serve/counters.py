"""The counters of a worker that show what it really did: the proof of its role."""

from __future__ import annotations

from dataclasses import dataclass, fields

import httpx
from prometheus_client.parser import text_string_to_metric_families

from labkit.errors import TelemetryError

_WANTED = (
    "vllm:prompt_tokens",
    "vllm:generation_tokens",
    "vllm:request_success",
    "vllm:nixl_bytes_transferred",
)
#: What Dynamo's mocker counts in the place of these: its prefill workers know no ``vllm:`` metric at all.
_MOCKER = (
    "dynamo_component_requests",
    "vllm:time_to_first_token_seconds",
    "vllm:inter_token_latency_seconds",
)
_UNDER_WAY = ("vllm:num_requests_running{", "vllm:num_requests_waiting{")
_DYNAMO_UNDER_WAY = "dynamo_component_inflight_requests{"


@dataclass(frozen=True, slots=True)
class Counters:
    """Totals since a worker started, or a difference of two readings; ``None`` where this engine has no such counter.

    Attributes:
        prompt_computed: prompt tokens that this worker computed itself.
        prompt_received: prompt tokens whose KV cache came from another worker.
        generated: output tokens.
        requests: requests that ended well.
        kv_bytes: KV cache received, in bytes.
        kv_transfers: number of receptions.
    """

    prompt_computed: float | None
    prompt_received: float | None
    generated: float | None
    requests: float | None
    kv_bytes: float | None
    kv_transfers: float | None

    def __sub__(self, earlier: Counters) -> Counters:
        pairs = ((getattr(self, f.name), getattr(earlier, f.name)) for f in fields(self))
        return Counters(*(None if now is None else now - (before or 0.0) for now, before in pairs))


def read_counters(url: str, *, timeout_s: float = 10.0) -> Counters:
    """Read a worker's counters from ``{url}/metrics``.

    Raises:
        TelemetryError: the worker does not answer.
    """
    return parse_counters(metrics_page(url, timeout_s))


def requests_on(url: str, *, timeout_s: float = 2.0) -> float:
    """Requests that run or wait on a worker now; raises as ``read_counters``."""
    lines = metrics_page(url, timeout_s).splitlines()
    told = [line for line in lines if line.startswith(_UNDER_WAY)]
    told = told or [line for line in lines if line.startswith(_DYNAMO_UNDER_WAY)]
    return sum(float(line.rsplit(" ", 1)[1]) for line in told)


def metrics_page(url: str, timeout_s: float = 10.0) -> str:
    """The text of ``{url}/metrics``; raises as ``read_counters``."""
    try:
        answer = httpx.get(f"{url}/metrics", timeout=timeout_s, verify=False, trust_env=False).raise_for_status()
    except httpx.HTTPError as error:
        raise TelemetryError(
            f"no metrics from {url}: {error}",
            remedy="look at the worker's log; a worker that died is restarted by launching again",
        ) from None
    return answer.text


def parse_counters(text: str) -> Counters:
    """Counters from Prometheus text; names are looked up, not assumed."""
    totals = _totals(text, _WANTED)
    if not totals:
        return _of_mocker(_totals(text, _MOCKER))
    computed = totals.get("vllm:prompt_tokens_by_source/local_compute")
    received = totals.get("vllm:prompt_tokens_by_source/external_kv_transfer")
    return Counters(
        prompt_computed=computed,
        prompt_received=received,
        generated=totals.get("vllm:generation_tokens"),
        requests=totals.get("vllm:request_success"),
        kv_bytes=totals.get("vllm:nixl_bytes_transferred_sum", 0.0),
        kv_transfers=totals.get("vllm:nixl_bytes_transferred_count", 0.0),
    )


def _of_mocker(totals: dict[str, float]) -> Counters:
    """A simulated worker moves no bytes, and counts tokens by the gaps between them; one that prefills makes one a request."""
    requests = totals.get("dynamo_component_requests")
    gaps, firsts = (totals.get(f"{name}_count", 0.0) for name in (_MOCKER[2], _MOCKER[1]))
    return Counters(
        prompt_computed=None,
        prompt_received=None,
        generated=(gaps + firsts) or requests,
        requests=requests,
        kv_bytes=None,
        kv_transfers=None,
    )


def _totals(text: str, wanted: tuple[str, ...]) -> dict[str, float]:
    kept = "".join(line + "\n" for line in text.splitlines() if any(name in line for name in wanted))
    totals: dict[str, float] = {}
    for family in text_string_to_metric_families(kept):
        for sample in family.samples:
            key = sample.name.removesuffix("_total") + (f"/{sample.labels['source']}" if "source" in sample.labels else "")
            if not sample.name.endswith(("_created", "_bucket")):
                totals[key] = totals.get(key, 0.0) + sample.value
    return totals
