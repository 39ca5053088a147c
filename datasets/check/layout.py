"""The quick part: which sets are there, by the names of folders alone, in milliseconds.

Entry points run it first. The images are then listed, and counted, once: by the run itself.
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
NOT_THERE = ("missing", "no splits", "empty", "no images")  # kinds that a download mends
BOTH = Needs.TEST | Needs.TRAIN


@dataclass
class Layout:
    """Sets of a config whose folders are there, and what is wrong with these or with others."""

    cfg: CfgNode
    sets: list[ImageSet] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    @contextmanager
    def refusing(self, where: str, stops: Needs, source: str = "") -> Iterator[None]:
        """Add what a loader refuses; `source` says where a set that is not there can be had."""
        try:
            yield
        except InputError as error:
            more = ""
            if source and error.kind in NOT_THERE:
                more = f"Get it: {source.replace('{root}', absolute(data_root(self.cfg)))}"
            self.problems.append(Problem.of(error, where, stops, more))


def require_data(cfg: CfgNode, needs: Needs) -> None:
    """Raise an InputError that names all at once what keeps a run from the data it `needs`."""
    problems = check_layout(cfg, needs).problems
    if problems:
        run = "training" if needs & (Needs.TRAIN | Needs.PAIRS) else "evaluation"
        listed = "\n\n".join(numbered(n, problem) for n, problem in enumerate(problems, start=1))
        raise InputError(
            f"the data are not ready for {run}: {counted(len(problems), 'problem')}.\n\n{listed}"
            "\n\nbash scripts/check.sh with the same flags looks at all of the data."
        )


def check_layout(cfg: CfgNode, needs: Needs) -> Layout:
    """Find the sets that runs need, and what is wrong with their folders; InputError where the
    config asks for what no folder could give."""
    layout = Layout(cfg)
    kind = DATASET_REGISTRY.get(cfg.DATASET.NAME)  # other loaders keep their images as they like
    if needs & BOTH and issubclass(kind, ImageList):
        _check_lists(layout, kind)
    elif needs & BOTH and issubclass(kind, ClassFolders):
        _check_class_folders(layout, kind)
    if needs & Needs.OOD:
        _check_ood_sets(layout)
    if needs & Needs.PAIRS:
        _check_pairs(layout)
    rootless = [problem for problem in layout.problems if problem.kind == "no data root"]
    if rootless:  # said once
        stops = reduce(or_, (problem.stops for problem in rootless))
        rest = [problem for problem in layout.problems if problem not in rootless]
        layout.problems = [replace(rootless[0], where=ROOT, stops=stops), *rest]
    layout.sets = [images for images in layout.sets if images.stops & needs]
    layout.problems = [problem for problem in layout.problems if problem.stops & needs]
    return layout


def _check_class_folders(layout: Layout, kind: type[ClassFolders]) -> None:
    """Ask the ID set's loader, step by step, so that all faults are found, not the first."""
    cfg, found, classes = layout.cfg, {}, None
    refusing = partial(layout.refusing, source=cfg.DATASET.DOWNLOAD)
    with refusing("ID", BOTH):
        require_root(data_root(cfg), [cfg.DATASET.FOLDER])
        splits = kind.find_splits(kind.locate(cfg))
        deciding = kind.deciding_splits(cfg, splits)
        rows = {
            path: (f"ID {name}", BOTH if path in deciding else Needs.TRAIN)
            for name, path in splits.items()
        }
        for path, row in rows.items():
            with refusing(*row):
                found[path] = class_folders(path)
        if all(path in found for path in deciding):
            with refusing(*rows[deciding[0]]):
                classes = kind.choose_classes(cfg, {path: found[path] for path in deciding})
                for path in found:
                    with refusing(*rows[path]):
                        kind.require_classes(path, classes, found[path])
        if "train" not in splits:
            train = next(iter(splits.values())).with_name("train")
            with refusing("ID train", Needs.TRAIN):
                text = f"There is no {absolute(train)}: nothing can be trained on this set."
                raise DataError(text, "missing")
        # The training set last: it is the largest.
        for name, path in sorted(splits.items(), key=lambda split: split[0] == "train"):
            stops = Needs.TRAIN if name == "train" else Needs.TEST
            present = found.get(path, [])
            own = present if classes is None else sorted(set(present).intersection(classes))
            expected = {"IMAGES": kind.expected_images(name, len(classes or own)) or 0}
            # Alone it is tested on, too. A flat split has no classes: listed as it lies.
            stops = BOTH if len(splits) == 1 else stops
            layout.sets.append(ImageSet(f"ID {name}", path, stops, own or None, expected))


def _check_lists(layout: Layout, kind: type[ImageList]) -> None:
    cfg, lists = layout.cfg, {}
    refusing = partial(layout.refusing, source=cfg.DATASET.DOWNLOAD)
    with refusing("ID", BOTH):
        folder, lists = kind.folders(cfg)[1], kind.read(cfg)[2]
        with refusing("ID train", Needs.TRAIN):
            lists |= kind.read(cfg, ["train"])[2]
    for split, items in lists.items():
        stops = Needs.TRAIN if split == "train" else Needs.TEST
        expected = cfg.OOD.ID if split == "test" else {}
        file = kind.list_file(cfg, split)
        layout.sets.append(ImageSet(f"ID {split}", folder, stops, None, expected, file, items))


def _check_ood_sets(layout: Layout) -> None:
    cfg = layout.cfg
    try:
        outside, shifted = set_names(cfg)
    except DataError as error:
        layout.problems.append(Problem.of(error, "OOD", Needs.OOD))
        return
    for name in outside + shifted:
        entry, _ = set_entry(cfg, name)
        with layout.refusing(name, Needs.OOD, entry.get("DOWNLOAD", "")):
            folder, file = find_ood_set(cfg, name), list_file(cfg, name)
            items = read_list(file, folder) if file else ()
            classes = class_names_of(cfg, name, folder)
            layout.sets.append(ImageSet(name, folder, Needs.OOD, classes, entry, file, items))
            if not (file or classes or any(walk_images(folder))):  # no further than the first
                raise no_images(name, folder)


def _check_pairs(layout: Layout) -> None:
    cfg, pairs = layout.cfg, layout.cfg.DATASET.PAIRS
    check_availability(pairs.SOURCE, SOURCES, what="DATASET.PAIRS.SOURCE")
    if pairs.SOURCE == "classnames":
        return
    # The YAML's address is of the YAML's pairs, not of others named by PATH.
    its_own = all(part in pairs.DOWNLOAD for part in Path(pairs.PATH).parts[:1])
    with layout.refusing(PAIRS, Needs.PAIRS, pairs.DOWNLOAD if its_own else ""):
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
