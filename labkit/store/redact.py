"""Secrets stay out of run folders: keys, tokens and passwords are cut from whatever goes into a manifest."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Final

REDACTED: Final = "[redacted]"

_SECRET: Final = r"(?:api[-_]?key|access[-_]?key|private[-_]?key|passw(?:or)?d|secret|authorization|credentials?)"
_SECRET_NAME: Final = re.compile(rf"{_SECRET}|(?:^|[-_. ])(?:auth|bearer|cookie|passphrase)$", re.IGNORECASE)
#: ``hf_token`` and ``--token`` are secrets; ``eos_token`` and ``energy_j_per_token`` are words of the field.
_TOKEN_NAME: Final = re.compile(r"(?:^|[-_. ]|(?<=[a-z])(?=T))token$", re.IGNORECASE)
_HARMLESS_TOKEN: Final = re.compile(
    r"(?:bos|eos|pad|unk|sep|cls|mask|stop|image|first|last|next|per|max|min|output|prompt)[-_. ]token$", re.IGNORECASE
)

_ASSIGNED: Final = re.compile(
    r"(?P<name>[A-Za-z_][\w-]*)(?P<sign>[\"']?\s*[:=]\s*)(?:(?:bearer|basic)\s+)?(?P<value>\"[^\"]*\"|'[^']*'|[^\s\"',;}\]]+)",
    re.IGNORECASE,
)
_SHAPES: Final = re.compile(
    r"\b(?:sk-[\w-]{12,}|hf_[A-Za-z0-9]{12,}|gh[pousr]_[A-Za-z0-9]{16,}|github_pat_\w{16,}|nvapi-[\w-]{12,}|AKIA[A-Z0-9]{12,})"
    r"|(?<=bearer )\S+",
    re.IGNORECASE,
)
_USERINFO: Final = re.compile(r"(?P<scheme>\b[a-z][a-z0-9+.-]*://)[^/\s@\"']+@", re.IGNORECASE)
_QUERY: Final = re.compile(r"(?P<url>\b[a-z][a-z0-9+.-]*://[^\s?#\"']*)\?[^\s#\"']+", re.IGNORECASE)


#: A shorter value of a variable is a word that others use too.
_LEAST: Final = 8


@lru_cache(maxsize=4096)
def is_secret_name(name: str) -> bool:
    """Whether a key, flag or variable of this name holds a secret: ``OPENAI_API_KEY`` does, ``max_tokens`` does not."""
    bare = name.strip().lstrip("-")
    return bool(_SECRET_NAME.search(bare)) or (bool(_TOKEN_NAME.search(bare)) and not _HARMLESS_TOKEN.search(bare))


def redact(value: Any, *, name: str = "") -> Any:
    """A JSON-like value without secrets; containers are walked, strings are searched, everything else stays.

    Args:
        value: mappings, sequences and scalars.
        name: the key under which the value is kept.
    """
    if isinstance(value, Mapping):
        return {key: redact(item, name=name if is_secret_name(name) else str(key)) for key, item in value.items()}
    if isinstance(value, list | tuple):
        if value and all(isinstance(item, str) for item in value):
            return [REDACTED for _ in value] if is_secret_name(name) else redact_argv(value)
        return [redact(item, name=name) for item in value]
    if is_secret_name(name) and value is not None and not isinstance(value, bool):
        return value if isinstance(value, int | float) and _TOKEN_NAME.search(name) else REDACTED
    return redact_text(value) if isinstance(value, str) else value


def redact_argv(argv: Iterable[str]) -> list[str]:
    """A command line without secrets: ``--api-key X``, ``--api-key=X``, ``-p api_key X``, headers, URLs."""
    clean: list[str] = []
    hide = False
    for word in argv:
        name, assigned, _ = word.partition("=")
        if hide or (assigned and is_secret_name(name)):
            clean.append(REDACTED if hide else f"{name}={REDACTED}")
            hide = False
        else:
            clean.append(redact_text(word))
            hide = re.fullmatch(r"[\w-]+", word) is not None and is_secret_name(word)
    return clean


def redact_text(text: str) -> str:
    """Free text without secrets: assignments, bearer headers, well-known key shapes, user info and queries of URLs, and whatever
    variables of this process that hold a secret by their name hold.
    """
    text = redact_known(text)
    text = _USERINFO.sub(rf"\g<scheme>{REDACTED}@", text)
    text = _QUERY.sub(rf"\g<url>?{REDACTED}", text)
    text = _ASSIGNED.sub(_without_value, text)
    return _SHAPES.sub(REDACTED, text)


def redact_known(text: str) -> str:
    """A text, or JSON, without the values of this process's variables that hold a secret by their name; all else stays."""
    for value in {value for name, value in os.environ.items() if len(value) >= _LEAST and is_secret_name(name)}:
        for written in dict.fromkeys((value, json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1])):
            text = text.replace(written, REDACTED)
    return text


def _without_value(match: re.Match[str]) -> str:
    return f"{match['name']}{match['sign']}{REDACTED}" if is_secret_name(match["name"]) else match[0]
