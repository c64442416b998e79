import re

import pytest

from labkit.measure.transport import LATE_S, Transport
from labkit.measure.validity import marks_of
from tests.support.handmade import SECOND, records, steady, window


@pytest.mark.parametrize(
    ("found", "severity", "words"),
    [
        (Transport(0.001, 0.041, tls=False), "note", "41 ms late here.*labkit opens a connection for each request"),
        (Transport(0.001, 0.041, tls=True), "note", "41 ms late here.*labkit acknowledges every read at once"),
        (Transport(0.039, 0.041, tls=True), "warning", "by 39 ms on labkit's kept connections.*TCP_NODELAY"),
        (Transport(0.039, None, tls=False), "warning", "by 39 ms on labkit's fresh connections"),
    ],
)
def test_who_sees_the_delay_decides_what_is_said(found, severity, words):
    assert found.mark is not None
    assert (found.mark.kind, found.mark.severity) == ("transport", severity)
    assert re.search(words, found.mark.text)


def test_what_is_not_late_or_not_known_has_no_mark():
    assert Transport(LATE_S / 2, LATE_S / 2, tls=False).mark is None
    assert Transport(None, None, tls=True).mark is None


def test_a_runs_marks_hold_what_its_manifest_says_of_the_transport():
    rows = records([steady(n, first_ms=100 + n % 7) for n in range(120)])
    bounds = window(stop_ns=200 * SECOND, end_ns=201 * SECOND)
    told = {"transport": Transport(0.04, None, tls=True).to_dict(), "kind": "import", "source": {"tool": "x"}}
    assert [mark.kind for mark in marks_of(rows, bounds, told)] == ["transport", "imported"]
    assert marks_of(rows, bounds, {}) == []
    assert marks_of(rows, bounds, {"transport": {"late_s": "much", "kept_late_s": None}}) == []
