"""What the lab makes of AIConfigurator's workers, held against AIConfigurator's own estimate of whole configurations."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from labkit.errors import ProjectionError
from labkit.spec import Role, Slo, Topology
from labkit.whatif.aiconfigurator import AIConfigurator
from labkit.whatif.projected import DECODE_SHARE, PREFILL_SHARE, TTFT_WAIT, deployment
from labkit.whatif.workers import Setting, Workers

MODEL, ISL, OSL = "llama-3.1-8b-fp8", 3000, 150
FOLDER = str(Path(__file__).parents[2] / "labkit" / "serve" / "shapes" / MODEL)
SETTING = Setting(model=MODEL, system="h100_sxm", engine="vllm", isl=ISL, osl=OSL)


@pytest.fixture(scope="module", autouse=True)
def quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture(scope="module")
def workers() -> Workers:
    return AIConfigurator().workers(SETTING)


def test_an_aggregated_worker_is_its_own_estimate(workers: Workers):
    from aiconfigurator.cli.api import cli_estimate

    theirs = cli_estimate(
        FOLDER, "h100_sxm", backend_name="vllm", isl=ISL, osl=OSL, batch_size=16, ctx_tokens=ISL, tp_size=2
    )  # fmt: skip
    (ours,) = [p for p in workers.of(Role.AGGREGATED, (2,)) if (p.batch, p.step_tokens) == (16, ISL)]
    assert ours.ttft_s * 1e3 == pytest.approx(theirs.ttft, rel=1e-3)
    assert ours.tpot_s * 1e3 == pytest.approx(theirs.tpot, rel=1e-3)
    assert ours.request_hz == pytest.approx(theirs.seq_per_second, rel=1e-3)


def test_a_disaggregated_split_is_its_own_estimate(workers: Workers):
    from aiconfigurator.cli.api import cli_estimate

    theirs = cli_estimate(
        FOLDER, "h100_sxm", mode="disagg", backend_name="vllm", isl=ISL, osl=OSL,
        prefill_tp_size=1, prefill_batch_size=1, prefill_num_workers=2,
        decode_tp_size=2, decode_batch_size=32, decode_num_workers=1,
    )  # fmt: skip
    (p,) = [one for one in workers.of(Role.PREFILL, (1,)) if one.batch == 1]
    (d,) = [one for one in workers.of(Role.DECODE, (2,)) if one.batch == 32]
    assert p.ttft_s * TTFT_WAIT * 1e3 == pytest.approx(theirs.ttft, rel=1e-3)
    assert d.tpot_s * 1e3 == pytest.approx(theirs.tpot, rel=1e-3)
    composed = min(2 * p.request_hz * PREFILL_SHARE, d.request_hz * DECODE_SHARE)
    assert composed == pytest.approx(theirs.seq_per_second, rel=1e-3)
    found = deployment(workers, Topology("2P+1D@tp2"), Slo(ttft_s=None, tpot_s=d.tpot_s * 1.0001))
    assert found is not None
    assert found.request_hz >= composed * 0.999, "larger prefill batches may only add"


def test_what_it_has_no_data_for_is_told(tmp_path: Path):
    with pytest.raises(ProjectionError, match="no timings of vllm on 'cpu'") as raised:
        AIConfigurator().workers(Setting(model=MODEL, system="cpu", engine="vllm", isl=ISL, osl=OSL))
    assert "h100_sxm" in raised.value.remedy
    (tmp_path / "config.json").write_text('{"architectures": ["NobodyForCausalLM"], "model_type": "nobody"}')
    with pytest.raises(ProjectionError, match=r"no data for|projects no worker"):
        AIConfigurator().workers(Setting(model=str(tmp_path), system="h100_sxm", engine="vllm", isl=ISL, osl=OSL))


def test_a_model_that_fits_nowhere_is_told():
    with pytest.raises(ProjectionError, match="projects no worker") as raised:
        AIConfigurator().workers(Setting(model="llama-3.1-70b", system="l40s", engine="vllm", isl=1_000_000, osl=150))
    assert "quantised" in raised.value.remedy
