#!/usr/bin/env bash
# Serve a web page on this machine: drop an image, see its verdict and why, move the threshold.
#   bash scripts/demo.sh --model-dir output/.../seed1
#   bash scripts/demo.sh --classes "cat,dog,tractor" --calibrate my_pets/ --port 7861
set -euo pipefail
source "$(dirname "$0")/env.sh"
launch "$REPOSITORY/detect.py" --demo "$@"
