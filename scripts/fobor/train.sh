#!/usr/bin/env bash
# Train FoBoR on one or more trainers with three seeds (or those of $SEEDS), with the published
# positional arguments. The data are in ./data; for another folder add --root FOLDER at the end:
#   bash scripts/fobor/train.sh LoCoOpFoBoR SCTFoBoR imagenet vit_b16_ep30 end 16 16 False 0.2 3.0 5.0 1 1 0.17 200
set -euo pipefail
source "$(dirname "$0")/../positional.sh"
fobor_arguments "$@"
for trainer in "${trainers[@]}"; do
    node=TRAINER.$(echo "$trainer" | tr '[:lower:]' '[:upper:]')
    for seed in ${SEEDS:-1 2 3}; do
        bash "$REPOSITORY/scripts/train.sh" --seed "$seed" --trainer "$trainer" --dataset "$dataset" \
            --config "$config" --shots "$shots" --topk "$k" "$node.N_CTX" "$nctx" "$node.CSC" "$csc" \
            "$node.CLASS_TOKEN_POSITION" "$ctp" "$node.ALPHA" "$alpha" "$node.BETA" "$beta" \
            "$node.ETA" "$eta" "$node.FUSE" "$fuse" ${more[@]+"${more[@]}"}
    done
done
