"""How long a simulated worker takes: prefill by prompt tokens, a decode step by what it holds. Arrays with units and provenance.

The file is one that Dynamo's mocker reads as it is (``--planner-profile-data``), with one array more that says where the numbers
come from. The mocker interpolates between the points and knows nothing of the range: who sends load holds it against ``beyond``.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from labkit.errors import SpecError

#: The mocker takes no shorter step.
LEAST_ITL_S: Final = 1e-3
_ABOUT: Final = "labkit_about"
_SUFFIX: Final = ".npz"
_MOST_BYTES: Final = 64 << 20  # grids of a thousand points have a thousandth of it
_PLAIN: Final = (
    "model", "gpu", "source", "error", "tp", "gpu_bytes", "kv_tokens", "kv_transfer_bytes_s", "extrapolate", "stretch",
)  # fmt: skip

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class TimingProfile:
    """One worker of one TP degree.

    Attributes:
        model: whose times these are.
        gpu: what they were projected for or measured on: ``h100_sxm``.
        tp: GPUs of the worker.
        prefill_tokens, prefill_s: prompt tokens of a step → its time; shape (n,), n ≥ 2.
        active_kv_tokens, context_tokens: axes of ``itl_s``: tokens in the KV cache of all requests that decode, and of each on
            average; shapes (a,) and (c,), a, c ≥ 2.
        itl_s: time of a decode step, and so from token to token; shape (a, c), at least 1 ms.
        gpu_bytes: memory of a GPU.
        kv_tokens: that the worker's KV cache holds.
        kv_transfer_bytes_s: from a prefill to a decode worker; ``None``: the transfer takes no time, and nobody measured it.
        source: who says so, a sentence.
        error: how far off it is on runs that it was not fitted to; empty where that is not known.
        extrapolate: whether load beyond the range of the arrays was asked for.
        stretch: factor by which all times here are longer than those meant, so that a small machine keeps up.

    Raises:
        SpecError: arrays of other shapes, that do not ascend, or with values that no time has.
    """

    model: str
    gpu: str
    tp: int
    prefill_tokens: Array
    prefill_s: Array
    active_kv_tokens: Array
    context_tokens: Array
    itl_s: Array
    gpu_bytes: int
    kv_tokens: int
    kv_transfer_bytes_s: float | None
    source: str
    error: str = ""
    extrapolate: bool = False
    stretch: float = 1.0

    def __post_init__(self) -> None:
        for name, values in (
            ("prefill_tokens", self.prefill_tokens),
            ("active_kv_tokens", self.active_kv_tokens),
            ("context_tokens", self.context_tokens),
        ):
            if values.ndim != 1 or len(values) < 2 or not np.all(np.diff(values) > 0) or values[0] < 0:
                raise self._bad(f"{name} is not two or more ascending numbers of tokens")
        if self.prefill_s.shape != self.prefill_tokens.shape or not _positive(self.prefill_s):
            raise self._bad("prefill_s is not one positive time for each of prefill_tokens")
        if self.itl_s.shape != (len(self.active_kv_tokens), len(self.context_tokens)) or not _positive(self.itl_s):
            raise self._bad("itl_s is not one positive time for each of active_kv_tokens and context_tokens")
        if float(self.itl_s.min()) < LEAST_ITL_S:
            raise self._bad(f"a decode step of {self.itl_s.min() * 1e3:.3g} ms is shorter than the mocker's shortest, 1 ms")
        if self.kv_tokens < 1 or self.tp < 1:
            raise self._bad(f"kv_tokens = {self.kv_tokens} and tp = {self.tp} are not both 1 or more")

    def prefill(self, tokens: float) -> float:
        """Seconds of a step of so many prompt tokens; beyond the range the nearest end."""
        return float(np.interp(tokens, self.prefill_tokens, self.prefill_s))

    def itl(self, active_kv_tokens: float, context_tokens: float) -> float:
        """Seconds of a decode step, bilinear between the points; beyond the range the nearest edge."""
        along = [float(np.interp(context_tokens, self.context_tokens, row)) for row in self.itl_s]
        return float(np.interp(active_kv_tokens, self.active_kv_tokens, along))

    def beyond(self, *, prompt_tokens: float, active_kv_tokens: float, context_tokens: float) -> list[str]:
        """What of a load lies outside of the range in which these times hold; what is below the first point is near enough."""
        asked = (
            ("a prefill of", prompt_tokens, self.prefill_tokens),
            ("active KV of", active_kv_tokens, self.active_kv_tokens),
            ("a context of", context_tokens, self.context_tokens),
        )
        return [f"{what} {tokens:,.0f} tokens (to {axis[-1]:,.0f})" for what, tokens, axis in asked if tokens > axis[-1]]

    @property
    def range_words(self) -> str:
        """Within which it holds."""
        return (
            f"prefill to {self.prefill_tokens[-1]:,.0f} tokens, active KV to {self.active_kv_tokens[-1]:,.0f}, "
            f"context to {self.context_tokens[-1]:,.0f}"
        )

    def stretched(self, factor: float) -> TimingProfile:
        """The same worker in slow motion: every time, and the transfer, ``factor`` times as long."""
        bandwidth = self.kv_transfer_bytes_s
        return replace(
            self,
            prefill_s=self.prefill_s * factor,
            itl_s=self.itl_s * factor,
            kv_transfer_bytes_s=None if bandwidth is None else bandwidth / factor,
            stretch=self.stretch * factor,
        )

    @property
    def digest(self) -> str:
        """SHA-256 of all its times: profiles of equal digests pretend the same."""
        arrays = (self.prefill_tokens, self.prefill_s, self.active_kv_tokens, self.context_tokens, self.itl_s)
        return hashlib.sha256(b"".join(np.ascontiguousarray(values, np.float64).tobytes() for values in arrays)).hexdigest()

    def about(self) -> dict[str, Any]:
        """All but the arrays, JSON-ready, and the range in words."""
        plain = {name: getattr(self, name) for name in _PLAIN}
        return {**plain, "range": self.range_words}

    def save_npz(self, path: Path) -> None:
        """Write what the mocker reads, in its units (ms), with the provenance beside."""
        path.parent.mkdir(parents=True, exist_ok=True)
        about = np.frombuffer(json.dumps(self.about()).encode(), np.uint8)
        np.savez(
            path, prefill_isl=self.prefill_tokens, prefill_ttft_ms=self.prefill_s * 1e3,
            decode_active_kv_tokens=self.active_kv_tokens, decode_context_length=self.context_tokens,
            decode_itl=self.itl_s * 1e3, labkit_about=about,
        )  # fmt: skip

    @classmethod
    def load(cls, path: Path) -> Self:
        """What ``save_npz`` wrote.

        Raises:
            SpecError: it is not there, or not such a file.
        """
        try:
            with np.load(path, allow_pickle=False) as held:
                if sum(entry.file_size for entry in held.zip.infolist()) > _MOST_BYTES:
                    raise ValueError(f"it unpacks to more than {_MOST_BYTES:,} bytes")
                about = json.loads(held[_ABOUT].tobytes())
                about.pop("range", None)
                return cls(
                    prefill_tokens=_read(held, "prefill_isl"), prefill_s=_read(held, "prefill_ttft_ms") / 1e3,
                    active_kv_tokens=_read(held, "decode_active_kv_tokens"),
                    context_tokens=_read(held, "decode_context_length"), itl_s=_read(held, "decode_itl") / 1e3, **about,
                )  # fmt: skip
        except (
            OSError,
            KeyError,
            ValueError,
            TypeError,
            AttributeError,
            MemoryError,
            RecursionError,
            zipfile.BadZipFile,
        ) as error:
            raise SpecError(f"{path} is no timing profile: {error}", remedy="make one with TimingProfile.save_npz") from error

    def __str__(self) -> str:
        error = f"; {self.error}" if self.error else "; its error is unknown"
        slow = f"; in slow motion, times × {self.stretch:g}" if self.stretch != 1 else ""
        return f"{self.model} on {self.gpu}, TP {self.tp}: {self.source}{error}; holds for {self.range_words}{slow}"

    def _bad(self, why: str) -> SpecError:
        return SpecError(f"timing profile of {self.model} on {self.gpu}: {why}", remedy="give arrays as TimingProfile describes")


def save_timing(profiles: Iterable[TimingProfile], folder: Path | str) -> str:
    """Write profiles of several TP degrees into a folder: what ``EngineOptions.timing`` names. Returns it."""
    folder = Path(folder)
    for profile in profiles:
        profile.save_npz(folder / _name(profile.tp))
    return str(folder)


def load_timing(folder: Path | str) -> dict[int, TimingProfile]:
    """TP degree → profile of a folder.

    Raises:
        SpecError: it holds none.
    """
    folder = Path(folder)
    found = [TimingProfile.load(path) for path in sorted(folder.glob(f"tp*{_SUFFIX}"))]
    if not found:
        raise SpecError(f"{folder} holds no timing profile", remedy="make one: save_timing(profiles, folder)")
    kinds = {(profile.model, profile.gpu, profile.stretch) for profile in found}
    if len(kinds) > 1:
        raise SpecError(f"{folder} holds profiles of different models or GPUs", remedy="keep those of one deployment in a folder")
    return {profile.tp: profile for profile in found}


def timing_file(folder: Path | str, tp: int) -> Path:
    """Where a folder holds the profile of a degree.

    Raises:
        SpecError: it has none of that degree.
    """
    path = Path(folder).absolute() / _name(tp)
    if not path.is_file():
        has = ", ".join(sorted(found.stem for found in Path(folder).glob(f"tp*{_SUFFIX}"))) or "none"
        raise SpecError(f"{folder} has no timing profile of TP {tp} (it has {has})", remedy=f"make one for TP {tp} as well")
    return path


def _name(tp: int) -> str:
    return f"tp{tp}{_SUFFIX}"


def _read(held: Mapping[str, Any], name: str) -> Array:
    return np.asarray(held[name], np.float64)


def _positive(values: Array) -> bool:
    return bool(np.isfinite(values).all() and (values > 0).all())
