#!/usr/bin/env bash
# prefill-0 on 10.0.0.1. What was measured, what is assumed and how to use it: see deployment.env beside it.
set -euo pipefail
here="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=/dev/null
source "$here/deployment.env"

export CUDA_VISIBLE_DEVICES=0,1
export CUDA_DEVICE_ORDER=PCI_BUS_ID
export DYN_TCP_RPC_HOST=10.0.0.1
export DYN_TCP_RESPONSE_STREAM_HOST=10.0.0.1
export DYN_EVENT_PLANE_HOST=10.0.0.1
export DYN_HTTP_RPC_HOST=10.0.0.1
export DYN_SYSTEM_HOST=10.0.0.1
export VLLM_HOST_IP=10.0.0.1
export VLLM_NIXL_SIDE_CHANNEL_HOST=10.0.0.1
export VLLM_NIXL_SIDE_CHANNEL_PORT=9000
export DYN_SYSTEM_PORT=8300
export VLLM_NO_USAGE_STATS=1
export DO_NOT_TRACK=1

exec "${PYTHON}" -m dynamo.vllm \
  --model "${MODEL}" \
  --served-model-name meta-llama/Llama-3.1-8B \
  --load-format auto \
  --seed 0 \
  --kv-transfer-config '{"kv_connector": "NixlConnector", "kv_role": "kv_both", "kv_buffer_device": "cuda"}' \
  --no-enable-prefix-caching \
  --max-model-len 4096 \
  --max-num-batched-tokens 8192 \
  --tensor-parallel-size 2 \
  --disaggregation-mode prefill
