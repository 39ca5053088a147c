#!/usr/bin/env bash
# Evaluate OOD detection of a trained CLIPN (a run's folder) or of a published file (epoch_N.pt).
# TEMPLATES is imagenet80, or published to reproduce the figures of a published file:
#   bash scripts/clipn/eval.sh data imagenet vit_b16_cc3m imagenet80 output/imagenet/CLIPN/vit_b16_cc3m_-1shots/seed1
set -euo pipefail
source "$(dirname "$0")/../positional.sh"
usage "DATA DATASET CONFIG TEMPLATES MODEL_DIR_OR_FILE" "$@"
weights=(--model-dir "$5")
settings=()
if [ -f "$5" ]; then
    weights=(--backbone "$5")
    settings=(MODEL.BACKBONE.ACTIVATION gelu)  # that of LAION's CLIP; the file does not name it
fi
bash "$REPOSITORY/scripts/eval.sh" --root "$1" --trainer CLIPN --dataset "$2" --config "$3" --template "$4" \
    "${weights[@]}" ${settings[@]+"${settings[@]}"} "${@:6}"
