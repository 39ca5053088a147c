"""The quick part: which sets are there, by the names of folders alone, in milliseconds.

Entry points run it first. The images are then listed, and counted, once: by the run itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import reduce
from operator import or_
from pathlib import Path

from yacs.config import CfgNode

from dassl.data.datasets import DATASET_REGISTRY
from dassl.utils.errors import InputError
from datasets.caption_shards import find_shards
from datasets.captions import check_source, pairs_path
from datasets.check.report import Problem, numbered
from datasets.classfolders import ClassFolders, data_root, require_root
from datasets.folders import DataError, absolute, contents, counted, walk_images
from datasets.imagelist import ImageList
from datasets.lists import Listed, read_list
from datasets.needs import Needs
from datasets.ood_sets import (
    class_names_of,
    find_ood_set,
    list_file,
    no_images,
    ood_set_names,
    set_entry,
    shifted_set_names,
)
from datasets.splits import class_folders

ROOT, PAIRS = "data root", "DATASET.PAIRS"  # rows of the table
NOT_THERE = ("missing", "no splits", "empty", "no images")  # kinds that a download mends


@dataclass
class Layout:
    """Folders that are there: of the ID set's splits, of the OOD sets; and what is wrong.

    Attributes:
        classes: class folders that the ID set should have, None where that is not known.
        ood: of OOD sets and of shifted ID sets.
        lists: what lists say, by row.
    """

    splits: dict[str, Path] = field(default_factory=dict)
    classes: list[str] | None = None
    ood: dict[str, Path] = field(default_factory=dict)
    lists: dict[str, Listed] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def add(
        self, cfg: CfgNode, error: InputError, where: str, stops: Needs, source: str = ""
    ) -> None:
        """Add what a loader refuses; `source` says where a set that is not there can be had."""
        more = ""
        if source and error.kind in NOT_THERE:
            more = f"Get it: {source.replace('{root}', absolute(data_root(cfg)))}"
        self.problems.append(Problem.of(error, where, stops, more))


def require_data(cfg: CfgNode, needs: Needs) -> None:
    """Raise an InputError that names all at once what keeps a run from its data.

    Reads folders, writes nothing.

    Args:
        needs: what the run reads.
    """
    problems = check_layout(cfg, needs).problems
    if problems:
        run = "training" if needs & (Needs.TRAIN | Needs.PAIRS) else "evaluation"
        listed = "\n\n".join(numbered(n, problem) for n, problem in enumerate(problems, start=1))
        raise InputError(
            f"the data are not ready for {run}: {counted(len(problems), 'problem')}.\n\n{listed}"
            "\n\nbash scripts/check.sh with the same flags looks at all of the data."
        )


def check_layout(cfg: CfgNode, needs: Needs) -> Layout:
    """Find the sets that runs need, and what is wrong with their folders.

    Raises:
        InputError: the config asks for what no folder could give.
    """
    layout = Layout()
    if needs & (Needs.TEST | Needs.TRAIN):
        _check_id_set(cfg, layout)
    if needs & Needs.OOD:
        _check_ood_sets(cfg, layout)
    if needs & Needs.PAIRS:
        _check_pairs(cfg, layout)
    rootless = [problem for problem in layout.problems if problem.kind == "no data root"]
    if rootless:  # said once
        stops = reduce(or_, (problem.stops for problem in rootless))
        rest = [problem for problem in layout.problems if problem not in rootless]
        layout.problems = [replace(rootless[0], where=ROOT, stops=stops), *rest]
    layout.problems = [problem for problem in layout.problems if problem.stops & needs]
    return layout


def row_name(split: str) -> str:
    """Return what the table calls a split of the ID set."""
    return f"ID {split}"


def _check_id_set(cfg: CfgNode, layout: Layout) -> None:
    """Ask the ID set's loader, step by step, so that all faults are found, not the first."""
    kind = DATASET_REGISTRY.get(cfg.DATASET.NAME)
    if issubclass(kind, ImageList):
        return _check_list(cfg, layout, kind)
    if not issubclass(kind, ClassFolders):
        return  # others keep their images as they like
    both, found = Needs.TEST | Needs.TRAIN, {}

    def add(error: InputError, where: str, stops: Needs) -> None:
        layout.add(cfg, error, where, stops, cfg.DATASET.DOWNLOAD)

    try:
        require_root(data_root(cfg), [cfg.DATASET.FOLDER])
        layout.splits = kind.find_splits(kind.locate(cfg))
    except InputError as error:
        return add(error, "ID", both)
    deciding = kind.deciding_splits(cfg, layout.splits)
    rows = {
        path: (row_name(name), both if path in deciding else Needs.TRAIN)
        for name, path in layout.splits.items()
    }
    for path, row in rows.items():
        try:
            found[path] = class_folders(path)
        except InputError as error:
            add(error, *row)
    if all(path in found for path in deciding):
        try:
            layout.classes = kind.choose_classes(cfg, {path: found[path] for path in deciding})
        except InputError as error:
            return add(error, rows[deciding[0]][0], both)
        for path in found:
            try:
                kind.require_classes(path, layout.classes, found[path])
            except InputError as error:
                add(error, *rows[path])
    if "train" not in layout.splits:
        train = next(iter(layout.splits.values())).with_name("train")
        text = f"There is no {absolute(train)}: nothing can be trained on this set."
        add(DataError(text, "missing"), row_name("train"), Needs.TRAIN)


def _check_list(cfg: CfgNode, layout: Layout, kind: type[ImageList]) -> None:
    wanted = {("val", "test"): Needs.TEST | Needs.TRAIN, ("train",): Needs.TRAIN}
    for splits, stops in wanted.items():
        try:
            images = kind.folders(cfg)[1]
            for split, items in kind.read(cfg, splits)[2].items():
                listed = Listed(items, images, kind.list_file(cfg, split))
                layout.lists[row_name(split)] = listed
        except InputError as error:
            row = row_name("train") if stops == Needs.TRAIN else "ID"
            return layout.add(cfg, error, row, stops, cfg.DATASET.DOWNLOAD)


def _check_ood_sets(cfg: CfgNode, layout: Layout) -> None:
    try:
        names = [*ood_set_names(cfg), *shifted_set_names(cfg)]
    except DataError as error:
        return layout.add(cfg, error, "OOD", Needs.OOD)
    for name in names:
        try:
            folder = find_ood_set(cfg, name)
            if file := list_file(cfg, name):
                layout.lists[name] = Listed(read_list(file, folder), folder, file)
            classes = class_names_of(cfg, name, folder)
            layout.ood[name] = folder
            if not (file or classes or any(walk_images(folder))):  # no further than the first
                raise no_images(name, folder)
        except InputError as error:
            source = set_entry(cfg, name)[0].get("DOWNLOAD", "")
            layout.add(cfg, error, name, Needs.OOD, source)


def _check_pairs(cfg: CfgNode, layout: Layout) -> None:
    """Look whether the shards or the table of the pairs are there."""
    check_source(cfg)
    pairs = cfg.DATASET.PAIRS
    if pairs.SOURCE == "classnames":
        return
    try:
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
    except InputError as error:
        # The YAML's address is of the YAML's pairs, not of others named by PATH.
        its_own = all(part in pairs.DOWNLOAD for part in Path(pairs.PATH).parts[:1])
        layout.add(cfg, error, PAIRS, Needs.PAIRS, pairs.DOWNLOAD if its_own else "")
