"""What a step of a model must compute and move, and the share of the machine's measured peaks that this is: MFU and MBU.

Symbols as in ``labkit.spec.architecture``; W is the sliding window. A query brings n new tokens to c tokens that the KV cache
holds: n = 1 while it decodes, the prompt (or a chunk of it, with c tokens before) while it is prefilled. Its new token
i = 1 … n sees c + i tokens, itself among them, at most W in a sliding layer.

    FLOPs   2 · P · Σ n             P: parameters that a token meets, k experts of E, without embedding table and head
            2 · V · h · sampled     the head, only at positions of which a token is sampled
            4 · H · d · Σ seen      scores and values, Σ over layers, queries and new tokens

    bytes   weights once            layers, the head if anything is sampled, the embedding table's rows that are looked up
            2 · K · d · Σ c         KV read, Σ over layers and queries; a sliding layer needs the last W − 1 of c
            2 · K · d · L · Σ n     KV written

In a mixture of experts a step reads the experts that its tokens touch: E · (1 − (1 − k/E)^tokens) in each layer, were experts
picked evenly and independently. This is an expectation, and marked so; a router with favourites touches fewer. Activations,
and FLOPs of softmax and activation functions, are left out. Copies of KV heads, on ranks beyond K, are not counted.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np

from labkit.errors import SpecError
from labkit.measure.timing import Ints
from labkit.spec.architecture import (
    Architecture,
    active_parameter_count,
    head_parameter_count,
    kv_bytes_per_token,
    layer_bytes,
)


@dataclass(frozen=True, slots=True)
class Step:
    """One forward pass over a batch.

    Attributes:
        new: new tokens of each query, at least 1.
        context: tokens that the KV cache already holds of each query.
        sampled: positions of which a token is sampled: one of a query that decodes, none of a chunk before the prompt's last.

    Raises:
        SpecError: no query, unequal lengths, a count below its least, or more sampled positions than new tokens.
    """

    new: tuple[int, ...]
    context: tuple[int, ...]
    sampled: int

    def __post_init__(self) -> None:
        if not self.new or len(self.new) != len(self.context):
            raise SpecError(
                f"a step of {len(self.new)} counts of new tokens and {len(self.context)} contexts",
                remedy="give one of each for every query, and at least one query",
            )
        if min(self.new) < 1 or min(self.context) < 0:
            raise SpecError(
                f"a query with {min(self.new)} new tokens or a context of {min(self.context)}",
                remedy="every query has at least 1 new token and a context of at least 0",
            )
        if not 0 <= self.sampled <= self.tokens:
            raise SpecError(f"{self.sampled} sampled positions of {self.tokens} tokens", remedy=f"give 0 to {self.tokens}")

    @classmethod
    def decode(cls, context: Iterable[int]) -> Self:
        """A token for each query, given what its KV cache holds."""
        held = tuple(context)
        return cls((1,) * len(held), held, len(held))

    @classmethod
    def prefill(cls, prompts: Iterable[int]) -> Self:
        """Whole prompts of these lengths, and the first token of each."""
        new = tuple(prompts)
        return cls(new, (0,) * len(new), len(new))

    @property
    def tokens(self) -> int:
        """New tokens of all queries."""
        return sum(self.new)


@dataclass(frozen=True, slots=True)
class StepFlops:
    """Floating-point operations of a step, over all ranks; a multiplication and its addition are two."""

    layers: int
    head: int
    attention: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.layers + self.head + self.attention


@dataclass(frozen=True, slots=True)
class StepBytes:
    """Bytes that a step must move, over all ranks.

    Attributes:
        weights, kv_read, kv_written: what they are of.
        expected: whether ``weights`` is an expectation over the experts that the batch touches.
    """

    weights: float
    kv_read: int
    kv_written: int
    expected: bool

    @property
    def total(self) -> float:
        """All of them."""
        return self.weights + self.kv_read + self.kv_written


def step_flops(architecture: Architecture, step: Step) -> StepFlops:
    """Model FLOPs of a step: what the model needs, whatever a kernel does beyond."""
    a = architecture
    head = head_parameter_count(a)
    full, sliding = _layers(a)
    seen = full * _seen(step, None) + (sliding * _seen(step, a.sliding_window) if sliding else 0)
    return StepFlops(
        layers=2 * (active_parameter_count(a) - head) * step.tokens,
        head=2 * head * step.sampled,
        attention=4 * a.heads * a.head_dim * seen,
    )


def step_bytes(architecture: Architecture, step: Step, dtype_bytes: int = 2, kv_dtype_bytes: int = 2) -> StepBytes:
    """Bytes that a step must move once between memory and processor.

    Args:
        architecture: of the model; quantised weights have their stored size.
        step: the batch.
        dtype_bytes: of parameters that are not quantised.
        kv_dtype_bytes: of the KV cache.
    """
    a = architecture
    touched = expected_experts(a, step.tokens)
    ends = a.hidden + (head_parameter_count(a) if step.sampled else 0) + step.tokens * a.hidden
    kv = kv_bytes_per_token(a, kv_dtype_bytes)
    full, sliding = _layers(a)
    context = np.array(step.context, np.int64)
    read = full * int(context.sum())
    if sliding and a.sliding_window:
        read += sliding * int(np.minimum(context, a.sliding_window - 1).sum())
    return StepBytes(
        weights=a.layers * layer_bytes(a, touched, dtype_bytes) + dtype_bytes * ends,
        kv_read=kv // a.layers * read,
        kv_written=kv * step.tokens,
        expected=a.is_moe,
    )


def expected_experts(architecture: Architecture, tokens: int) -> float:
    """Distinct experts that tokens touch in a layer, were they picked evenly: E · (1 − (1 − k/E)^tokens); 0 in a dense model."""
    a = architecture
    return a.experts * (1 - (1 - a.experts_per_token / a.experts) ** tokens) if a.is_moe else 0.0


def mfu(architecture: Architecture, step: Step, step_s: float, *, peak_flop_s: float, tp: int = 1) -> float:
    """Model FLOPs utilisation: FLOPs / (step time · TP · peak); after Chowdhery et al. (2022), appendix B.

    Args:
        architecture, step: what was computed.
        step_s: how long it took: from the engine's iteration metrics, or from a profiling run of known batches.
        peak_flop_s: of one accelerator, *measured* in the worker's dtype.
        tp: accelerators of the worker.

    Raises:
        SpecError: a time, peak or TP degree that is not positive.
    """
    return step_flops(architecture, step).total / _capacity(step_s, peak_flop_s, tp, "peak_flop_s")


def mbu(
    architecture: Architecture,
    step: Step,
    step_s: float,
    *,
    copy_bytes_s: float,
    tp: int = 1,
    dtype_bytes: int = 2,
    kv_dtype_bytes: int = 2,
) -> float:
    """Memory bandwidth utilisation: bytes / (step time · TP · bandwidth). An expectation in a mixture of experts.

    Args:
        architecture, step, step_s, tp: as for ``mfu``.
        copy_bytes_s: of one accelerator, *measured* by a copy: bytes read and bytes written, both counted.
        dtype_bytes, kv_dtype_bytes: as for ``step_bytes``.

    Raises:
        SpecError: as for ``mfu``.
    """
    moved = step_bytes(architecture, step, dtype_bytes, kv_dtype_bytes).total
    return moved / _capacity(step_s, copy_bytes_s, tp, "copy_bytes_s")


def _capacity(step_s: float, peak: float, tp: int, name: str) -> float:
    for what, value in (("step_s", step_s), (name, peak), ("tp", tp)):
        if not (value > 0 and np.isfinite(value)):
            raise SpecError(f"{what} = {value!r} is no positive number", remedy=f"give the measured {what}")
    return step_s * peak * tp


def _layers(a: Architecture) -> tuple[int, int]:
    """Layers that attend to everything, and those that slide."""
    sliding = a.sliding_layers if a.sliding_window else 0
    return a.layers - sliding, sliding


def _seen(step: Step, window: int | None) -> int:
    """Σ over queries and their new tokens of the tokens that each sees in one layer."""
    new, context = np.array(step.new, np.int64), np.array(step.context, np.int64)
    growing: Ints = new if window is None else np.clip(window - context, 0, new)
    return int((growing * context + growing * (growing + 1) // 2 + (new - growing) * (window or 0)).sum())
