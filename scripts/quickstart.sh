#!/usr/bin/env bash
# The whole story without a GPU or any data, in a few minutes: makes the generated (synthetic)
# benchmark, trains CoOp and LoCoOp on it (16 shots, three seeds), evaluates them and zero-shot
# CLIP, draws score histograms and region maps, and prints one table.
set -euo pipefail
source "$(dirname "$0")/env.sh"
cd "$REPOSITORY"
require requirements.txt
export PYTHON

OUT=output/generated
"$PYTHON" -m datasets.generated --root data

for trainer in CoOp LoCoOp; do
    for seed in 1 2 3; do
        bash scripts/train.sh --trainer "$trainer" --dataset generated --shots 16 --seed "$seed"
    done
done

# Every model sees the same images, so their features are kept, for GL-MCM those of the regions too.
bash scripts/eval.sh --trainer ZeroshotCLIP --dataset generated --features-local
for run in "$OUT"/{CoOp,LoCoOp}/generated_16shots/nctx16_cscFalse_ctpend/seed{1,2,3}; do
    bash scripts/eval.sh --model-dir "$run" --features-local
done

LOCOOP=$OUT/LoCoOp/generated_16shots/nctx16_cscFalse_ctpend/seed1
for class in data/generated/images/val/*/; do
    bash scripts/demo_visualization.sh --model-dir "$LOCOOP" --label "$(basename "$class")" \
        --image "$class$(ls "$class" | head -n 1)"
    drawn=$((${drawn:-0} + 1))
    [ "$drawn" -lt 3 ] || break
done
bash scripts/demo_visualization.sh --model-dir "$LOCOOP" --masks data/generated/masks/val

echo
echo "The generated benchmark: synthetic images, a small CLIP trained on them. 16 shots, seeds 1 to 3."
echo "Its figures say nothing of ImageNet's."
echo
bash scripts/results.sh "$OUT" --scores MCM,GL-MCM --resamples 0 --markdown "$OUT/summary.md"
echo
bash scripts/report.sh "$OUT" --scores MCM,GL-MCM
echo
echo "figures:      $OUT/summary.md, results.json and results.csv in each run's folder"
echo "report:       $OUT/report.html: all of it, and the images with the most mistaken scores"
echo "histograms:   plots/ in each run's folder"
echo "region maps:  $LOCOOP/visualization/"
