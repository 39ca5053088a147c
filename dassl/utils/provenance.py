"""What a result depends on besides its inputs: code and versions."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from dassl.utils.tools import versions

__all__ = ["git_state", "versions"]

ROOT = Path(__file__).resolve().parents[2]


def git_state(root: str | os.PathLike = ROOT) -> dict[str, str | bool] | None:
    """``{"commit": ..., "dirty": ...}`` of the code; None without git or outside a repository.

    Dirty = a tracked file differs from the commit. Untracked files do not count: data and outputs
    lie among them.
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
        return done.stdout.strip()

    try:
        # A copy unpacked inside somebody else's repository must not report that one's commit.
        if Path(git("rev-parse", "--show-toplevel")).resolve() != Path(root).resolve():
            return None
        changed = git("--no-optional-locks", "status", "--porcelain", "--untracked-files=no")
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(changed)}
    except (OSError, subprocess.SubprocessError):
        return None
