"""How a lab's run ends: finished, interrupted or failed, with the reason, and never with a process left."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, suppress
from typing import Any

from labkit.errors import HardwareError, LabError, LaunchError, SpecError, StoreError
from labkit.measure.metrics import summarise
from labkit.spec import Slo
from labkit.store.run import Run


def close_all(parts: Iterable[Callable[[], None]]) -> None:
    """Call each, the last one first; an error or Ctrl-C in one does not keep the next from ending."""
    with ExitStack() as stack:
        for part in parts:
            stack.callback(part)


def finish(run: Run, slo: Slo, error: BaseException | None, progress: Callable[[str], None]) -> None:
    """Close the run of a lab that served, with a summary of what was measured."""
    if error is None:
        run.write_summary(_summaries(run, slo))
        run.finish()
        return
    interrupted = isinstance(error, KeyboardInterrupt)
    with suppress(StoreError):  # a full disk, say, has been told by the first error
        run.write_summary(_summaries(run, slo))
        run.finish("interrupted" if interrupted else "failed", reason="interrupted" if interrupted else str(error))
    if interrupted:
        progress(f"interrupted; what was recorded is in {run.path}")


def closed(run: Run) -> LaunchError:
    """What is said to who asks something of a lab that has ended."""
    return LaunchError(f"this lab is closed; its run is {run.path}", remedy="launch a new one with Lab(model, topology)")


def give_up(run: Run, error: BaseException) -> None:
    """Close the run of a lab whose launch failed: it says why. Where nothing could be started it goes too."""
    if isinstance(error, SpecError | HardwareError | StoreError):
        run.discard()
    elif isinstance(error, KeyboardInterrupt):
        run.finish("interrupted", reason="interrupted")
    else:
        run.finish("failed", reason=error.what if isinstance(error, LabError) else repr(error))


def _summaries(run: Run, slo: Slo) -> Mapping[str, Any]:
    records = run.digest()
    return {str(w.measurement): summarise(records, w, slo=slo).to_dict() for w in run.windows}
