# Sourced by the other scripts: $REPOSITORY, its root, and $PYTHON: as given, else that of
# $REPOSITORY/.venv where there is one, else the path's. The working directory stays the user's.
REPOSITORY=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if [ -z "${PYTHON:-}" ]; then
    if [ -x "$REPOSITORY/.venv/bin/python" ]; then PYTHON=$REPOSITORY/.venv/bin/python
    elif command -v python >/dev/null; then PYTHON=python
    else PYTHON=python3; fi
fi

# Installs the given requirement files into .venv unless $PYTHON has what they name.
require() {
    if ! "$PYTHON" "$REPOSITORY/scripts/missing.py" "$@"; then
        echo "setting up .venv (a few minutes, once)"
        PYTHON=$REPOSITORY/.venv/bin/python
        [ -x "$PYTHON" ] || python3 -m venv "$REPOSITORY/.venv"
        local files=()
        for file in "$@"; do files+=(-r "$file"); done
        "$PYTHON" -m pip install --quiet --disable-pip-version-check "${files[@]}"
    fi
}
