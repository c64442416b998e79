"""The engines' own counters: ``/metrics`` of every worker and of the router, folded into plain names.

A worker exports hundreds to thousands of lines, most of them histogram buckets. A scrape keeps the families of ``PREFIXES``,
drops buckets, creation times and info lines, and folds labels: ``engine``, ``model_name`` and those that Dynamo adds go (they say
nothing that the source does not, but for the frontend's ``worker_id``), others stay in sorted order:
``vllm:prompt_tokens_by_source_total{source="local_compute"}``. No name is assumed: what a version exports is what
is recorded. Several engines in one worker fold into one value: counts add up, shares
(``…_perc``) are averaged.

Names are parsed once each by prometheus_client and then remembered, which makes a scrape of 700 lines cost well below a
millisecond.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import httpx
from prometheus_client.parser import text_string_to_metric_families

from labkit.errors import TelemetryError

PREFIXES: Final = ("vllm:", "vllm_router_", "dynamo_")
_DROPPED_LABELS: Final = {"engine", "model_name", "model", "dynamo_namespace", "dynamo_component"}
#: What ``dynamo.vllm`` adds to vLLM's own metrics when it passes them through; the same names mean something elsewhere.
_PASSED_THROUGH: Final = {"worker_id", "dynamo_endpoint"}
_DROPPED_SUFFIXES: Final = ("_bucket", "_created", "_info")
_SHARES: Final = ("_perc", "_percent", "_ratio", "_fraction", "_usage")
_MOST_NAMES: Final = 20_000
_MOST_BYTES: Final = 16 * 2**20


@dataclass(slots=True)
class MetricsParser:
    """Turns exposition text into ``{folded name: value}``; remembers the names it has seen.

    Attributes:
        prefixes: families to keep.
        skipped: lines of those families in the last text that could not be read.
    """

    prefixes: Sequence[str] = PREFIXES
    skipped: int = 0
    _names: dict[str, str | None] = field(default_factory=dict)

    def parse(self, text: str) -> dict[str, float]:
        """Values by folded name; lines that are no samples are counted in ``skipped``, non-finite values left out."""
        prefixes, names = tuple(self.prefixes), self._names
        sums: dict[str, list[float]] = {}
        self.skipped = 0
        for line in text.split("\n"):
            if not line.startswith(prefixes):
                continue
            head, _, tail = line.rpartition("} ") if "{" in line else line.partition(" ")
            try:
                value = float(tail.split(None, 1)[0])
                name = names[head] if head in names else self._learn(head, line)
            except (ValueError, IndexError):
                self.skipped += 1
                continue
            if name is not None and math.isfinite(value):
                sums.setdefault(name, []).append(value)
        return {name: sum(v) / len(v) if _is_share(name) else sum(v) for name, v in sums.items()}

    def _learn(self, head: str, line: str) -> str | None:
        """The folded name of a series, ``None`` for one that is not kept; ValueError for a line that is no sample."""
        if len(self._names) >= _MOST_NAMES:
            self._names.clear()
        name = _folded(line)
        self._names[head] = name
        return name


def _folded(line: str) -> str | None:
    sample = next((s for family in text_string_to_metric_families(line + "\n") for s in family.samples), None)
    if sample is None:
        raise ValueError(line)
    if sample.name.endswith(_DROPPED_SUFFIXES) or "quantile" in sample.labels:
        return None
    dropped = _DROPPED_LABELS | _PASSED_THROUGH if sample.name.startswith("vllm:") else _DROPPED_LABELS
    labels = [f'{k}="{v}"' for k, v in sorted(sample.labels.items()) if k not in dropped]
    return sample.name + (f"{{{','.join(labels)}}}" if labels else "")


def _is_share(name: str) -> bool:
    return name.partition("{")[0].endswith(_SHARES)


class Scraper:
    """Fetches and parses one ``/metrics``; keeps its connection open between scrapes.

    Args:
        url: the full address of the metrics page.
        timeout_s: a scrape that takes longer is a gap.
        transport: for tests.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float = 2.0,
        prefixes: Iterable[str] = PREFIXES,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.url = url
        self._parser = MetricsParser(tuple(prefixes))
        verify = url.startswith("https:")  # reading the certificates takes 20 ms, for nothing over plain HTTP
        self._client = httpx.AsyncClient(timeout=timeout_s, trust_env=False, transport=transport, verify=verify)

    async def scrape(self) -> dict[str, float]:
        """One scrape.

        Raises:
            TelemetryError: nobody answers, or not with metrics; ``what`` says which.
        """
        try:
            async with self._client.stream("GET", self.url) as answer:
                body = bytearray()
                async for part in answer.aiter_bytes():
                    body += part
                    if len(body) > _MOST_BYTES:
                        raise _unusable(self.url, f"more than {_MOST_BYTES >> 20} MiB of metrics")
                if answer.status_code != 200:
                    raise _unusable(self.url, f"HTTP {answer.status_code}")
        except httpx.TimeoutException:
            raise _unusable(self.url, "no answer in time") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise _unusable(self.url, str(error) or type(error).__name__) from None
        return self._parser.parse(body.decode("utf-8", errors="replace"))

    async def close(self) -> None:
        """Close the connection."""
        await self._client.aclose()


def _unusable(url: str, why: str) -> TelemetryError:
    return TelemetryError(f"{url}: {why}", remedy="check that the process behind it is alive and exports Prometheus metrics")
