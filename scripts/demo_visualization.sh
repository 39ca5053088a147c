#!/usr/bin/env bash
# Draw the ID-irrelevant regions of an image with named flags:
#   bash scripts/demo_visualization.sh --model-dir output/.../seed1 --image FILE --label NAME_OR_INDEX
set -euo pipefail
source "$(dirname "$0")/env.sh"
launch "$REPOSITORY/visualize.py" "$@"
