"""What a stranger wrote is shown, and obeyed by no terminal."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labkit.errors import LabError
from labkit.harmless import harmless, harmless_json
from labkit.lab.telling import Lines
from tests.support.hostile import CONTROLS, obeyed

HOSTILE = f"a{CONTROLS}b"


def test_what_a_terminal_would_obey_is_written_out():
    assert harmless(HOSTILE) == r"a\x1b[2J\x1b]0;title\x07\x1b[8m\u202etxet\u2066\rover\x9b31m\x00\x08\x7f\ud800b"
    assert harmless("two\r\nlines\tand é, 漢字, 🙂, עברית") == "two\nlines\tand é, 漢字, 🙂, עברית"


@given(st.text(st.characters()))
def test_no_text_is_obeyed_and_what_is_printable_stays(text: str):
    assert not obeyed(harmless(text))
    if text.isprintable():
        assert harmless(text) == text


@given(st.text(st.characters()))
def test_json_says_the_same(text: str):
    written = harmless_json(json.dumps({"name": text}, ensure_ascii=False, indent=1))
    assert not obeyed(written)
    assert json.loads(written) == {"name": text}


def test_every_error_and_every_line_of_the_lab_is_harmless(capsys: pytest.CaptureFixture[str]):
    error = LabError(f"no {HOSTILE}", remedy=f"try {HOSTILE}")
    assert not obeyed(str(error) + error.what + error.remedy + "".join(map(str, error.args)))
    lines = Lines(over=False)
    lines(HOSTILE)
    lines.state(HOSTILE, 10**12)
    assert not obeyed(capsys.readouterr().out)
