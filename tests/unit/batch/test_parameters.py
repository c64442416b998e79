import ast
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labkit.batch.parameters import Parameter, checked, parameters_of
from labkit.errors import SpecError


def notebook(source: str, tags: tuple[str, ...] = ("parameters",)) -> dict[str, Any]:
    cells = [
        {"cell_type": "markdown", "source": "# x", "metadata": {"tags": ["parameters"]}},
        {"cell_type": "code", "source": source, "metadata": {"tags": list(tags)}},
    ]
    return {"cells": cells}


SOURCE = '''"""What to measure."""
rate: float | None = 1.5  # requests/s, as in rate=2
repeats = 3
side = "1P1D"  # "2A"
slow = False
model = None
sides = ["2A",
         "1P1D"]
options = {"tp": 1}
offset = -2
'''


def test_the_cell_is_read_whatever_its_comments():
    found = parameters_of(notebook(SOURCE))
    assert [parameter.default for parameter in found.values()] == [1.5, 3, "1P1D", False, None, ["2A", "1P1D"], {"tp": 1}, -2]
    assert [name for name, parameter in found.items() if parameter.optional] == ["rate", "model"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("rate=2", 2.0), ("rate=None", None), ("repeats=5", 5), ("side=2P@tp2+1D", "2P@tp2+1D"), ("side=3", "3"), ("side=", ""),
        ("slow=true", True), ("slow=0", False), ("model=llama-3.1-8b", "llama-3.1-8b"), ("model=None", None), ("model=8", 8),
        ("model=uniform:100-900", "uniform:100-900"), ("sides=4A,2P2D", ["4A", "2P2D"]), ('sides=["4A", 1]', ["4A", 1]),
        ('options={"tp": 2}', {"tp": 2}), ("offset=-3", -3), ("side=a=b", "a=b"),
    ],
)  # fmt: skip
def test_a_value_has_the_type_of_its_default(text: str, value: object):
    (found,) = checked(parameters_of(notebook(SOURCE)), [text]).values()
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("repeats=abc", "parameter repeats = 'abc' is not a whole number"),
        ("repeats=2.5", "not a whole number"),
        ("repeats=None", "not a whole number"),
        ("rate=fast", "not a number"),
        ("rate=nan", "not a number"),
        ("slow=maybe", "not true or false"),
        ("sides=[1", "not a list"),
        ("options=[1]", "not a JSON object"),
        ("repeats", "has no value"),
        ("=3", "has no value"),
    ],
)
def test_another_type_is_one_clear_error(text: str, message: str):
    with pytest.raises(SpecError) as caught:
        checked(parameters_of(notebook(SOURCE)), [text])
    assert message in caught.value.what


def test_an_unknown_name_lists_those_there_are_with_their_defaults():
    with pytest.raises(SpecError) as caught:
        checked(parameters_of(notebook(SOURCE)), ["repeat=1"])
    assert caught.value.what == "unknown parameter 'repeat'"
    assert "did you mean repeats?" in caught.value.remedy
    assert "rate=1.5, repeats=3, side='1P1D'" in caught.value.remedy


def test_a_notebook_without_the_cell_takes_none():
    assert parameters_of(notebook("a = 1", tags=())) == {}
    with pytest.raises(SpecError, match="takes none"):
        checked({}, ["a=1"])


@pytest.mark.parametrize("source", ["import os", "x = f()", "x = 1 +", "a, b = 1, 2", "x = {1, 2}", "x += 1"])
def test_a_cell_of_other_things_than_literals_is_refused_and_never_executed(source: str):
    with pytest.raises(SpecError):
        parameters_of(notebook(source))


@given(st.text())
def test_a_text_is_taken_as_it_is(text: str):
    assert Parameter("side", "1P1D").read(text) == text


@given(st.text())
def test_without_a_type_any_text_means_something_that_can_be_a_literal(text: str):
    assert isinstance(Parameter("model", None).read(text), str | int | float | bool | list | dict | None)


@pytest.mark.parametrize("text", ["model=http://me:hunter2hunter2@host/", "model=sk-hunter2hunter2", "api_key=hunter2hunter2"])
def test_a_secret_is_refused_since_the_executed_notebook_keeps_its_parameters(text: str):
    with pytest.raises(SpecError, match="holds a secret") as caught:
        checked(parameters_of(notebook(SOURCE + "api_key = None\n")), [text])
    assert "hunter2" not in str(caught.value)


CODE = '__import__("os").system("touch PWNED")'


@pytest.mark.parametrize("name", ["side", "model"])
@pytest.mark.parametrize(
    "value",
    [
        CODE, "!!python/object/apply:os.system ['touch PWNED']", f"'''; {CODE} #",
        f'"; {CODE} #', f"\\'; {CODE} #", "{{x}}", f"\n{CODE}",
    ],
)  # fmt: skip
def test_code_is_a_text_and_comes_out_as_the_literal_that_papermill_writes(name: str, value: str):
    """papermill's own ``-y`` and ``-r`` are no options of ours; what is handed to it is written as one literal."""
    from papermill.translators import PythonTranslator

    (found,) = checked(parameters_of(notebook(SOURCE)), [f"{name}={value}"]).values()
    assert found == value
    (statement,) = ast.parse(PythonTranslator.codify({name: found})).body
    assert isinstance(statement, ast.Assign)
    assert ast.literal_eval(statement.value) == value


@pytest.mark.parametrize(
    "item", ["repeats=(2).__class__", "rate=1e3+1", "slow=not 1", 'options={"a": open("x")}', "sides=[open('x')]"]
)
def test_what_would_have_to_be_computed_is_refused(item: str):
    with pytest.raises(SpecError, match="is not"):
        checked(parameters_of(notebook(SOURCE)), [item])


@pytest.mark.parametrize("item", [f"side\n{CODE}=1", "__class__=1", "side;import os=1", "-y=1"])
def test_a_name_that_is_no_parameter_is_no_code_either(item: str):
    with pytest.raises(SpecError, match="unknown parameter"):
        checked(parameters_of(notebook(SOURCE)), [item])


@pytest.mark.parametrize("item", ["options=" + '{"a":' * 100_000, "sides=" + "[" * 100_000, "offset=" + "9" * 10_000])
def test_a_value_that_is_a_bomb_is_one_clear_error(item: str):
    with pytest.raises(SpecError, match="is not") as caught:
        checked(parameters_of(notebook(SOURCE)), [item])
    assert len(str(caught.value)) < 1000


def test_a_text_that_nests_too_deep_is_a_text():
    item = "[" * 100_000
    assert checked(parameters_of(notebook(SOURCE)), [f"model={item}"]) == {"model": item}
