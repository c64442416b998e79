"""A measurement in the words of ``vllm bench serve --save-result --save-detailed``, so that people's scripts go on working.

Names, units and counting are vLLM's (``vllm/benchmarks/serve.py``, ``calculate_metrics``): latencies of completed requests,
tokens of completed requests over the time from the start of the measure phase to the end of its last request. Differences,
each on purpose:

* The first token is the first chunk that holds a token; vLLM takes the first chunk with ``choices``, even an empty one.
* A stream cut off, or shorter than asked with ``ignore_eos``, is a failed request; vLLM calls it successful.
* A request that a stop of the load cancelled is not ``failed``; its line in ``errors`` says what it is.
* ``output_lens`` of a server that tells no counts is 0 (vLLM counts the text again, or says 1).
* A load that vLLM has no words for (a trace, a rate that changes, conversations at a rate) has ``request_rate`` ``inf``, and
  is told in a member of its own, ``labkit_load``.
* What a reader must know before believing the file (what was left out, why it was stopped, every mark) is in ``labkit_notes``.
* ``generated_texts`` are empty: texts are not kept. Statistics of nothing are null, where vLLM writes 0.

As in vLLM's files, percentiles are those of however few values there are: labkit's own tables refuse them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from labkit.measure.chunks import TokenChunks
from labkit.measure.digest import Digest
from labkit.measure.gaps import Gaps
from labkit.measure.metrics import taken_in
from labkit.measure.ordered import request_by_request
from labkit.measure.records import UNRECORDED, Records, Window
from labkit.measure.timing import equals, floats, ints, request_metrics

Floats = npt.NDArray[np.float64]
_MS: Final = 1e3
#: The member that tells a load that vLLM has no words for, and what of a workload it holds.
LOAD: Final = "labkit_load"
LOAD_FIELDS: Final = ("rate", "arrivals", "burstiness", "trace", "time_scale", "turns", "think_s", "history")
#: The member with what a reader must know, a sentence each.
NOTES: Final = "labkit_notes"


def to_vllm_bench(
    records: Records | Digest, window: Window, *, model: str, date: str, tokenizer: str | None = None, notes: Sequence[str] = ()
) -> dict[str, Any]:
    """One measurement as the dict that ``vllm bench serve`` saves, JSON-ready.

    Args:
        records: of the run.
        window: which measurement; its warm-up is left out.
        model: ``model_id``.
        date: ``%Y%m%d-%H%M%S``, as vLLM writes it.
        tokenizer: ``tokenizer_id``; the model where ``None``.
        notes: what a reader must know, a sentence each.
    """
    export = _Export(records, window, model, date, tokenizer, notes)
    return {**export.before, "itls": list(export.itls()), **export.after()}


def save_vllm_bench(
    records: Records | Digest,
    window: Window,
    path: Path,
    *,
    model: str,
    date: str,
    tokenizer: str | None = None,
    notes: Sequence[str] = (),
) -> None:
    """The same as a file, written request by request: of the chunks a batch is in memory at a time; raises OSError."""
    export = _Export(records, window, model, date, tokenizer, notes)
    with path.open("w", encoding="utf-8") as file:
        file.write("{" + "".join(f"{_member(*item)}, " for item in export.before.items()) + '"itls": [')
        for number, gaps in enumerate(export.itls()):
            file.write(f"{', ' if number else ''}{json.dumps(gaps)}")
        file.write("]" + "".join(f", {_member(*item)}" for item in export.after().items()) + "}")


class _Export:
    """One measurement: the members before the gaps, the gaps of each request, and the members after them.

    ``after`` is complete once ``itls`` has been read to its end.
    """

    def __init__(
        self, records: Records | Digest, window: Window, model: str, date: str, tokenizer: str | None, notes: Sequence[str]
    ) -> None:
        taken = taken_in(records, window)
        rows = np.flatnonzero(equals(taken.requests, "phase", "measure"))
        rows = rows[np.argsort(ints(taken.requests, "index")[rows], kind="stable")]
        self._mine = mine = replace(taken, requests=taken.requests.take(pa.array(rows)), answers=taken.answers.select(rows))
        self._found = found = request_metrics(mine)
        self._gaps = taken.gaps.get(window.measurement, Gaps())
        table = mine.requests
        ok, counted = found.ok, np.nan_to_num(found.output_tokens, nan=0.0)
        self._output = output = np.where(ok, counted, 0).astype(np.int64)
        asked = np.nan_to_num(floats(table, "isl"), nan=0.0)
        prompt = np.where(np.isnan(found.prompt_tokens), asked, found.prompt_tokens).astype(np.int64)
        ends = found.end_ns[np.isfinite(found.end_ns)]
        duration_s = (float(ends.max()) - window.measure_ns) / 1e9 if len(ends) else 0.0
        per_s = 1 / duration_s if duration_s > 0 else 0.0
        self._alive = ok & np.isfinite(found.e2e_s)
        self._start_s = found.first_token_ns[self._alive] / 1e9 - found.ttft_s[self._alive]
        self._zero_s = float(self._start_s.min(initial=np.inf))
        self._tokens_s = np.zeros(1)
        self.before: dict[str, Any] = {
            **_conditions(window.workload, model, tokenizer, date, len(table)),
            **({NOTES: list(notes)} if notes else {}),
            "duration": duration_s,
            "completed": int(ok.sum()),
            "failed": int(found.failed.sum()),
            "total_input_tokens": int(prompt[ok].sum()),
            "total_output_tokens": int(output.sum()),
            "request_throughput": float(ok.sum() * per_s),
            "request_goodput": None,
            "output_throughput": float(output.sum() * per_s),
            "total_token_throughput": float((prompt[ok].sum() + output.sum()) * per_s),
            "input_lens": prompt.tolist(),
            "output_lens": output.tolist(),
            "ttfts": _plain(found.ttft_s),
        }

    def itls(self) -> Iterator[list[float]]:
        """The gaps of each request in turn."""
        begin, count = 0, len(self._mine.requests)
        for batch in request_by_request(self._mine, np.arange(count)):
            self._receive(batch)
            end = int(batch.row[-1]) + 1
            later = np.ones(len(batch), np.bool_)
            later[batch.heads] = False
            gaps = np.zeros(end - begin, np.int64)
            gaps[batch.row[batch.heads] - begin] = batch.lengths - 1
            gap_s = (np.diff(batch.t_ns, prepend=0) / 1e9)[later]
            yield from (part.tolist() for part in np.split(gap_s, np.cumsum(gaps)[:-1]))
            begin = end
        yield from ([] for _ in range(begin, count))

    def after(self) -> dict[str, Any]:
        """What follows in vLLM's order."""
        found, table, output, ok = self._found, self._mine.requests, self._output, self._found.ok
        several = ok & (output > 1)
        return {
            "latencies": _plain(found.e2e_s),
            "start_times": _plain(floats(table, "sent_ns") / 1e9),
            "queue_times": [0.0] * len(table),
            "generated_texts": [""] * len(table),
            "errors": [
                "" if outcome == "ok" else f"{outcome}: {reason}"
                for outcome, reason in zip(table["outcome"].to_pylist(), table["reason"].to_pylist(), strict=True)
            ],
            "max_output_tokens_per_s": float(self._tokens_s.max()),
            "max_concurrent_requests": self._most_alive(),
            "rtfx": 0.0,
            **_statistics("ttft", found.ttft_s[ok]),
            **_statistics("tpot", (found.e2e_s - found.ttft_s)[several] / (output[several] - 1)),
            **_gap_statistics(self._gaps),
            **_statistics("e2el", found.e2e_s[ok]),
        }

    def _receive(self, chunks: TokenChunks) -> None:
        """Count output tokens of completed requests, by the second since the first send of one."""
        mine = self._alive[chunks.row]
        if not mine.any():
            return
        seconds = np.maximum((chunks.t_ns[mine] / 1e9 - self._zero_s).astype(np.int64), 0)
        more = np.bincount(seconds, np.maximum(chunks.tokens[mine], 1), len(self._tokens_s)).astype(np.float64)
        more[: len(self._tokens_s)] += self._tokens_s
        self._tokens_s = more

    def _most_alive(self) -> int:
        """Most requests alive in any second."""
        if not self._alive.any():
            return 0
        first = (self._start_s - self._zero_s).astype(np.int64)
        last = (self._start_s - self._zero_s + self._found.e2e_s[self._alive]).astype(np.int64)
        change = np.zeros(int(last.max()) + 2, np.int64)
        np.add.at(change, first, 1)
        np.add.at(change, last + 1, -1)
        return int(np.cumsum(change).max())


def _member(name: str, value: Any) -> str:
    return f"{json.dumps(name)}: {json.dumps(value)}"


def _conditions(work: dict[str, Any], model: str, tokenizer: str | None, date: str, count: int) -> dict[str, Any]:
    backend = "openai-chat" if work["api"] == "chat" else "openai"
    rate = work["rate"] if work.get("turns") in (None, UNRECORDED) else None  # one of conversations has no name there
    burstiness = {"constant": "inf", "poisson": 1.0}.get(work["arrivals"], work["burstiness"])
    return {
        "date": date,
        "endpoint_type": backend,
        "backend": backend,
        "label": None,
        "model_id": model,
        "tokenizer_id": tokenizer or model,
        "num_prompts": count,
        "request_rate": "inf" if rate is None else rate,
        "burstiness": 1.0 if rate is None else burstiness,
        "max_concurrency": work["concurrency"],
        **({LOAD: _load(work)} if rate is None and work["concurrency"] is None else {}),
    }


def _load(work: dict[str, Any]) -> dict[str, Any]:
    told = {name: value for name in LOAD_FIELDS if (value := work.get(name)) not in (None, UNRECORDED)}
    return {**told, "trace": Path(told["trace"]).name} if "trace" in told else told


def _statistics(name: str, seconds: Floats) -> dict[str, float | None]:
    known = seconds[np.isfinite(seconds)] * _MS
    some = len(known) > 0
    return {
        f"mean_{name}_ms": float(known.mean()) if some else None,
        f"median_{name}_ms": float(np.median(known)) if some else None,
        f"std_{name}_ms": float(known.std()) if some else None,
        f"p99_{name}_ms": float(np.percentile(known, 99)) if some else None,
    }


def _plain(seconds: Floats) -> list[float]:
    """Python floats; 0.0 for what never came, as vLLM writes it (``errors`` tells which)."""
    values: list[float] = np.nan_to_num(seconds, nan=0.0).tolist()
    return values


def _gap_statistics(gaps: Gaps) -> dict[str, float | None]:
    """As ``_statistics`` of ``itl``, of gaps that are counted and not listed."""
    count = len(gaps)
    if not count:
        return _statistics("itl", np.zeros(0))
    mean_s = gaps.total_ns / count / 1e9
    square_s2 = sum(float(((gap_ns / 1e9 - mean_s) ** 2).sum()) for gap_ns, _, _ in gaps.parts()) / count
    median_s, p99_s = gaps.percentiles_s((50, 99)).tolist()
    found = {"mean": mean_s, "median": median_s, "std": square_s2**0.5, "p99": p99_s}
    return {f"{name}_itl_ms": value * _MS for name, value in found.items()}
