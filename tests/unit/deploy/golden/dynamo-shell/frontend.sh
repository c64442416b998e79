#!/usr/bin/env bash
# Dynamo's frontend on 10.0.0.1. What was measured, what is assumed and how to use it: see deployment.env beside it.
set -euo pipefail
here="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=/dev/null
source "$here/deployment.env"

export DYN_TCP_RPC_HOST=10.0.0.1
export DYN_TCP_RESPONSE_STREAM_HOST=10.0.0.1
export DYN_EVENT_PLANE_HOST=10.0.0.1
export DYN_HTTP_RPC_HOST=10.0.0.1
export DYN_SYSTEM_HOST=10.0.0.1
export DYN_ROUTER_MODE=round-robin

exec "${PYTHON}" -m dynamo.frontend \
  --http-host 10.0.0.1 \
  --http-port 8000
