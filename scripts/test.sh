#!/usr/bin/env bash
# Run the tests, on the CPU, in a few minutes; sets up .venv if something is missing.
set -euo pipefail
source "$(dirname "$0")/env.sh"
cd "$REPOSITORY"
require requirements.txt requirements-test.txt
exec "$PYTHON" -m pytest "$@"
