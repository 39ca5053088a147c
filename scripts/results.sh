#!/usr/bin/env bash
# Print one table of several runs: mean and spread over seeds, intervals over images, missing seeds.
# With --compare, print only the comparison of two methods on the same images:
#   bash scripts/results.sh output/imagenet --scores MCM,GL-MCM --latex table.tex
#   bash scripts/results.sh output/imagenet --compare LoCoOp:GL-MCM CoOp:MCM
set -euo pipefail
source "$(dirname "$0")/env.sh"
launch -m results.summary "$@"
