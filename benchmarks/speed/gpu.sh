#!/usr/bin/env bash
# All measurements that need a GPU, in about 100 seconds on one H100: bash benchmarks/speed/gpu.sh FILE.json
# Needs torch with CUDA, transformers, peft and pydantic; faiss-cpu to compare exact search, bitsandbytes for QLoRA.
set -eu
cd "$(dirname "$0")/../.."
PYTHONPATH=src exec python3 -m benchmarks.speed.gpu --output "${1:-benchmarks/results/gpu.json}"
