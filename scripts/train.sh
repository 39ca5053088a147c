#!/usr/bin/env bash
# Train with named flags:
#   bash scripts/train.sh --trainer LoCoOp --dataset imagenet --shots 16 --seed 1
# A finished run is not repeated, and a stopped run resumes. --help lists all flags.
# NPROC=4 bash scripts/train.sh ... trains with 4 processes, each on a GPU of its own (or on the CPU).
# The batch size is that of all processes together, so results are as with one process. For several
# machines, run this on each, with an output folder that all share:
#   NPROC=4 TORCHRUN="--nnodes 2 --node-rank 0 --master-addr HOST --master-port 29500" bash scripts/train.sh ...
set -euo pipefail
source "$(dirname "$0")/env.sh"
launch_ranks "$REPOSITORY/train.py" "$@"
