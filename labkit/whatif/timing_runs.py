"""A timing profile fitted to the user's own measured runs, judged by runs that it was not fitted to.

Prefill of n tokens: t = a + b·n + c·n², the pass over the weights, the matrix products and the attention of a prompt to itself. A
decode step of r requests that hold k tokens in all: t = a + b·k + c·r, the weights, the KV cache that is read, and what each
request costs. No coefficient is negative; the fit minimises relative errors. (The same terms as the roofline of
``measure.roofline``, with rates that are measured instead of peaks.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import numpy as np

from labkit.errors import ProjectionError
from labkit.measure.simulated import is_simulated
from labkit.serve.timing import LEAST_ITL_S, Array, TimingProfile
from labkit.store.run import Run
from labkit.whatif.calibration import HeldOutError
from labkit.whatif.timing_observed import Decoded, Observed, Prefilled, observed_steps

_Row = TypeVar("_Row", Prefilled, Decoded)
_LEAST_PREFILLS: Final = 4
_LEAST_DECODES: Final = 8
_POINTS: Final = 16
#: A profile of prefills holds to so many times the longest seen: the longest prompt of a distribution is seldom drawn.
_BEYOND: Final = 1.1
_NO_GPU_BYTES: Final = 2**33


@dataclass(frozen=True, slots=True)
class TimingFit:
    """A profile with how well it foretold runs that it was not fitted to.

    Attributes:
        profile: the profile; its ``error`` is this one's words.
        errors: ``prefill``, ``decode`` → relative error of held-out runs; one that only one run tells of is absent.
        runs: that it was fitted to.
        left_out: why runs were of no use, a sentence each.
    """

    profile: TimingProfile
    errors: Mapping[str, HeldOutError]
    runs: tuple[str, ...]
    left_out: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join([str(self.profile), f"fitted to {', '.join(self.runs)}", *(f"left out: {why}" for why in self.left_out)])

    __repr__ = __str__


def timing_from_runs(runs: Sequence[Run], tp: int = 1, *, kv_tokens: int | None = None, extrapolate: bool = False) -> TimingFit:
    """Fit a profile to measured runs.

    Args:
        runs: of one model on one kind of GPU; simulated ones are left out.
        tp: of the workers whose steps count.
        kv_tokens: that a worker's KV cache holds; by default the most that was seen in use.
        extrapolate: allow load beyond what was measured.

    Raises:
        ProjectionError: no run, or runs that lack what a profile needs; it says what. Runs of different models or GPUs.
    """
    left_out: list[str] = []
    usable = []
    for run in runs:
        if is_simulated(run.manifest):
            left_out.append(f"{run.id}: simulated, not measured")
        else:
            usable.append(run)
    model, gpu, gpu_bytes = _of_what(usable)
    found = [observed_steps(run, tp) for run in usable]
    left_out += [f"{one.run}: neither prefills nor decodes of TP {tp} can be told apart" for one in found if not _tells(one)]
    found = [one for one in found if _tells(one)]
    prefills, decodes = [p for one in found for p in one.prefill], [d for one in found for d in one.decode]
    _must_suffice(prefills, decodes, tp, left_out)
    errors = {
        name: error
        for name, error in (
            ("prefill", _held_out([one.prefill for one in found], _fit_prefill, _prefill_terms, _LEAST_PREFILLS)),
            ("decode", _held_out([one.decode for one in found], _fit_decode, _decode_terms, _LEAST_DECODES)),
        )
        if error is not None
    }
    tokens = _axis([p.tokens for p in prefills], beyond=_BEYOND)
    kv, context = _axis([d.active_kv_tokens for d in decodes]), _axis([d.context_tokens for d in decodes], 4)
    grid = [Decoded(float(k), float(c), 1.0) for k in kv for c in context]
    itl = (_decode_terms(grid) @ _fit_decode(decodes)).reshape(len(kv), len(context))
    moved_s = sum(one.kv_s for one in found)
    seen = max(round(float(kv[-1])), 1)
    profile = TimingProfile(
        model=model, gpu=gpu, tp=tp, prefill_tokens=tokens,
        prefill_s=_prefill_terms([Prefilled(float(n), 1.0) for n in tokens]) @ _fit_prefill(prefills),
        active_kv_tokens=kv, context_tokens=context, itl_s=np.maximum(itl, LEAST_ITL_S), gpu_bytes=gpu_bytes,
        kv_tokens=kv_tokens or seen,
        kv_transfer_bytes_s=sum(one.kv_bytes for one in found) / moved_s if moved_s else None,
        source=f"fitted to {len(found)} measured run{'s' * (len(found) != 1)}"
        + ("" if moved_s else "; KV transfer was not counted and takes no time"),
        error=_words(errors), extrapolate=extrapolate,
    )  # fmt: skip
    return TimingFit(profile, errors, tuple(one.run for one in found), tuple(left_out))


def _of_what(runs: Sequence[Run]) -> tuple[str, str, int]:
    if not runs:
        raise ProjectionError("no measured run to fit a timing profile to", remedy="measure one, or use timing_from_estimates")
    models = {str((run.manifest.get("model") or {}).get("name") or "unknown") for run in runs}
    gpus = {measured_on(run.manifest) for run in runs}
    for what, names in (("models", models), ("kinds of GPU", {name for name, _ in gpus})):
        if len(names) > 1:
            raise ProjectionError(f"the runs are of several {what}: {', '.join(sorted(names))}", remedy="name runs of one alone")
    return models.pop(), *gpus.pop()


def measured_on(manifest: Mapping[str, Any]) -> tuple[str, int]:
    """Which GPU a run was measured on, or ``CPU core``, and its memory in bytes."""
    hardware = manifest.get("hardware") or {}
    gpus = hardware.get("gpus") or ()
    if gpus:
        return str(gpus[0].get("name")), int(gpus[0].get("memory_bytes") or _NO_GPU_BYTES)
    return "CPU core", int(hardware.get("memory_bytes") or _NO_GPU_BYTES)


def _tells(one: Observed) -> bool:
    return bool(one.prefill or one.decode)


def _must_suffice(prefills: Sequence[Prefilled], decodes: Sequence[Decoded], tp: int, left_out: Sequence[str]) -> None:
    lengths = len({round(p.tokens) for p in prefills})
    lacks = []
    if len(prefills) < _LEAST_PREFILLS or lengths < 2:
        lacks.append(f"prefills of two lengths or more ({len(prefills)} of {lengths} found)")
    if len(decodes) < _LEAST_DECODES or len({round(d.active_kv_tokens) for d in decodes}) < 2:
        lacks.append(f"requests decoded by a worker that decodes alone ({len(decodes)} found)")
    if lacks:
        said = f" ({'; '.join(left_out)})" if left_out else ""
        raise ProjectionError(
            f"the runs do not tell of {' and of '.join(lacks)} at TP {tp}{said}",
            remedy="measure a disaggregated split with prompts of several lengths, such as isl='uniform:64-2048'",
        )


def _prefill_terms(rows: Sequence[Prefilled]) -> Array:
    tokens = np.array([row.tokens for row in rows])
    return np.stack([np.ones(len(rows)), tokens, tokens**2], axis=1)


def _decode_terms(rows: Sequence[Decoded]) -> Array:
    kv, context = np.array([row.active_kv_tokens for row in rows]), np.array([row.context_tokens for row in rows])
    return np.stack([np.ones(len(rows)), kv, kv / np.maximum(context, 1.0)], axis=1)


def _fit_prefill(rows: Sequence[Prefilled]) -> Array:
    return _relative_fit(_prefill_terms(rows), np.array([row.seconds for row in rows]))


def _fit_decode(rows: Sequence[Decoded]) -> Array:
    return _relative_fit(_decode_terms(rows), np.array([row.seconds for row in rows]))


def _relative_fit(terms: Array, seconds: Array) -> Array:
    """Least squares of relative errors; the most negative coefficient is left out, until none is."""
    kept = list(range(terms.shape[1]))
    scale = np.abs(terms).max(axis=0)
    weighed = terms / np.where(scale > 0, scale, 1.0) / seconds[:, None]
    while True:
        found, *_ = np.linalg.lstsq(weighed[:, kept], np.ones(len(seconds)), rcond=None)
        if len(kept) == 1 or float(found.min()) >= 0:
            break
        kept.pop(int(np.argmin(found)))
    whole = np.zeros(terms.shape[1])
    whole[kept] = found
    return np.asarray(whole / np.where(scale > 0, scale, 1.0), dtype=np.float64)


def _held_out(
    runs: Sequence[Sequence[_Row]], fit: Callable[[Sequence[_Row]], Array], terms: Callable[[Sequence[_Row]], Array], least: int
) -> HeldOutError | None:
    """Each run that has observations against a fit to all others: the mean relative error of each, then their mean and worst."""
    errors = []
    for at, mine in enumerate(runs):
        others = [row for other, rows in enumerate(runs) if other != at for row in rows]
        if mine and len(others) >= least:
            foretold = terms(mine) @ fit(others)
            measured = np.array([row.seconds for row in mine])
            errors.append(float(np.mean(np.abs(foretold / measured - 1))))
    return HeldOutError(sum(errors) / len(errors), max(errors), len(errors)) if errors else None


def _words(errors: Mapping[str, HeldOutError]) -> str:
    names = {"prefill": "prefill", "decode": "ITL"}
    known = [f"{names[name]} {error}" for name, error in errors.items()]
    return f"error on held-out runs: {'; '.join(known)}" if known else ""


def _axis(values: Sequence[float], points: int = _POINTS, beyond: float = 1.0) -> Array:
    """From the least that was seen to the most, or that many times the most."""
    low, high = max(1.0, min(values)), max(values) * beyond
    return np.unique(np.geomspace(low, max(high, low * 1.01), points))
