#!/usr/bin/env bash
# Evaluate OOD detection with named flags:
#   bash scripts/eval.sh --model-dir output/.../seed1
#   bash scripts/eval.sh --trainer ZeroshotCLIP --dataset imagenet
set -euo pipefail
source "$(dirname "$0")/env.sh"
launch "$REPOSITORY/eval_ood.py" "$@"
