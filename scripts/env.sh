# Sourced by the other scripts. Sets $REPOSITORY, the root of the repository, and $PYTHON unless it
# is set: that of $REPOSITORY/.venv, else the first on the path from 3.11 on.
REPOSITORY=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if [ -z "${PYTHON:-}" ]; then
    for PYTHON in "$REPOSITORY/.venv/bin/python" python python3 python3.14 python3.13 python3.12 python3.11; do
        "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break
    done
fi

# launch FILE|-m MODULE [ARGUMENT ...]: become Python with the repository first on its path. -P keeps
# the working directory off the path: it may have packages named datasets, clip or run.
launch() {
    if ! "$PYTHON" -P -c 'import importlib.util as u, sys
sys.exit(None in map(u.find_spec, ("torch", "torchvision", "open_clip", "yacs")))' >/dev/null; then
        echo "error: $PYTHON lacks requirements. Run bash scripts/quickstart.sh or scripts/test.sh," \
            "which set up .venv, or: $PYTHON -m pip install -r $REPOSITORY/requirements.txt" >&2
        exit 1
    fi
    PYTHONPATH=$REPOSITORY${PYTHONPATH:+:$PYTHONPATH} exec "$PYTHON" -P "$@"
}

# launch_ranks FILE [ARGUMENT ...]: like launch, but with NPROC processes if NPROC is set. TORCHRUN has
# arguments for torchrun, for several machines.
launch_ranks() {
    if [ -z "${NPROC:-}" ]; then launch "$@"; fi
    if ! [[ $NPROC =~ ^[1-9][0-9]*$ ]]; then
        echo "error: NPROC is $NPROC: give the number of processes, 1 or more" >&2
        exit 1
    fi
    # Shares the cores among the processes; torchrun would give each a single thread.
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(( ($(getconf _NPROCESSORS_ONLN) + NPROC - 1) / NPROC ))}
    launch "$REPOSITORY/scripts/torchrun.py" ${TORCHRUN:---standalone} --nproc-per-node "$NPROC" "$@"
}

# require FILE...: install requirement files into .venv, unless $PYTHON has all their packages. pip
# checks that offline, in half a second: without an index, a missing package is an error.
require() {
    local files=()
    for file in "$@"; do files+=(-r "$REPOSITORY/$file"); done
    if ! PIP_CONFIG_FILE=/dev/null PIP_FIND_LINKS='' "$PYTHON" -m pip install --quiet --dry-run \
        --no-index --no-deps "${files[@]}" 2>/dev/null; then
        echo "setting up ${VENV:=$REPOSITORY/.venv} (a few minutes, once)"
        [ -x "$VENV/bin/python" ] || "$PYTHON" -m venv "$VENV"
        PYTHON=$VENV/bin/python
        "$PYTHON" -m pip install --quiet --disable-pip-version-check "${files[@]}"
    fi
}
