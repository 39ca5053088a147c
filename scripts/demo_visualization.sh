#!/usr/bin/env bash
# Draw the ID-irrelevant regions of an image, or of several in one figure, with named flags:
#   bash scripts/demo_visualization.sh --model-dir output/.../seed1 --image FILE --label NAME_OR_INDEX
# Add --format pdf or svg for a paper. --help lists all flags.
set -euo pipefail
source "$(dirname "$0")/env.sh"
launch "$REPOSITORY/visualize.py" "$@"
