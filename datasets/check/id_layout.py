"""Whether the folders of an ID set are where they should be and called what they should be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from dassl.utils.errors import InputError
from datasets.check import near, sources
from datasets.check.findings import EVALUATION, TRAINING, Problem, counted
from datasets.check.sources import quoted
from datasets.classfolders import ClassFolders, data_root
from datasets.classnames import imagenet_classnames, imagenet_wnids, read_class_list
from datasets.folders import absolute, contents, holds_images, is_image, some
from datasets.imagenet import ImageNet
from datasets.needs import trains_elsewhere

BOTH = (EVALUATION, TRAINING)
SOLUTION = "LOC_val_solution.csv"
SEARCHED = 6  # folders from val/ up: Kaggle's list is in the third above it


def look(cfg, kind: type[ClassFolders]) -> tuple[dict[str, Path], list[Problem]]:
    """The splits of the ID set that are there, and what is wrong with its folders.

    Lists folders, never the images of a class.
    """
    folder = kind.locate(cfg)
    if not folder.is_dir():
        return {}, [_no_folder(cfg, kind, folder)]
    try:
        splits = kind.find_splits(folder)
    except InputError:
        return {}, [_no_splits(cfg, folder)]
    undivided = splits.keys() == {"train"}
    if undivided and (holder := _deeper(folder)):
        # The loader would take the folder in between for a class.
        return splits, [replace(_nested(folder, holder), stops=())]
    problems = []
    for name, path in splits.items():
        problems += _Split(cfg, kind, name, path, undivided).problems()
    if "train" not in splits:
        problems.append(_no_train(folder, next(iter(splits.values())).parent, data_root(cfg)))
    elif not issubclass(kind, ImageNet) and cfg.DATASET.CLASSES == "" and not problems:
        problems += _differences(splits)
    return splits, problems


def row_name(split: str) -> str:
    """What the table calls a split of the ID set."""
    return f"ID {split}"


def _no_folder(cfg, kind: type[ClassFolders], folder: Path) -> Problem:
    root = data_root(cfg)
    names = [cfg.DATASET.FOLDER] if cfg.DATASET.FOLDER else list(kind.default_folders)
    meant = [
        place
        for place in near.folders_below(root, 3)
        if near.alike(place.name, names) and _may_be_a_home(place)
    ]
    what = (
        f"The folder {absolute(folder)} does not exist. Found beside it: {contents(folder.parent)}."
    )
    if meant:
        what += f" {absolute(meant[0])} may be it."
        mend = [
            f"# or add   DATASET.FOLDER {quoted(meant[0].relative_to(root))}   to the command",
            f"mv {quoted(meant[0])} {quoted(folder)}",
        ]
    else:
        mend = sources.id_source(folder.name, root, _splits_read(cfg))
    return Problem("missing", "ID", what, mend, BOTH)


def _may_be_a_home(folder: Path) -> bool:
    """Whether there are splits in the folder, by whatever name."""
    return any(
        near.has_splits(place) or near.misnamed_splits(place)
        for place in (folder, folder / "images")
    )


def _no_splits(cfg, folder: Path) -> Problem:
    """Neither val/ nor test/ in the folder: called otherwise, deeper, or not there."""
    for holder in (folder / "images", folder):
        moves = near.misnamed_splits(holder)
        if {"val", "test"} & set(moves.values()):
            return Problem(
                "misnamed",
                "ID",
                f"In {absolute(holder)} the splits are called {', '.join(moves)}; they must be "
                f"{', '.join(moves.values())}.",
                [
                    f"mv {quoted(holder / name)} {quoted(holder / split)}"
                    for name, split in moves.items()
                ],
                BOTH,
            )
    if holder := _deeper(folder):
        return _nested(folder, holder)
    what = (
        f"There is neither val/ nor test/ in {absolute(folder)}, nor in its images/. "
        f"Found in it: {contents(folder)}."
    )
    classes = [
        name
        for name in near.subfolders(folder)
        if name not in ("train", "images") and holds_images(folder / name)
    ]
    if classes:
        val = folder / "val"
        return Problem(
            "no splits",
            "ID",
            what + " These look like class folders.",
            [
                f"mkdir {quoted(val)}",
                *(f"mv {quoted(folder / name)} {quoted(val)}/" for name in classes),
            ],
            BOTH,
        )
    if packed := near.archives(folder):
        return Problem(
            "packed",
            "ID",
            what,
            [
                "# unpack what is packed, each into the folder of its split, such as:",
                f"mkdir -p {quoted(folder / 'val')} && tar xf {quoted(folder / packed[0])} "
                f"-C {quoted(folder / 'val')}",
            ],
            BOTH,
        )
    mend = sources.id_source(folder.name, folder.parent, _splits_read(cfg))
    return Problem("no splits", "ID", what, mend, BOTH)


def _splits_read(cfg) -> list[str]:
    return ["val"] if trains_elsewhere(cfg) else ["val", "train"]


def _deeper(folder: Path) -> Path | None:
    """A folder below with splits in it."""
    return next(filter(near.has_splits, near.folders_below(folder, 3)), None)


def _nested(folder: Path, holder: Path) -> Problem:
    what = (
        f"The splits lie too deep, in {absolute(holder)}; they must be in {absolute(folder)} "
        "or its images/."
    )
    if (folder / "images").exists():
        moves = [
            f"mv {quoted(holder / name)} {quoted(folder / 'images')}/"
            for name in near.subfolders(holder)
        ]
        if holder.parent == folder and holder.name.lower() == "images":  # one folder on a Mac
            moves = [f"mv {quoted(holder)} {quoted(folder / 'images')}"]
    else:
        moves = [f"mv {quoted(holder)} {quoted(folder / 'images')}"]
    return Problem("nested", "ID", what, moves, BOTH)


def _no_train(folder: Path, holder: Path, root: Path) -> Problem:
    train = holder / "train"
    moves = near.misnamed_splits(holder)
    others = [holder / name for name, split in moves.items() if split == "train"]
    others += [place for place in (folder / "train", folder / "images/train") if place.is_dir()]
    what = f"There is no {absolute(train)}: nothing can be trained on this set."
    if others:
        return Problem(
            "misnamed",
            row_name("train"),
            what + f" {absolute(others[0])} may be it.",
            [f"mv {quoted(others[0])} {quoted(train)}"],
            (TRAINING,),
        )
    mend = [
        "# evaluation needs no training images. To train:",
        *sources.id_source(folder.name, root, ["train"]),
    ]
    return Problem("missing", row_name("train"), what, mend, (TRAINING,))


def _differences(splits: dict[str, Path]) -> list[Problem]:
    """ImageFolder without DATASET.CLASSES takes the classes of all splits, which must agree."""
    found = {name: set(near.subfolders(path)) for name, path in splits.items()}
    missing = {name: sorted(set.union(*found.values()) - own) for name, own in found.items()}
    if not any(missing.values()):
        return []
    what = "The splits have different class folders. " + " ".join(
        f"Not in {name}/: {some(names)}." for name, names in missing.items() if names
    )
    return [
        Problem(
            "classes differ",
            row_name(next(iter(splits))),
            what,
            [
                "# complete them, or take the classes that all have, by adding to the command:",
                "#   DATASET.CLASSES present",
            ],
            BOTH,
        )
    ]


class _Split:
    """One split of an ID set: its class folders, by name."""

    def __init__(self, cfg, kind: type[ClassFolders], name: str, path: Path, undivided: bool):
        self.cfg, self.kind, self.name, self.path = cfg, kind, name, path
        self.imagenet = issubclass(kind, ImageNet)
        entries = near.entries_of(path)
        self.folders = sorted(entry for entry, is_dir in entries.items() if is_dir)
        self.images = sorted(e for e, is_dir in entries.items() if not is_dir and is_image(e))
        # What the loader asks of the training folders when it only evaluates.
        lazy = (
            name == "train" and not undivided and self.imagenet and cfg.DATASET.CLASSES != "present"
        )
        self.stops = (TRAINING,) if lazy else BOTH

    def problems(self) -> list[Problem]:
        if not near.lists(self.path):
            return [
                self._problem(
                    "no permission",
                    f"{absolute(self.path)} cannot be listed.",
                    [f"chmod u+rx {quoted(self.path)}"],
                )
            ]
        if not self.folders:
            return [self._without_folders()]
        found = self._classes()
        if self.images:
            found.append(
                self._problem(
                    "loose images",
                    f"{self._loose} directly in {absolute(self.path)}, of no class: left out.",
                    self._sort(),
                    stops=(),
                )
            )
        return found

    def _problem(self, kind: str, what: str, mend: Sequence[str], stops=None) -> Problem:
        return Problem(
            kind, row_name(self.name), what, mend, self.stops if stops is None else stops
        )

    @property
    def _loose(self) -> str:
        return f"{counted(len(self.images), 'image')}, such as {self.images[0]},"

    def _without_folders(self) -> Problem:
        packed = near.archives(self.path)
        if self.images:
            return self._problem(
                "flat",
                f"{absolute(self.path)} is flat: {self._loose} directly in it, and no "
                "class folders.",
                self._sort(),
            )
        if packed:
            return self._problem(
                "packed",
                f"{absolute(self.path)} holds archives, {some(packed, 3)}, and no class folders.",
                [sources.unpack_class_tars(self.path)],
            )
        folder = self.kind.locate(self.cfg)
        return self._problem(
            "empty",
            f"{absolute(self.path)} is empty.",
            sources.id_source(folder.name, folder.parent, [self.name]),
        )

    def _sort(self) -> list[str]:
        if not self.imagenet:
            return [
                "# sort them into one folder a class, such as:",
                f"#   mkdir -p {quoted(self.path)}/CLASS",
                f"#   mv {quoted(self.path / self.images[0])} {quoted(self.path)}/CLASS/",
            ]
        if self.name == "train":
            return [
                "# the names of training images begin with their class:",
                f"(cd {quoted(self.path)} && for image in n*_*.JPEG; do mkdir -p "
                '"${image%%_*}" && mv "$image" "${image%%_*}"/; done)',
            ]
        above = [self.path, *self.path.parents][:SEARCHED]
        solutions = (place / SOLUTION for place in above if (place / SOLUTION).is_file())
        solution = next(solutions, None)
        if self.folders and solution is None:  # the usual script wants all 50,000
            return ["# move each into the folder of its class, or away"]
        return sources.sort_flat_val(self.path, solution)

    def _classes(self) -> list[Problem]:
        """Class folders that should be there, or should not."""
        classes = self.cfg.DATASET.CLASSES
        chosen = set(read_class_list(classes)) if classes not in ("", "present") else None
        if not self.imagenet:
            return self._missing(chosen or set(), set(self.folders))
        known = set(imagenet_wnids())
        unknown = [name for name in self.folders if name not in known]
        if unknown and len(self.folders) == 1:
            return [self._wrapped(unknown[0])]
        renamed = _wnids_meant(unknown) if unknown else {}
        there = known.intersection(self.folders).union(renamed.values())
        wanted = known if classes == "" else chosen or set()
        # The loader refuses unknown folders where all classes are wanted.
        fatal = self.stops if self.stops == BOTH and chosen is None else ()
        needed = self.stops if wanted.intersection(renamed.values()) else ()
        return [
            *self._renamed(renamed, fatal or needed),
            *self._foreign([name for name in unknown if name not in renamed], fatal),
            *self._missing(wanted, there),
        ]

    def _wrapped(self, name: str) -> Problem:
        inner = self.path / name
        what = (
            f"{absolute(self.path)} holds one folder, {name}, which is no WordNet id such as "
            f"n01440764. In {name}: {contents(inner)}."
        )
        return self._problem(
            "nested",
            what,
            [
                f"find {quoted(inner)} -mindepth 1 -maxdepth 1 "
                f"-exec mv {{}} {quoted(self.path)}/ ';' "
                f"&& rmdir {quoted(inner)}",
                "# then check again",
            ],
        )

    def _renamed(self, renamed: dict[str, str], stops: Sequence[str]) -> list[Problem]:
        if not renamed:
            return []
        first = next(iter(renamed))
        return [
            self._problem(
                "class names",
                f"{counted(len(renamed), 'class folder')} in {absolute(self.path)} "
                f"called by name or number, not by WordNet id: {first} must be {renamed[first]}.",
                [self._move(self.path / name, self.path / wnid) for name, wnid in renamed.items()],
                stops,
            )
        ]

    @staticmethod
    def _move(folder: Path, target: Path) -> str:
        if target.exists():
            return f"mv {quoted(folder)}/* {quoted(target)}/ && rmdir {quoted(folder)}"
        return f"mv {quoted(folder)} {quoted(target)}"

    def _foreign(self, foreign: Sequence[str], stops: Sequence[str]) -> list[Problem]:
        if not foreign:
            return []
        aside = self.path.with_name(f"{self.name}_other")
        return [
            self._problem(
                "unknown classes",
                f"{counted(len(foreign), 'folder')} in {absolute(self.path)} not "
                f"called by any of ImageNet-1K's 1000 WordNet ids: {some(foreign)}.",
                [
                    f"mkdir -p {quoted(aside)}",
                    *(f"mv {quoted(self.path / name)} {quoted(aside)}/" for name in foreign),
                ],
                stops,
            )
        ]

    def _missing(self, wanted: set[str], there: set[str]) -> list[Problem]:
        missing = sorted(wanted - there)
        if not missing:
            return []
        return [
            self._problem(
                "classes missing",
                f"{len(missing)} of {len(wanted)} class folders are missing in "
                f"{absolute(self.path)}: {some(missing)}.",
                [
                    "# complete the set, or take the classes that are there, by adding to the "
                    "command:",
                    "#   DATASET.CLASSES present",
                ],
            )
        ]


def _wnids_meant(folders: Sequence[str]) -> dict[str, str]:
    """Folders called by class name (tench, great_white_shark) or by label (0 to 999) -> id."""
    wnids = imagenet_wnids()
    if all(name.isdecimal() and int(name) < len(wnids) for name in folders):
        return {name: wnids[int(name)] for name in folders}
    names = dict(zip(map(near.plain, imagenet_classnames()), wnids, strict=True))
    return {folder: names[near.plain(folder)] for folder in folders if near.plain(folder) in names}
