# Sourced by the other scripts: goes to the repository's root and chooses $PYTHON:
# $PYTHON as given, else .venv where there is one, else the python of the path.
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [ -z "${PYTHON:-}" ]; then
    if [ -x .venv/bin/python ]; then PYTHON=.venv/bin/python; else PYTHON=python; fi
fi

# Installs the given requirement files into .venv unless $PYTHON has what they name.
require() {
    if ! "$PYTHON" scripts/missing.py "$@"; then
        echo "setting up .venv (a few minutes, once)"
        [ -x .venv/bin/python ] || python3 -m venv .venv
        PYTHON=.venv/bin/python
        local files=()
        for file in "$@"; do files+=(-r "$file"); done
        "$PYTHON" -m pip install --quiet --disable-pip-version-check "${files[@]}"
    fi
}
