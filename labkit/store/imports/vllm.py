"""Files of ``vllm bench serve --save-result --save-detailed``, and of ``labkit export --format json``.

What its lists mean (``vllm/benchmarks/serve.py`` and ``lib/endpoint_request_func.py``): ``start_times`` are seconds of
``time.perf_counter``, ``ttfts`` and ``itls`` are gaps between chunks with ``choices``, empty ones too, and ``input_lens`` and
``output_lens`` are the server's ``usage`` where it sent any. A request that failed has an error text, or no first chunk.
"""

from __future__ import annotations

import math
import re
from typing import Any, Final, NamedTuple, get_args

import numpy as np

from labkit.errors import StoreError
from labkit.measure.records import UNRECORDED, Outcome
from labkit.store.imports.document import MOST_COUNT, Document, SourceFile, counts, damaged, objects, plain, seconds_ns
from labkit.store.imports.measured import UNKNOWN, Imported, Measured, outcome_of, workload
from labkit.store.vllm_bench import LOAD, LOAD_FIELDS

TOOL: Final = "vllm bench serve"
_LISTS: Final[dict[str, Any]] = {
    "start_times": list[float],
    "ttfts": list[float],
    "itls": list[list[float]],
    "input_lens": list[int],
    "output_lens": list[int],
    "errors": list[str],
}
_APIS: Final = {"openai": "completions", "vllm": "completions", "openai-chat": "chat"}
_REPORTED: Final = re.compile(
    r"(?:mean|median|std|p\d+(?:\.\d+)?)_(?:ttft|tpot|itl|e2el)_ms|duration|completed|failed|request_goodput"
    r"|total_(?:input|output)_tokens|(?:request|output|total_token)_throughput"
)
_NOT_RECORDED: Final = (
    "the schedule (send lag)", "the lengths asked for", "the seed", "[DONE]", "engine, versions and hardware", "telemetry",
)  # fmt: skip


class _Lists(NamedTuple):
    """One entry a request, as in the file."""

    start_times: list[float]
    ttfts: list[float]
    itls: list[list[float]]
    input_lens: list[int]
    output_lens: list[int]
    errors: list[str]
    latencies: list[float]


def is_vllm_bench(first: Document) -> bool:
    """Whether a file's first object is one of this tool's."""
    return "model_id" in first and "request_throughput" in first


def import_vllm_bench(source: SourceFile) -> Imported:
    """Take a file over; one of ``--append-result`` holds a measurement a line.

    Raises:
        StoreError: it lacks what a run is made of, or holds what cannot be.
    """
    found = objects(source)
    return Imported(
        tool=TOOL,
        version=None,
        files=(source,),
        model=_text(found[0], "model_id"),
        tokenizer=_text(found[0], "tokenizer_id"),
        date=_text(found[0], "date"),
        clock={"wall_ns": None, "monotonic_ns": None, "boot_id": None, "reason": "the file's clock has no anchor in time"},
        not_recorded=_NOT_RECORDED,
        measurements=tuple(_measured(one) for one in found),
    )


def _measured(found: Document) -> Measured:
    where, lists = found.where, _lists(found)
    count = len(lists.errors)
    sent_ns, ttft_ns = seconds_ns(lists.start_times, "start_times", where), seconds_ns(lists.ttfts, "ttfts", where)
    gap_ns = seconds_ns([gap for gaps in lists.itls for gap in gaps], "itls (all in a row)", where)
    gap_counts = np.array([len(gaps) for gaps in lists.itls], np.int64)
    answered = ttft_ns > 0
    orphans = np.flatnonzero((gap_counts > 0) & ~answered)
    if len(orphans):
        raise damaged(where, f"request {orphans[0]} has gaps between chunks and no first one")
    ended = [_ended(error, bool(first)) for error, first in zip(lists.errors, answered, strict=True)]
    ok = np.array([outcome == "ok" for outcome, _ in ended], bool)
    input_lens, output_lens = counts(lists.input_lens, "input_lens", where), counts(lists.output_lens, "output_lens", where)
    nothing = np.full(count, UNKNOWN, np.int64)
    return Measured(
        sent_ns=sent_ns,
        end_ns=np.where(ok, sent_ns + seconds_ns(lists.latencies, "latencies", where), UNKNOWN),
        first_ns=np.where(answered, sent_ns + ttft_ns, UNKNOWN),
        gap_ns=gap_ns,
        gap_counts=gap_counts,
        outcome=[outcome for outcome, _ in ended],
        reason=[reason for _, reason in ended],
        prompt_tokens=np.where(ok, input_lens, UNKNOWN),
        output_tokens=np.where(ok & (output_lens > 0), output_lens, UNKNOWN),
        scheduled_ns=nothing,
        isl=np.where(ok, UNKNOWN, input_lens),
        osl=nothing,
        http_status=nothing,
        tokens_from=[None] * count,
        warmup=np.zeros(count, bool),
        ids=[None] * count,
        workload=_workload(found, count),
        reported={name: value for name in found if _REPORTED.fullmatch(name) and (value := found.number(name)) is not None},
        label=_text(found, "label"),
    )


def _lists(found: Document) -> _Lists:
    """The lists of a file, all of one length.

    Raises:
        StoreError: one is missing, of another type, or of another length.
    """
    given = {}
    for name, kind in _LISTS.items():
        given[name] = found.get(name, kind)
        if given[name] is None:
            raise StoreError(
                f"{plain(found.where)} has no {name}: without instants of every chunk there is nothing to make a run of",
                remedy="measure again with a recent `vllm bench serve --save-result --save-detailed`",
            )
    # Only recent versions write latencies; before, the last chunk was the end.
    latencies = found.get("latencies", list[float])
    if latencies is None:
        latencies = [first + sum(gaps) for first, gaps in zip(given["ttfts"], given["itls"], strict=False)]
    lists = _Lists(**given, latencies=latencies)
    lengths = {name: len(values) for name, values in lists._asdict().items()}
    if len(set(lengths.values())) != 1:
        raise damaged(found.where, f"its lists differ in length: {', '.join(f'{name} {n}' for name, n in lengths.items())}")
    if not lists.errors:
        raise damaged(found.where, "it holds no request")
    return lists


def _ended(error: str, answered: bool) -> tuple[Outcome, str | None]:
    """How a request ended: ``labkit export`` writes ``outcome: reason``, vLLM a traceback or the server's reason phrase."""
    if not error:
        return ("ok", None) if answered else ("http_error", "the file does not say why")
    head, sign, rest = error.partition(": ")
    if sign and head != "ok" and head in get_args(Outcome):
        return head, None if rest == "None" else plain(rest)  # type: ignore[return-value]
    last = next((line for line in reversed(error.splitlines()) if line.strip()), "")
    if "Traceback" in error:
        return outcome_of(last.partition(":")[0].rpartition(".")[2].strip()), plain(last)
    return "short" if error.startswith("Never received") else "http_error", plain(last)


def _workload(found: Document, count: int) -> dict[str, Any]:
    if LOAD in found:
        return _own_load(found, count)
    rate = _rate(found)
    burstiness: float | str = found.get("burstiness", float | str, 1.0)
    shape = math.inf if burstiness == "inf" else burstiness if isinstance(burstiness, float) else math.nan
    if not shape > 0:
        raise damaged(found.where, f"burstiness {burstiness!r}")
    arrivals = {math.inf: "constant", 1.0: "poisson"}.get(shape, "gamma")
    strategy = _text(found, "ramp_up_strategy")
    if strategy is not None:
        bounds = "-".join(f"{found.number(f'ramp_up_{end}_rps') or 0:g}" for end in ("start", "end"))
        rate, arrivals = None, f"{strategy} ramp-up {bounds}"
    concurrency: int | None = found.get("max_concurrency", int)
    if concurrency is not None and not 0 < concurrency <= MOST_COUNT:
        raise damaged(found.where, f"max_concurrency is {concurrency}")
    if rate is None and strategy is None and concurrency is None:
        concurrency = count  # no limit of either kind: everything is sent at once
    return workload(
        rate=rate,
        concurrency=concurrency,
        arrivals=arrivals,
        burstiness=shape if math.isfinite(shape) else 1.0,
        requests=count,
        duration_s=None,
        api=_APIS.get(_text(found, "backend") or "", UNRECORDED),
    )


def _own_load(found: Document, count: int) -> dict[str, Any]:
    """A load that ``labkit export`` has told in its own words."""
    told: dict[str, float | str] = found.get(LOAD, dict[str, float | str], {})
    known = {name: plain(value, 200) if isinstance(value, str) else value for name, value in told.items() if name in LOAD_FIELDS}
    if any(not isinstance(value, str) and not 0 < value < MOST_COUNT for value in known.values()):
        raise damaged(found.where, f"{LOAD} holds a number that no load has")
    asked = {**dict.fromkeys(LOAD_FIELDS), **known}
    api = _APIS.get(_text(found, "backend") or "", UNRECORDED)
    return workload(**asked, concurrency=None, requests=count, duration_s=None, api=api)


def _rate(found: Document) -> float | None:
    rate: float | str = found.get("request_rate", float | str, "inf")
    if rate in ("inf", math.inf):
        return None
    if isinstance(rate, str) or not 0 < rate < MOST_COUNT:
        raise damaged(found.where, f"request_rate is {rate!r}")
    return rate


def _text(found: Document, name: str) -> str | None:
    return plain(found.get(name, str, ""), 200) or None
