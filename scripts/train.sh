#!/usr/bin/env bash
# Train with named flags:
#   bash scripts/train.sh --trainer LoCoOp --dataset imagenet --shots 16 --seed 1
# A finished run is not repeated, a stopped one goes on. --help lists all flags.
set -euo pipefail
source "$(dirname "$0")/env.sh"
exec "$PYTHON" "$REPOSITORY/train.py" "$@"
