"""Whether a model's weights fit at all: told before minutes of loading, not by the kernel's killer after them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from labkit.errors import HardwareError
from labkit.serve.hardware import Devices
from labkit.serve.models import ServedModel

#: KV cache of a worker without a GPU where it is not asked for.
CPU_KV_BYTES: Final = 2**30


def check_memory(model: ServedModel, devices: Sequence[Devices]) -> None:
    """Refuses workers whose weights alone are more than the memory that they may use; passes where the weights are not known.

    With GPUs each holds its part of them; without, every worker holds all of them in the node's memory.

    Raises:
        HardwareError: they do not fit.
    """
    if not model.weight_bytes:
        return
    for held in devices:
        need = model.weight_bytes / len(held.gpus or (0,))
        may = held.memory_bytes * held.memory_fraction
        if need <= may:
            continue
        where = f"GPU {held.gpus[0]}" if held.gpus else "the node's memory"
        part = "" if held.memory_fraction == 1 else f", {held.memory_fraction:.0%} of {_gib(held.memory_bytes)}"
        raise HardwareError(
            f"{model.name} needs {_gib(need)} for its weights in each worker, and has {_gib(may)} of {where}{part}",
            remedy="take a smaller model or fewer workers" + (", or a higher TP" if held.gpus else ""),
        )


def check_room(model: ServedModel, starts: int, kv_cache_bytes: int, free_bytes: int) -> None:
    """Refuses workers that would start beside those that they replace, in the memory of a node without GPUs, and find no room.

    What a worker surely takes is its weights (where they are known) and its KV cache; what ends frees its part too late.

    Raises:
        HardwareError: they do not fit.
    """
    need = starts * ((model.weight_bytes or 0) + kv_cache_bytes)
    if need > free_bytes:
        raise HardwareError(
            f"{starts} new worker{'s' * (starts != 1)} beside those that serve need {_gib(need)} for weights and KV cache, and "
            f"{_gib(free_bytes)} of the node's memory is free",
            remedy="take fewer workers or a smaller kv_cache_bytes, or launch the other split anew",
        )


def _gib(size: float) -> str:
    return f"{size / 2**30:.3g} GiB"
