#!/usr/bin/env bash
# Unpacks what tools/gpu/pack.mjs packed, beside this file, and runs the suite on this machine's GPUs.
#   run.sh [SECTION…]    sections: kernels, pointers, digest, errors, torch, model, engine, peers, mooncake; all when none is given.
#   KVX_SUITE_PARTS=plans,speed chooses parts of engine (plans, visible, namespaces, after, aborts, writers, owners, forked, speed);
#   KVX_SUITE_QUICK=1 does less of each
# The report goes to $OUT (default: out/ in the current folder): report.json, report.md.
# KVX_CUDA_LIBRARY names another driver; `fake` is the one of the tests.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
to=${KVX_SUITE_FOLDER:-${TMPDIR:-/tmp}/kvx-gpu-suite}
mkdir -p "$to"
# NAME.tar.xz, unless it is there and not older.
unpack() {
  local packed=$here/$1.tar.xz mark=$to/$1.unpacked
  if [ -e "$mark" ] && [ ! "$packed" -nt "$mark" ]; then return; fi
  rm -rf "${to:?}/$1"
  if command -v xz >/dev/null; then
    xz -dc "$packed" | tar -C "$to" -xmf -
  else
    python3 - "$packed" "$to" <<'PYTHON'
import sys, tarfile
with tarfile.open(sys.argv[1], 'r:xz') as pack:
    pack.extractall(sys.argv[2])
PYTHON
  fi
  touch "$mark"
}
unpack kvx
# What tools/gpu/peers.mjs packed, for the section peers.
if [ -e "$here/peers.tar.xz" ]; then
  unpack peers
  export KVX_PEERS=$to/peers
fi
if [ "${KVX_CUDA_LIBRARY:-}" = fake ]; then
  export KVX_CUDA_LIBRARY="$to/kvx/test/fake-cuda/build/Release/fakecuda.so"
fi
export OUT=${OUT:-$PWD/out}
mkdir -p "$OUT"
exec "$to/kvx/bin/node" "$to/kvx/tools/gpu/suite.mjs" "$@"
