"""Programs of others that listen on all addresses whatever they are told: each with its reason, as docs/security.md has it."""

from __future__ import annotations

import re

from tests.support.listeners import Known

KNOWN = (
    Known(
        re.compile(r"\bray::|/ray/|\bray start\b|gcs_server|raylet"),
        "Ray",
        "Ray's own servers listen on all addresses, that in a notebook connected to a cluster (`nodes=`) among them. "
        "Whoever reaches them can run programs: keep the cluster in a private network.",
    ),
    Known(
        re.compile(r"chrom(e|ium)"),
        "The browser of the tests",
        "Chromium listens for multicast names of its network; the lab does not start it.",
    ),
    Known(
        re.compile(r"-m dynamo\.vllm"),
        "Dynamo, of exported scripts",
        "Their workers (`python -m dynamo.vllm`) publish events on all addresses; the lab's own connect to an exchange instead. "
        "Keep the ports inside a network that you trust.",
    ),
)
