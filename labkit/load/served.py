"""How long a prompt with its answer may be at an endpoint: vLLM and others say so in ``/v1/models``."""

from __future__ import annotations

import http.client
import json
from dataclasses import replace
from typing import Final

from labkit.load.target import Target
from labkit.spec import Workload

_WAIT_S: Final = 5.0
_MOST_BYTES: Final = 1 << 20
#: Room that is left for what a chat template adds to a prompt.
TEMPLATE_TOKENS: Final = 64


def served_length(target: Target) -> int | None:
    """``max_model_len`` of the target's model; ``None`` where the endpoint does not say."""
    kind = http.client.HTTPSConnection if target.tls else http.client.HTTPConnection
    connection = kind(target.host, target.port, timeout=_WAIT_S)
    headers = {"Authorization": f"Bearer {target.api_key}"} if target.api_key else {}
    try:
        connection.request("GET", f"{target.base_path}/models", headers=headers)
        models = json.loads(connection.getresponse().read(_MOST_BYTES))["data"]
        lengths = [model.get("max_model_len") for model in models if model.get("id") == target.model]
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    finally:
        connection.close()
    length = lengths[0] if lengths else None
    return length if isinstance(length, int) and not isinstance(length, bool) and length > 1 else None


def fitted(workload: Workload, max_model_len: int | None) -> Workload:
    """The workload, clipped to the model's length where a file or a conversation may hold longer requests."""
    if max_model_len is None:
        return workload
    most = max(max_model_len - (TEMPLATE_TOKENS if workload.api == "chat" else 0), 2)
    if workload.longest is not None and (workload.turns is None or workload.longest <= most):
        return workload
    return replace(workload, clip_tokens=most)
