#!/usr/bin/env bash
# Train CoOp with three seeds (or those of $SEEDS), with the published positional arguments:
#   bash scripts/coop/train.sh data imagenet vit_b16_ep50 end 16 1 False
set -euo pipefail
source "$(dirname "$0")/../positional.sh"
usage "DATA DATASET CONFIG CLASS_TOKEN_POSITION N_CTX SHOTS CSC" "$@"
train_seeds CoOp "${@:2:6}" --root "$1" "${@:8}"
