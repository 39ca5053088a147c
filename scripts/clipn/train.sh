#!/usr/bin/env bash
# Train CLIPN, one run for each seed of $SEEDS (default: 1):
#   bash scripts/clipn/train.sh data imagenet vit_b16_cc3m learnable -1
set -euo pipefail
source "$(dirname "$0")/../positional.sh"
usage "DATA DATASET CONFIG VARIANT SHOTS" "$@"
for seed in ${SEEDS:-1}; do
    bash "$REPOSITORY/scripts/train.sh" --root "$1" --seed "$seed" --trainer CLIPN --dataset "$2" \
        --config "$3" --variant "$4" --shots "$5" "${@:6}"
done
