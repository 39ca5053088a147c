#!/usr/bin/env bash
# Evaluate OOD detection of a trained CoOp. The fourth argument is the temperature, not a seed:
#   bash scripts/coop/eval.sh data imagenet vit_b16_ep50 1 output/imagenet/CoOp/vit_b16_ep50_1shots/nctx16_cscFalse_ctpend/seed1
set -euo pipefail
source "$(dirname "$0")/../positional.sh"
evaluate CoOp "$@"
