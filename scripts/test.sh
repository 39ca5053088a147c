#!/usr/bin/env bash
# Run the tests, on the CPU, in about ten minutes; sets up .venv if something is missing.
#   bash scripts/test.sh              all but those marked gpu
#   bash scripts/test.sh --fast       nor those marked slow: about 2 minutes
#   bash scripts/test.sh --lowest     all, in .venv-lowest: the lowest version of each requirement
#   bash scripts/test.sh -m gpu       those that need a GPU
# Other arguments are pytest's. A file's tests stay in one process, one process a core; each
# computes on one thread.
set -euo pipefail
source "$(dirname "$0")/env.sh"
cd "$REPOSITORY"
files=(requirements.txt requirements-test.txt) marks="not gpu"
while [[ ${1:-} == --fast || ${1:-} == --lowest ]]; do
    if [ "$1" = --fast ]; then marks="not gpu and not slow"; else LOWEST=.venv-lowest; fi
    shift
done
if [ -n "${LOWEST:-}" ]; then
    VENV=$REPOSITORY/$LOWEST
    if [ -x "$VENV/bin/python" ]; then PYTHON=$VENV/bin/python; fi
    mkdir -p output
    sed -E 's/>=([^,]+).*/==\1/' "${files[@]}" > output/lowest.txt
    files=(output/lowest.txt)
fi
require "${files[@]}"
export OMP_NUM_THREADS=1
unset PYTHONDONTWRITEBYTECODE  # some hundred processes start: each module is compiled once
if [[ " $* " != *" -m gpu "* ]]; then export CUDA_VISIBLE_DEVICES=; fi
export PYTEST_DISABLE_PLUGIN_AUTOLOAD=1  # whatever plugins this Python has
exec "$PYTHON" -m pytest -p xdist -p hypothesispytest -n auto --dist loadfile \
    --no-loadscope-reorder -m "$marks" "$@"
