"""The settings of each notebook at which it still says what it is for, and takes least."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

#: ``name=value`` by the notebook's name.
SMALLEST: Final[Mapping[str, Sequence[str]]] = {
    "01_compare": ("repeats=1", "duration_s=6", "rate=2.0"),
    "02_explore": ("window_s=5", "rate=2.0"),
    "03_prefill_saturation": ("isls=[32]", "most_tokens=512", "repeats=2", "steps=2", "tries=1", "bursts=2"),
    "04_split_search": ("accelerators=2", "isl=32", "osl=8", "rate=8.0", "seconds=[2]", "repeats=1", "chunks=[]"),
    "05_scale_out": (
        "isls=[2048]", "osls=[128]", "ttfts_s=[1.0]", "tpots_s=[0.02]", 'models=["llama-3.1-8b-fp8"]', "gpus=8",
        "second_opinion_s=3",
    ),
    "06_report": ("resamples=100",),
    "07_interference": ("repeats=1", "duration_s=5", "warmup_s=1", "rate=4.0", "isl=uniform:64-256", "osl=40", "chunk=64"),
    "08_independent_scaling": (
        "workers=3", "isl=32", "osl=8", "rate=5.0", "duration_s=3", "warmup_s=0.5", "repeats=1", "step_rates=[2, 6]",
        "step_at_s=[1, 3, 4]", "step_repeats=1", "bucket_s=1.0",
    ),
}  # fmt: skip
