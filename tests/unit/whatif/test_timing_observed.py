"""Steps that records tell of: those of workers that prefill or decode alone, against the law that the records were made by."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from labkit.measure.digest import digest
from labkit.spec import Workload
from labkit.whatif.timing_observed import Observed, observed_steps
from tests.support.handmade import records as handmade
from tests.support.handmade import steady, window
from tests.support.synthetic import KV_BYTES, PREFILL_S, STEP_S, TRANSFER_S, run


def observed(*sides: str, tp: int = 1, **how: object) -> Observed:
    records, manifest = run(sides, **how)  # type: ignore[arg-type]
    kept = SimpleNamespace(id="a", digest=lambda: digest(records), windows=records.windows, manifest=manifest)
    return observed_steps(kept, tp)  # type: ignore[arg-type]


def test_a_disaggregated_split_tells_of_prefills_decodes_and_transfers() -> None:
    found = observed("1P1D", rate=2.0)
    assert np.median([one.seconds for one in found.prefill]) == pytest.approx(PREFILL_S, rel=0.05)
    requests = np.array([one.active_kv_tokens / one.context_tokens for one in found.decode])
    assert requests.min() >= 1
    assert requests.max() > 1.5, "others decoded meanwhile"
    expected = STEP_S + 0.0011 * requests
    assert np.median([one.seconds for one in found.decode] / expected) == pytest.approx(1.0, rel=0.05)
    assert found.kv_bytes / found.kv_s == pytest.approx(KV_BYTES / TRANSFER_S, rel=0.05)


def test_a_request_is_held_against_what_its_own_worker_did() -> None:
    found = observed("1P2D", rate=3.0)
    requests = np.array([one.active_kv_tokens / one.context_tokens for one in found.decode])
    expected = STEP_S + 0.0011 * requests
    assert np.median([one.seconds for one in found.decode] / expected) == pytest.approx(1.0, rel=0.05)
    assert not observed("1P2D", rate=3.0, spans=False).decode, "without spans nobody knows whose requests they were"


def test_aggregated_workers_mix_steps_and_tell_of_none() -> None:
    found = observed("2A")
    assert (found.prefill, found.decode) == ((), ())


def test_another_tp_is_another_worker() -> None:
    assert observed("1P1D", tp=2) == Observed("a", (), (), 0.0, 0.0)


def test_without_spans_requests_one_at_a_time_tell_of_prefills() -> None:
    rows = [steady(number, first_ms=100 + number, prompt_tokens=500 + number) for number in range(4)]
    lonely = window(topology="1A", workload=Workload(isl=500, osl=5, concurrency=1, requests=4))
    made = handmade(rows, windows=[lonely])
    kept = SimpleNamespace(id="a", digest=lambda: digest(made, windows=(lonely,)), windows=[lonely], manifest={})
    found = observed_steps(kept, 1)  # type: ignore[arg-type]
    assert [(one.tokens, round(one.seconds, 3)) for one in found.prefill] == [
        (500, 0.1),
        (501, 0.101),
        (502, 0.102),
        (503, 0.103),
    ]
