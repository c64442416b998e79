"""Why a process died: the cause from the end of its log, and what to do about it."""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass

_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_PREFIX = re.compile(r"^(?:\([^)]*\)\s*)?(?:(?:ERROR|WARNING|INFO|CRITICAL)\s+[0-9-]+ [0-9:.]+ \[[^\]]*\]\s*)?")
_EXCEPTION = re.compile(r"^(?:[\w.]+\.)?\w*(?:Error|Exception|Interrupt|Exit)\b.*")
_USAGE = re.compile(r"error: (?:argument|unrecognized|the following|invalid|ambiguous).*")
#: Exceptions that only say that another process failed, or that come while one ends: the earlier one is the cause.
_ECHO = re.compile(
    r"Engine core initialization failed|failed core proc|EngineDeadError|WorkerProc initialization failed"
    r"|^Exception (?:ignored|in) "
)
_HEAD = re.compile(r"\d+ validation errors? for ")  # pydantic tells the cause in the lines below


@dataclass(frozen=True, slots=True)
class Failure:
    """A cause, in the words of the process, and a remedy."""

    cause: str
    remedy: str


_REMEDIES = (
    (
        r"greater than the derived max_model_len",
        "the model is not made for such long requests: lower max_model_len, or the workload's ISL and OSL",
    ),
    (
        r"out of memory|OutOfMemory|No available memory for the cache|larger than the available KV cache"
        r"|less than desired GPU memory|Cannot allocate memory|MemoryError",
        "it does not fit: lower max_model_len or kv_cache_bytes, share the GPU with fewer workers, or raise TP",
    ),
    (r"address already in use|Errno 98", "another process holds the port: end it, or let the lab choose the ports"),
    (
        r"unrecognized arguments|error: argument|ambiguous option|invalid choice",
        "this version of the engine does not take that flag: correct extra_args",
    ),
    (
        r"No module named|ModuleNotFound|ImportError",
        "the engine's environment is incomplete: run `make setup`, or point LABKIT_ENGINE_PYTHON at one that is complete",
    ),
    (
        r"'_OpNamespace' .* has no attribute",
        "the engine's compiled kernels did not load: run `labkit doctor`, and read the warnings at the top of the log",
    ),
    (
        r"not divisible|must be divisible|tensor parallel size",
        "choose a TP degree that divides the model's attention heads",
    ),
    (
        r"no kernel image|CUDA driver|NVIDIA driver|CUDA error",
        "the driver and this build of the engine do not fit: run `labkit doctor`",
    ),
    (r"No space left", "the disk or /dev/shm is full: free some space"),
    (
        r"[Tt]okenizer|config\.json|not a valid model identifier|Repo id",
        "the model folder is incomplete: it needs config.json, a tokenizer and, without dummy weights, the weights",
    ),
)


def explain(log: str, exit_code: int | None) -> Failure:
    """The cause and the remedy for a process that ended, from its log and its exit code.

    Args:
        log: text of the log, or its end.
        exit_code: as ``subprocess`` gives it: negative for a signal; ``None`` where unknown.
    """
    cause = _cause(log) or _by_exit(exit_code)
    for pattern, remedy in _REMEDIES:
        if re.search(pattern, cause, re.IGNORECASE):
            return Failure(cause, remedy)
    if exit_code == -signal.SIGKILL:
        return Failure(cause, "look for the kernel's out-of-memory killer (dmesg), or for who killed it")
    if exit_code == -signal.SIGILL:
        return Failure(cause, "this CPU lacks instructions that were used: pass dtype='float32'")
    return Failure(cause, "read the whole log; the command above starts the worker by hand")


def last_lines(log: str, count: int = 4) -> tuple[str, ...]:
    """What a process said last, without colours and empty lines."""
    said = [line.rstrip() for line in _ANSI.sub("", log).splitlines()]
    return tuple(line for line in said if line)[-count:]


def _cause(log: str) -> str | None:
    found, head = None, False
    for raw in log.splitlines():
        line = _PREFIX.sub("", _ANSI.sub("", raw)).strip()
        if head:
            found = f"{found}: {line}"
        head = False
        if usage := _USAGE.search(line):
            found = usage[0]
        elif _EXCEPTION.match(line) and not _ECHO.search(line):
            found, head = line, bool(_HEAD.search(line))
    return found


def _by_exit(exit_code: int | None) -> str:
    if exit_code is None:
        return "it ended without a word"
    if exit_code < 0:
        try:
            return f"it was killed by {signal.Signals(-exit_code).name}"
        except ValueError:
            return f"it was killed by signal {-exit_code}"
    return f"it exited with code {exit_code} and no error in its log"
