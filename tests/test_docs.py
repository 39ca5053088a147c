"""What README and docs tell a reader to type or open exists: scripts, flags, settings, links."""

from __future__ import annotations

import io
import re
import runpy
import shlex
import sys
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path

import pytest

from detector import Detector
from run.settings import default_cfg, keys

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {page.relative_to(ROOT): page.read_text(encoding="utf-8") for page in PAGES}
ALL = "\n".join(TEXTS.values())
BLOCKS = re.findall(r"```bash\n(.*?)```", ALL, flags=re.DOTALL)
INLINE = re.findall(
    r"`((?:NPROC=\d )?(?:bash|python) (?:scripts/|benchmarks/|-m )[^`.]+[^`]*)`", ALL
)
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
    "demo": "detect.py",
    "demo_visualization": "visualize.py",
    "check": "-m run.check",
    "results": "-m results.summary",
    "report": "-m results.report",
}


@cache
def flags_of(entry: str) -> set[str]:
    """Return the flags in the help text of `train.py`, or of `-m run.check`."""
    path = ROOT / entry
    if entry.startswith("-m "):
        module = ROOT / entry.removeprefix("-m ").replace(".", "/")
        path = module / "__main__.py" if module.is_dir() else module.with_suffix(".py")
    printed = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed):
        patch.setattr(sys, "argv", [str(path), "--help"])
        patch.setattr(sys, "path", [*sys.path])
        with pytest.raises(SystemExit, match="0"):
            runpy.run_path(str(path), run_name="__main__")
    printed.seek(0)
    return set(re.findall(r"--[A-Za-z][\w-]*", printed.read()))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_can_be_typed(command):
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


def test_settings_that_are_named_exist():
    known = set(keys(default_cfg())) | {"OOD.SETS.SUN.FOLDERS"}
    named = set(
        re.findall(r"`((?:DATALOADER|DATASET|TRAINER|MODEL|INPUT|OOD|EVAL)\.[A-Z0-9_.]+)", ALL)
    )
    assert len(named) > 8 and named <= known, named - known


def test_methods_of_a_detector_that_are_named_exist():
    examples = "\n".join(re.findall(r"```python\n(.*?)```", ALL, flags=re.DOTALL))
    named = set(re.findall(r"\b(?:Detector|detector)\.(\w+)\(", examples))
    assert {"zero_shot", "calibrate", "save", "load"} <= named
    assert all(hasattr(Detector, name) for name in named), named


def test_files_that_are_named_exist():
    named = re.findall(
        r"`((?:benchmarks|clip|configs|dassl|datasets|detector|docs|generated|ood|results|run|scripts"
        r"|tests|trainers)/[\w/.]*)",
        ALL,
    )
    assert len(named) > 8
    for path in named:
        assert (ROOT / path).exists(), path


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", TEXTS, ids=str)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)]+)\)", TEXTS[page]):
        if link.startswith("http"):
            continue
        file, _, anchor = link.partition("#")
        target = (ROOT / page).parent / file if file else ROOT / page
        assert target.exists(), f"{page}: {link}"
        assert not anchor or anchor in anchors(target.read_text(encoding="utf-8")), link


def test_the_readme_is_one_screen_of_entrance():
    text = TEXTS[Path("README.md")]
    assert len(text.splitlines()) <= 150 and len(text.split()) <= 1300
