#!/usr/bin/env bash
# Show everything in a few minutes, without a GPU or any data: make the generated (synthetic)
# benchmark, train CoOp and LoCoOp (16 shots, three seeds) and CLIPN (the benchmark's image-caption
# pairs, one seed) on it, evaluate them and zero-shot CLIP, draw region maps, give verdicts, and
# write tables and a report. Prints a line for each step; its output is in output/generated/logs.
set -euo pipefail
if [ $# -gt 0 ]; then
    [[ $1 == -h || $1 == --help ]] && status=0 || { status=2; exec >&2; }
    echo "usage: bash $0   (it takes no arguments)"
    sed -n '/^# /s/..//p;/^set/q' "$0"
    exit $status
fi
source "$(dirname "$0")/env.sh"
cd "$REPOSITORY"
require requirements.txt
export PYTHON

OUT=output/generated
LOGS=$OUT/logs
STEPS=7
number=0
mkdir -p "$LOGS"

# step TITLE LOG COMMAND...: run a step, print a line with its time, and log it to $LOGS/LOG.txt.
step() {
    local title=$1 log=$LOGS/$2.txt begun=$SECONDS
    shift 2
    number=$((number + 1))
    printf '[%d/%d] %-52s' "$number" "$STEPS" "$title"
    if ! "$@" >"$log" 2>&1; then
        echo " failed:"
        tail -n 20 "$log" >&2
        echo "Full output: $log" >&2
        exit 1
    fi
    printf ' %4d s\n' $((SECONDS - begun))
}

make_benchmark() { (launch -m generated --root data); }

# Two processes with one thread each: operations are too small here for several threads. The
# evaluation measures the accuracy, so the runs need no final test (TEST.NO_TEST).
train() {
    local sweep=(bash scripts/sweep.sh --dataset generated --features-local --trainers) failed=0
    local untested=(TEST.NO_TEST True)
    export OMP_NUM_THREADS=1
    "${sweep[@]}" ZeroshotCLIP,CoOp,LoCoOp --shots 16 --seeds 2,3 --name seeds2-3 "${untested[@]}" &
    trap "kill $! 2>/dev/null" EXIT
    "${sweep[@]}" CLIPN --name clipn "${untested[@]}" &&
        "${sweep[@]}" CoOp,LoCoOp --shots 16 --seeds 1 --name seed1 "${untested[@]}" || failed=1
    wait $! || failed=1
    trap - EXIT
    return $failed
}

draw() {
    local images=data/generated/images/val masks=data/generated/masks/val
    bash scripts/demo_visualization.sh --model-dir "$LOCOOP" --masks $masks \
        --image $images/teapot/00004.png --image $images/turtle/00005.png --image $images/kite/00000.png
}

LOCOOP=$OUT/LoCoOp/generated_16shots/nctx16_cscFalse_ctpend/seed1
step "Make the benchmark" data make_benchmark
step "Train and evaluate CoOp, LoCoOp, CLIPN; zero-shot" train train
step "Draw region maps" regions draw
step "Verdicts on five ducks and five textures, by Energy" verdicts bash scripts/detect.sh \
    --model-dir "$LOCOOP" --score Energy data/generated/images/val/duck/0000[0-4].png \
    data/generated_ood/generated-textures/*/0000[0-4].png
step "Table of averages" table bash scripts/results.sh "$OUT" --resamples 0 \
    --overview --scores MCM,GL-MCM,Energy,MaxLogit,NegLabel,CTW,ATD
step "All scores on all OOD sets" summary bash scripts/results.sh "$OUT" --resamples 0 \
    --markdown "$OUT/summary.md"
step "Report" report bash scripts/report.sh "$OUT"

echo
cat "$LOGS/verdicts.txt"
echo
echo "This is the generated benchmark: synthetic images, and a small CLIP trained on them."
echo "Its figures say nothing about ImageNet."
echo
cat "$LOGS/table.txt"
echo
echo "all scores:   $OUT/summary.md, results.json and results.csv in each run's folder"
echo "report:       $OUT/report.html, with the images that the scores get most wrong"
echo "histograms:   plots/ in each run's folder"
echo "region maps:  $LOCOOP/visualization/"
echo "logs:         $LOGS/"
echo "Done in $((SECONDS / 60)) min $((SECONDS % 60)) s."
