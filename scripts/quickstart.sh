#!/usr/bin/env bash
# The whole story without a GPU or any data, in a few minutes: makes the generated (synthetic)
# benchmark, trains CoOp, LoCoOp (16 shots) and CLIPN (the benchmark's image-caption pairs) on it
# with three seeds each, evaluates them and zero-shot CLIP, draws region maps, prints one table and
# writes a report.
set -euo pipefail
source "$(dirname "$0")/env.sh"
cd "$REPOSITORY"
require requirements.txt
export PYTHON

OUT=output/generated
(launch -m generated --root data)

bash scripts/sweep.sh --trainers ZeroshotCLIP,CoOp,LoCoOp --dataset generated --shots 16 \
    --seeds 1,2,3 --features-local
bash scripts/sweep.sh --trainers CLIPN --dataset generated --seeds 1,2,3 --features-local \
    --name sweep-clipn

LOCOOP=$OUT/LoCoOp/generated_16shots/nctx16_cscFalse_ctpend/seed1
for class in airplane bicycle umbrella; do
    bash scripts/demo_visualization.sh --model-dir "$LOCOOP" --label "$class" \
        --image "data/generated/images/val/$class/00000.png"
done
bash scripts/demo_visualization.sh --model-dir "$LOCOOP" --masks data/generated/masks/val
bash scripts/detect.sh --model-dir "$LOCOOP" data/generated/images/val/duck/0000[0-4].png \
    data/generated_ood/generated-textures/*/00000.png

echo
echo "The generated benchmark: synthetic images, a small CLIP trained on them. Seeds 1 to 3."
echo "Its figures say nothing of ImageNet's."
echo
bash scripts/results.sh "$OUT" --resamples 0 --markdown "$OUT/summary.md"
echo
bash scripts/report.sh "$OUT"
echo
echo "figures:      $OUT/summary.md, results.json and results.csv in each run's folder"
echo "report:       $OUT/report.html: all of it, and the images with the most mistaken scores"
echo "histograms:   plots/ in each run's folder"
echo "region maps:  $LOCOOP/visualization/"
