"""Imports run one way: down the list of rooms, never up, nor hidden in a function."""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ENTRY_POINTS = {"train", "eval_ood", "detect", "visualize", "sweep"}
# Rooms by floor, from the top; a room may import those of lower floors.
FLOORS = (
    ENTRY_POINTS | {"benchmarks"},
    {"run"},
    {"detector", "results"},
    {"trainers"},
    {"ood"},
    {"clip", "datasets"},
    {"dassl"},
)
FLOOR = {room: number for number, floor in enumerate(FLOORS) for room in floor}
# The embedded benchmark stands on these, and only these stand on it.
BELOW_GENERATED = {"clip", "datasets", "dassl"}
ABOVE_GENERATED = ENTRY_POINTS | {"run", "benchmarks"}
# The science at the bottom of ood/ imports nothing of ours but this.
PURE = {"ood.scores", "ood.registry", "ood.metrics"}
ALLOWED = {"dassl.utils.errors", "ood.registry"}


def listed() -> list[Path]:
    done = subprocess.run(
        ["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    files = [Path(line) for line in done.stdout.splitlines()]
    return [file for file in files if file.parts[0] != "tests" and (ROOT / file).exists()]


def imported(file: Path) -> set[str]:
    """The modules that a file imports, wherever in it, by their full names."""
    package, names = list(file.parent.parts), set()
    for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else []
            names.add(".".join([*above, *([node.module] if node.module else [])]))
    return names


def allowed(room: str, other: str) -> bool:
    if room == other or room == "scripts":
        return True
    if "generated" in (room, other):
        return other in BELOW_GENERATED if room == "generated" else room in ABOVE_GENERATED
    # sweep.py may call train.py: both are entry points
    return FLOOR[other] > FLOOR[room] or (room in FLOORS[0] and other in ENTRY_POINTS)


@pytest.mark.parametrize("file", listed(), ids=str)
def test_imports_run_one_way(file):
    room = file.with_suffix("").parts[0]
    rooms = {name.split(".")[0] for name in imported(file)} & (FLOOR.keys() | {"generated"})
    up = {other for other in rooms if not allowed(room, other)}
    assert not up, f"{file} ({room}) imports {', '.join(sorted(up))}"


def test_no_import_of_ours_is_hidden_in_a_function():
    hidden = {
        f"{file}:{inner.lineno}"
        for file in listed()
        for outer in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8")))
        if isinstance(outer, ast.FunctionDef)
        for inner in ast.walk(outer)
        if isinstance(inner, ast.Import | ast.ImportFrom)
        if getattr(inner, "level", 0) or names_of(inner) & (FLOOR.keys() | {"generated"})
    }
    assert not hidden


def names_of(node: ast.Import | ast.ImportFrom) -> set[str]:
    """The top-level packages that a statement imports from."""
    names = (
        [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
    )
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize("module", sorted(PURE))
def test_scores_and_metrics_stand_on_nothing_of_ours(module):
    ours = {
        name
        for name in imported(Path(f"{module.replace('.', '/')}.py"))
        if name.split(".")[0] in FLOOR
    }
    assert ours <= ALLOWED


def test_the_top_level_has_the_entry_points_and_no_other_python():
    assert {file.stem for file in listed() if len(file.parts) == 1} == ENTRY_POINTS
    rooms = {file.parts[0] for file in listed() if len(file.parts) > 1}
    assert rooms <= FLOOR.keys() | {"generated", "scripts"}
