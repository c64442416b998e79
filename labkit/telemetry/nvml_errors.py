"""NVML's error codes in words, and which of them can change."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final, TypeVar

import pynvml

from labkit.errors import TelemetryError

T = TypeVar("T")
GPU_SOURCE: Final = re.compile(r"gpu\d+")

_REASONS: Final = {
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: "NVML library not found: no NVIDIA driver on this node",
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: "the NVIDIA driver is installed but not loaded",
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: "NVML and the loaded driver differ in version: reload the driver or reboot",
    pynvml.NVML_ERROR_NOT_SUPPORTED: "this card does not report it",
    pynvml.NVML_ERROR_NO_PERMISSION: "no permission to read it",
    pynvml.NVML_ERROR_FUNCTION_NOT_FOUND: "this driver's NVML does not know it",
    pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH: "this driver's NVML speaks another version of it",
    pynvml.NVML_ERROR_GPU_IS_LOST: "the GPU is lost (fell off the bus)",
    pynvml.NVML_ERROR_RESET_REQUIRED: "the GPU needs a reset",
    pynvml.NVML_ERROR_UNKNOWN: "NVML reports an unknown error",
    pynvml.NVML_ERROR_UNINITIALIZED: "NVML is not initialised",
    pynvml.NVML_ERROR_TIMEOUT: "the GPU does not answer in time",
}
#: NVML does not return from a call.
HANGS: Final = "NVML does not return: a GPU or its driver hangs"
_LOOK: Final = "see dmesg for its Xid; `nvidia-smi --gpu-reset` or a reboot brings it back, and it is read again then"
_REMEDIES: Final = {
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: "load it (modprobe nvidia), or look at dmesg for why it went",
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: "install the driver's libnvidia-ml, or put it on the library path",
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: "the driver was replaced under way: reload its modules or reboot",
    pynvml.NVML_ERROR_NO_PERMISSION: "look at the rights of /dev/nvidia*, and at the container's device rules",
    pynvml.NVML_ERROR_NOT_SUPPORTED: "look at nvidia-smi: a GPU in MIG mode, or a driver that was replaced, does not tell it",
    pynvml.NVML_ERROR_GPU_IS_LOST: _LOOK,
    pynvml.NVML_ERROR_RESET_REQUIRED: _LOOK,
    pynvml.NVML_ERROR_TIMEOUT: _LOOK,
    pynvml.NVML_ERROR_UNKNOWN: "look at nvidia-smi and dmesg; in a container, restart it: it may have lost its devices",
    pynvml.NVML_ERROR_UNINITIALIZED: "look at nvidia-smi: the lab opens NVML again as soon as it can be",
}
_OTHERWISE: Final = f"look at nvidia-smi; {_LOOK}"
#: Answers that stay the same however often one asks, where there never was another.
FOREVER: Final = {
    pynvml.NVML_ERROR_NOT_SUPPORTED,
    pynvml.NVML_ERROR_NO_PERMISSION,
    pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
    pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH,
    pynvml.NVML_ERROR_INVALID_ARGUMENT,
    pynvml.NVML_ERROR_DEPRECATED,
}


class NvmlUnavailable(TelemetryError):
    """NVML cannot be used on this node; ``what`` is the reason."""


def reason_of(error: pynvml.NVMLError) -> str:
    """An NVML error in words."""
    return _REASONS.get(error.value) or f"NVML: {error}"


def remedy_of(why: str) -> str:
    """What to do about a GPU that stopped to answer, by the reason that ``reason_of`` gave."""
    return next((_REMEDIES[code] for code, text in _REASONS.items() if text in why and code in _REMEDIES), _OTHERWISE)


def answered(get: Callable[[], T]) -> T | None:
    """The answer to a question that not every card or driver knows; ``None`` where NVML refuses it."""
    try:
        return get()
    except pynvml.NVMLError:
        return None


def silent_gpus(missing: Mapping[str, str]) -> list[TelemetryError]:
    """Those of ``missing`` (``source`` or ``source/metric`` → why) of which nothing is read, with what to do about it."""
    return [
        TelemetryError(f"{source} is not read: {why}", remedy=remedy_of(why))
        for source, why in missing.items()
        if GPU_SOURCE.fullmatch(source)
    ]
