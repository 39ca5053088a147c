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
if [ -n "${NPROC:-}" ]; then
    # torchrun would set 1 thread a process; share the cores instead.
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(( ($(getconf _NPROCESSORS_ONLN) + NPROC - 1) / NPROC ))}
    launch "$REPOSITORY/scripts/torchrun.py" ${TORCHRUN:---standalone} \
        --nproc-per-node "$NPROC" "$REPOSITORY/train.py" "$@"
fi
launch "$REPOSITORY/train.py" "$@"
