"""``summarise`` against an oracle: the metric definitions computed again in plain loops, without labkit.measure's code.

The oracle reads the same lists that the records are made of, never the Arrow tables, so that no mistake can cancel itself out.
"""

from __future__ import annotations

import math
import random
from itertools import pairwise
from typing import Any

import pytest

from labkit.measure.digest import digest
from labkit.measure.metrics import summarise
from labkit.measure.records import Window
from labkit.spec import Slo, Workload
from tests.support.handmade import MS, SECOND, records, request, steady, window

# --- the oracle ---------------------------------------------------------------------------------------------------------


def oracle_percentile(values: list[float], q: float) -> float | None:
    ordered = sorted(values)
    if not ordered or (q > 50 and len(ordered) * (100 - q) < 100):
        return None
    rank = (len(ordered) - 1) * q / 100
    below = math.floor(rank)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (rank - below)


def oracle_distribution(out: dict[str, float | None], name: str, values: list[float]) -> None:
    out[f"{name}_n"] = len(values)
    out[f"{name}_mean_s"] = sum(values) / len(values) if values else None
    out[f"{name}_max_s"] = max(values) if values else None
    for q in (50, 90, 95, 99):
        out[f"{name}_p{q}_s"] = oracle_percentile(values, q)


def oracle(rows: list[dict[str, Any]], bounds: Window, slo: Slo | None, *, open_loop: bool) -> dict[str, float | None]:
    out: dict[str, float | None] = {}
    mine = [row for row in rows if row["measurement"] == bounds.measurement]
    measured = [row for row in mine if row["phase"] == "measure"]
    done = [row for row in measured if row["outcome"] == "ok"]
    length = (bounds.stop_ns - bounds.measure_ns) / 1e9

    def token_chunks(row: dict[str, Any]) -> list[tuple[int, int | None]]:
        return [(t, k) for t, k, text in sorted(row["chunks"], key=lambda c: c[0]) if (text if k is None else k >= 1)]

    def ttft(row: dict[str, Any], origin: str) -> float | None:
        found = token_chunks(row)
        return (found[0][0] - row[origin]) / 1e9 if found and row[origin] is not None else None

    def later(row: dict[str, Any]) -> int | None:
        found = token_chunks(row)
        if not found or found[0][1] is None or row["output_tokens"] is None:
            return None
        return row["output_tokens"] - found[0][1]

    def tpot(row: dict[str, Any]) -> float | None:
        found, n = token_chunks(row), later(row)
        return (found[-1][0] - found[0][0]) / 1e9 / n if n is not None and n > 0 else None

    def e2e(row: dict[str, Any]) -> float | None:
        found = token_chunks(row)
        return (found[-1][0] - row["sent_ns"]) / 1e9 if found and row["sent_ns"] is not None else None

    def known(values: list[float | None]) -> list[float]:
        return [value for value in values if value is not None]

    out["window_s"] = length
    stopped = [row for row in measured if row["outcome"] == "cancelled"]
    out["requests"], out["completed"], out["cancelled"] = len(measured), len(done), len(stopped)
    out["failed"] = len(measured) - len(done) - len(stopped)
    out["straddled"] = sum(row["straddled"] for row in measured)
    lags = [(row["sent_ns"] - row["scheduled_ns"]) / 1e9 for row in measured if row["sent_ns"] is not None]
    oracle_distribution(out, "send_lag", lags)
    oracle_distribution(out, "ttft", known([ttft(row, "sent_ns") for row in done]))
    oracle_distribution(out, "ttft_from_schedule", known([ttft(row, "scheduled_ns") for row in done]))
    oracle_distribution(out, "e2e", known([e2e(row) for row in done]))
    countable = all(tpot(row) is not None or later(row) == 0 for row in done)
    oracle_distribution(out, "tpot", known([tpot(row) for row in done]) if countable else [])

    gaps, itl, bundled, uncounted, stalled = [], [], 0, False, 0
    for row in done:
        found = token_chunks(row)
        worst = 0.0
        for (t0, _), (t1, k) in pairwise(found):
            gap = (t1 - t0) / 1e9
            gaps.append(gap)
            worst = max(worst, gap)
            if k is None:
                uncounted = True
            else:
                itl += [gap] + [0.0] * (k - 1)
                bundled += k > 1
        stalled += worst > 0.1
    oracle_distribution(out, "chunk_gap", gaps)
    oracle_distribution(out, "itl", [] if uncounted else itl)
    out["bundled_chunk_fraction"] = bundled / len(gaps) if gaps and not uncounted else None
    out["stalled_fraction"] = stalled / len(done) if done else None
    median = out["tpot_p50_s"]
    out["tok_s_per_user"] = 1 / median if median else None
    rates = [row["output_tokens"] / e2e(row) for row in done if row["output_tokens"] is not None and e2e(row)]
    out["e2e_tok_s_per_user"] = oracle_percentile(rates, 50)

    tokens: int | None = 0
    prompts: int | None = 0
    ended = 0
    for row in mine:
        for position, (t, k) in enumerate(token_chunks(row)):
            if bounds.measure_ns <= t < bounds.stop_ns:
                tokens = None if k is None or tokens is None else tokens + k
                if position == 0:
                    prompts = None if row["prompt_tokens"] is None or prompts is None else prompts + row["prompt_tokens"]
        ended += row["outcome"] == "ok" and row["end_ns"] is not None and bounds.measure_ns <= row["end_ns"] < bounds.stop_ns
    out["output_tokens"] = tokens
    out["output_tok_s"] = None if tokens is None else tokens / length
    out["total_tok_s"] = None if tokens is None or prompts is None else (tokens + prompts) / length
    out["request_s"] = ended / length
    out["output_tok_s_per_gpu"] = None if tokens is None or not bounds.accelerators else tokens / length / bounds.accelerators

    out["goodput_request_s"] = out["slo_attainment"] = None

    def good_of(rows: list[dict[str, Any]]) -> int | None:
        good, judged = 0, True
        for row in rows:
            meets, sure = True, True
            for limit, value, exempt in (
                (slo.ttft_s, ttft(row, "scheduled_ns" if open_loop else "sent_ns"), False),
                (slo.tpot_s, tpot(row), later(row) == 0),
                (slo.e2e_s, e2e(row), False),
            ):
                if limit is None or exempt:
                    continue
                if value is None:
                    sure = False
                elif value > limit:
                    meets = False
            judged &= sure or not meets
            good += meets and sure
        return good if judged else None

    seen = [row for row in mine if row["end_ns"] is not None and bounds.measure_ns <= row["end_ns"] < bounds.stop_ns]
    if slo is not None and (measured or (seen and not open_loop)):
        served = good_of(done if open_loop else [row for row in seen if row["outcome"] == "ok"])
        out["goodput_request_s"] = None if served is None else served / length
        origin, late = "scheduled_ns" if open_loop else "sent_ns", 0
        for row in stopped:
            if row["end_ns"] is None:
                continue
            began, sent = (row["scheduled_ns"] if row[name] is None else row[name] for name in (origin, "sent_ns"))
            first = ttft(row, origin)
            no_token_s = (row["end_ns"] - began) / 1e9 if first is None else first
            late += (slo.ttft_s is not None and no_token_s > slo.ttft_s) or (
                slo.e2e_s is not None and (row["end_ns"] - sent) / 1e9 > slo.e2e_s
            )
        met, of = good_of(done), len(measured) - len(stopped) + late
        out["slo_attainment"] = met / of if of and met is not None else None
    return out


# --- what is compared ---------------------------------------------------------------------------------------------------


def check(rows: list[dict[str, Any]], bounds: Window | None = None, slo: Slo | None = None) -> dict[str, float | None]:
    bounds = bounds or window()
    made = records(rows, windows=[bounds])
    found = summarise(made, bounds, slo=slo)
    in_parts = digest(made, [made.chunks.slice(start, 7) for start in range(0, len(made.chunks), 7)])
    assert dict(summarise(in_parts, bounds, slo=slo)) == dict(found), "taken in seven chunks at a time"
    expected = oracle(rows, bounds, slo, open_loop=bounds.workload["concurrency"] is None)
    for name, value in expected.items():
        assert found[name] == (value if value is None else pytest.approx(value, rel=1e-9, abs=1e-15)), name
        assert (name in found.reasons) == (value is None), name
    beyond = {name for name in found if name not in expected and not name.startswith(("kv_", "cpu_", "energy_"))}
    assert not beyond, "a metric without an oracle"
    return dict(found)


CLOSED = window(workload=Workload(concurrency=2, requests=10, isl=8, osl=5))
SLO_LONG = Slo(ttft_s=1.0)
SLO = Slo(ttft_s=0.101, tpot_s=0.030, e2e_s=0.5)


def test_steady_requests_by_hand():
    found = check([steady(n) for n in range(10)], slo=Slo(ttft_s=0.2))
    assert found["ttft_p50_s"] == pytest.approx(0.100)
    assert found["ttft_from_schedule_p50_s"] == pytest.approx(0.101)
    assert found["tpot_p50_s"] == pytest.approx(0.020)
    assert found["itl_p50_s"] == pytest.approx(0.020)
    assert found["e2e_p50_s"] == pytest.approx(0.180)
    assert found["output_tok_s"] == pytest.approx(5.0)
    assert found["total_tok_s"] == pytest.approx(13.0)
    assert found["output_tok_s_per_gpu"] == pytest.approx(2.5)
    assert found["slo_attainment"] == 1.0
    assert found["goodput_request_s"] == pytest.approx(1.0)
    assert found["ttft_p99_s"] is None


def test_a_bundled_chunk_is_one_gap_and_zeros():
    start = 100 * MS
    found = check([request(0, [(start, 2, True), (start + 60 * MS, 3, True), (start + 80 * MS, 1, True)])])
    assert found["itl_mean_s"] == pytest.approx(0.080 / 4)
    assert found["itl_p50_s"] == pytest.approx(0.010)
    assert found["tpot_mean_s"] == pytest.approx(0.080 / 4)
    assert found["chunk_gap_p50_s"] == pytest.approx(0.040)
    assert found["bundled_chunk_fraction"] == 0.5


def test_an_empty_first_chunk_is_no_first_token_but_a_token_without_text_is():
    start = 100 * MS
    empty_first = request(0, [(start, 0, False), (start + 30 * MS, 1, False), (start + 50 * MS, 1, True)])
    assert check([empty_first])["ttft_p50_s"] == pytest.approx(0.129)
    text_without_token = request(0, [(start, 0, True), (start + 30 * MS, 1, True)])
    assert check([text_without_token])["ttft_p50_s"] == pytest.approx(0.129)


def test_unknown_token_counts_let_text_decide_and_leave_counts_undefined():
    start = 100 * MS
    row = request(0, [(start, None, False), (start + 30 * MS, None, True), (start + 50 * MS, None, True)], output_tokens=2)
    found = check([row, steady(1)], slo=Slo(ttft_s=0.2))
    assert found["ttft_mean_s"] == pytest.approx((0.129 + 0.100) / 2)
    for name in ("tpot_p50_s", "itl_p50_s", "output_tok_s", "total_tok_s", "slo_attainment"):
        assert found[name] is None, name
    assert check([row, steady(1)], slo=Slo(tpot_s=None, ttft_s=0.2))["slo_attainment"] == 1.0
    assert check([row, steady(1)], slo=Slo(ttft_s=0.05))["slo_attainment"] == 0.0, "a miss is a miss, whatever else is unknown"


def test_an_answer_of_one_chunk_has_no_tpot_and_misses_none():
    found = check([request(0, [(100 * MS, 5, True)])], slo=Slo(tpot_s=0.001))
    assert found["tpot_p50_s"] is None
    assert found["itl_p50_s"] is None
    assert found["slo_attainment"] == 1.0


def test_failures_miss_the_slo_and_count_in_its_denominator():
    failed = [
        steady(1, outcome="short"),
        steady(2, outcome="cut", done=False),
        request(3, outcome="refused", sent_ns=None, end_ns=None, http_status=None, output_tokens=None, prompt_tokens=None),
        request(4, outcome="http_error", http_status=500, output_tokens=None, prompt_tokens=None),
        steady(5, outcome="timeout", end_ns=None),
    ]
    found = check([steady(0), *failed], slo=Slo(ttft_s=10))
    assert (found["requests"], found["completed"], found["failed"]) == (6, 1, 5)
    assert found["slo_attainment"] == pytest.approx(1 / 6)
    assert found["output_tok_s"] == pytest.approx(20 / 10), "tokens of requests that failed were made all the same"
    assert found["ttft_n"] == 1


def test_what_a_stop_cancelled_is_neither_done_nor_failed_and_misses_only_what_it_had_missed_by_then():
    waiting = request(1, [], scheduled_ns=0, sent_ns=0, outcome="cancelled", end_ns=3 * SECOND, output_tokens=None)
    begun = request(2, [(SECOND, 1, True)], scheduled_ns=0, sent_ns=0, outcome="cancelled", end_ns=3 * SECOND, output_tokens=None)
    rows = [steady(0), waiting, begun, steady(3, outcome="short")]
    found = check(rows, slo=Slo(ttft_s=10))
    assert (found["requests"], found["completed"], found["failed"], found["cancelled"]) == (4, 1, 1, 2)
    assert found["slo_attainment"] == 1 / 2, "neither had missed it"
    assert check(rows, slo=Slo(ttft_s=2))["slo_attainment"] == pytest.approx(1 / 3), "one had waited longer without a token"
    assert check(rows, slo=Slo(ttft_s=0.5))["slo_attainment"] == 1 / 4
    assert check(rows, slo=Slo(e2e_s=2))["slo_attainment"] == 1 / 4, "both were under way for longer"
    assert check([waiting], slo=Slo(ttft_s=10))["slo_attainment"] is None
    assert check([waiting], slo=Slo(ttft_s=10))["goodput_request_s"] == 0


def test_open_loop_slo_counts_from_the_schedule_and_closed_loop_from_the_send():
    late = [steady(n, sent_ns=n * SECOND + 90 * MS) for n in range(3)]
    assert check(late, slo=Slo(ttft_s=0.05))["slo_attainment"] == 0.0
    assert check(late, CLOSED, slo=Slo(ttft_s=0.05))["slo_attainment"] == 1.0


def test_closed_loop_goodput_counts_good_requests_that_ended_inside():
    bounds = window(measure_ns=SECOND, stop_ns=3 * SECOND, workload=CLOSED.workload)
    rows = [
        steady(0, scheduled_ns=900 * MS, phase="warmup"),  # sent before, ends at 1.082 s
        steady(1, scheduled_ns=SECOND),
        steady(2, scheduled_ns=SECOND, first_ms=300),  # too late a first token
        steady(3, scheduled_ns=2 * SECOND, outcome="short"),
        *(steady(n, scheduled_ns=2900 * MS) for n in (4, 5)),  # end at 3.082 s
    ]
    found = check(rows, bounds, slo=Slo(ttft_s=0.2))
    assert found["goodput_request_s"] == pytest.approx(2 / 2)
    assert found["request_s"] == pytest.approx(3 / 2)
    assert found["slo_attainment"] == pytest.approx(3 / 5), "of those that were sent inside, whenever they ended"
    by_clock = window(measure_ns=SECOND, stop_ns=3 * SECOND)
    assert check(rows, by_clock, slo=Slo(ttft_s=0.2))["goodput_request_s"] == pytest.approx(3 / 2), "those that were sent inside"


def test_goodput_of_a_closed_loop_that_began_with_all_requests_at_once_is_no_more_than_is_served():
    bounds = window(stop_ns=2 * SECOND, workload=Workload(concurrency=8, duration_s=2.0, isl=8, osl=5))
    rows = [steady(n, scheduled_ns=n // 8 * 900 * MS, first_ms=700) for n in range(24)]
    found = check(rows, bounds, slo=SLO_LONG)
    assert found["request_s"] == found["goodput_request_s"] == pytest.approx(16 / 2)
    assert found["slo_attainment"] == 1.0


def test_throughput_counts_events_inside_and_latency_requests_scheduled_inside():
    bounds = window(measure_ns=2 * SECOND, stop_ns=4 * SECOND)
    rows = [
        steady(1, phase="warmup", gap_ms=600),  # tokens at 1.101, 1.701, 2.301, 2.901, 3.501
        steady(3, gap_ms=600),  # 3.101, 3.701, then after the window
        steady(4, phase="drain"),
    ]
    found = check(rows, bounds)
    assert found["output_tok_s"] == pytest.approx(5 / 2)
    assert found["total_tok_s"] == pytest.approx((5 + 8) / 2)
    assert found["requests"] == 1
    assert found["request_s"] == pytest.approx(0.5)
    edge = [request(2, [(2 * SECOND, 1, True), (4 * SECOND, 1, True)])]
    assert check(edge, bounds)["output_tok_s"] == pytest.approx(0.5), "the begin belongs to the window, the end does not"


def test_other_measurements_do_not_count():
    assert check([steady(0), steady(1, measurement=1, straddled=True)])["requests"] == 1


def test_an_empty_window_has_reasons_and_no_numbers():
    found = check([], slo=SLO)
    assert found["requests"] == 0
    assert found["ttft_p50_s"] is None
    assert found["slo_attainment"] is None


def test_unknown_accelerators_give_no_throughput_per_gpu():
    assert check([steady(0)], window(accelerators=0))["output_tok_s_per_gpu"] is None


@pytest.mark.parametrize("seed", range(40))
def test_messy_runs(seed: int):
    """Everything at once, drawn at random: bundles, empty and uncounted chunks, failures, phases, re-splits, measurements."""
    rng = random.Random(seed)
    counted, full = rng.random() < 0.7, rng.random() < 0.5
    rows = []
    for number in range(rng.choice([1, 7, 130, 250])):
        scheduled = rng.randrange(0, 12 * SECOND)
        sent = scheduled + rng.randrange(0, 50 * MS)
        t, chunks = sent, []
        for _ in range(rng.choice([0, 1, 2, 12]) if not full else 12):
            t += rng.randrange(0, 150 * MS)
            tokens = rng.choice([1, 1, 1, 2, 5, 0]) if counted or rng.random() < 0.9 else None
            chunks.append((t, tokens, rng.random() < 0.8))
        outcome = rng.choice(["ok"] * 8 + ["short", "cut", "timeout", "cancelled"])
        never_sent = outcome != "ok" and not chunks and rng.random() < 0.5
        rows.append(
            request(
                number,
                chunks,
                scheduled_ns=scheduled,
                sent_ns=None if never_sent else sent,
                outcome=outcome,
                end_ns=None if never_sent else t + MS,
                measurement=rng.choice([0, 0, 0, 1]),
                phase=rng.choice(["warmup", "measure", "measure", "measure", "drain"]),
                straddled=rng.random() < 0.1,
                prompt_tokens=rng.choice([8, 8, 8, None]) if not full else 8,
                output_tokens=sum(k or 0 for _, k, _ in chunks) if full or rng.random() < 0.95 else None,
            )
        )
    rng.shuffle(rows)
    bounds = window(measure_ns=2 * SECOND, stop_ns=9 * SECOND, workload=rng.choice([window().workload, CLOSED.workload]))
    check(rows, bounds, slo=rng.choice([None, SLO, Slo(), Slo(tpot_s=None, ttft_s=0.12)]))
