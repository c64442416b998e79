"""What stands beside a mark across the charts: a word or two, since a dozen of them share a chart's width."""

from __future__ import annotations

import re
from typing import Final

from labkit.live.sample import LiveEvent

#: the amount of a load, in the words of ``Workload``
_AMOUNT: Final = re.compile(r"(?:^|, )((?:sample of )?trace [^,]+|[^,]*\b(?:req/s|conversations/s|concurrent)\b[^,]*)")
#: a pin that was given no name: number and split
_NUMBERED: Final = re.compile(r"^pin \d+: ")
_ENDED: Final = re.compile(r"^load \d+ sends nothing more$")


def label(event: LiveEvent) -> str:
    """An event in short; the tooltip has it whole.

    A load is told by how much is asked for, a re-split by the two splits, another event by what comes before its first colon, a
    fault in full.
    """
    if event.kind == "load":
        if _ENDED.match(event.text):
            return "load ends"
        _, _, asked = event.text.partition(": ")
        amount = _AMOUNT.search(asked)
        return amount.group(1).removesuffix(" poisson") if amount else event.text
    if event.kind == "note" and " is saturated: " in event.text:
        return "saturated"
    if event.kind == "pin" and _NUMBERED.match(event.text):
        return event.text.partition(": ")[0]
    if event.kind in ("resplit", "note"):
        return event.text.partition(": ")[0]
    return event.text
