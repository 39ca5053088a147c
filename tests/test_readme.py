"""What the README tells a reader to type exists: scripts, modules, flags, settings, files."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from run.settings import default_cfg, keys

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)
INLINE = re.findall(r"`((?:NPROC=\d )?(?:bash|python) [^`]+)`", README)
COMMANDS = sorted(
    {
        line.split("  #")[0].strip()
        for block in BLOCKS
        for line in block.replace("\\\n", " ").splitlines()
        if line.strip()
    }
    | set(INLINE)
)
# The entry points behind the scripts that take flags.
BEHIND = {
    "train": "train.py",
    "eval": "eval_ood.py",
    "sweep": "sweep.py",
    "detect": "detect.py",
    "demo_visualization": "visualize.py",
    "check": "-m run.check",
    "results": "-m results.summary",
    "report": "-m results.report",
}


@cache
def flags_of(entry: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, *entry.split(), "--help"],
        cwd=ROOT,
        text=True,
        capture_output=True,
        check=True,
    )
    return set(re.findall(r"--[A-Za-z][\w-]*", done.stdout))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_readme_can_be_typed(command):
    words = [
        word for word in shlex.split(command, comments=True) if "=" not in word.partition("-")[0]
    ]
    program, target, *rest = words
    if program == "bash":
        script = ROOT / target
        assert script.is_file()
        entry = BEHIND.get(script.stem) if script.parent.name == "scripts" else None
    else:
        entry = f"-m {rest.pop(0)}" if target == "-m" else target
        assert (ROOT / entry).is_file() if target != "-m" else True
    given = {word.partition("=")[0] for word in rest if word.startswith("--")}
    if given and entry and not entry.startswith("-m clip"):
        assert given <= flags_of(entry), given - flags_of(entry)


def test_settings_that_the_readme_names_exist():
    known = set(keys(default_cfg())) | {"OOD.SETS.SUN.FOLDERS"}
    named = set(
        re.findall(r"`((?:DATALOADER|DATASET|TRAINER|MODEL|INPUT|OOD)\.[A-Z0-9_.]+)", README)
    )
    named |= {f"TRAINER.CLIPN.{key}" for key in ("LOSS_WEIGHT", "MICRO_BATCH")}
    assert len(named) > 8 and named <= known, named - known


def test_files_that_the_readme_names_exist():
    named = re.findall(
        r"`((?:benchmarks|clip|ood|dassl|datasets|trainers|tests|scripts)/[\w/.]*)", README
    )
    assert len(named) > 8
    for path in named:
        assert (ROOT / path).exists(), path
