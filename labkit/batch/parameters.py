"""Parameters of a notebook: what its first cell tagged ``parameters`` assigns, and values for them from a command line.

Values are data. The cell is parsed and never executed, a value is read by the type of the default that it replaces, and
papermill writes it back as a literal.
"""

from __future__ import annotations

import ast
import difflib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from labkit.errors import SpecError
from labkit.store.redact import is_secret_name, redact_text

TAG: Final = "parameters"
_LONGEST: Final = 200
_WORDS: Final = {"None": None, "null": None, "True": True, "true": True, "False": False, "false": False}
_TRUE: Final = {"True": True, "true": True, "yes": True, "1": True, "False": False, "false": False, "no": False, "0": False}


@dataclass(frozen=True, slots=True)
class Parameter:
    """One assignment of the parameters cell.

    Attributes:
        name, default: as assigned.
        optional: whether ``None`` is a value too: the default is ``None``, or its annotation says so.
    """

    name: str
    default: Any
    optional: bool = False

    def read(self, text: str) -> Any:
        """The value that a text means for this parameter.

        Raises:
            SpecError: it is not of the type of the default.
        """
        if self.optional and text in ("None", "null"):
            return None
        kind = type(self.default)
        reader, wanted = _READERS[kind]
        try:
            return reader(text)
        except ValueError:
            shown = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
            raise SpecError(
                f"parameter {self.name} = {shown!r} is not {wanted}", remedy=f"its default is {self.default!r}: give {wanted}"
            ) from None

    def __str__(self) -> str:
        return f"{self.name}={self.default!r}"


def parameters_of(notebook: Mapping[str, Any]) -> dict[str, Parameter]:
    """The parameters of a notebook in their order; empty where no code cell is tagged ``parameters``.

    Raises:
        SpecError: the cell holds something other than assignments of literals.
    """
    cells = (cell for cell in notebook["cells"] if cell["cell_type"] == "code")
    cell = next((cell for cell in cells if TAG in cell.get("metadata", {}).get("tags", [])), None)
    if cell is None:
        return {}
    source = "".join(cell["source"])
    try:
        statements = ast.parse(source).body
    except SyntaxError as error:
        raise SpecError(
            f"the parameters cell cannot be parsed: {error.msg} in line {error.lineno}",
            remedy="let it assign literals: rate = 1.5",
        ) from None
    found = [_parameter(statement) for statement in statements if not _is_docstring(statement)]
    return {parameter.name: parameter for parameter in found}


def checked(parameters: Mapping[str, Parameter], given: Sequence[str]) -> dict[str, Any]:
    """Values for ``name=value`` texts, each of the type of its default; the last of a name wins.

    Raises:
        SpecError: no ``=``, an unknown name, a value of another type, or a secret.
    """
    values: dict[str, Any] = {}
    for item in given:
        name, equals, text = item.partition("=")
        name = name.strip()
        if not equals or not name:
            raise SpecError(f"parameter {item!r} has no value", remedy="write -p name=value")
        if name not in parameters:
            raise SpecError(f"unknown parameter {name!r}", remedy=_known(parameters, name))
        if is_secret_name(name) or redact_text(text) != text:
            raise SpecError(
                f"parameter {name} holds a secret, and the executed notebook keeps its parameters",
                remedy="export it as a variable (OPENAI_API_KEY, HF_TOKEN, …); the notebook's kernel has this shell's",
            )
        values[name] = parameters[name].read(text)
    return values


def _known(parameters: Mapping[str, Parameter], name: str) -> str:
    if not parameters:
        return "this notebook takes none: no code cell is tagged 'parameters'"
    close = difflib.get_close_matches(name, parameters, 1)
    meant = f"did you mean {close[0]}? " if close else ""
    return f"{meant}It takes (with their defaults): {', '.join(map(str, parameters.values()))}"


def _parameter(statement: ast.stmt) -> Parameter:
    match statement:
        case ast.Assign(targets=[ast.Name(id=name)], value=value):
            annotation = ""
        case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
            annotation = ast.unparse(statement.annotation)
        case _:
            raise SpecError(
                f"line {statement.lineno} of the parameters cell is no assignment: {ast.unparse(statement)[:60]}",
                remedy="keep only assignments of literals in it: rate = 1.5",
            )
    try:
        default = ast.literal_eval(value)
    except (ValueError, TypeError):
        default = ...
    if type(default) not in _READERS:
        raise SpecError(
            f"parameter {name} of the notebook is {ast.unparse(value)[:60]}: no literal that a command line can replace",
            remedy="use None, a truth value, a number, a text, a list or a dict, and compute with it in a later cell",
        )
    return Parameter(name, default, default is None or "None" in annotation or "Optional" in annotation)


def _is_docstring(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _bool(text: str) -> bool:
    if text not in _TRUE:
        raise ValueError
    return _TRUE[text]


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError
    return value


def _scalar(text: str) -> Any:
    """Of a parameter whose default says no type: None, a truth value, a number, JSON's list or object, else the text itself."""
    if text in _WORDS:
        return _WORDS[text]
    for reader in (int, _finite, _list, _dict):
        try:
            return reader(text)
        except ValueError:
            continue
    return text


def _json(text: str) -> Any:
    def refuse(word: str) -> None:
        raise ValueError(word)

    try:
        return json.loads(text, parse_constant=refuse)
    except RecursionError:
        raise ValueError from None


def _list(text: str) -> list[Any]:
    value = _json(text)
    if not isinstance(value, list):
        raise ValueError
    return value


def _words(text: str) -> list[Any]:
    """``[1, 2]`` as JSON, or ``2A,1P1D`` as words and numbers."""
    return _list(text) if text.lstrip().startswith("[") else [_scalar(word.strip()) for word in text.split(",") if word.strip()]


def _dict(text: str) -> dict[str, Any]:
    value = _json(text)
    if not isinstance(value, dict):
        raise ValueError
    return value


_READERS: Final[dict[type, tuple[Callable[[str], Any], str]]] = {
    str: (str, "a text"),
    bool: (_bool, "true or false"),
    int: (int, "a whole number"),
    float: (_finite, "a number"),
    type(None): (_scalar, "a value"),
    list: (_words, 'a list, such as 2A,1P1D or ["2A", "1P1D"]'),
    dict: (_dict, 'a JSON object, such as {"a": 1}'),
}
