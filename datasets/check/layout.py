"""The quick part of the check: which sets exist, by the names of folders, in milliseconds.

Entry points run it first. The run itself then lists and counts the images.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial, reduce
from operator import or_
from pathlib import Path

from yacs.config import CfgNode

from dassl.data.datasets import DATASET_REGISTRY
from dassl.utils import check_availability
from dassl.utils.errors import InputError
from datasets.caption_shards import find_shards
from datasets.captions import SOURCES, pairs_path
from datasets.check.listing import ImageSet
from datasets.check.report import Problem, numbered
from datasets.classfolders import ClassFolders, data_root, require_root
from datasets.folders import DataError, absolute, contents, counted, walk_images
from datasets.imagelist import ImageList
from datasets.lists import read_list
from datasets.needs import Needs
from datasets.ood_sets import (
    class_names_of,
    find_ood_set,
    list_file,
    no_images,
    set_entry,
    set_names,
)
from datasets.splits import class_folders

ROOT, PAIRS = "data root", "DATASET.PAIRS"  # rows of the table
DOWNLOADABLE = ("missing", "no splits", "empty", "no images")  # kinds that a download mends
BOTH = Needs.TEST | Needs.TRAIN


@dataclass
class Layout:
    """The sets of a config whose folders exist, and the problems of all sets."""

    cfg: CfgNode
    sets: list[ImageSet] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    @contextmanager
    def collecting(self, where: str, stops: Needs, source: str = "") -> Iterator[None]:
        """Turn an InputError in the block into a problem; `source`: where to get a missing set."""
        try:
            yield
        except InputError as error:
            more = ""
            if source and error.kind in DOWNLOADABLE:
                more = f"Get it: {source.replace('{root}', absolute(data_root(self.cfg)))}"
            self.problems.append(Problem.of(error, where, stops, more))


def require_data(cfg: CfgNode, needs: Needs) -> None:
    """Raise an InputError that lists all problems with the data that a run `needs`."""
    problems = check_layout(cfg, needs).problems
    if problems:
        run = "training" if needs & (Needs.TRAIN | Needs.PAIRS) else "evaluation"
        listed = "\n\n".join(numbered(n, problem) for n, problem in enumerate(problems, start=1))
        raise InputError(
            f"the data are not ready for {run}: {counted(len(problems), 'problem')}.\n\n{listed}"
            "\n\nTo check all of the data, run bash scripts/check.sh with the same flags."
        )


def check_layout(cfg: CfgNode, needs: Needs) -> Layout:
    """Find the sets that runs need, and the problems of their folders; InputError if the config
    itself is wrong, whatever the folders hold."""
    layout = Layout(cfg)
    dataset_class = DATASET_REGISTRY.get(cfg.DATASET.NAME)
    # Data sets of other classes may keep their images anywhere, so they are not checked.
    if needs & BOTH and issubclass(dataset_class, ImageList):
        _check_lists(layout, dataset_class)
    elif needs & BOTH and issubclass(dataset_class, ClassFolders):
        _check_class_folders(layout, dataset_class)
    if needs & Needs.OOD:
        _check_ood_sets(layout)
    if needs & Needs.PAIRS:
        _check_pairs(layout)
    rootless = [problem for problem in layout.problems if problem.kind == "no data root"]
    if rootless:  # every set has this problem, so report it once
        stops = reduce(or_, (problem.stops for problem in rootless))
        rest = [problem for problem in layout.problems if problem not in rootless]
        layout.problems = [replace(rootless[0], where=ROOT, stops=stops), *rest]
    layout.sets = [images for images in layout.sets if images.stops & needs]
    layout.problems = [problem for problem in layout.problems if problem.stops & needs]
    return layout


def _check_class_folders(layout: Layout, dataset_class: type[ClassFolders]) -> None:
    """Follow the ID set's loader step by step, to find all problems, not only the first."""
    cfg, by_split, classes = layout.cfg, {}, None
    collecting = partial(layout.collecting, source=cfg.DATASET.DOWNLOAD)
    with collecting("ID", BOTH):
        require_root(data_root(cfg), [cfg.DATASET.FOLDER])
        splits = dataset_class.find_splits(dataset_class.locate(cfg))
        deciding = dataset_class.deciding_splits(cfg, splits)
        rows = {
            path: (f"ID {name}", BOTH if path in deciding else Needs.TRAIN)
            for name, path in splits.items()
        }
        for path, row in rows.items():
            with collecting(*row):
                by_split[path] = class_folders(path)
        if all(path in by_split for path in deciding):
            with collecting(*rows[deciding[0]]):
                choices = {path: by_split[path] for path in deciding}
                classes = dataset_class.choose_classes(cfg, choices)
                for path in by_split:
                    with collecting(*rows[path]):
                        dataset_class.require_classes(path, classes, by_split[path])
        if "train" not in splits:
            train = next(iter(splits.values())).with_name("train")
            with collecting("ID train", Needs.TRAIN):
                text = f"There is no {absolute(train)}: nothing can be trained on this set."
                raise DataError(text, "missing")
        # The training set comes last, because it is the largest.
        for name, path in sorted(splits.items(), key=lambda split: split[0] == "train"):
            stops = Needs.TRAIN if name == "train" else Needs.TEST
            present = by_split.get(path, [])
            folders = present if classes is None else sorted(set(present).intersection(classes))
            expected = {"IMAGES": dataset_class.expected_images(name, len(classes or folders)) or 0}
            # A single split is also the test set. A flat split has no classes.
            stops = BOTH if len(splits) == 1 else stops
            layout.sets.append(ImageSet(f"ID {name}", path, stops, folders or None, expected))


def _check_lists(layout: Layout, dataset_class: type[ImageList]) -> None:
    cfg, lists = layout.cfg, {}
    collecting = partial(layout.collecting, source=cfg.DATASET.DOWNLOAD)
    with collecting("ID", BOTH):
        folder, lists = dataset_class.folders(cfg)[1], dataset_class.read(cfg)[2]
        with collecting("ID train", Needs.TRAIN):
            lists |= dataset_class.read(cfg, ["train"])[2]
    for split, items in lists.items():
        stops = Needs.TRAIN if split == "train" else Needs.TEST
        expected = cfg.OOD.ID if split == "test" else {}
        file = dataset_class.list_file(cfg, split)
        layout.sets.append(ImageSet(f"ID {split}", folder, stops, None, expected, file, items))


def _check_ood_sets(layout: Layout) -> None:
    cfg = layout.cfg
    try:
        ood, shifted = set_names(cfg)
    except DataError as error:
        layout.problems.append(Problem.of(error, "OOD", Needs.OOD))
        return
    for name in ood + shifted:
        entry, _ = set_entry(cfg, name)
        with layout.collecting(name, Needs.OOD, entry.get("DOWNLOAD", "")):
            folder, file = find_ood_set(cfg, name), list_file(cfg, name)
            items = read_list(file, folder) if file else ()
            classes = class_names_of(cfg, name, folder)
            layout.sets.append(ImageSet(name, folder, Needs.OOD, classes, entry, file, items))
            if not (file or classes or any(walk_images(folder))):  # `any` stops at the first
                raise no_images(name, folder)


def _check_pairs(layout: Layout) -> None:
    cfg, pairs = layout.cfg, layout.cfg.DATASET.PAIRS
    check_availability(pairs.SOURCE, SOURCES, what="DATASET.PAIRS.SOURCE")
    if pairs.SOURCE == "classnames":
        return
    # DOWNLOAD belongs to the PATH in the YAML, not to another one that the user gave.
    matches = all(part in pairs.DOWNLOAD for part in Path(pairs.PATH).parts[:1])
    with layout.collecting(PAIRS, Needs.PAIRS, pairs.DOWNLOAD if matches else ""):
        require_root(data_root(cfg), [pairs.PATH])
        path = pairs_path(cfg)
        if pairs.SOURCE == "shards":
            find_shards(path)
        elif not path.exists():
            raise DataError(
                f"The table of pairs {absolute(path)} (DATASET.PAIRS.PATH) does not "
                f"exist. Found beside it: {contents(path.parent)}.",
                "missing",
            )
