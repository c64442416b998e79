"""FLOPs and bytes of a step against plain loops over tensors, layers, queries, tokens and experts; experts also by drawing them.

The oracle reads ``config.json`` and lists a layer's tensors itself: nothing of labkit's arithmetic is used.
"""

from __future__ import annotations

import random
from math import prod

import pytest

from labkit.measure.roofline import Step, step_bytes, step_flops
from labkit.serve.models import shape_config
from labkit.spec.architecture import Architecture

MIXED = Step(new=(1, 1, 37, 200, 1), context=(0, 500, 0, 90, 127), sampled=4)
LATER_CHUNK = Step(new=(256,), context=(1024,), sampled=0)
STEPS = (Step.decode([1, 127, 128, 129, 4000]), Step.prefill([5, 300]), MIXED, LATER_CHUNK)


def dense(config: dict) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """Matrices and vectors of a layer outside experts."""
    h, heads, kv = config["hidden_size"], config["num_attention_heads"], config["num_key_value_heads"]
    d = config.get("head_dim") or h // heads
    matrices = [(heads * d, h), (kv * d, h), (kv * d, h), (h, heads * d)]
    vectors: list[tuple[int, ...]] = [(h,), (h,)]
    if config["model_type"] == "qwen3":
        vectors += [(d,), (d,)]
    if config["model_type"] == "gpt_oss":
        e = config["num_local_experts"]
        return matrices, [*vectors, (heads * d,), (kv * d,), (kv * d,), (h,), (heads,), (e, h), (e,)]
    i = config["intermediate_size"]
    return [*matrices, (i, h), (i, h), (h, i)], vectors


def expert(config: dict) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """Matrices and biases of one expert of gpt-oss."""
    h, i = config["hidden_size"], config["intermediate_size"]
    return [(h, 2 * i), (i, h)], [(2 * i,), (h,)]


def oracle_flops(config: dict, step: Step) -> int:
    h, heads = config["hidden_size"], config["num_attention_heads"]
    d = config.get("head_dim") or h // heads
    kinds = config.get("layer_types") or ["full_attention"] * config["num_hidden_layers"]
    matrices, vectors = dense(config)
    total = 2 * step.sampled * config["vocab_size"] * h
    for new, context in zip(step.new, step.context, strict=True):
        for position in range(context, context + new):
            total += 2 * h  # the last norm
            for kind in kinds:
                total += 2 * sum(map(prod, matrices + vectors))
                if config["model_type"] == "gpt_oss":
                    own, biases = expert(config)
                    total += 2 * config["num_experts_per_tok"] * sum(map(prod, own + biases))
                seen = position + 1
                if kind == "sliding_attention":
                    seen = sum(position - key < config["sliding_window"] for key in range(position + 1))
                total += 2 * heads * d * seen + 2 * heads * seen * d  # scores, then values
    return total


def oracle_kv(config: dict, step: Step, size: int) -> tuple[int, int]:
    """Bytes read and written: for each layer the cached positions that any new token of the query sees."""
    h, heads = config["hidden_size"], config["num_attention_heads"]
    row = 2 * config["num_key_value_heads"] * (config.get("head_dim") or h // heads) * size
    read = written = 0
    for kind in config.get("layer_types") or ["full_attention"] * config["num_hidden_layers"]:
        for new, context in zip(step.new, step.context, strict=True):
            reach = config["sliding_window"] if kind == "sliding_attention" else context + new
            read += row * sum(context - cached < reach for cached in range(context))
            written += row * new
    return read, written


@pytest.mark.parametrize("shape", ["demo", "llama-3.1-8b", "gpt-oss-20b"])
@pytest.mark.parametrize("step", STEPS)
def test_flops_are_the_sum_over_queries_layers_and_matrices(shape: str, step: Step) -> None:
    config = shape_config(shape)
    assert step_flops(Architecture.of(config), step).total == oracle_flops(config, step)


@pytest.mark.parametrize("shape", ["demo", "llama-3.1-8b", "gpt-oss-20b"])
@pytest.mark.parametrize("step", STEPS)
def test_kv_bytes_are_those_of_the_positions_that_are_seen(shape: str, step: Step) -> None:
    config = shape_config(shape)
    found = step_bytes(Architecture.of(config), step, kv_dtype_bytes=1)
    assert (found.kv_read, found.kv_written) == oracle_kv(config, step, 1)


@pytest.mark.parametrize("shape", ["demo", "llama-3.1-70b", "llama-3.1-8b-fp8"])
def test_a_dense_model_reads_every_stored_weight_but_the_embedding_table(shape: str) -> None:
    config = shape_config(shape)
    matrices, vectors = dense(config)
    stored = [prod(m) + 4 * m[0] if shape.endswith("fp8") else 2 * prod(m) for m in matrices]
    layers = config["num_hidden_layers"] * (sum(stored) + 2 * sum(map(prod, vectors)))
    h, head = config["hidden_size"], config["vocab_size"] * config["hidden_size"]
    for step in STEPS:
        found = step_bytes(Architecture.of(config), step)
        rows = sum(step.new) * h
        assert found.weights == layers + 2 * (h + rows + (head if step.sampled else 0))
        assert not found.expected


@pytest.mark.parametrize("shape", ["gpt-oss-20b", "gpt-oss-120b"])
@pytest.mark.parametrize("tokens", [1, 3, 40])
def test_the_experts_read_are_those_that_drawn_tokens_touch(shape: str, tokens: int) -> None:
    config, rng = shape_config(shape), random.Random(tokens)
    experts, each = config["num_local_experts"], config["num_experts_per_tok"]
    draws = 3000
    touched = sum(
        len({one for _ in range(tokens) for one in rng.sample(range(experts), each)}) for _ in range(draws)
    ) / draws  # fmt: skip
    matrices, vectors = dense(config)
    own, biases = expert(config)
    one_expert = sum(map(prod, own)) * (4 + 8 / 32) / 8 + 2 * sum(map(prod, biases))  # 4 bits, and a byte for each 32 of them
    layer = 2 * sum(map(prod, matrices + vectors)) + touched * one_expert
    h = config["hidden_size"]
    expected = config["num_hidden_layers"] * layer + 2 * (h + tokens * h + config["vocab_size"] * h)
    found = step_bytes(Architecture.of(config), Step.decode([10] * tokens))
    assert found.weights == pytest.approx(expected, rel=0.01)
    assert found.expected
