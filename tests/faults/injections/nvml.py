"""NVML that starts to answer with an error in the middle of an experiment, for one GPU or all; some come back.

The library is a stand-in (``tests/support/fake_nvml``): a file that the blow writes tells it at every call what to do.
"""

from __future__ import annotations

import random
import re
import shutil
import subprocess
import threading
from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import Any

from tests.faults import truth
from tests.faults.expectation import UNHARMED, Expectation
from tests.faults.injection import Injection
from tests.faults.setting import EngineName
from tests.faults.stage import ROOT, Moment, Stage

_SOURCE = ROOT / "tests" / "support" / "fake_nvml" / "fake_nvml.c"
_GPUS = 2
_BACK_S = 3.5
#: The sampler reads ten times a second; what it tells reaches the lab four times a second; the machine may be busy.
_NOTICED_S = 2.0
_HANG_MS = 5000


@dataclass(frozen=True, kw_only=True)
class NvmlError(Injection):
    """Every call returns an error from the blow on.

    Attributes:
        code: of NVML.
        words: that must be said of it.
        whole: for all GPUs at once, and NVML itself; otherwise for one, or all, as it is drawn.
        hangs: calls do not return for some seconds, in the place of an error.
        comes_back: the error ends after some seconds.
    """

    code: int = 0
    words: str
    whole: bool = False
    hangs: bool = False
    comes_back: bool = False
    moments: tuple[Moment, ...] = ("loading", "resplitting")
    engines: tuple[EngineName, ...] = ("stand-ins",)
    setting: dict[str, Any] = field(default_factory=lambda: {"gpus": _GPUS})

    def prepare(self, stage: Stage, rng: random.Random) -> None:
        compiler = shutil.which("gcc") or shutil.which("cc")
        assert compiler is not None, "needs a C compiler"
        folder = stage.setting.folder / "nvml"
        folder.mkdir()
        library, config = folder / "libnvidia-ml.so.1", folder / "config.txt"
        subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(_SOURCE)], check=True)
        config.write_text("")
        stage.alter(env={**stage.setting.env, "LD_LIBRARY_PATH": str(folder), "FAKE_NVML": str(config)})

    def strike(self, stage: Stage, moment: Moment, rng: random.Random) -> None:
        config = stage.setting.folder / "nvml" / "config.txt"
        which = "*" if self.whole else rng.choice([f"*:{gpu}" for gpu in range(_GPUS)])
        stage.notes.append(which)
        stage.strike()
        config.write_text(f"hang nvmlDeviceGetPowerUsage {_HANG_MS}\n" if self.hangs else f"error {which} {self.code}\n")
        if self.comes_back or self.hangs:
            timer = threading.Timer(_BACK_S, config.write_text, [""])
            timer.daemon = True
            timer.start()
            stage.afterwards(timer.cancel)

    def expects(self, stage: Stage, moment: Moment) -> Expectation:
        lasts = not (self.comes_back or self.hangs) and self._seconds(stage) > _NOTICED_S
        return replace(UNHARMED, cause=(rf"gpu\d is not read: .*{self.words}",) if lasts else (), remedy=lasts)

    def examine(self, stage: Stage) -> list[str]:
        if stage.run is None or stage.struck_ns is None:
            return []
        seconds = self._seconds(stage)
        if seconds < _NOTICED_S:
            return []
        which = stage.notes[0]
        hit = [f"gpu{gpu}" for gpu in range(_GPUS) if self.hangs or which in ("*", f"*:{gpu}")]
        told = [str(row["text"]) for row in truth.events(stage.run)]
        found = []
        for gpu in hit:
            if not any(re.search(rf"{gpu}\b.*: .*{self.words}.* → ", text) for text in told):
                found.append(
                    f"the run does not say with its remedy that {gpu} has {self.words!r}: {[t for t in told if 'gpu' in t]}"
                )
        back_s = _HANG_MS / 1000 * 2 * _GPUS if self.hangs else _BACK_S + _NOTICED_S * 2
        back = (self.comes_back or self.hangs) and seconds > back_s + _NOTICED_S
        if back:
            found += [
                f"{gpu} is back, and that is not said"
                for gpu in hit
                if not any(re.search(rf"\b{gpu}\b.*: answers again", t) for t in told)
            ]
        return [*found, *self._readings(stage, hit, back_s if back else None)]

    def _readings(self, stage: Stage, hit: list[str], back_s: float | None) -> list[str]:
        """No value of a GPU that does not answer, least of all 0; those of the others go on."""
        assert stage.run is not None
        assert stage.struck_ns is not None
        power: dict[str, list[float]] = defaultdict(list)
        found = []
        for table in truth.tables(stage.run, "samples"):
            for row in table.to_pylist():
                source, t_s = str(row["source"]), (row["t_ns"] - stage.struck_ns) / 1e9
                if source.startswith("gpu") and row["metric"] == "power_w":
                    power[source].append(t_s)
                    if row["value"] == 0:
                        found.append(f"{source} has a power of 0 at {t_s:.1f} s")
        end_s = self._seconds(stage)
        for source in (f"gpu{gpu}" for gpu in range(_GPUS)):
            before, after = [t for t in power[source] if t < 0], [t for t in power[source] if t > 0.5]
            if not before:
                found.append(f"{source} was never read before the blow")
            if source not in hit and (not after or max(after) < end_s - _NOTICED_S):
                found.append(f"{source} was not hit and is read no more")
            if source in hit and not self.hangs and [t for t in after if t < min(end_s, _BACK_S)]:
                found.append(f"{source} does not answer, and has values")
            if source in hit and back_s is not None and (not after or max(after) < back_s - _NOTICED_S):
                found.append(f"{source} answers again, and is not read")
        return found

    def _seconds(self, stage: Stage) -> float:
        """From the blow to the end of the measurement."""
        assert stage.struck_ns is not None
        ending = stage.last("ending")
        last_ns: int = ending["t_ns"] if ending else stage.states[-1]["t_ns"]
        return (last_ns - stage.struck_ns) / 1e9


_ERRORS = {
    "lost": (15, "a GPU falls off the bus", "the GPU is lost", False),
    "reset": (16, "a GPU needs a reset", "the GPU needs a reset", False),
    "permission": (4, "a GPU may not be read any more", "no permission", False),
    "unsupported": (3, "a GPU reports nothing any more", "does not report it", False),
    "mismatch": (18, "the driver is replaced under way", "differ in version", True),
    "unloaded": (9, "the driver is unloaded", "not loaded", True),
    "unknown": (999, "NVML's unknown error", "unknown error", False),
    "timeout": (10, "a GPU does not answer in time", "does not answer in time", False),
    "uninitialised": (1, "NVML is uninitialised", "not initialised", True),
    "library": (12, "NVML's library vanishes", "library not found", True),
    "function": (13, "NVML knows its functions no more", "does not know it", True),
}
_LONG: dict[str, Any] = {"gpus": _GPUS, "answers": 160}

INJECTIONS: tuple[Injection, ...] = (
    *(
        NvmlError(name=f"nvml-{name}", what=f"NVML: {what}", code=code, words=words, whole=whole)
        for name, (code, what, words, whole) in _ERRORS.items()
    ),
    *(
        NvmlError(
            name=f"nvml-{name}-back", what=f"NVML: {_ERRORS[name][1]}, for {_BACK_S:g} s", code=_ERRORS[name][0],
            words=_ERRORS[name][2], whole=_ERRORS[name][3], comes_back=True, moments=("loading",), setting=_LONG,
        )
        for name in ("lost", "permission", "mismatch", "uninitialised")
    ),
    NvmlError(
        name="nvml-hang", what=f"NVML: a call takes {_HANG_MS / 1000:g} s", words="does not return", hangs=True,
        moments=("loading",), setting={**_LONG, "answers": 300},
    ),
)  # fmt: skip
