"""A measurement in the words of ``vllm bench serve --save-result --save-detailed``, so that people's scripts go on working.

Names, units and counting are vLLM's (``vllm/benchmarks/serve.py``, ``calculate_metrics``): latencies of completed requests,
tokens of completed requests over the time from the start of the measure phase to the end of its last request. Differences,
each on purpose:

* The first token is the first chunk that holds a token; vLLM takes the first chunk with ``choices``, even an empty one.
* A stream cut off, or shorter than asked with ``ignore_eos``, is a failed request; vLLM calls it successful.
* ``output_lens`` of a server that tells no counts is 0 (vLLM counts the text again, or says 1).
* ``generated_texts`` are empty: texts are not kept. Statistics of nothing are null, where vLLM writes 0.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from labkit.measure.metrics import of_measurement
from labkit.measure.records import Records, Window
from labkit.measure.timing import TokenChunks, chunk_gaps, floats, request_metrics, token_chunks

Floats = npt.NDArray[np.float64]
_MS: Final = 1e3


def to_vllm_bench(records: Records, window: Window, *, model: str, date: str, tokenizer: str | None = None) -> dict[str, Any]:
    """One measurement as the dict that ``vllm bench serve`` saves, JSON-ready.

    Args:
        records: of the run.
        window: which measurement; its warm-up is left out.
        model: ``model_id``.
        date: ``%Y%m%d-%H%M%S``, as vLLM writes it.
        tokenizer: ``tokenizer_id``; the model where ``None``.
    """
    mine = of_measurement(records, window)
    table = mine.requests
    measured = np.array([phase == "measure" for phase in table["phase"].to_pylist()], bool)
    table = table.filter(measured).sort_by("index")
    mine = Records(requests=table, chunks=mine.chunks)
    chunks = token_chunks(mine)
    requests = request_metrics(mine, chunks)
    gaps = chunk_gaps(mine, chunks)
    ok = requests.ok
    counted = np.nan_to_num(requests.output_tokens, nan=0.0)
    output = np.where(ok, counted, 0).astype(np.int64)
    asked = np.nan_to_num(floats(table, "isl"), nan=0.0)
    prompt = np.where(np.isnan(requests.prompt_tokens), asked, requests.prompt_tokens).astype(np.int64)
    ends = requests.end_ns[np.isfinite(requests.end_ns)]
    duration_s = (float(ends.max()) - window.measure_ns) / 1e9 if len(ends) else 0.0
    per_s = 1 / duration_s if duration_s > 0 else 0.0
    several = ok & (output > 1)
    tpot_s = (requests.e2e_s - requests.ttft_s)[several] / (output[several] - 1)
    itls = _by_row(gaps.row, gaps.gap_s, len(table))
    peak_tokens, peak_requests = _peaks(chunks, requests.ttft_s, requests.e2e_s, requests.first_token_ns, ok)
    sent_s = floats(table, "sent_ns") / 1e9
    return {
        **_conditions(window.workload, model, tokenizer, date, len(table)),
        "duration": duration_s,
        "completed": int(ok.sum()),
        "failed": int((~ok).sum()),
        "total_input_tokens": int(prompt[ok].sum()),
        "total_output_tokens": int(output.sum()),
        "request_throughput": float(ok.sum() * per_s),
        "request_goodput": None,
        "output_throughput": float(output.sum() * per_s),
        "total_token_throughput": float((prompt[ok].sum() + output.sum()) * per_s),
        "input_lens": prompt.tolist(),
        "output_lens": output.tolist(),
        "ttfts": _plain(requests.ttft_s),
        "itls": itls,
        "latencies": _plain(requests.e2e_s),
        "start_times": _plain(sent_s),
        "queue_times": [0.0] * len(table),
        "generated_texts": [""] * len(table),
        "errors": [
            "" if outcome == "ok" else f"{outcome}: {reason}"
            for outcome, reason in zip(table["outcome"].to_pylist(), table["reason"].to_pylist(), strict=True)
        ],
        "max_output_tokens_per_s": peak_tokens,
        "max_concurrent_requests": peak_requests,
        "rtfx": 0.0,
        **_statistics("ttft", requests.ttft_s[ok]),
        **_statistics("tpot", tpot_s),
        **_statistics("itl", gaps.gap_s[gaps.ok]),
        **_statistics("e2el", requests.e2e_s[ok]),
    }


def _conditions(work: dict[str, Any], model: str, tokenizer: str | None, date: str, count: int) -> dict[str, Any]:
    backend = "openai-chat" if work["api"] == "chat" else "openai"
    burstiness = {"constant": "inf", "poisson": 1.0}.get(work["arrivals"], work["burstiness"])
    return {
        "date": date,
        "endpoint_type": backend,
        "backend": backend,
        "label": None,
        "model_id": model,
        "tokenizer_id": tokenizer or model,
        "num_prompts": count,
        "request_rate": "inf" if work["rate"] is None else work["rate"],
        "burstiness": 1.0 if work["rate"] is None else burstiness,
        "max_concurrency": work["concurrency"],
    }


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


def _by_row(row: npt.NDArray[np.int64], values: Floats, rows: int) -> list[list[float]]:
    counts = np.bincount(row, minlength=rows)
    return [part.tolist() for part in np.split(values, np.cumsum(counts)[:-1])] if rows else []


def _peaks(chunks: TokenChunks, ttft_s: Floats, e2e_s: Floats, first_ns: Floats, ok: npt.NDArray[np.bool_]) -> tuple[float, int]:
    """Most output tokens, and most requests alive, in any second since the first send of a completed request."""
    alive = ok & np.isfinite(e2e_s)
    if not alive.any():
        return 0.0, 0
    start_s = first_ns[alive] / 1e9 - ttft_s[alive]
    zero_s = float(start_s.min())
    of_alive = alive[chunks.row]
    seconds = (chunks.t_ns[of_alive] / 1e9 - zero_s).astype(np.int64)
    tokens = np.bincount(np.maximum(seconds, 0), weights=np.maximum(chunks.tokens[of_alive], 1))
    first = (start_s - zero_s).astype(np.int64)
    last = (start_s - zero_s + e2e_s[alive]).astype(np.int64)
    change = np.zeros(int(last.max()) + 2, np.int64)
    np.add.at(change, first, 1)
    np.add.at(change, last + 1, -1)
    return float(tokens.max()), int(np.cumsum(change).max())
