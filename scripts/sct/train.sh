#!/usr/bin/env bash
# Train SCT with three seeds (or those of $SEEDS), with the published positional arguments:
#   bash scripts/sct/train.sh data imagenet vit_b16_ep25 end 16 1 False 0.25 200
set -euo pipefail
source "$(dirname "$0")/../positional.sh"
usage "DATA DATASET CONFIG CLASS_TOKEN_POSITION N_CTX SHOTS CSC LAMBDA K" "$@"
train_seeds SCT "${@:2:6}" --root "$1" --lambda_value "$8" --topk "$9" "${@:10}"
