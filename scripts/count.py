"""Count lines and functions of the Python outside tests/ and generated/, and list the long ones."""

import ast
import subprocess
from pathlib import Path
from statistics import median

LONG_FILE, LONG_FUNCTION = 350, 45

listed = subprocess.run(["git", "ls-files", "*.py"], capture_output=True, text=True, check=True)
files = [Path(name) for name in listed.stdout.split()]
texts = {
    file: file.read_text(encoding="utf-8")
    for file in files
    if file.parts[0] not in ("tests", "generated") and file.exists()
}
functions = {
    f"{file}:{node.lineno} {node.name}": node.end_lineno - node.lineno + 1
    for file, text in texts.items()
    for node in ast.walk(ast.parse(text))
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
}
lines = {str(file): text.count("\n") for file, text in texts.items()}
print(f"{sum(lines.values())} lines in {len(lines)} files")
print(f"{len(functions)} functions, median {median(functions.values()):g} lines")
for name, length in sorted({**lines, **functions}.items(), key=lambda item: -item[1]):
    if length > (LONG_FILE if name in lines else LONG_FUNCTION):
        print(f"{length:5} lines: {name}")
