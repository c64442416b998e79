"""Whether the way of the bytes, and not the server's work, delays first tokens: what was found, and what it means.

A server (or a proxy before it) without TCP_NODELAY holds a small write back until the one before it is acknowledged, and a client
that keeps its connections acknowledges up to 40 ms late (RFC 896 meets RFC 1122, 4.2.3.2). What is late is what comes second: the
first token behind the head of its answer, or the second token behind the first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Self

from labkit.measure.mark import Mark

#: A delayed acknowledgement comes 40 ms after the head on Linux: so much less the server's own time to its first token, 24 ms of
#: Dynamo's frontend before a mocker of 18 ms. The least of a few answers of a quiet server differ by less than this.
LATE_S: Final = 0.015
_REMEDY: Final = "set TCP_NODELAY at the server, or at the proxy before it"


@dataclass(frozen=True, slots=True)
class Transport:
    """How much later the first events of an answer came than on fresh connections that acknowledge at once, least against least.

    Attributes:
        late_s: sent as labkit sends its requests; ``None``: not measured.
        kept_late_s: over a connection that is kept and acknowledges when the kernel likes, as most clients do; ``None``: not
            measured, as where the server closes every connection.
        tls: encrypted, so that labkit keeps its connections too.
        writes_at_once: it was seen, on a quiet server, that nothing waits for acknowledgements that come late.
    """

    late_s: float | None
    kept_late_s: float | None
    tls: bool
    writes_at_once: bool = False

    @property
    def mark(self) -> Mark | None:
        """What a reader must know of it: a warning where labkit's own figures hold the delay; ``None`` where there is none."""
        if self.late_s is not None and self.late_s >= LATE_S:
            way = "kept connections" if self.tls else "fresh connections"
            return Mark(
                "transport",
                f"the transport delays first tokens by {_ms(self.late_s)} on labkit's {way}, and TTFT holds that: {_REMEDY}, and "
                "measure again",
            )
        if self.kept_late_s is not None and self.kept_late_s >= LATE_S:
            spared = "acknowledges every read at once" if self.tls else "opens a connection for each request"
            return Mark(
                "transport",
                f"clients that keep their connections get first tokens {_ms(self.kept_late_s)} late here: the server waits for "
                f"acknowledgements; labkit {spared} and does not see it, so its TTFT is shorter than theirs. For them, {_REMEDY}",
                "note",
            )
        return None

    def to_dict(self) -> dict[str, Any]:
        """For a run's manifest, under ``transport``."""
        return asdict(self)

    @classmethod
    def of_manifest(cls, manifest: Mapping[str, Any], epoch: int | None = None) -> Self | None:
        """What a run's manifest says of it, of the engine that served in an epoch where there were several; ``None`` where it was
        not looked for."""
        engines = {one.get("epoch"): one.get("engine") for one in manifest.get("epochs") or ()}
        told, several = manifest.get("transport"), manifest.get("transports")
        if isinstance(several, Mapping) and engines.get(epoch):
            told = several.get(engines[epoch])
        if not isinstance(told, Mapping):
            return None
        late_s, kept_late_s = (_seconds(told.get(name)) for name in ("late_s", "kept_late_s"))
        return cls(late_s, kept_late_s, bool(told.get("tls")), told.get("writes_at_once") is True)


def _seconds(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.0f} ms"
