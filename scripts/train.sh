#!/usr/bin/env bash
# Train with named flags:
#   bash scripts/train.sh --trainer LoCoOp --dataset imagenet --shots 16 --seed 1
# A finished run is not repeated, a stopped one goes on. --help lists all flags.
# NPROC=4 bash scripts/train.sh ... trains with 4 processes, one a GPU (or on the CPU), as one
# process would: the batch size is that of all together. For several machines start on each, with
# an output folder that all share:
#   NPROC=4 TORCHRUN="--nnodes 2 --node-rank 0 --master-addr HOST --master-port 29500" bash scripts/train.sh ...
set -euo pipefail
source "$(dirname "$0")/env.sh"
launch_ranks "$REPOSITORY/train.py" "$@"
