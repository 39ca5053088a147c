#!/usr/bin/env bash
# Write a self-contained report.html on a run, or on all runs under the given folders:
#   bash scripts/report.sh output/imagenet/LoCoOp/.../seed1
#   bash scripts/report.sh output/imagenet --scores MCM,GL-MCM --output comparison.html
#   bash scripts/report.sh output/imagenet --plots figures    # also writes every plot as PDF
set -euo pipefail
source "$(dirname "$0")/env.sh"
launch -m results.report "$@"
