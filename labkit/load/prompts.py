"""What a request asks: token ids or text of exactly the length wanted, from the seed and the pieces of its prompt alone.

Contents are random: two prompts share the pieces that they have in common and nothing else, no longer than chance allows, and
no prefix cache is warm by accident.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from labkit.errors import LoadError
from labkit.load.draws import Draw, Piece, contents, rng
from labkit.load.remembered import remembered

_TEXT: Final = (
    "time year people way day man thing woman life child world school state family student group country problem hand part "
    "place case week company system program question work number night point home water room mother area money story fact "
    "month lot right study book eye job word business issue side kind head house service friend father power hour game line "
    "end member law car city community name president team minute idea body back parent face level office door health "
    "person art war history party result change morning reason research girl guy moment air teacher force education "
)
#: Used where no tokenizer is known: short common words, mostly one token each.
WORDS: Final[tuple[str, ...]] = tuple(_TEXT.split())
_CORRECTIONS: Final = 64
_SHARED: Final = (Draw.BLOCK, Draw.PREFIX)
_SHARED_KEPT: Final = 4096
_MOST_WORDS: Final = 2000


class Tokenizer(Protocol):
    """The part of ``tokenizers.Tokenizer`` that prompts need."""

    def encode(self, sequence: str, *, add_special_tokens: bool = ...) -> Any:
        """An encoding with ``ids``."""

    def get_vocab(self, with_added_tokens: bool = ...) -> dict[str, int]:
        """Token text → id."""

    def decode(self, ids: list[int], skip_special_tokens: bool = ...) -> str:
        """The text of token ids."""


@lru_cache(maxsize=4)
def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer in a model folder's ``tokenizer.json``.

    Raises:
        LoadError: no such folder or file, or not a tokenizer.
    """
    file = folder / "tokenizer.json"
    if not file.is_file():
        missing = "has no tokenizer.json" if folder.is_dir() else "does not exist"
        raise LoadError(f"tokenizer folder {str(folder)!r} {missing}", remedy="name a model folder that holds a tokenizer.json")
    from tokenizers import Tokenizer as HubTokenizer

    try:
        tokenizer: Tokenizer = HubTokenizer.from_file(str(file))
    except Exception as error:  # the binding raises bare Exception
        raise LoadError(f"{file} is no tokenizer: {error}", remedy="name a folder with a tokenizer.json of the model") from error
    return tokenizer


def token_range(vocab: int) -> tuple[int, int]:
    """``[low, high)`` of token ids that are plain text in the usual vocabularies.

    Special tokens sit at the front (byte tokens, control tokens: up to 1000) or at the end (Llama 3: the last 256, Qwen 3:
    the last 300, gpt-oss: the last 1100), so both ends are left out.

    Raises:
        LoadError: fewer than 8 tokens.
    """
    if vocab < 8:
        raise LoadError(f"a vocabulary of {vocab} tokens is too small for prompts", remedy="give the model's vocabulary size")
    low = 1000 if vocab >= 8192 else 256 if vocab >= 1024 else vocab // 4
    return low, vocab - vocab // 8


class Prompts:
    """Prompts of one seed.

    Args:
        seed: the workload's.
        vocab: size of the model's vocabulary.
        tokenizer: needed for chat texts of exact length; without it a text has ``isl`` words, and how many tokens that
            was is read from the server's ``usage``.
    """

    def __init__(self, seed: int, vocab: int, tokenizer: Tokenizer | None = None) -> None:
        self._seed = seed
        self._low, self._high = token_range(vocab)
        self._tokenizer = tokenizer
        self._shared = remembered(self._encoded, _SHARED_KEPT)

    def token_ids(self, pieces: Sequence[Piece]) -> npt.NDArray[np.int64]:
        """The token ids of all pieces, int64."""
        drawn = [contents(self._seed, piece, self._high - self._low) for piece in pieces]
        return self._low + (drawn[0] if len(drawn) == 1 else np.concatenate(drawn))

    def encoded_ids(self, pieces: Sequence[Piece]) -> bytes:
        """The same as JSON without the array's brackets. Pieces that prompts share are kept: long prompts are made of them."""
        return b",".join(self._shared(p) if p.draw in _SHARED else self._encoded(p) for p in pieces)

    def _encoded(self, piece: Piece) -> bytes:
        return msgspec.json.encode(self.token_ids((piece,)).tolist())[1:-1]

    def text(self, pieces: Sequence[Piece]) -> str:
        """A text of as many tokens (a chat template's own tokens come on top), or of as many words without a tokenizer.

        With a tokenizer the text is encoded, and words are added or dropped at its end until the count is right; should a
        vocabulary make that impossible, the nearest text found is returned.
        """
        words, isl = self._words, sum(piece.tokens for piece in pieces)
        picked: list[str] = []
        for piece in pieces:
            picked += [words[i] for i in contents(self._seed, piece, len(words)).tolist()]
        if self._tokenizer is None:
            return " ".join(picked)
        generator = rng(self._seed, pieces[-1].draw, pieces[-1].phase, pieces[-1].key)
        best, error = " ".join(picked), None
        for _ in range(_CORRECTIONS):
            text = " ".join(picked)
            surplus = self.count(text) - isl
            if error is None or abs(surplus) < abs(error):
                best, error = text, surplus
            if surplus == 0:
                break
            if surplus > 0:
                del picked[-min(surplus, max(len(picked) - 1, 0)) :]
                if len(picked) == 1:
                    picked = [words[int(generator.integers(0, len(words)))]]
            else:
                picked += [words[i] for i in generator.integers(0, len(words), -surplus).tolist()]
        return best

    def count(self, text: str) -> int:
        """Tokens of a text, special tokens not added."""
        assert self._tokenizer is not None
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)

    @cached_property
    def _words(self) -> tuple[str, ...]:
        """Words that are one token after a space, so that counts add up; the common ones where there are too few."""
        if self._tokenizer is None:
            return WORDS
        tokenizer = self._tokenizer
        marked = re.compile(r"[Ġ▁]([a-z]{2,})")
        found = sorted(match[1] for token in tokenizer.get_vocab() if (match := marked.fullmatch(token)))
        few = found[:: max(len(found) // _MOST_WORDS, 1)]  # checking each of a large vocabulary takes a second
        whole = [word for word in few if len(tokenizer.encode(f"a {word}", add_special_tokens=False).ids) == 2]
        return tuple(whole) if len(whole) >= 32 else WORDS
