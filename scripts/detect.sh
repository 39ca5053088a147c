#!/usr/bin/env bash
# Decide whether images are one of the classes (ID) or not (OOD):
#   bash scripts/detect.sh --model-dir output/.../seed1 IMAGE_OR_FOLDER...
#   bash scripts/detect.sh --classes "cat,dog,tractor" photo.jpg
set -euo pipefail
source "$(dirname "$0")/env.sh"
launch "$REPOSITORY/detect.py" "$@"
