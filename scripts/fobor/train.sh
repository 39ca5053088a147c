#!/usr/bin/env bash
# Train FoBoR on one or more trainers with three seeds (or those of $SEEDS), with the published
# positional arguments. The data are in ./data; for another folder add --root FOLDER at the end:
#   bash scripts/fobor/train.sh LoCoOpFoBoR SCTFoBoR imagenet vit_b16_ep30 end 16 16 False 0.2 3.0 5.0 1 1 0.17 200
set -euo pipefail
source "$(dirname "$0")/../positional.sh"
fobor_arguments "$@"
for trainer in "${trainers[@]}"; do
    node=$(node_of "$trainer")
    train_seeds "$trainer" "$dataset" "$config" "$ctp" "$nctx" "$shots" "$csc" --topk "$k" \
        "$node.ALPHA" "$alpha" "$node.BETA" "$beta" "$node.ETA" "$eta" "$node.FUSE" "$fuse" \
        ${more[@]+"${more[@]}"}
done
