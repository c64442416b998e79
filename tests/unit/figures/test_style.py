"""A colour stands for one topology, and is seen on white and on black."""

from __future__ import annotations

import itertools
import math

import pytest
from matplotlib.colors import to_rgb

from labkit.figures import style
from labkit.spec.topology import splits

#: grounds of the charts: paper, and a card of a page in the dark
GROUNDS = (style.PAPER, "#1b1e24")
#: a difference in OKLab that is seen between points apart from each other; a just-noticeable one is 0.02
LEAST_APART = 0.04


def linear(color: str) -> tuple[float, float, float]:
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(color))
    return red, green, blue


def oklab(color: str) -> tuple[float, float, float]:
    """Ottosson (2020)."""
    r, g, b = linear(color)
    l, m, s = (  # noqa: E741
        math.cbrt(x * r + y * g + z * b)
        for x, y, z in (
            (0.4122214708, 0.5363325363, 0.0514459929),
            (0.2119034982, 0.6806995451, 0.1073969566),
            (0.0883024619, 0.2817188376, 0.6299787005),
        )
    )
    return (
        0.2104542553 * l + 0.7936177850 * m - 0.0040720468 * s,
        1.9779984951 * l - 2.4285922050 * m + 0.4505937099 * s,
        0.0259040371 * l + 0.7827717662 * m - 0.8086757660 * s,
    )


def contrast(color: str, ground: str) -> float:
    """The ratio of WCAG 2."""
    light, dark = sorted(
        (sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear(one), strict=True)) for one in (color, ground)), reverse=True
    )
    return (light + 0.05) / (dark + 0.05)


def of_pool(workers: int) -> list[str]:
    found = [str(one) for one in splits(workers)]
    return list(style.topology_colors((one, one) for one in found).values())


@pytest.mark.parametrize("workers", [4, 8, 16])
def test_every_split_of_a_pool_has_a_colour_of_its_own(workers: int):
    colors = of_pool(workers)
    assert len(set(colors)) == len(colors) == workers, f"{workers}A, and from 1P{workers - 1}D on"
    apart = {pair: math.dist(*map(oklab, pair)) for pair in itertools.combinations(colors, 2)}
    assert {pair: d for pair, d in apart.items() if d < LEAST_APART} == {}


def test_pools_of_every_size_have_colours_of_their_own_beside_each_other():
    sides = [f"{n}A" for n in range(1, 17)] + [f"{n}P{16 - n}D" for n in range(1, 16)]
    colors = list(style.topology_colors((side, side) for side in sides).values())
    assert len(set(colors)) == len(sides)
    assert style.UNKNOWN not in colors
    assert min(math.dist(*map(oklab, pair)) for pair in itertools.combinations(colors, 2)) > LEAST_APART
    many = [f"{p}P{d}D" for p in range(1, 9) for d in range(1, 9)]
    assert len(set(style.topology_colors((side, side) for side in many).values())) == len(many)


def test_every_colour_of_a_topology_is_seen_on_white_and_on_black():
    sides = [f"{n}A" for n in range(1, 17)] + [f"{n}P{16 - n}D" for n in range(1, 16)]
    for color in style.topology_colors((side, side) for side in sides).values():
        assert min(contrast(color, ground) for ground in GROUNDS) > 2, color


def test_the_first_topologies_keep_the_colours_that_they_had():
    sides = ["4A", "2A", "8A", "1A", "1P3D", "2P2D", "3P1D", "1P1D", "1P2D"]
    assert list(style.topology_colors((side, side) for side in sides).values()) == [
        style.AGGREGATED, "#7FB800", "#00637C", "#A3A500", style.DISAGGREGATED, "#D0569A", "#3B82C4", "#A65628", "#56B4E9",
    ]  # fmt: skip
