"""What every GPU does, through NVML (nvidia-ml-py): one reading per GPU and tick, in SI units and fractions.

A value that a card does not give is absent from the reading and has a reason in ``missing``; it is never 0. Answers that cannot
change (not supported, no permission, too old a driver) are asked for once; those that can (a lost GPU, a time-out) are asked
again, and so is whatever was given once.

Plain "utilisation" is the fraction of time in which *any* kernel ran and cannot show saturation. Hopper's GPM counters can:
how many SMs were busy, how full they were, how long the tensor cores and the DRAM worked. They are differences of two
samples, so the first reading has none.

Three traps: Hopper's ``power_w`` is a mean over one second (``power_instant_w`` is for charts, ``energy_j`` for sums);
``nvmlDeviceGetPcieThroughput`` blocks for 20 ms, so it is the last resort, at most once a second, one direction at a time;
and NVLink and PCIe field values are running totals, so that a rate needs two readings.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType, TracebackType
from typing import Any, Final, Self

import pynvml

from labkit.telemetry.gpm import GPM, NEEDS_TWO, Gpm
from labkit.telemetry.nvml_errors import FOREVER, NvmlUnavailable, reason_of

#: Every metric of a reading → what it is. Fractions are of 1, sizes in bytes, rates per second.
GPU_METRICS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "gpu_busy_fraction": "time in which any kernel ran",
        "memory_busy_fraction": "time in which device memory was read or written",
        "memory_used_bytes": "device memory in use",
        "memory_total_bytes": "device memory",
        "power_w": "board power; on Hopper a mean over 1 s",
        "power_instant_w": "board power now",
        "energy_j": "total since the driver was loaded",
        "sm_clock_mhz": "SM clock",
        "memory_clock_mhz": "memory clock",
        "clock_event_reasons": "bit mask of what holds the clocks down: clock_event_names()",
        "temperature_c": "GPU die",
        "pcie_tx_bytes_s": "from the GPU over PCIe",
        "pcie_rx_bytes_s": "to the GPU over PCIe",
        "nvlink_tx_bytes_s": "from the GPU over all NVLinks",
        "nvlink_rx_bytes_s": "to the GPU over all NVLinks",
        "sm_active_fraction": "SMs busy, of all, over time (GPM)",
        "sm_occupancy_fraction": "resident warps, of the most possible (GPM)",
        "tensor_active_fraction": "time in which tensor cores worked (GPM)",
        "dram_active_fraction": "DRAM bandwidth used, of the theoretical peak (GPM)",
    }
)
_ALL_LINKS: Final = 0xFFFFFFFF
_TOTALS: Final[Mapping[str, tuple[int, int, float]]] = {  # metric → field id, scope, bytes per unit of the running total
    "pcie_tx_bytes_s": (pynvml.NVML_FI_DEV_PCIE_COUNT_TX_BYTES, 0, 1.0),
    "pcie_rx_bytes_s": (pynvml.NVML_FI_DEV_PCIE_COUNT_RX_BYTES, 0, 1.0),
    "nvlink_tx_bytes_s": (pynvml.NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX, _ALL_LINKS, 1024.0),
    "nvlink_rx_bytes_s": (pynvml.NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX, _ALL_LINKS, 1024.0),
}
_TOTALS_ASKED: Final = tuple((name, field, scope) for name, (field, scope, _) in _TOTALS.items())
_PCIE_BLOCKING: Final = {
    "pcie_tx_bytes_s": pynvml.NVML_PCIE_UTIL_TX_BYTES,
    "pcie_rx_bytes_s": pynvml.NVML_PCIE_UTIL_RX_BYTES,
}
_CLOCK_EVENTS: Final = {
    0x001: "idle",
    0x002: "application clocks setting",
    0x004: "power cap",
    0x008: "hardware slowdown",
    0x010: "sync boost",
    0x020: "thermal slowdown (software)",
    0x040: "thermal slowdown (hardware)",
    0x080: "power brake",
    0x100: "display clock setting",
}


def clock_event_names(mask: float) -> tuple[str, ...]:
    """The names of the bits in a ``clock_event_reasons`` value; unknown bits as ``bit 0x…``."""
    bits = [1 << i for i in range(int(mask).bit_length()) if int(mask) >> i & 1]
    return tuple(_CLOCK_EVENTS.get(bit, f"bit {bit:#x}") for bit in bits)


@dataclass(frozen=True, slots=True)
class GpuReading:
    """One GPU at one instant.

    Attributes:
        t_ns: middle of the reading.
        values: metric of ``GPU_METRICS`` → value; what the card did not give is absent.
        missing: metric → why it is absent.
    """

    t_ns: int
    values: Mapping[str, float]
    missing: Mapping[str, str]


class Nvml:
    """NVML between init and shutdown.

    >>> with Nvml() as nvml:
    ...     gpu = nvml.gpu(0)
    ...     gpu.read().values["power_w"]

    Raises:
        NvmlUnavailable: on entry, with the reason (no library, no driver, versions that differ …).
    """

    def __init__(self) -> None:
        self._gpus: list[Gpu] = []

    def __enter__(self) -> Self:
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            raise NvmlUnavailable(
                reason_of(error), remedy="the lab runs on CPU without it; nvidia-smi shows the same error"
            ) from None
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._shut_down()
        self._gpus.clear()

    def reopen(self) -> None:
        """End NVML and begin again, with the same GPUs: after a reset or a reload of the driver nothing else brings them back.

        Raises:
            NvmlUnavailable: it does not begin; the GPUs' readings give reasons until another try succeeds.
        """
        self._shut_down()
        self.__enter__()
        for gpu in self._gpus:
            with contextlib.suppress(NvmlUnavailable):
                self.renew(gpu)

    def renew(self, gpu: Gpu) -> None:
        """Find a GPU again that does not answer; raises NvmlUnavailable where it is not there."""
        gpu.renew(self._handle(gpu.index))

    def _shut_down(self) -> None:
        for gpu in self._gpus:
            gpu.close()
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()

    def count(self) -> int:
        """GPUs that NVML sees; CUDA_VISIBLE_DEVICES does not matter here."""
        try:
            return int(pynvml.nvmlDeviceGetCount())
        except pynvml.NVMLError as error:
            raise NvmlUnavailable(reason_of(error), remedy="look at nvidia-smi") from None

    def gpu(self, index: int) -> Gpu:
        """The GPU of this NVML index; it is closed with the session.

        Raises:
            NvmlUnavailable: there is no such GPU, or it does not answer.
        """
        gpu = Gpu(index, self._handle(index))
        self._gpus.append(gpu)
        return gpu

    def _handle(self, index: int) -> Any:
        try:
            return pynvml.nvmlDeviceGetHandleByIndex(index)
        except pynvml.NVMLError as error:
            raise NvmlUnavailable(f"GPU {index}: {reason_of(error)}", remedy="look at nvidia-smi -L") from None


class Gpu:
    """One GPU, read tick by tick. Rates are over the time since the previous ``read``."""

    def __init__(self, index: int, handle: Any, *, clock: Callable[[], int] = time.perf_counter_ns) -> None:
        self.index = index
        self.handle = handle
        self._clock = clock
        self._values: dict[str, float] = {}
        self._missing: dict[str, str] = {}
        self._never: dict[str, str] = {}
        self._given: set[str] = set()
        self._totals: dict[str, tuple[int, float]] = {}
        self._blocking: dict[str, tuple[int, float]] = {}
        self._gpm = Gpm(handle)

    def read(self) -> GpuReading:
        """Everything that the card tells now; raises nothing for a card that does not answer."""
        self._values, self._missing = {}, {}
        h, start_ns = self.handle, self._clock()
        self._ask(("gpu_busy_fraction", "memory_busy_fraction"), lambda: _utilisation(pynvml.nvmlDeviceGetUtilizationRates(h)))
        self._ask(("memory_used_bytes", "memory_total_bytes"), lambda: _memory(h))
        self._ask(("power_w",), lambda: (pynvml.nvmlDeviceGetPowerUsage(h) / 1e3,))
        self._ask(("energy_j",), lambda: (pynvml.nvmlDeviceGetTotalEnergyConsumption(h) / 1e3,))
        self._ask(("sm_clock_mhz",), lambda: (pynvml.nvmlDeviceGetClockInfo(h, pynvml.NVML_CLOCK_SM),))
        self._ask(("memory_clock_mhz",), lambda: (pynvml.nvmlDeviceGetClockInfo(h, pynvml.NVML_CLOCK_MEM),))
        self._ask(("clock_event_reasons",), lambda: (_clock_events(h),))
        self._ask(("temperature_c",), lambda: (pynvml.nvmlDeviceGetTemperature(h, pynvml.NVML_TEMPERATURE_GPU),))
        self._ask(tuple(GPM), self._gpm.read, key="gpm")
        self._fields()
        for name in _PCIE_BLOCKING:
            if name not in self._values and self._totals.get(name) is None:
                self._pcie(name)
        now_ns = self._clock()
        missing = {name: why for name, why in self._missing.items() if name not in self._values}
        return GpuReading((start_ns + now_ns) // 2, self._values, missing)

    def renew(self, handle: Any) -> None:
        """Read it under another handle from now on; rates begin anew."""
        self.close()
        self.handle, self._gpm = handle, Gpm(handle)
        self._totals.clear()
        self._blocking.clear()

    def close(self) -> None:
        """Give back what the GPM samples hold."""
        self._gpm.close()

    def _ask(self, names: tuple[str, ...], get: Callable[[], tuple[float | str | None, ...]], key: str = "") -> None:
        """Values of ``names`` from one call; a text in a value's place is the reason why it is missing."""
        key = key or names[0]
        if key in self._never:
            self._missing.update(dict.fromkeys(names, self._never[key]))
            return
        try:
            answers = get()
        except pynvml.NVMLError as error:
            self._refused(key, names, error.value)
            return
        self._given.add(key)
        for name, answer in zip(names, answers, strict=True):
            if isinstance(answer, str):
                self._missing[name] = answer
            elif answer is not None:
                self._values[name] = float(answer)

    def _refused(self, key: str, names: tuple[str, ...], code: int) -> None:
        why = reason_of(pynvml.NVMLError(code))
        self._missing.update(dict.fromkeys(names, why))
        if code in FOREVER and key not in self._given:
            self._never[key] = why

    def _fields(self) -> None:
        wanted = []
        for name, field, scope in (("power_instant_w", pynvml.NVML_FI_DEV_POWER_INSTANT, 0), *_TOTALS_ASKED):
            if f"field {name}" in self._never:
                self._missing.setdefault(name, self._never[f"field {name}"])
            else:
                wanted.append((name, field, scope))
        try:
            answers = (
                pynvml.nvmlDeviceGetFieldValues(self.handle, [(field, scope) for _, field, scope in wanted]) if wanted else ()
            )
        except pynvml.NVMLError as error:
            for name, _, _ in wanted:
                self._refused(f"field {name}", (name,), error.value)
            return
        now_ns = self._clock()
        for (name, _, _), answer in zip(wanted, answers, strict=True):
            value = _field_value(answer)
            if value is None:
                self._refused(f"field {name}", (name,), answer.nvmlReturn or pynvml.NVML_ERROR_UNKNOWN)
                continue
            self._given.add(f"field {name}")
            if name == "power_instant_w":
                self._values[name] = value / 1e3
            else:
                self._rate(name, now_ns, value * _TOTALS[name][2])

    def _rate(self, name: str, now_ns: int, total: float) -> None:
        before_ns, before = self._totals.get(name, (now_ns, total))
        self._totals[name] = (now_ns, total)
        if name in self._values:
            return
        if now_ns > before_ns and total >= before:
            self._values[name] = (total - before) / (now_ns - before_ns) * 1e9
        else:
            self._missing[name] = NEEDS_TWO if now_ns == before_ns else "the counter wrapped"

    def _pcie(self, name: str) -> None:
        """Last resort, 20 ms each: at most one direction a reading, each at most once a second; between them the old value."""
        now_ns = self._clock()
        asked_ns, value = self._blocking.get(name, (-(10**10), float("nan")))
        if now_ns - asked_ns < 10**9:
            self._values[name] = value
            return
        if any(now_ns - t < 10**8 for t, _ in self._blocking.values()):
            return
        self._ask(
            (name,), lambda: (pynvml.nvmlDeviceGetPcieThroughput(self.handle, _PCIE_BLOCKING[name]) * 1024.0,), f"blocking {name}"
        )
        if name in self._values:
            self._blocking[name] = (now_ns, self._values[name])


@contextlib.contextmanager
def nvml_or_reason() -> Iterator[Nvml | str]:
    """An open session, or the reason why there is none."""
    nvml = Nvml()
    try:
        nvml.__enter__()
    except NvmlUnavailable as error:
        yield error.what
        return
    try:
        yield nvml
    finally:
        nvml.__exit__(None, None, None)


def _utilisation(rates: Any) -> tuple[float, float]:
    return rates.gpu / 100, rates.memory / 100


def _memory(handle: Any) -> tuple[float, float]:
    info = pynvml.nvmlDeviceGetMemoryInfo(handle)
    return info.used, info.total


def _clock_events(handle: Any) -> float:
    try:
        return float(pynvml.nvmlDeviceGetCurrentClocksEventReasons(handle))
    except pynvml.NVMLError as error:
        if error.value != pynvml.NVML_ERROR_FUNCTION_NOT_FOUND:
            raise
        return float(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))  # its name before driver 535


_UNION: Final = {
    pynvml.NVML_VALUE_TYPE_DOUBLE: "dVal",
    pynvml.NVML_VALUE_TYPE_UNSIGNED_INT: "uiVal",
    pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG: "ulVal",
    pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG: "ullVal",
    pynvml.NVML_VALUE_TYPE_SIGNED_LONG_LONG: "sllVal",
    pynvml.NVML_VALUE_TYPE_SIGNED_INT: "siVal",
    pynvml.NVML_VALUE_TYPE_UNSIGNED_SHORT: "usVal",
}


def _field_value(answer: Any) -> float | None:
    if answer.nvmlReturn != pynvml.NVML_SUCCESS or answer.valueType not in _UNION:
        return None
    return float(getattr(answer.value, _UNION[answer.valueType]))
