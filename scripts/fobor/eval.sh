#!/usr/bin/env bash
# Evaluate OOD detection of the runs of scripts/fobor/train.sh, with the same arguments. A run in
# another folder, as --backbone or OPTIM.MAX_EPOCH gives it, needs scripts/eval.sh --model-dir RUN:
#   bash scripts/fobor/eval.sh LoCoOpFoBoR SCTFoBoR imagenet vit_b16_ep30 end 16 16 False 0.2 3.0 5.0 1 1 0.17 200
set -euo pipefail
source "$(dirname "$0")/../positional.sh"
fobor_arguments "$@"
for trainer in "${trainers[@]}"; do
    for seed in ${SEEDS:-1 2 3}; do
        run=output/$dataset/$trainer/${config}_${shots}shots/nctx${nctx}_csc${csc}_ctp${ctp}/seed$seed
        bash "$REPOSITORY/scripts/eval.sh" --dataset "$dataset" --model-dir "$run" ${more[@]+"${more[@]}"}
    done
done
