#!/usr/bin/env bash
# Draw the region map of an image for a trained SCT:
#   bash scripts/sct/demo_visualization.sh data imagenet vit_b16_ep25 MODEL_DIR IMAGE LABEL
set -euo pipefail
source "$(dirname "$0")/../positional.sh"
visualize SCT "$@"
