"""What the lab makes of AIConfigurator's workers, held against AIConfigurator's own estimate of whole configurations."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from labkit.errors import ProjectionError
from labkit.spec import Role, Slo, Topology
from labkit.whatif.aiconfigurator import AIConfigurator
from labkit.whatif.claimed import GPT_OSS, LLAMA, ClaimedPlace, claimed_places
from labkit.whatif.projected import DECODE_SHARE, PREFILL_SHARE, TTFT_WAIT, Projected, deployment
from labkit.whatif.winning import Duel
from labkit.whatif.workers import BACKENDS, Setting, Workers

MODEL, ISL, OSL = "llama-3.1-8b-fp8", 3000, 150
SHAPES = Path(__file__).parents[2] / "labkit" / "serve" / "shapes"
FOLDER = str(SHAPES / MODEL)
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


@pytest.fixture(scope="module")
def asked() -> dict[str, Workers]:
    """What the claims were recomputed from, by model."""
    return {}


@pytest.fixture(scope="module")
def places(asked: dict[str, Workers]) -> dict[str, list[ClaimedPlace]]:
    """Every claim in one place: TTFT ≤ 1 s, TPOT ≤ 20 ms."""

    def ask(setting: Setting) -> Workers:
        if setting.model not in asked:
            asked[setting.model] = AIConfigurator().workers(setting)
        return asked[setting.model]

    found: dict[str, list[ClaimedPlace]] = {}
    for one in claimed_places(ask, ttfts_s=(1.0,), tpots_s=(0.020,)):
        found.setdefault(one.claim, []).append(one)
    return found


def estimated(model: str, one: Projected, workers: Workers) -> tuple[float, float, float]:
    """TTFT and TPOT (ms) and requests a second of a deployment, as AIConfigurator itself estimates it as a whole."""
    from aiconfigurator.cli.api import cli_estimate

    asked = {"backend_name": "vllm", "isl": ISL, "osl": OSL}
    groups = {group.role: group for group in one.topology.groups}
    if not one.topology.is_disaggregated:
        a = groups[Role.AGGREGATED]
        mixture = {"moe_tp_size": a.tp, "moe_ep_size": 1} if model == GPT_OSS else {}
        found = cli_estimate(
            str(SHAPES / model), "h100_sxm", batch_size=one.batch, ctx_tokens=one.step_tokens, tp_size=a.tp, **asked, **mixture
        )
        return found.ttft, found.tpot, found.seq_per_second * a.count
    p, d = groups[Role.PREFILL], groups[Role.DECODE]
    (prompts,) = {at.batch for at in workers.of(Role.PREFILL, (p.tp,)) if at.ttft_s * TTFT_WAIT == one.ttft_s}
    mixture = {f"{group.role.noun}_moe_{kind}_size": size for group in (p, d) for kind, size in (("tp", group.tp), ("ep", 1))}
    found = cli_estimate(
        str(SHAPES / model), "h100_sxm", mode="disagg",
        prefill_tp_size=p.tp, prefill_batch_size=prompts, prefill_num_workers=p.count,
        decode_tp_size=d.tp, decode_batch_size=one.batch, decode_num_workers=d.count,
        **asked, **(mixture if model == GPT_OSS else {}),
    )  # fmt: skip
    return found.ttft, found.tpot, found.seq_per_second


@pytest.mark.parametrize(
    ("claim", "model", "gpus"),
    [("one_node", LLAMA, 8), ("two_nodes", LLAMA, 16), ("gpt_oss", GPT_OSS, 8), ("large_models", LLAMA, 8)],
)
def test_a_recomputed_claim_is_its_own_estimate_of_both_sides(
    claim: str, model: str, gpus: int, places: dict[str, list[ClaimedPlace]], asked: dict[str, Workers]
):
    told = 0
    for place in places[claim]:
        rates = []
        for one in (place.disaggregated, place.aggregated):
            if one is not None:
                ttft, tpot, hz = estimated(model, one, asked[model])
                assert (one.ttft_s * 1e3, one.tpot_s * 1e3) == (pytest.approx(ttft, rel=1e-3), pytest.approx(tpot, rel=1e-3))
                assert one.tok_s_per_gpu == pytest.approx(hz * OSL / gpus, rel=1e-3)
                rates.append(hz)
        gain = Duel("", "", place.aggregated, place.disaggregated).gain
        if gain is not None:
            told += 1
            assert gain == pytest.approx(rates[0] / rates[1], rel=2e-3)
            assert place.words.startswith(
                f"projected: 70.6B gains {gain:.2f} times" if claim == "large_models" else f"{gain:.2f} times: "
            )
    assert told, "at these limits both kinds have a split"


def test_what_it_has_no_data_for_is_told(tmp_path: Path):
    with pytest.raises(ProjectionError, match="no timings of vllm on 'cpu'") as raised:
        AIConfigurator().workers(Setting(model=MODEL, system="cpu", engine="vllm", isl=ISL, osl=OSL))
    assert "h100_sxm" in raised.value.remedy
    (tmp_path / "config.json").write_text('{"architectures": ["NobodyForCausalLM"], "model_type": "nobody"}')
    with pytest.raises(ProjectionError, match=r"no data for|projects no worker"):
        AIConfigurator().workers(Setting(model=str(tmp_path), system="h100_sxm", engine="vllm", isl=ISL, osl=OSL))


def test_the_backends_are_its_own():
    from aiconfigurator.sdk.common import BackendName

    assert {backend.value for backend in BackendName} == set(BACKENDS)


def test_a_model_that_fits_nowhere_is_told():
    with pytest.raises(ProjectionError, match="projects no worker") as raised:
        AIConfigurator().workers(Setting(model="llama-3.1-70b", system="l40s", engine="vllm", isl=1_000_000, osl=150))
    assert "quantised" in raised.value.remedy
