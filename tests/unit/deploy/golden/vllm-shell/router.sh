#!/usr/bin/env bash
# vLLM's router on 10.0.0.1. What was measured, what is assumed and how to use it: see deployment.env beside it.
set -euo pipefail
here="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=/dev/null
source "$here/deployment.env"

exec "${PYTHON}" -m vllm_router.launch_router \
  --host 10.0.0.1 \
  --port 8000 \
  --prometheus-host 127.0.0.1 \
  --prometheus-port 8001 \
  --policy round_robin \
  --worker-startup-check-interval 1 \
  --disable-retries \
  --disable-circuit-breaker \
  --vllm-pd-disaggregation \
  --kv-connector nixl \
  --prefill http://10.0.0.1:8100 \
  --prefill http://10.0.0.1:8101 \
  --decode http://10.0.0.2:8100 \
  --decode http://10.0.0.2:8101
