"""Whether the OOD sets are where they should be."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dassl.utils.errors import InputError
from datasets.check import near, sources
from datasets.check.findings import EVALUATION, Problem
from datasets.check.sources import quoted
from datasets.classfolders import data_root
from datasets.folders import absolute, contents, holds_images
from datasets.ood_sets import locate_ood_sets, places

TOO_GENERAL = ("images", "test", "images_classic", "images_largescale")  # to know a set by


def look(cfg) -> tuple[dict[str, Path], list[Problem]]:
    """The folder of each OOD set that is there, and what is wrong with the folders.

    Raises:
        InputError: no set is configured, or one is in a way that no folder could mend.
    """
    root, located = data_root(cfg), locate_ood_sets(cfg)
    found = {name: folder for name, folder in located.items() if folder is not None}
    problems = [
        _missing(name, cfg.OOD.SETS[name].FOLDERS, root) for name in located if name not in found
    ]
    for name, folder in found.items():
        problems += _empty(name, folder, root)
        problems += _ambiguous(name, places(root, cfg.OOD.SETS[name].FOLDERS))
    return found, problems + _shared(found)


def _missing(name: str, folders: Sequence[str], root: Path) -> Problem:
    what = (
        f"not found. Tried {', '.join(folders)} in {absolute(root)}, which holds {contents(root)}."
    )
    names = [
        next((part for part in Path(folder).parts if part.lower() not in TOO_GENERAL), folder)
        for folder in folders
    ]
    if packed := near.archives(root, [*names, name]):
        mend = [sources.unpack(root / packed[0])]
        return Problem("packed", name, what + f" {packed[0]} may be it.", mend, (EVALUATION,))
    for place in near.folders_below(root, 2):
        if near.alike(place.name, [*names, name]) and _has_images(place):
            setting = sources.as_setting(name, place.relative_to(root))
            mend = [
                f"# or add   {setting}   to the command",
                f"mv {quoted(place)} {quoted(root / names[0])}",
            ]
            return Problem(
                "misnamed", name, what + f" {absolute(place)} may be it.", mend, (EVALUATION,)
            )
    return Problem("missing", name, what, sources.ood_source(name, root), (EVALUATION,))


def _empty(name: str, folder: Path, root: Path) -> list[Problem]:
    try:
        if holds_images(folder):
            return []
    except InputError as error:
        return [
            Problem(
                "no permission",
                name,
                str(error),
                [f"chmod -R u+rX {quoted(folder)}"],
                (EVALUATION,),
            )
        ]
    what = f"{absolute(folder)} holds no images, only {contents(folder)}."
    if packed := near.archives(folder):
        return [Problem("packed", name, what, [sources.unpack(folder / packed[0])], (EVALUATION,))]
    return [Problem("no images", name, what, sources.ood_source(name, root), (EVALUATION,))]


def _ambiguous(name: str, candidates: Sequence[Path]) -> list[Problem]:
    """Two folders the set may be meant by, neither of which lies in the other."""
    taken = candidates[0].resolve()
    others = [place for place in candidates[1:] if not _nested(taken, place.resolve())]
    if not others:
        return []
    return [
        Problem(
            "two folders",
            name,
            f"{absolute(candidates[0])} is taken, but {absolute(others[0])} is there too.",
            [
                "# to take the other, add to the command:",
                f"#   {sources.as_setting(name, others[0].resolve())}",
            ],
        )
    ]


def _nested(one: Path, other: Path) -> bool:
    return one.is_relative_to(other) or other.is_relative_to(one)


def _shared(found: dict[str, Path]) -> list[Problem]:
    """Sets that are one and the same folder."""
    first: dict[Path, str] = {}
    problems = []
    for name, folder in found.items():
        other = first.setdefault(folder.resolve(), name)
        if other != name:
            problems.append(
                Problem(
                    "same folder",
                    name,
                    f"{name} and {other} are the same folder, {absolute(folder)}.",
                    ["# name another in the command:", f"#   {sources.as_setting(name, 'FOLDER')}"],
                )
            )
    return problems


def _has_images(folder: Path) -> bool:
    try:
        return holds_images(folder)
    except InputError:
        return False
