"""No secret on a command line: whoever uses the machine can read those of all processes."""

from __future__ import annotations

from labkit.errors import SpecError
from labkit.serve.engines.base import EngineOptions
from labkit.store.redact import redact_argv


def check_words(options: EngineOptions) -> None:
    """Whether the flags of the workers can be seen by everybody.

    Raises:
        SpecError: one holds a key, a token, a password or a URL with a login or a query. It is named, and not shown.
    """
    given = options.extra_args
    for at, (word, shown) in enumerate(zip(given, redact_argv(given), strict=True)):
        if word == shown:
            continue
        flag = word.partition("=")[0] if word.startswith("-") else given[at - 1] if at else ""
        place = flag if flag.startswith("-") else f"word {at + 1}"
        raise SpecError(
            f"extra_args holds a secret ({place}), and every user of the machine can read the command line of a worker",
            remedy="give it as a variable: extra_env={'HF_TOKEN': …}; those are kept out of commands, and redacted in the run",
        )
