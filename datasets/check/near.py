"""Things under another name than they should have, or one folder too deep."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from difflib import SequenceMatcher
from pathlib import Path

from dassl.utils.errors import InputError
from datasets.folders import split_meant, walk

ARCHIVES = (".tar.gz", ".tgz", ".tar", ".zip")
MANY = 60  # a folder with more subfolders holds classes, not data sets


def entries_of(folder: Path) -> dict[str, bool]:
    """Entries of a folder -> whether each is a folder; nothing where it cannot be listed."""
    return next(walk(folder, refused=lambda error: None), ("", {}))[1] if folder.is_dir() else {}


def subfolders(folder: Path) -> list[str]:
    return sorted(name for name, is_dir in entries_of(folder).items() if is_dir)


def folders_below(folder: Path, depth: int) -> Iterator[Path]:
    """Folders in a folder, the upper ones first; what looks like classes is not gone through."""
    level = [folder]
    for _ in range(depth):
        names = [(above, subfolders(above)) for above in level]
        level = [above / name for above, found in names if len(found) <= MANY for name in found]
        yield from level


def has_splits(folder: Path) -> bool:
    """Whether there is something to evaluate on: find_splits would take the folder."""
    return any((folder / name).is_dir() for name in ("val", "test"))


def misnamed_splits(folder: Path) -> dict[str, str]:
    """Name of a subfolder -> the split it seems to be, where that one is not there."""
    found = subfolders(folder)
    meant = {name: split_meant(name) for name in found}
    return {name: split for name, split in meant.items() if split and split not in found}


def alike(name: str, wanted: Iterable[str]) -> bool:
    """Whether a name is nearly one of those: cifar10 is not nearly cifar100."""
    return any(
        re.findall(r"\d+", name) == re.findall(r"\d+", other) and _near(name, other)
        for other in wanted
    )


def _near(name: str, other: str) -> bool:
    name, other = plain(name), plain(other)
    if len(other) > 2 and name.startswith(other):
        return True
    return SequenceMatcher(None, name, other).ratio() >= 0.8


def plain(name: str) -> str:
    """Small letters and digits alone."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def archives(folder: Path, names: Iterable[str] = ()) -> list[str]:
    """Archives in a folder, those that are called like one of the names if any are given."""
    starts = tuple(plain(name) for name in names)
    return sorted(
        name
        for name, is_dir in entries_of(folder).items()
        if not is_dir
        and name.lower().endswith(ARCHIVES)
        and (not starts or plain(name).startswith(starts))
    )


def lists(folder: Path) -> bool:
    """Whether the folder can be listed."""
    try:
        next(walk(folder), None)
    except InputError:
        return False
    return True
