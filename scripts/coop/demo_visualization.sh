#!/usr/bin/env bash
# Draw the region map of an image for a trained CoOp:
#   bash scripts/coop/demo_visualization.sh data imagenet vit_b16_ep50 MODEL_DIR IMAGE LABEL
set -euo pipefail
source "$(dirname "$0")/../positional.sh"
visualize CoOp "$@"
