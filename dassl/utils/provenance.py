"""The state of the code and the versions of packages that a result depends on."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]

# Packages that can change a figure.
PACKAGES = ("torch", "torchvision", "open_clip_torch", "timm", "numpy", "scikit-learn", "pillow")


def git_state(root: str | os.PathLike = ROOT) -> dict[str, str | bool] | None:
    """Return `{"commit": ..., "dirty": ...}` of the code; None without git or outside a repository.

    Dirty means that a tracked file differs from the commit. Untracked files do not count, as data
    and outputs are among them.
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        process = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
        return process.stdout.strip()

    try:
        # A copy unpacked inside another repository must not report that repository's commit.
        if Path(git("rev-parse", "--show-toplevel")).resolve() != Path(root).resolve():
            return None
        changed = git("--no-optional-locks", "status", "--porcelain", "--untracked-files=no")
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(changed)}
    except (OSError, subprocess.SubprocessError):
        return None


def versions() -> dict[str, str | None]:
    """Return versions of Python and of packages that can change a figure, None if not installed."""
    return {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}


def collect_env_info() -> str:
    """List the versions that figures can depend on, one a line, without starting a process."""
    lines = [f"{name}: {version or 'not installed'}" for name, version in versions().items()]
    lines[0] += f" ({platform.system()} {platform.machine()})"
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    lines.append(f"CUDA: {torch.version.cuda or 'none'}, devices: {', '.join(devices) or 'none'}")
    lines.append(f"CPUs: {os.cpu_count()}, torch threads: {torch.get_num_threads()}")
    return "\n".join(lines)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
