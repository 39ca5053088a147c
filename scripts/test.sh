#!/usr/bin/env bash
# Run the tests, on the CPU, in a few minutes; sets up .venv if something is missing. A file's tests
# stay in one process, one process a core; each computes on one thread.
set -euo pipefail
source "$(dirname "$0")/env.sh"
cd "$REPOSITORY"
require requirements.txt requirements-test.txt
export OMP_NUM_THREADS=1
exec "$PYTHON" -m pytest -n auto --dist loadfile "$@"
