"""Counts against what the publishers say, and against an oracle that lists every tensor by name."""

import json
from importlib import resources
from math import prod

import pytest

from labkit.errors import SpecError
from labkit.serve.models import shape_config
from labkit.spec import SHAPES
from labkit.spec.architecture import Architecture, active_parameter_count, kv_bytes_per_token, parameter_count, weight_bytes


def tensors(config: dict) -> dict[str, tuple[int, ...]]:
    """Name → shape of every tensor of a checkpoint, written from the checkpoints' own listings."""
    h, i, v = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    heads, kv = config["num_attention_heads"], config["num_key_value_heads"]
    d = config.get("head_dim") or h // heads
    named = {"embed_tokens.weight": (v, h), "norm.weight": (h,)}
    if not config["tie_word_embeddings"]:
        named["lm_head.weight"] = (v, h)
    for n in range(config["num_hidden_layers"]):
        layer = {
            "input_layernorm.weight": (h,),
            "post_attention_layernorm.weight": (h,),
            "q_proj.weight": (heads * d, h),
            "k_proj.weight": (kv * d, h),
            "v_proj.weight": (kv * d, h),
            "o_proj.weight": (h, heads * d),
        }
        match config["model_type"]:
            case "gpt_oss":
                e = config["num_local_experts"]
                layer |= {"q_proj.bias": (heads * d,), "k_proj.bias": (kv * d,), "v_proj.bias": (kv * d,), "o_proj.bias": (h,)}
                layer |= {"sinks": (heads,), "router.weight": (e, h), "router.bias": (e,)}
                layer |= {"experts.gate_up_proj": (e, h, 2 * i), "experts.gate_up_proj_bias": (e, 2 * i)}
                layer |= {"experts.down_proj": (e, i, h), "experts.down_proj_bias": (e, h)}
            case kind:
                layer |= {"gate_proj.weight": (i, h), "up_proj.weight": (i, h), "down_proj.weight": (h, i)}
                if kind == "qwen3":
                    layer |= {"q_norm.weight": (d,), "k_norm.weight": (d,)}
        named |= {f"layers.{n}.{name}": shape for name, shape in layer.items()}
    return named


@pytest.mark.parametrize("shape", SHAPES)
def test_parameters_are_the_sum_of_the_tensors(shape: str) -> None:
    config = shape_config(shape)
    assert parameter_count(config) == sum(map(prod, tensors(config).values()))


@pytest.mark.parametrize(
    ("shape", "published"),
    [
        ("qwen3-0.6b", 596_049_920),  # safetensors metadata of the published checkpoint, head tied
        ("llama-3.1-8b", 8_030_261_248),
        ("llama-3.1-70b", 70_553_706_496),
    ],
)
def test_parameters_are_the_published_number(shape: str, published: int) -> None:
    assert parameter_count(shape_config(shape)) == published


@pytest.mark.parametrize(
    ("shape", "total_b", "active_b", "checkpoint_gib"),
    [("gpt-oss-20b", 20.91, 3.61, 12.8), ("gpt-oss-120b", 116.83, 5.13, 60.8)],
)
def test_gpt_oss_is_as_in_its_model_card(shape: str, total_b: float, active_b: float, checkpoint_gib: float) -> None:
    config = shape_config(shape)
    assert parameter_count(config) / 1e9 == pytest.approx(total_b, abs=0.005)
    assert active_parameter_count(config) / 1e9 == pytest.approx(active_b, abs=0.005)
    assert weight_bytes(config) / 2**30 == pytest.approx(checkpoint_gib, abs=0.05)


@pytest.mark.parametrize("shape", SHAPES)
def test_weight_bytes_are_the_sum_of_the_stored_tensors(shape: str) -> None:
    config = shape_config(shape)
    expected = 0.0
    for name, dims in tensors(config).items():
        in_layer = name.startswith("layers.") and len(dims) >= 2
        if shape.endswith("-fp8") and in_layer:
            expected += prod(dims) + 4 * dims[0]
        elif shape.startswith("gpt-oss") and len(dims) == 3:
            expected += prod(dims) / 2 + prod(dims) / 32
        else:
            expected += 2 * prod(dims)
    assert weight_bytes(config) == round(expected)


def test_float32_doubles_plain_weights_but_not_the_quantised_ones() -> None:
    assert weight_bytes(shape_config("demo"), 4) == 2 * weight_bytes(shape_config("demo"), 2)
    fp8 = shape_config("llama-3.1-8b-fp8")
    rest = parameter_count(fp8) - (weight_bytes(fp8, 4) - weight_bytes(fp8, 2)) // 2
    assert rest == sum(prod(dims) for name, dims in tensors(fp8).items() if name.startswith("layers.") and len(dims) == 2)


@pytest.mark.parametrize(
    ("shape", "dtype_bytes", "expected"),
    [("demo", 4, 8192), ("llama-3.1-8b", 2, 131_072), ("llama-3.1-70b", 2, 327_680), ("gpt-oss-20b", 2, 49_152)],
)
def test_kv_bytes_per_token(shape: str, dtype_bytes: int, expected: int) -> None:
    assert kv_bytes_per_token(shape_config(shape), dtype_bytes) == expected


def test_an_active_parameter_of_a_dense_model_is_any_but_the_embedding_table() -> None:
    untied, tied = shape_config("llama-3.1-8b"), shape_config("demo")
    assert parameter_count(untied) - active_parameter_count(untied) == untied["vocab_size"] * untied["hidden_size"]
    assert parameter_count(tied) == active_parameter_count(tied)


@pytest.mark.parametrize(
    ("shape", "changed", "sliding"),
    [
        ("llama-3.1-8b", {"model_type": "mistral", "sliding_window": 4096}, 32),  # as Mistral-7B-v0.1 has it
        ("llama-3.1-8b", {"model_type": "mistral", "sliding_window": None}, 0),  # as v0.2 has it
        ("llama-3.1-8b", {"model_type": "llama", "sliding_window": 4096}, 0),
        ("qwen3-0.6b", {"sliding_window": 4096, "use_sliding_window": False, "max_window_layers": 21}, 0),
        ("qwen3-0.6b", {"sliding_window": 4096, "use_sliding_window": True, "max_window_layers": 21}, 7),
        ("qwen3-0.6b", {"model_type": "qwen2", "sliding_window": 4096, "use_sliding_window": True, "max_window_layers": 0}, 28),
        (
            "qwen3-0.6b",
            {"num_hidden_layers": 30, "max_window_layers": None, "sliding_window": 4096, "use_sliding_window": True},
            2,
        ),
        ("gpt-oss-20b", {}, 12),
        ("gpt-oss-20b", {"layer_types": None}, 12),
        ("llama-3.1-8b", {"model_type": "mistral", "sliding_window": 64, "layer_types": ["sliding_attention"] * 8}, 8),
    ],
)
def test_layers_that_slide_are_found_where_the_config_does_not_list_them(shape: str, changed: dict, sliding: int) -> None:
    assert Architecture.of({**shape_config(shape), **changed}).sliding_layers == sliding


def test_a_mixture_that_slides_does_so_in_all_layers() -> None:
    base = {**shape_config("llama-3.1-8b"), "num_experts_per_tok": 2, "sliding_window": 4096}
    assert Architecture.of({**base, "model_type": "mixtral", "num_local_experts": 8}).sliding_layers == 32
    moe = {**base, "model_type": "qwen3_moe", "num_experts": 8, "moe_intermediate_size": 64}
    assert Architecture.of(moe).sliding_layers == 0
    assert Architecture.of({**moe, "use_sliding_window": True}).sliding_layers == 32


def test_a_mixture_in_the_qwen3_layout_is_counted() -> None:
    qwen3_30b_a3b = {
        "model_type": "qwen3_moe", "hidden_size": 2048, "intermediate_size": 6144, "moe_intermediate_size": 768,
        "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128, "num_hidden_layers": 48, "num_experts": 128,
        "num_experts_per_tok": 8, "vocab_size": 151936, "tie_word_embeddings": False, "decoder_sparse_step": 1,
    }  # fmt: skip
    assert parameter_count(qwen3_30b_a3b) == 30_532_122_624


def test_yarn_multiplies_the_original_length() -> None:
    config = {**shape_config("qwen3-0.6b"), "max_position_embeddings": 32768}
    scaled = {**config, "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}}
    assert Architecture.of(config).max_positions == 32768
    assert Architecture.of(scaled).max_positions == 131072
    assert Architecture.of(shape_config("gpt-oss-120b")).max_positions == 131072


def test_sliding_layers_are_half_of_gpt_oss() -> None:
    a = Architecture.of(shape_config("gpt-oss-120b"))
    assert (a.sliding_layers, a.layers, a.sliding_window, a.is_moe) == (18, 36, 128, True)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model_type": "mamba"}, "mamba"),
        ({"hidden_size": 0}, "hidden_size = 0"),
        ({"num_hidden_layers": "8"}, "num_hidden_layers = '8'"),
        ({"quantization_config": {"quant_method": "awq"}}, "awq"),
    ],
)
def test_what_has_no_formula_is_refused_by_name(change: dict, named: str) -> None:
    with pytest.raises(SpecError, match=named):
        parameter_count({**shape_config("demo"), **change})


def test_every_shape_is_bundled_and_nothing_else() -> None:
    folder = resources.files("labkit.serve.shapes")
    assert {entry.name for entry in folder.iterdir() if entry.joinpath("config.json").is_file()} == set(SHAPES)
    for shape in SHAPES:
        text = folder.joinpath(shape, "config.json").read_text(encoding="utf-8")
        assert list(json.loads(text)) == sorted(json.loads(text))
