#!/usr/bin/env bash
# Check the data: report what is wrong and how to mend it. Takes the flags of train.sh and eval.sh:
#   bash scripts/check.sh --dataset imagenet
#   bash scripts/check.sh --dataset imagenet --trainer LoCoOp --shots 16 --full
set -euo pipefail
source "$(dirname "$0")/env.sh"
launch -m run.check "$@"
