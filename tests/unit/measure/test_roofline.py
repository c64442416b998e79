from __future__ import annotations

from dataclasses import replace

import pytest

from labkit.errors import SpecError
from labkit.measure.roofline import Step, expected_experts, mbu, mfu, step_bytes, step_flops
from labkit.serve.models import shape_config
from labkit.spec.architecture import Architecture, weight_bytes

LLAMA_8B = Architecture.of(shape_config("llama-3.1-8b"))
LLAMA_70B = Architecture.of(shape_config("llama-3.1-70b"))
GPT_OSS = Architecture.of(shape_config("gpt-oss-20b"))


def test_a_decoded_token_of_llama_8b_by_hand() -> None:
    # Published: 8,030,261,248 parameters, of which 128,256 · 4,096 = 525,336,576 each for embedding and head.
    flops, moved = (count(LLAMA_8B, Step.decode([1000])) for count in (step_flops, step_bytes))
    assert flops.layers == 2 * (8_030_261_248 - 2 * 525_336_576) == 13_959_176_192
    assert flops.head == 2 * 525_336_576
    assert flops.attention == 4 * 32 * 32 * 128 * 1001 == 524_812_288
    assert moved.weights == 2 * (8_030_261_248 - 525_336_576 + 4096) == 15_009_857_536
    assert (moved.kv_read, moved.kv_written) == (131_072_000, 131_072)
    assert moved.total == 15_009_857_536 + 131_072_000 + 131_072


def test_a_prompt_of_llama_70b_by_hand() -> None:
    # Published: 70,553,706,496 parameters; embedding and head have 128,256 · 8,192 each.
    flops, moved = (count(LLAMA_70B, Step.prefill([2048])) for count in (step_flops, step_bytes))
    assert flops.layers == 2 * 2048 * (70_553_706_496 - 2 * 1_050_673_152)
    assert flops.head == 2 * 1_050_673_152, "of 2,048 positions one is sampled"
    assert flops.attention == 4 * 80 * 64 * 128 * (2048 * 2049 // 2)
    assert (moved.kv_read, moved.kv_written) == (0, 2048 * 327_680)
    assert not moved.expected


def test_chunks_of_a_prompt_compute_as_much_as_the_prompt() -> None:
    whole = step_flops(LLAMA_8B, Step.prefill([1000]))
    chunks = [Step((256,), (start,), 0) for start in (0, 256, 512)] + [Step((232,), (768,), 1)]
    parts = [step_flops(LLAMA_8B, chunk) for chunk in chunks]
    assert sum(part.total for part in parts) == whole.total
    assert [step_bytes(LLAMA_8B, chunk).kv_read for chunk in chunks] == [131_072 * held for held in (0, 256, 512, 768)]
    assert step_bytes(LLAMA_8B, chunks[1]).weights < step_bytes(LLAMA_8B, chunks[3]).weights, "nothing sampled: the head rests"


def test_a_sliding_layer_sees_its_window_and_no_more() -> None:
    near, far = (step_flops(GPT_OSS, Step.decode([held])).attention for held in (5_000, 5_001))
    assert far - near == 4 * GPT_OSS.heads * GPT_OSS.head_dim * 12, "12 of 24 layers see one token more"
    read = step_bytes(GPT_OSS, Step.decode([5_000])).kv_read
    assert read == 2 * GPT_OSS.kv_heads * GPT_OSS.head_dim * 2 * (12 * 5_000 + 12 * 127)
    dense = replace(GPT_OSS, sliding_window=None)
    assert step_bytes(dense, Step.decode([5_000])).kv_read == 24 * 2 * 8 * 64 * 2 * 5_000


def test_one_token_touches_its_experts_and_a_large_batch_all() -> None:
    assert expected_experts(GPT_OSS, 1) == pytest.approx(4)
    assert expected_experts(GPT_OSS, 2) == pytest.approx(4 + 28 * 4 / 32)
    assert expected_experts(LLAMA_8B, 100) == 0
    step, table = Step.prefill([8192]), GPT_OSS.vocab * GPT_OSS.hidden
    rows = 8192 * GPT_OSS.hidden
    assert step_bytes(GPT_OSS, step).weights == pytest.approx(weight_bytes(GPT_OSS) + 2 * (rows - table), rel=1e-9)


def test_quantised_weights_have_their_stored_size() -> None:
    small = Architecture.of(shape_config("llama-3.1-8b-fp8"))
    ratio = step_bytes(small, Step.decode([1])).weights / step_bytes(LLAMA_8B, Step.decode([1])).weights
    assert 0.5 < ratio < 0.55
    assert step_flops(small, Step.decode([1])) == step_flops(LLAMA_8B, Step.decode([1]))
    assert step_bytes(LLAMA_8B, Step.decode([1000]), kv_dtype_bytes=1).kv_read == 65_536_000
    assert step_bytes(LLAMA_8B, Step.decode([1000]), dtype_bytes=4).weights == 2 * 15_009_857_536


def test_utilisation_is_of_all_accelerators_at_their_measured_peak() -> None:
    step = Step.decode([1000] * 16)
    flops, moved = step_flops(LLAMA_8B, step).total, step_bytes(LLAMA_8B, step).total
    assert mfu(LLAMA_8B, step, 0.010, peak_flop_s=7e14) == pytest.approx(flops / 7e12)
    assert mbu(LLAMA_8B, step, 0.010, copy_bytes_s=3e12) == pytest.approx(moved / 3e10)
    assert mbu(LLAMA_8B, step, 0.010, copy_bytes_s=3e12, tp=2) == pytest.approx(moved / 6e10)
    assert mfu(LLAMA_8B, step, 0.010, peak_flop_s=7e14, tp=4) == pytest.approx(flops / 2.8e13)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        (((), (), 0), "0 counts of new tokens"),
        (((1, 1), (5,), 1), "2 counts of new tokens and 1 contexts"),
        (((0,), (5,), 0), "0 new tokens"),
        (((1,), (-1,), 0), "context of -1"),
        (((3,), (0,), 4), "4 sampled positions of 3 tokens"),
    ],
)
def test_a_step_that_cannot_be_is_refused(fields: tuple[tuple[int, ...], tuple[int, ...], int], named: str) -> None:
    with pytest.raises(SpecError, match=named):
        Step(*fields)


@pytest.mark.parametrize(
    ("step_s", "peak", "tp", "named"),
    [(0.0, 1e15, 1, "step_s = 0.0"), (0.01, float("nan"), 1, "peak_flop_s = nan"), (0.01, 1e15, 0, "tp = 0")],
)
def test_a_peak_or_time_that_was_not_measured_is_refused(step_s: float, peak: float, tp: int, named: str) -> None:
    with pytest.raises(SpecError, match=named):
        mfu(LLAMA_8B, Step.decode([1]), step_s, peak_flop_s=peak, tp=tp)
