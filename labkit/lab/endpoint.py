"""What a lab's load is told of whatever serves: where it is, which fields it takes, and which tokens may be sent."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from labkit.lab import facts
from labkit.lab.cluster_telemetry import ClusterTelemetry
from labkit.lab.following import follow
from labkit.lab.load_fleet import LoadFleet
from labkit.lab.telemetry_agent import TelemetryAgent
from labkit.load.served import served_length
from labkit.load.target import Dialect, Target
from labkit.serve.deployment import Deployment
from labkit.serve.engines.attach import Attached
from labkit.spec import Workload
from labkit.store.run import Run

#: What vLLM's servers take. Its router (0.1.17) drops ``continuous_usage_stats`` but passes ``return_token_ids`` on.
LAUNCHED: Final = Dialect(continuous_usage=False, token_ids=True)
UNKNOWN_VOCAB: Final = 1000


@dataclass(slots=True, kw_only=True)
class Endpoint:
    """The one that load is sent to; a re-split or another engine changes what it is.

    Attributes:
        run: keeps what is found out.
        workload: the lab's own.
        vocab: token ids below this are sent.
        tell: takes a line for the user.
        dialect: the fields that are sent.
        writes_at_once: it was seen that its server waits for no acknowledgement.
    """

    run: Run
    workload: Workload | None
    vocab: int
    tell: Callable[[str], None]
    dialect: Dialect = LAUNCHED
    writes_at_once: bool = False

    def target(self, there: Deployment | Attached) -> Target:
        """Where requests go; a key is sent to nobody but somebody else's endpoint."""
        key = os.environ.get("OPENAI_API_KEY") if isinstance(there, Attached) else None
        return Target(there.url, there.model.name, self.vocab, key, self.dialect, writes_at_once=self.writes_at_once)

    def longest(self, there: Deployment | Attached) -> int | None:
        """Tokens of its longest request, as it says itself."""
        return served_length(self.target(there))

    def learn(self, there: Deployment | Attached, engine: str) -> None:
        """Ask which fields it takes; where the engine's are known, its transport alone is looked at."""
        found = facts.probed(self.run, self.target(there), self.workload, self.tell, engine)
        known = isinstance(there, Deployment) and there.engine.dialect_known
        self.dialect, self.writes_at_once = LAUNCHED if known else found.dialect, found.writes_at_once

    def follow(self, there: Deployment | Attached, load: LoadFleet, telemetry: TelemetryAgent | ClusterTelemetry) -> None:
        """Point load and telemetry at what serves now."""
        follow(self.run, there, self.target(there), load, telemetry, self.workload)
