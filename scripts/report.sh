#!/usr/bin/env bash
# Write one self-contained report.html of a run, or of all runs under the given folders:
#   bash scripts/report.sh output/imagenet/LoCoOp/.../seed1
#   bash scripts/report.sh output/imagenet --scores MCM,GL-MCM --output comparison.html
#   bash scripts/report.sh output/imagenet --plots figures    # every plot as PDF, for a paper
set -euo pipefail
source "$(dirname "$0")/env.sh"
launch -m results.report "$@"
