"""What a reader must know of a window on simulated workers: that it is simulated, and whether the machine kept up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from labkit.measure.mark import Mark
from labkit.measure.records import Window

#: Stands before everything that is said of simulated workers.
HEAD: Final = "Simulated, not measured: "
#: A mean ITL longer by more than this than the profile's is late tokens, and not the model's doing.
MOST_OFF: Final = 0.10
#: The 99th percentile of gaps on workers that decode alone, in mean gaps by the profile.
MOST_TAIL: Final = 2.5
#: Where prefills stand between tokens, how they fall together is not in the formula.
MOST_OFF_AGGREGATED: Final = 0.25


def is_simulated(manifest: Mapping[str, Any]) -> bool:
    """Whether the workers of a run computed nothing."""
    return isinstance(manifest.get("simulated"), Mapping)


def simulated_head(accelerator: str) -> str:
    """What a finding begins with whose workers compute on accelerators of this name (``Window.accelerator``); often nothing."""
    return HEAD if accelerator.startswith("simulated ") else ""


def simulated_marks(manifest: Mapping[str, Any], window: Window) -> list[Mark]:
    """Nothing for a run on real workers."""
    if not is_simulated(manifest):
        return []
    held = manifest["simulated"]
    profiles = held.get("profiles") or [{}]
    slow = float(profiles[0].get("stretch") or 1.0)
    said = f"simulated, not measured: the workers compute nothing and take the times of a profile ({profiles[0].get('source')}"
    said += f"; {profiles[0]['error']})" if profiles[0].get("error") else "; its error is unknown)"
    if slow != 1:
        said += f", in slow motion: divide times by {slow:g}, and multiply rates by it"
    found = [Mark("simulated", said)]
    judged = (held.get("windows") or {}).get(str(window.measurement)) or {}
    measured, meant = judged.get("itl_s"), judged.get("itl_by_profile_s")
    if measured and meant and measured / meant - 1 > float(judged.get("most_off") or MOST_OFF):
        text = f"ITL is {measured * 1e3:.3g} ms, and by the timing profile it should be {meant * 1e3:.3g} ms under this load"
        found.append(Mark("distorted", f"{text}: this machine lengthens the simulated times"))
    elif (tail := judged.get("itl_p99_s")) and meant and tail > MOST_TAIL * meant:
        text = f"ITL p99 is {tail * 1e3:.3g} ms where a step takes {meant * 1e3:.3g} ms by the timing profile"
        found.append(Mark("distorted", f"{text}: the longest gaps are this machine's"))
    return found
