"""What people type: whatever it is, it reads back as it is written, or is refused with its name and a remedy."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.errors import SpecError
from labkit.spec import Durations, Lengths, Topology, Workload
from labkit.spec.arrivals import parse_profile

PARSERS = {"lengths": Lengths.parse, "durations": Durations.parse, "profile": parse_profile, "topology": Topology}
GOOD = {
    "lengths": ["512", "uniform:100-900", "normal:512,64.5", "lognormal:512,0.5", "empirical:128,900", "file:a b.txt", "trace"],
    "durations": ["0", "1.5", "uniform:1-5", "exponential:2", "normal:2,0.5", "lognormal:2,0.5", "empirical:0.5,2,9"],
    "profile": ["ramp:1-8", "burst:10@5/20", "burst:1-10@5/20", "step:0=1,30=4.25,60=0"],
    "topology": ["4A", "2A@tp4", "1P3D", "2P@tp2+1D@tp4"],
}
NOISE = st.sampled_from(
    [
        *"0123456789:,-.@/=+ APD_eE\u0663\uff15\u00b2\0\n\t",
        "nan",
        "inf",
        "1e9",
        "9" * 400,
        "0" * 30,
        "-1",
        "::",
        "empirical:",
        "tp0",
        "½",
    ]
)


@st.composite
def typed(draw: st.DrawFn) -> tuple[str, str]:
    """A grammar, and one of its texts to which something was done; or any text at all."""
    grammar = draw(st.sampled_from(sorted(GOOD)))
    if draw(st.integers(0, 4)) == 0:
        return grammar, draw(st.text(max_size=20))
    text = draw(st.sampled_from(GOOD[grammar]))
    for _ in range(draw(st.integers(0, 3))):
        at, to = draw(st.integers(0, len(text))), draw(st.integers(0, len(text)))
        text = text[:at] + draw(st.one_of(NOISE, st.just(""))) + text[max(at, to) if draw(st.booleans()) else at :]
    return grammar, text


@settings(max_examples=600)
@given(case=typed())
def test_a_text_reads_back_or_is_refused_by_name(case: tuple[str, str]):
    grammar, text = case
    try:
        meant = PARSERS[grammar](text)
    except SpecError as error:
        said = error.what, error.remedy
    else:
        said = ("read",)
        if meant is not None:
            assert PARSERS[grammar](str(meant)) == meant
            assert str(PARSERS[grammar](str(meant))) == str(meant)
    assert all(said)


@pytest.mark.parametrize(("grammar", "text"), [(grammar, text) for grammar, texts in GOOD.items() for text in texts])
def test_the_good_ones_are_written_as_they_are_and_blanks_do_not_matter(grammar: str, text: str):
    assert str(PARSERS[grammar](text)) == text
    if not text.startswith(("file:", "trace")):
        assert PARSERS[grammar](text.replace(":", ": ").replace(",", ", ")) == PARSERS[grammar](text)


ANYTHING = st.one_of(
    typed().map(lambda case: case[1]),
    st.integers(-3, 3),
    st.integers(),
    st.floats(),
    st.booleans(),
    st.none(),
    st.sampled_from(["served", "seeded", "chat", "poisson", "trace", 10**400, -0.0]),
    st.lists(st.integers(), max_size=2),
)


@settings(max_examples=400)
@given(
    values=st.dictionaries(st.sampled_from([*Workload.__dataclass_fields__]), ANYTHING, max_size=4),
    load=st.sampled_from([{"rate": 1.0}, {"concurrency": 2}, {"arrivals": "burst:1@1/2"}, {}]),
)
def test_a_workload_of_anything_survives_json_or_is_refused_by_name(values: dict[str, Any], load: dict[str, Any]):
    try:
        work = Workload(**{"requests": 5, **load, **values})
    except SpecError as error:
        said = error.what, error.remedy
    else:
        said = ("read",)
        assert Workload.from_dict(json.loads(json.dumps(work.to_dict()))) == work
        assert str(work)
        assert work.longest is None or work.longest >= 2
    assert all(said)
