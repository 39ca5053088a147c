#!/usr/bin/env bash
# Evaluate OOD detection of a trained LoCoOp. The fourth argument is the temperature, not a seed:
#   bash scripts/locoop/eval.sh data imagenet vit_b16_ep50 1 output/imagenet/LoCoOp/vit_b16_ep50_1shots/nctx16_cscFalse_ctpend/seed1
set -euo pipefail
source "$(dirname "$0")/../positional.sh"
evaluate LoCoOp "$@"
