"""How long a drain is waited for by default."""

from __future__ import annotations

import pytest

from labkit.serve.drain import Draining, sensible_limit_s


@pytest.mark.parametrize(
    ("mean_s", "ends", "limit_s"),
    [
        (None, False, 120.0),
        (None, True, 600.0),
        (0.5, False, 30.0),
        (0.5, True, 60.0),
        (25.0, False, 75.0),
        (25.0, True, 75.0),
        (90.0, False, 120.0),
        (90.0, True, 270.0),
        (900.0, True, 600.0),
    ],
)
def test_three_times_what_requests_take_within_bounds(mean_s: float | None, ends: bool, limit_s: float):
    assert sensible_limit_s(mean_s, ends=ends) == limit_s


def test_it_is_told_in_words():
    assert str(Draining("router1", 3, 12.4, 75.0, ("w0", "w1"))) == (
        "draining: 3 requests left on router1, 12 s of at most 75 s; then w0, w1 end"
    )
