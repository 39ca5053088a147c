"""The quick part: which sets are there, by the names of folders alone, in milliseconds.

Entry points run it first. The images are then listed, and counted, once: by the run itself.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dassl.data.datasets import DATASET_REGISTRY
from dassl.utils.errors import InputError
from datasets.caption_shards import find_shards
from datasets.captions import check_source, pairs_path
from datasets.check.report import Problem, numbered
from datasets.classfolders import ClassFolders, data_root, require_root
from datasets.folders import DataError, absolute, contents, holds_images, no_folder, some
from datasets.needs import NOTHING, Needs
from datasets.ood_sets import locate_ood_sets, no_images
from datasets.splits import class_folders

ROOT, PAIRS = "data root", "DATASET.PAIRS"  # rows of the table
NOT_THERE = ("missing", "no splits", "empty", "no images")  # kinds that a download mends


@dataclass
class Layout:
    """Folders that are there: of the ID set's splits, of the OOD sets; and what is wrong."""

    splits: dict[str, Path] = field(default_factory=dict)
    ood: dict[str, Path] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def require_data(cfg, needs: Needs) -> None:
    """Raise an InputError that names all at once what keeps a run from its data.

    Reads folders, writes nothing.

    Args:
        needs: what the run reads.
    """
    problems = check_layout(cfg, needs).problems
    if problems:
        run = "training" if needs & (Needs.TRAIN | Needs.PAIRS) else "evaluation"
        count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
        listed = "\n\n".join(numbered(n, problem) for n, problem in enumerate(problems, start=1))
        raise InputError(
            f"the data are not ready for {run}: {count}.\n\n{listed}\n\n"
            "bash scripts/check.sh with the same flags looks at all of the data."
        )


def check_layout(cfg, needs: Needs) -> Layout:
    """Find the sets that runs need, and what is wrong with their folders.

    Raises:
        InputError: the config asks for what no folder could give.
    """
    layout, rootless = Layout(), NOTHING
    folders = {Needs.TEST | Needs.TRAIN: [cfg.DATASET.FOLDER], Needs.PAIRS: _pairs(cfg, needs)}
    located = locate_ood_sets(cfg) if needs & Needs.OOD else {}
    folders[Needs.OOD] = [f for name in located for f in cfg.OOD.SETS[name].FOLDERS]
    for part, named in folders.items():
        try:
            require_root(data_root(cfg), named if part & needs else [])
        except DataError as error:
            rootless |= part
            fault = error
    if rootless:
        layout.problems.append(Problem.of(fault, ROOT, rootless))
    if needs & ~rootless & (Needs.TEST | Needs.TRAIN):
        _check_id_set(cfg, layout)
    if not rootless & Needs.OOD:
        _check_ood_sets(cfg, layout, located)
    if needs & ~rootless & Needs.PAIRS:
        try:
            _check_pairs(cfg)
        except InputError as error:
            # The YAML's address is of the YAML's pairs, not of others named by PATH.
            pairs = cfg.DATASET.PAIRS
            source = pairs.DOWNLOAD if Path(pairs.PATH).parts[0] in pairs.DOWNLOAD else ""
            more = _download(cfg, error, source)
            layout.problems.append(Problem.of(error, PAIRS, Needs.PAIRS, more))
    layout.problems = [problem for problem in layout.problems if problem.stops & needs]
    return layout


def row_name(split: str) -> str:
    """Return what the table calls a split of the ID set."""
    return f"ID {split}"


def _download(cfg, error: InputError, source: str) -> str:
    """Return where a set can be had, if the fault is that it is not there."""
    if not source or getattr(error, "kind", "") not in NOT_THERE:
        return ""
    return f"Get it: {source.replace('{root}', absolute(data_root(cfg)))}"


def _check_id_set(cfg, layout: Layout) -> None:
    """Ask the ID set's loader, step by step, so that all faults are found, not the first."""
    kind = DATASET_REGISTRY.get(cfg.DATASET.NAME)
    if not issubclass(kind, ClassFolders):
        return  # others keep their images as they like
    both, found = Needs.TEST | Needs.TRAIN, {}

    def add(error: InputError, where: str, stops: Needs) -> None:
        more = _download(cfg, error, cfg.DATASET.DOWNLOAD)
        layout.problems.append(Problem.of(error, where, stops, more))

    try:
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
            classes = kind.choose_classes(cfg, {path: found[path] for path in deciding})
        except InputError as error:
            return add(error, rows[deciding[0]][0], both)
        for path in found:
            try:
                kind.require_classes(path, classes, found[path])
            except InputError as error:
                add(error, *rows[path])
    if "train" not in layout.splits:
        train = next(iter(layout.splits.values())).with_name("train")
        text = f"There is no {absolute(train)}: nothing can be trained on this set."
        add(DataError(text, "missing"), row_name("train"), Needs.TRAIN)


def _check_ood_sets(cfg, layout: Layout, located: dict[str, Path | None]) -> None:
    for name, folder in located.items():
        entry = cfg.OOD.SETS[name]
        try:
            if folder is None:
                raise _not_found(name, entry.FOLDERS, data_root(cfg))
            if not holds_images(folder):
                raise no_images(name, folder)
        except InputError as error:
            more = _download(cfg, error, entry.get("DOWNLOAD", ""))
            layout.problems.append(Problem.of(error, name, Needs.OOD, more))
        if folder is not None:
            layout.ood[name] = folder


def _not_found(name: str, folders: Sequence[str], root: Path) -> DataError:
    return DataError(
        f"not found. Tried {', '.join(folders)} in {absolute(root)}, which holds {contents(root)}. "
        f"Set DATASET.ROOT (--root), or name its folder: OOD.SETS.{name}.FOLDERS \"['FOLDER']\"; "
        "[] leaves the set out.",
        "missing",
    )


def _pairs(cfg, needs: Needs) -> list[str]:
    """Return the path of the pairs that are read from the disk."""
    if not needs & Needs.PAIRS:
        return []
    check_source(cfg)
    return [] if cfg.DATASET.PAIRS.SOURCE == "classnames" else [cfg.DATASET.PAIRS.PATH]


def _check_pairs(cfg) -> None:
    """Raise a DataError unless the shards, the table or the folder of the pairs are there."""
    source = cfg.DATASET.PAIRS.SOURCE
    if source == "classnames":
        return
    path = pairs_path(cfg)
    if source == "shards":
        try:
            shards = find_shards(path)
        except InputError as error:
            raise DataError(str(error), "missing") from error
        empty = [absolute(shard) for shard in shards if not os.path.getsize(shard)]
        if empty:
            raise DataError(
                f"{len(empty)} of {len(shards)} shards are empty files: {some(empty, 3)}. Remove "
                "them and fetch them again.",
                "empty shards",
                empty,
            )
    elif source == "csv" and not path.is_file():
        raise DataError(
            f"The table of pairs {absolute(path)} (DATASET.PAIRS.PATH) does not exist. Found "
            f"beside it: {contents(path.parent)}. It has a header line, and columns as in "
            "DATASET.PAIRS.COLUMNS.",
            "missing",
        )
    elif source == "folder" and not (path.is_dir() and holds_images(path)):
        why = f"holds no images, but {contents(path)}" if path.is_dir() else no_folder(path)
        raise DataError(
            f"The folder of pairs {absolute(path)} (DATASET.PAIRS.PATH) {why}. Put images there, "
            "the caption of x.jpg in x.txt beside it.",
            "missing",
        )
