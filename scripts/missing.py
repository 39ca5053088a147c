"""Exit 1 and name what is missing if the running Python lacks a requirement of the given files."""

import re
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text.split("+")[0])[:3])


def lacks(requirement: str) -> bool:
    name, _, lowest = requirement.partition(">=")
    try:
        return numbers(version(name)) < numbers(lowest)
    except PackageNotFoundError:
        return True


lines = [
    line.split("#")[0].strip()
    for path in sys.argv[1:]
    for line in Path(path).read_text("utf-8").splitlines()
]
missing = [line for line in lines if line and lacks(line)]
if missing:
    sys.exit(f"missing: {', '.join(missing)}")
