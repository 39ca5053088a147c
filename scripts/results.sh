#!/usr/bin/env bash
# Print tables of several runs: mean and spread over seeds, intervals over images, missing seeds.
# With --compare, print only a comparison of two methods on the same images:
#   bash scripts/results.sh output/imagenet --scores MCM,GL-MCM --latex table.tex
#   bash scripts/results.sh output/imagenet --compare LoCoOp:GL-MCM CoOp:MCM
set -euo pipefail
source "$(dirname "$0")/env.sh"
launch -m results.summary "$@"
