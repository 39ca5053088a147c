#!/usr/bin/env bash
# Evaluate OOD detection with named flags:
#   bash scripts/eval.sh --model-dir output/.../seed1
#   bash scripts/eval.sh --trainer ZeroshotCLIP --dataset imagenet
# NPROC=4 bash scripts/eval.sh ... divides the images among 4 processes, as scripts/train.sh does.
set -euo pipefail
source "$(dirname "$0")/env.sh"
launch_ranks "$REPOSITORY/eval_ood.py" "$@"
