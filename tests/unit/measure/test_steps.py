"""Steps told from spans: which prompts were computed together, and how long it took."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest

from labkit.measure.digest import Digest, digest
from labkit.measure.records import SPANS
from labkit.measure.steps import decode_steps, prefill_steps
from tests.support.handmade import MS, SECOND, records, request, steady


def served(steps: Iterable[tuple[int, int, int]], *, wait_ms: int = 0, cut: int = 0, overlap_ms: int = 0) -> Digest:
    """Steps ``(prompts, start in ms, length in ms)`` of prompts of 32 tokens, one after the other on one worker.

    ``wait_ms`` before each step is each request's queue; ``cut``: so many ms longer in prefill for each step's last prompt;
    ``overlap_ms``: taken up so much before the step could begin.
    """
    rows: list[dict[str, Any]] = []
    spans: list[dict[str, Any]] = []
    for prompts, start, length in steps:
        for member in range(prompts):
            number, sent = len(rows), SECOND + (start - wait_ms) * MS
            first = SECOND + (start + length) * MS
            took_ms = length + overlap_ms + (cut if member == prompts - 1 else 0)
            rows.append(
                request(
                    number, [(first + MS, 1, True)], scheduled_ns=sent - MS, isl=32, prompt_tokens=32, server_id=f"cmpl-{number}"
                )
            )
            spans.append(
                {
                    "worker": "w0", "server_id": f"cmpl-{number}-0", "start_ns": sent, "queue_s": 0.0, "prefill_s": took_ms / 1e3,
                    "decode_s": 0.0, "ttft_s": (first - sent) / 1e9, "e2e_s": (first - sent) / 1e9, "prompt_tokens": 32,
                    "output_tokens": 1,
                }
            )  # fmt: skip
    return digest(replace(records(rows), spans=pa.Table.from_pylist(spans, schema=SPANS)))


def test_prompts_that_began_and_ended_together_were_one_step():
    steps = prefill_steps(served([(1, 0, 40), (4, 40, 100), (1, 140, 40), (4, 180, 110)], wait_ms=60))[0]
    assert [(step.prompts, step.tokens, step.whole) for step in steps] == [
        (1, 32, True), (4, 128, True), (1, 32, True), (4, 128, True),
    ]  # fmt: skip
    assert [step.step_s for step in steps] == pytest.approx([0.04, 0.1, 0.04, 0.11])
    assert {step.worker for step in steps} == {"w0"}


def test_the_wait_for_the_step_is_no_part_of_its_time_to_first_token():
    for wait_ms in (0, 60):
        (step,) = prefill_steps(served([(2, 100, 50)], wait_ms=wait_ms))[0]
        assert step.ttft_s == pytest.approx((0.051, 0.051))


def test_a_prompt_that_was_cut_into_chunks_makes_its_step_not_whole():
    (step,) = prefill_steps(served([(3, 100, 50)], cut=30, wait_ms=40))[0]
    assert (step.prompts, step.whole) == (3, False)


def test_a_step_scheduled_while_another_ran_begins_at_its_end():
    steps = prefill_steps(served([(2, 100, 50), (2, 150, 80)], overlap_ms=30))[0]
    assert [round(step.step_s, 3) for step in steps] == [0.08, 0.08]  # the first has none before it to be told by


def test_failed_requests_and_other_measurements_are_no_steps():
    taken = served([(2, 0, 40)])
    failed = taken.requests.set_column(
        taken.requests.schema.get_field_index("outcome"), "outcome", pa.array(["ok", "cut"], pa.string())
    )
    (step,) = prefill_steps(replace(taken, requests=failed))[0]
    assert step.prompts == 1
    assert prefill_steps(digest(records([steady(0)]))) == {}


def test_decode_steps_are_gaps_while_all_decode():
    rows = [steady(n, first_ms=100 + 40 * n, gap_ms=20, tokens=12, scheduled_ns=0, isl=64, prompt_tokens=64) for n in range(3)]
    found = decode_steps(digest(records(rows)), 0)
    assert found is not None
    assert found.batch == 3
    assert set(found.step_s.round(6).tolist()) == {0.02}
    assert len(found.step_s) == 3 * 7  # from the last one's first token, 80 ms after the first one's, to the first one's last
    assert found.context == pytest.approx(64 + 1 + 2 + 3.5)


def test_without_a_stretch_in_which_all_decode_there_are_no_steps():
    apart = [steady(n, scheduled_ns=n * SECOND) for n in range(2)]
    assert decode_steps(digest(records(apart)), 0) is None
    assert decode_steps(digest(records([steady(0)])), 7) is None
    doubled = [request(0, [(SECOND + i * 20 * MS, 2, True) for i in range(9)], scheduled_ns=0)]
    assert decode_steps(digest(records(doubled)), 0) is None
