#!/usr/bin/env bash
# Check the data: say what is wrong and how to mend it; takes the flags of the other scripts:
#   bash scripts/check.sh --dataset imagenet
#   bash scripts/check.sh --dataset imagenet --trainer LoCoOp --shots 16 --full
set -euo pipefail
source "$(dirname "$0")/env.sh"
launch -m run.check "$@"
