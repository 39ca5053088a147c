# Sourced by the other scripts: $REPOSITORY, its root, and $PYTHON: as given, else that of
# $REPOSITORY/.venv, else the path's first from 3.11 on. The working directory stays the user's.
REPOSITORY=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if [ -z "${PYTHON:-}" ]; then
    for PYTHON in "$REPOSITORY/.venv/bin/python" python python3 python3.13 python3.12 python3.11; do
        "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break
    done
fi

# launch FILE|-m MODULE [ARGUMENT ...]: become Python with the repository first on its path. Not the
# working directory (-P): a package called datasets, clip or run may lie where the user stands.
launch() {
    if ! "$PYTHON" -P -c 'import importlib.util as u, sys
sys.exit(None in map(u.find_spec, ("torch", "torchvision", "open_clip", "yacs")))' >/dev/null; then
        echo "error: $PYTHON lacks requirements. Run bash scripts/quickstart.sh or scripts/test.sh," \
            "which set up .venv, or: $PYTHON -m pip install -r $REPOSITORY/requirements.txt" >&2
        exit 1
    fi
    PYTHONPATH=$REPOSITORY${PYTHONPATH:+:$PYTHONPATH} exec "$PYTHON" -P "$@"
}

# launch_ranks FILE [ARGUMENT ...]: the same, as NPROC processes if that is set; TORCHRUN are torchrun's
# own arguments, for several machines.
launch_ranks() {
    if [ -z "${NPROC:-}" ]; then launch "$@"; fi
    # torchrun would set 1 thread a process; share the cores instead.
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(( ($(getconf _NPROCESSORS_ONLN) + NPROC - 1) / NPROC ))}
    launch "$REPOSITORY/scripts/torchrun.py" ${TORCHRUN:---standalone} --nproc-per-node "$NPROC" "$@"
}

# Install requirement files into .venv, unless $PYTHON has all they name. pip answers that offline,
# in half a second: with no index to look in, what is missing is an error.
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
