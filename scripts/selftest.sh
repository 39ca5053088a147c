#!/usr/bin/env bash
# Check this machine's GPU (or CPU, if it has none) in under 3 minutes: are its results right, at
# which precisions, and how fast is it? Prints a table, writes output/selftest.json, and exits with 1
# if a figure is beyond its limit. --help lists all flags.
set -euo pipefail
source "$(dirname "$0")/env.sh"
cd "$REPOSITORY"
require requirements.txt
launch benchmarks/selftest.py "$@"
