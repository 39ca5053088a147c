#!/usr/bin/env bash
# Run the tests on the CPU, in about ten minutes. If packages are missing, .venv is set up first.
#   bash scripts/test.sh              all tests except those marked gpu
#   bash scripts/test.sh --fast       all except those marked gpu or slow: about 2 minutes
#   bash scripts/test.sh --lowest     all, with the lowest version of each requirement
#   bash scripts/test.sh -m gpu       the tests that need a GPU
# Other arguments go to pytest. There is one process for each core, with one thread; the tests of a
# file share a process.
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
unset PYTHONDONTWRITEBYTECODE  # some hundred processes start: compile each module only once
if [[ " $* " != *" -m gpu "* ]]; then export CUDA_VISIBLE_DEVICES=; fi
export PYTEST_DISABLE_PLUGIN_AUTOLOAD=1  # other plugins of this Python could change the tests
exec "$PYTHON" -m pytest -p xdist -p hypothesispytest -n auto --dist loadfile \
    --no-loadscope-reorder -m "$marks" "$@"
