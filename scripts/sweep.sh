#!/usr/bin/env bash
# Train and evaluate a sweep in one process; runs on the same images share every batch:
#   bash scripts/sweep.sh --dataset imagenet --trainers CoOp,LoCoOp --shots 1,4,16 --seeds 1,2,3 \
#       --set TRAINER.*.N_CTX=4,16 --set TRAINER.LOCOOP.LAMBDA=0.1,0.25
# --dry-run only lists the runs. A stopped sweep resumes. --help lists all flags.
set -euo pipefail
source "$(dirname "$0")/env.sh"
launch "$REPOSITORY/sweep.py" "$@"
