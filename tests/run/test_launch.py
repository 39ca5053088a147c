"""Scripts and entry points, started where another project's packages lie."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STARTED = {  # script -> what it starts
    "check.sh": "run.check",
    "train.sh": "train.py",
    "eval.sh": "eval_ood.py",
    "detect.sh": "detect.py",
    "demo_visualization.sh": "visualize.py",
    "sweep.sh": "sweep.py",
    "results.sh": "results.summary",
    "report.sh": "results.report",
}


@pytest.fixture
def foreign(tmp_path):
    """A folder with packages of another project, called as ours are."""
    for name in ("datasets", "clip", "run", "ood", "trainers", "results", "dassl"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('another project')")
    return tmp_path


@pytest.fixture
def stub(tmp_path):
    """A Python that prints its arguments and where `datasets` would come from, no more."""
    path = tmp_path / "python-stub"
    find = "import importlib.util as u; print(u.find_spec('datasets').origin)"
    path.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@"\nexec {sys.executable} "$1" -c "{find}"\n')
    path.chmod(0o755)
    return str(path)


def start(command, cwd, **environment):
    return subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
@pytest.mark.parametrize("safe", ["", "1"])
@pytest.mark.parametrize("script", STARTED)
def test_scripts_start_our_packages_wherever_they_are_called(foreign, stub, script, safe):
    command = ["bash", str(ROOT / "scripts" / script), "--flag"]
    paths = {"PYTHONPATH": str(foreign), "PYTHONSAFEPATH": safe}
    done = start(command, foreign, PYTHON=stub, **paths)
    lines = done.stdout.splitlines()
    assert lines[0] == "-P" and lines[-2:] == ["--flag", str(ROOT / "datasets/__init__.py")], done
    assert any(line.endswith(STARTED[script]) for line in lines)


def test_no_script_starts_python_otherwise():
    """But pip and pytest, which import nothing of the working directory's."""
    for script in (ROOT / "scripts").rglob("*.sh"):
        for line in script.read_text(encoding="utf-8").splitlines():
            if re.search(r'^[^#]*"\$PYTHON" (?!-P|-c|-m pip|-m venv|-m pytest)', line):
                raise AssertionError(f"{script}: {line}")


@pytest.mark.parametrize("processes", ["abc", "0", "-1", "1.5", "2 3"])
def test_nproc_is_a_whole_number(processes):
    done = start(["bash", str(ROOT / "scripts/train.sh")], ROOT, NPROC=processes)
    assert done.returncode == 1 and f"error: NPROC is {processes}: give" in done.stderr


@pytest.mark.parametrize("argument, status", [("--help", 0), ("-h", 0), ("output", 2)])
def test_the_quick_start_answers_arguments_and_does_nothing(foreign, argument, status):
    command = ["bash", str(ROOT / "scripts/quickstart.sh"), argument]
    done = start(command, foreign, PYTHON="/nowhere")
    assert done.returncode == status and "takes no arguments" in (
        done.stderr if status else done.stdout
    )
    assert "benchmark, train CoOp" in done.stdout + done.stderr


@pytest.mark.slow
def test_the_check_runs_among_anothers_packages(foreign):
    command = ["bash", str(ROOT / "scripts/check.sh"), "--root", "nowhere", "--dataset", "imagenet"]
    done = start(command, foreign, PYTHON=sys.executable, PYTHONSAFEPATH="1")
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert "nowhere does not exist" in " ".join(done.stdout.split())
    assert not (foreign / "output").exists()


ENTRIES = sorted(path.stem for path in ROOT.glob("*.py"))


@pytest.mark.slow
def test_an_entry_point_starts_without_its_folder_on_the_path(foreign):
    done = start([sys.executable, str(ROOT / "train.py"), "--help"], foreign, PYTHONSAFEPATH="1")
    assert done.returncode == 0 and "usage" in done.stdout, done.stderr


@pytest.mark.parametrize("entry", ENTRIES)
def test_every_entry_point_puts_it_there_before_it_imports_of_ours(entry):
    body = ast.parse((ROOT / f"{entry}.py").read_text(encoding="utf-8")).body
    (found,) = (i for i, line in enumerate(body) if "sys.path.insert(0, " in ast.unparse(line))
    before = [line for line in body[:found] if isinstance(line, (ast.Import, ast.ImportFrom))]
    names = {getattr(line, "module", None) or line.names[0].name for line in before}
    assert {name.partition(".")[0] for name in names} <= sys.stdlib_module_names
