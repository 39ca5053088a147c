"""What a result depends on besides its inputs: code, versions, files."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

PACKAGES = (
    "torch", "torchvision", "open_clip_torch", "timm", "numpy", "scikit-learn", "pillow",
)  # fmt: skip
ROOT = Path(__file__).resolve().parent.parent


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


def versions() -> dict[str, str | None]:
    """Versions of Python and of the packages that can change a figure; None if not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


def file_hash(path: str | os.PathLike) -> str:
    """SHA-256 of a file's content, as 64 hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
