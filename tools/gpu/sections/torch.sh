#!/usr/bin/env bash
# PyTorch on both sides, a Node process beside each, and the pages moved between them by kvx: within one GPU, between two where
# there are two, and each once more with the pages landing elsewhere, which must be noticed. Needs python3 (or PYTHON) with torch, and node
# (or KVX_NODE).
set -euo pipefail
cd "$(dirname "$0")/../../.."
python=${PYTHON:-python3}
failed=0

# what must be found, and what run.py is given. A crash finds neither.
expect() {
  local found=$1 printed
  shift
  printed=$(PYTHONDONTWRITEBYTECODE=1 "$python" examples/torch/run.py "$@") || true
  echo "torch $*: $printed"
  if [[ $printed != *"$found"* ]]; then
    echo "torch $*: expected $found"
    failed=1
  fi
}

pairs() {
  echo cpu,cpu
  "$python" -c 'import torch; n = torch.cuda.device_count()
if n > 0: print("cuda:0,cuda:0")
if n > 1: print("cuda:0,cuda:1\ncuda:1,cuda:0")'
}

for devices in $(pairs); do
  expect '"ok": true, "tokensEqual": true, "cacheEqual": true' --devices "$devices"
  expect '"ok": false, "tokensEqual": false, "cacheEqual": false' --devices "$devices" --suppress-transfer
done
exit "$failed"
