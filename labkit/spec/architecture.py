"""What a model costs, read off its ``config.json``: parameters, bytes of weights, bytes of KV cache.

Symbols: L layers, h hidden size, H query heads, K key/value heads, d head size, i width of an MLP (of one expert
in a mixture), E experts, k experts a token, V vocabulary. Bytes are decimal (1 GB = 10⁹ bytes).

Parameters of a decoder with gated MLPs, biases left out:

    attention   2·h·H·d + 2·h·K·d                 (q and o, k and v)
    MLP         3·h·i, or E·3·h·i + h·E           (gate, up, down; the router of a mixture)
    norms       2·h a layer, h at the end, 2·d a layer where queries and keys are normalised
    embeddings  V·h, twice unless tied

Stored sizes: FP8 is 1 byte and one float32 scale an output channel; MXFP4 is 4 bits and one scale byte for each
block of 32 (OCP Microscaling Formats v1.0), 17/32 byte a weight. Kernels may pad; that is not counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from labkit.errors import SpecError

Quantisation = Literal["none", "fp8", "mxfp4"]

#: Model types whose tensors are exactly those counted here.
MODEL_TYPES: tuple[str, ...] = ("llama", "mistral", "qwen2", "qwen3", "mixtral", "qwen3_moe", "gpt_oss")
_MXFP4_BYTES = 17 / 32
_FP8_SCALE_BYTES = 4
#: Layers without a window of a qwen2 or qwen3 that slides and does not say from which on.
_FULL_LAYERS = 28


@dataclass(frozen=True, slots=True)
class Architecture:
    """The sizes in a ``config.json`` that time, memory and tensor parallelism depend on.

    Attributes:
        intermediate: width of the MLP, or of one expert.
        experts, experts_per_token: 0 and 0 in a dense model.
        sliding_layers: layers that attend only to the last ``sliding_window`` tokens.
        max_positions: longest context that the positions are made for, scaling included; ``None`` if the config does not say.
        quantisation: how the weights of the linear layers are stored: ``fp8`` all but the head, ``mxfp4`` the experts.
    """

    model_type: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    tied: bool
    experts: int = 0
    experts_per_token: int = 0
    sliding_window: int | None = None
    sliding_layers: int = 0
    max_positions: int | None = None
    quantisation: Quantisation = "none"
    attention_bias: bool = False

    @property
    def is_moe(self) -> bool:
        """Whether a router picks experts for each token."""
        return self.experts > 0

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Architecture:
        """Reads the text model of a ``config.json``.

        Raises:
            SpecError: a size is missing or no positive integer, or the model type has no formula here.
        """
        config = config.get("text_config", config)
        kind = config.get("model_type")
        if kind not in MODEL_TYPES:
            raise SpecError(f"no formula for model type {kind!r}", remedy=f"supported are {', '.join(MODEL_TYPES)}")
        heads, layers = _size(config, "num_attention_heads"), _size(config, "num_hidden_layers")
        hidden = _size(config, "hidden_size")
        experts = next((_size(config, key) for key in ("num_local_experts", "num_experts") if config.get(key)), 0)
        width = "moe_intermediate_size" if kind == "qwen3_moe" else "intermediate_size"
        if kind == "qwen3_moe" and (config.get("mlp_only_layers") or config.get("decoder_sparse_step", 1) != 1):
            raise SpecError("no formula for a qwen3_moe with dense layers between", remedy="set no mlp_only_layers")
        return cls(
            model_type=kind,
            layers=layers,
            hidden=hidden,
            heads=heads,
            kv_heads=_size(config, "num_key_value_heads") if config.get("num_key_value_heads") else heads,
            head_dim=_size(config, "head_dim") if config.get("head_dim") else hidden // heads,
            intermediate=_size(config, width),
            vocab=_size(config, "vocab_size"),
            tied=bool(config.get("tie_word_embeddings", False)),
            experts=experts,
            experts_per_token=_size(config, "num_experts_per_tok") if experts else 0,
            sliding_window=config.get("sliding_window"),
            sliding_layers=_sliding_layers(config, kind, layers),
            max_positions=max_positions(config),
            quantisation=_quantisation(config),
            attention_bias=kind == "qwen2" or bool(config.get("attention_bias", False)),
        )


def parameter_count(config: Mapping[str, Any] | Architecture) -> int:
    """Every parameter of the model, embeddings and head included (once if tied)."""
    a = _architecture(config)
    return int(a.layers * sum(_layer(a, a.experts))) + (1 if a.tied else 2) * head_parameter_count(a) + a.hidden


def active_parameter_count(config: Mapping[str, Any] | Architecture) -> int:
    """Parameters that one token is multiplied with: k experts of E, the head, not the embedding table.

    Twice this many FLOPs a token, attention scores apart (Kaplan et al. 2020, §2.1).
    """
    a = _architecture(config)
    return int(a.layers * sum(_layer(a, a.experts_per_token))) + head_parameter_count(a) + a.hidden


def head_parameter_count(config: Mapping[str, Any] | Architecture) -> int:
    """Parameters of the head, V·h; those of the embedding table are as many, and the same where they are tied."""
    a = _architecture(config)
    return a.vocab * a.hidden


def weight_bytes(config: Mapping[str, Any] | Architecture, dtype_bytes: int = 2) -> int:
    """Bytes of the weights over all ranks together.

    Args:
        config: the parsed ``config.json``, or what was read off it.
        dtype_bytes: of parameters that are not quantised: 2 for bfloat16, 4 for float32.
    """
    a = _architecture(config)
    ends = (1 if a.tied else 2) * head_parameter_count(a) + a.hidden
    return a.layers * round(layer_bytes(a, a.experts, dtype_bytes)) + dtype_bytes * ends


def layer_bytes(a: Architecture, experts: float, dtype_bytes: int = 2) -> float:
    """Bytes of the weights of one layer with as many of its experts; ``experts`` is of no account in a dense model.

    Args:
        a: the model.
        experts: how many, which may be an expectation.
        dtype_bytes: of parameters that are not quantised.
    """
    linear, routed, other = _layer(a, experts)
    match a.quantisation:
        case "fp8":
            return linear + routed + _FP8_SCALE_BYTES * _output_channels(a, experts) + dtype_bytes * other
        case "mxfp4":
            return _MXFP4_BYTES * routed + dtype_bytes * (linear + other)
        case "none":
            return dtype_bytes * (linear + routed + other)


def kv_bytes_per_token(config: Mapping[str, Any] | Architecture, dtype_bytes: int = 2) -> int:
    """Bytes of keys and values that one token adds in all layers, over all ranks: 2·L·K·d·bytes.

    A sliding-window layer writes as much as any other but may forget all but its last ``sliding_window`` tokens.
    Ranks beyond K hold copies of a head, which are not counted.
    """
    a = _architecture(config)
    return 2 * a.layers * a.kv_heads * a.head_dim * dtype_bytes


def max_positions(config: Mapping[str, Any]) -> int | None:
    """Longest context that the positions are made for; YaRN multiplies its original length by its factor."""
    limit = config.get("max_position_embeddings")
    rope = config.get("rope_scaling") or config.get("rope_parameters") or {}
    if rope.get("rope_type", rope.get("type")) == "yarn":
        scaled = int(rope.get("original_max_position_embeddings", limit or 0) * rope.get("factor", 1))
        limit = max(limit or 0, scaled)
    return limit


def _architecture(config: Mapping[str, Any] | Architecture) -> Architecture:
    return config if isinstance(config, Architecture) else Architecture.of(config)


def _layer(a: Architecture, experts: float) -> tuple[float, float, float]:
    """Parameters of one layer: weights of attention and a dense MLP, weights of ``experts``, everything else."""
    q, kv, mlp = a.heads * a.head_dim, a.kv_heads * a.head_dim, 3 * a.hidden * a.intermediate
    attention = 2 * a.hidden * q + 2 * a.hidden * kv
    other: float = 2 * a.hidden
    if a.attention_bias:
        other += q + 2 * kv + (0 if a.model_type == "qwen2" else a.hidden)
    if a.model_type in ("qwen3", "qwen3_moe"):
        other += 2 * a.head_dim
    if not a.is_moe:
        return attention + mlp, 0, other
    other += a.hidden * a.experts
    if a.model_type == "gpt_oss":  # sinks a head, a bias on the router and on the experts' projections
        other += a.heads + a.experts + experts * (2 * a.intermediate + a.hidden)
    return attention, experts * mlp, other


def _sliding_layers(config: Mapping[str, Any], kind: str, layers: int) -> int:
    """Layers with a window, as engines and transformers read them where the config does not list ``layer_types``."""
    if not config.get("sliding_window") or (kind.startswith("qwen") and not config.get("use_sliding_window")):
        return 0
    if listed := config.get("layer_types"):
        return sum(layer == "sliding_attention" for layer in listed)
    match kind:
        case "mistral" | "mixtral" | "qwen3_moe":
            return layers
        case "qwen2" | "qwen3":
            full = config.get("max_window_layers")
            return max(0, layers - (full if isinstance(full, int) else _FULL_LAYERS))
        case "gpt_oss":
            return (layers + 1) // 2
        case _:
            return 0


def _output_channels(a: Architecture, experts: float) -> float:
    mlp = 2 * a.intermediate + a.hidden
    return (a.heads + 2 * a.kv_heads) * a.head_dim + a.hidden + mlp * (experts if a.is_moe else 1)


def _quantisation(config: Mapping[str, Any]) -> Quantisation:
    scheme = config.get("quantization_config")
    if not scheme:
        return "none"
    method = scheme.get("quant_method")
    if method == "mxfp4":
        return "mxfp4"
    weights = [group.get("weights") or {} for group in (scheme.get("config_groups") or {}).values()]
    eight_bit_floats = weights and all(w.get("type") == "float" and w.get("num_bits") == 8 for w in weights)
    if method == "fp8" or (method == "compressed-tensors" and eight_bit_floats):
        return "fp8"
    raise SpecError(
        f"no formula for quantisation {method!r}", remedy="supported are mxfp4, fp8 and 8-bit floats in compressed-tensors"
    )


def _size(config: Mapping[str, Any], key: str) -> int:
    value = config.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise SpecError(
            f"config.json has {key} = {value!r}", remedy="give a whole number of at least 1, or repair the model folder"
        )
    return value
