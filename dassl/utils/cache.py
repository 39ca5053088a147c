"""Caches on disk: their folder and their budget."""

import os
import shutil
from pathlib import Path

from .errors import InputError

GIB = 2**30
FREE_SHARE = 0.5  # of the disk's free space that a cache may take
ABANDONED = 3600  # seconds without a write after which no process uses a temporary file


def cache_folder(name: str) -> Path:
    """Return the folder of the cache `name`: `promptood/<name>` in the user's cache folder.

    That is `$XDG_CACHE_HOME`, by default `~/.cache`.

    Raises:
        OSError: the user has no home folder.
    """
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if not os.path.isabs(base):
        raise FileNotFoundError("the user has no home folder for a cache")
    return Path(base, "promptood", name)


def file_state(path: str | os.PathLike) -> tuple[int, int]:
    """Return size and time of change (ns) of a file; (-1, -1) if it is not there.

    A cache stores it, to notice that the file has changed.
    """
    try:
        stat = os.stat(path)
    except OSError:
        return -1, -1
    return stat.st_size, stat.st_mtime_ns


def check_room(folder: Path, needed: int, gib: float, setting: str) -> None:
    """Raise InputError unless `needed` more bytes may be stored in `folder`.

    Args:
        gib: the budget of the whole folder, in GiB; `setting` is the name users know it by.
    """
    used = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    existing = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(existing).free
    allowed = max(0.0, min(gib * GIB - used, FREE_SHARE * free))
    if needed > allowed:
        raise InputError(
            f"about {needed / GIB:.3g} GiB are needed, {allowed / GIB:.3g} GiB are allowed: "
            f"{setting} is {gib:g} GiB, {folder} holds {used / GIB:.3g}, and half of the "
            f"{free / GIB:.3g} GiB free there may be used"
        )
