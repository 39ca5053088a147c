#!/usr/bin/env bash
# Check this machine in under 3 minutes: is the GPU right, which precisions are, how fast is it?
# (The CPU where there is no GPU.) Prints a table, writes output/selftest.json, and exits with 1
# where a figure is beyond its limit. --help lists all flags.
set -euo pipefail
source "$(dirname "$0")/env.sh"
cd "$REPOSITORY"
require requirements.txt
launch benchmarks/selftest.py "$@"
