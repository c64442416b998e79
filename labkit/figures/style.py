"""The one visual language: colours, fonts, sizes. Colours stay apart under the common colour-vision deficiencies.

A role has one hue everywhere (aggregated green, prefill amber, decode blue), a side of a comparison has the hue of its topology.
"""

from __future__ import annotations

import colorsys
from collections.abc import Iterable, Sequence
from typing import Final

from labkit.errors import LabError
from labkit.spec.topology import Role, Topology

AGGREGATED: Final = "#029E73"
PREFILL: Final = "#DE8F05"
DECODE: Final = "#0173B2"
DISAGGREGATED: Final = "#7A4CB8"
UNKNOWN: Final = "#6B7280"

ROLE: Final[dict[str, str]] = {Role.AGGREGATED: AGGREGATED, Role.PREFILL: PREFILL, Role.DECODE: DECODE}
#: phases of a request in the prefill/decode timeline
QUEUE: Final = "#B8BEC7"
DECODE_LIGHT: Final = "#8FC3E6"
STALL: Final = "#B3123B"

BETTER: Final = "#0173B2"
WORSE: Final = "#C2410C"
OPEN: Final = "#6B7280"

INK: Final = "#1F2430"
SOFT: Final = "#5B6472"
GRID: Final = "#E3E6EA"
FAINT: Final = "#9AA1AC"
PAPER: Final = "#FFFFFF"

#: More topologies of one kind than one: further hues, in order, as many as a pool of 16 workers has splits. After the first few
#: each is what lies furthest in OKLab from those before it (0.06 or more), seen on white and on black (2.2 : 1), and no alarm.
_MORE_AGGREGATED: Final = (
    AGGREGATED, "#7FB800", "#00637C", "#A3A500", "#656902", "#73B5A8", "#918957", "#2D8810",
    "#287B60", "#B8AF7C", "#016826", "#41C17D", "#03AD24", "#488D93", "#6D9821", "#79A56F",
)  # fmt: skip
_MORE_DISAGGREGATED: Final = (
    DISAGGREGATED, "#D0569A", "#3B82C4", "#A65628", "#56B4E9", "#EE87FB", "#014BEE", "#EB9192",
    "#BF4FFC", "#9D1577", "#A486CF", "#754D6C", "#B60BBB", "#6B68F9", "#FA49D0", "#2D519C",
)  # fmt: skip

TITLE_PT: Final = 13.0
PANEL_PT: Final = 10.0
TEXT_PT: Final = 9.0
SMALL_PT: Final = 8.0
DPI: Final = 160


def topology_colors(sides: Iterable[tuple[str, str]]) -> dict[str, str]:
    """A colour for each side from ``(side, topology text)``: aggregated greens, disaggregated violets, unknown grey."""
    colors: dict[str, str] = {}
    used = {True: 0, False: 0}
    for side, text in sides:
        if side in colors:
            continue
        try:
            split = Topology(text).is_disaggregated
        except LabError:
            colors[side] = UNKNOWN
            continue
        colors[side] = _of_family(_MORE_DISAGGREGATED if split else _MORE_AGGREGATED, used[split])
        used[split] += 1
    return colors


def _of_family(family: Sequence[str], number: int) -> str:
    """The colours of a family in order, then the same again in ever lighter shades: no two are alike."""
    turn, at = divmod(number, len(family))
    return shades(family[at], turn + 1)[turn] if turn else family[at]


def shades(color: str, count: int) -> list[str]:
    """``count`` lightnesses of one hue, the given colour first: workers of one role."""
    red, green, blue = (int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))
    hue, light, saturation = colorsys.rgb_to_hls(red, green, blue)
    steps = [light + (0.82 - light) * i / max(count, 2) for i in range(count)]
    return ["#" + "".join(f"{round(c * 255):02X}" for c in colorsys.hls_to_rgb(hue, step, saturation)) for step in steps]
