#!/usr/bin/env bash
# decode-1 on 10.0.0.2. What was measured, what is assumed and how to use it: see deployment.env beside it.
set -euo pipefail
here="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=/dev/null
source "$here/deployment.env"

export VLLM_NO_USAGE_STATS=1
export DO_NOT_TRACK=1
export VLLM_HOST_IP=10.0.0.2
export VLLM_NIXL_SIDE_CHANNEL_HOST=10.0.0.2
export VLLM_NIXL_SIDE_CHANNEL_PORT=9002
export CUDA_VISIBLE_DEVICES=2,3
export CUDA_DEVICE_ORDER=PCI_BUS_ID

exec "${PYTHON}" -m vllm.entrypoints.openai.api_server \
  --host 10.0.0.2 \
  --port 8101 \
  --disable-uvicorn-access-log \
  --model "${MODEL}" \
  --served-model-name meta-llama/Llama-3.1-8B \
  --load-format auto \
  --seed 0 \
  --kv-transfer-config '{"kv_connector": "NixlConnector", "kv_role": "kv_both", "kv_buffer_device": "cuda"}' \
  --no-enable-prefix-caching \
  --max-model-len 4096 \
  --max-num-batched-tokens 2048 \
  --max-num-seqs 64 \
  --tensor-parallel-size 2
