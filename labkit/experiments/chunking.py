"""Chunked prefill as a setting of a pool: prompts computed in chunks, or whole.

vLLM (0.31): ``--enable-chunked-prefill`` is on by default, and a step then holds as many prompt tokens as
``--max-num-batched-tokens`` has room for beside the decodes. A budget above the longest prompt therefore cuts nothing: the chunk
has to be smaller. With ``--no-enable-chunked-prefill`` a prompt waits until it fits into a step whole, so the budget must hold
the longest request; vLLM warns that it does not officially support this, and refuses a smaller budget.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from labkit.errors import SpecError
from labkit.serve.engines.base import EngineOptions
from labkit.spec import Workload
from labkit.spec.lengths import Lengths

_ON: Final = "--enable-chunked-prefill"
_OFF: Final = "--no-enable-chunked-prefill"


@dataclass(frozen=True, slots=True)
class Chunking:
    """How the workers compute prompts.

    Attributes:
        tokens: most tokens of a step, decodes included; ``None``: whole prompts.
    """

    tokens: int | None

    def options(self, base: EngineOptions, max_model_len: int | None = None) -> EngineOptions:
        """The options with this setting, the same for every worker, so that roles can change without a restart.

        Args:
            base: everything else; what they say of chunks and of prefill workers is replaced.
            max_model_len: that the workers serve: whole prompts of any length must fit into a step.
        """
        others = tuple(word for word in base.extra_args if word not in (_ON, _OFF))
        if self.tokens is not None:
            return replace(base, max_num_batched_tokens=self.tokens, prefill=None, extra_args=(*others, _ON))
        budget = base.max_num_batched_tokens
        if budget is not None and max_model_len is not None:
            budget = max(budget, max_model_len)
        return replace(base, max_num_batched_tokens=budget, prefill=None, extra_args=(*others, _OFF))

    def check(self, work: Workload) -> None:
        """Refuse a chunk that no prompt of the workload is longer than."""
        longest = Lengths.parse(work.isl or 0).longest
        if self.tokens is not None and longest is not None and work.turns is None and self.tokens >= longest:
            raise SpecError(
                f"chunks of {self.tokens} tokens cut no prompt of up to {longest} tokens",
                remedy=f"give a chunk below {longest}, or longer prompts",
            )

    def __str__(self) -> str:
        return "whole prompts" if self.tokens is None else f"chunks of {self.tokens}"
