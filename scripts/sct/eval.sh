#!/usr/bin/env bash
# Evaluate OOD detection of a trained SCT. The fourth argument is the temperature, not a seed:
#   bash scripts/sct/eval.sh data imagenet vit_b16_ep25 1 output/imagenet/SCT/vit_b16_ep25_1shots/nctx16_cscFalse_ctpend/seed1
set -euo pipefail
source "$(dirname "$0")/../positional.sh"
evaluate SCT "$@"
