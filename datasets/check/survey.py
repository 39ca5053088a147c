"""The whole check: folders, names and numbers, files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dassl.data.datasets import DATASET_REGISTRY, build_dataset
from dassl.utils.errors import InputError
from datasets.caption_shards import ShardPairs, count_pairs, find_shards
from datasets.captions import build_pairs_loader, pairs_path
from datasets.check import contents, id_layout, pairs_layout, sources
from datasets.check.findings import EVALUATION, TRAINING, Problem, Report, Row
from datasets.check.layout import DATA_ROOT, Layout, look
from datasets.check.listing import (
    ImageSet,
    expected_images,
    id_counts,
    listing_problems,
    ood_counts,
    wrong_names,
)
from datasets.check.near import subfolders
from datasets.classfolders import data_root
from datasets.classnames import imagenet_wnids, read_class_list
from datasets.folders import absolute
from datasets.imagenet import ImageNet
from datasets.needs import reads_pairs, trains_elsewhere
from datasets.ood_sets import load_ood_sets

BOTH = (EVALUATION, TRAINING)


def check(cfg, title: str, asked: Sequence[str], full: bool = False) -> Report:
    """Look at every set of a config.

    Args:
        title: what the user calls the data set.
        asked: the runs that the user wants, of EVALUATION and TRAINING.
        full: decode and compare all files, not some.

    Raises:
        InputError: the config asks for what no folder could give.
    """
    report = Report(absolute(data_root(cfg)), title, asked)
    report.depth = (
        "All files were read."
        if full
        else ("All names were read, of the files a sample: --full reads all.")
    )
    layout = look(cfg, BOTH, ood=bool(cfg.OOD.SETS))
    report.problems += layout.problems
    sets = [*_id_sets(cfg, layout), *_ood_sets(layout)]
    for images in sets:
        images.list()
        row, problems = _counted(cfg, images, TRAINING in asked)
        report.rows.append(row)
        report.problems += [*listing_problems(images), *problems]
    if reads_pairs(cfg):
        _add_pairs(cfg, report, full)
    report.rows = _in_order(cfg, report)
    report.problems += _in_files(cfg, sets, full)
    report.problems += _refusals(cfg, report)
    return report


def _id_sets(cfg, layout: Layout) -> list[ImageSet]:
    """The evaluation splits, then the training set: it is the largest. Alone, it is both."""
    found = {name: subfolders(path) for name, path in layout.splits.items()}
    wanted = _wanted(cfg, list(found.values()))
    count = {
        name: [folder for folder in folders if wanted is None or folder in wanted]
        for name, folders in found.items()
    }
    return [
        ImageSet(
            id_layout.row_name(name),
            layout.splits[name],
            (TRAINING,) if name == "train" and len(found) > 1 else BOTH,
            count[name] or None,
        )  # None: a flat split, listed as it lies
        for name in sorted(layout.splits, key=lambda name: name == "train")
        if name != "train" or len(found) == 1 or not trains_elsewhere(cfg)
    ]


def _add_pairs(cfg, report: Report, full: bool) -> None:
    """The row of the image-caption pairs, and what their loader refuses where nothing else does."""
    own = not trains_elsewhere(cfg)  # the ID set's, which has rows of its own
    if any(
        TRAINING in problem.stops
        for problem in report.problems
        if own or problem.where in (pairs_layout.ROW, DATA_ROOT)
    ):
        return
    row = Row(pairs_layout.ROW, cfg.DATASET.PAIRS.SOURCE if own else cfg.DATASET.PAIRS.PATH)
    try:
        row.images = _count_pairs(cfg, full)
    except InputError as error:
        report.problems.append(Problem("refused", pairs_layout.ROW, str(error), (), (TRAINING,)))
    report.rows.append(row)


def _count_pairs(cfg, full: bool) -> int | None:
    """Pairs that the loader finds. Of shards, whose archives are read through, only with `full`:
    else the first is, and there is no number."""
    if cfg.DATASET.PAIRS.SOURCE != "shards" or full:
        cfg = cfg.clone()
        cfg.defrost()
        cfg.DATALOADER.NUM_WORKERS = 0  # no pair is read
        pairs = build_pairs_loader(cfg, transform=None).dataset
        return pairs.count if isinstance(pairs, ShardPairs) else len(pairs)
    count_pairs(find_shards(pairs_path(cfg))[:1])
    return None


def _wanted(cfg, found: Sequence[Sequence[str]] = ()) -> set[str] | None:
    """The classes that the config asks for, given the class folders of each split; None = any."""
    if cfg.DATASET.CLASSES == "present":
        return set.intersection(*map(set, found)) if found else None
    if cfg.DATASET.CLASSES:
        return set(read_class_list(cfg.DATASET.CLASSES))
    return set(imagenet_wnids()) if _is_imagenet(cfg) else None


def _is_imagenet(cfg) -> bool:
    return issubclass(DATASET_REGISTRY.get(cfg.DATASET.NAME), ImageNet)


def _ood_sets(layout: Layout) -> list[ImageSet]:
    return [ImageSet(name, folder, (EVALUATION,)) for name, folder in layout.ood.items()]


def _counted(cfg, images: ImageSet, training: bool) -> tuple[Row, list[Problem]]:
    root = data_root(cfg)
    found, above = Path(absolute(images.folder)), absolute(root)
    found = found.relative_to(above) if found.is_relative_to(above) else found
    row = Row(images.name, str(found), len(images.counts), len(images.images))
    if images.name in cfg.OOD.SETS:
        row.expected = cfg.OOD.SETS[images.name].get("IMAGES", 0) or None
        source = sources.ood_source(images.name, root)
        return row, ood_counts(images, row.expected or 0, source)
    split, wanted = images.folder.name, _wanted(cfg) or images.classes or ()
    kind = DATASET_REGISTRY.get(cfg.DATASET.NAME)
    row.expected, per_class = expected_images(
        kind.locate(cfg), split, len(wanted), _is_imagenet(cfg)
    )
    shots = cfg.DATASET.NUM_SHOTS if training and split == "train" else 0
    problems = id_counts(images, row.expected, per_class, shots)
    return row, problems + (wrong_names(images) if _is_imagenet(cfg) else [])


def _in_order(cfg, report: Report) -> list[Row]:
    """The rows, with those of sets that were not found: the ID set, then the config's order."""
    rows = {row.name: row for row in report.rows}
    for problem in report.problems:
        if problem.where != DATA_ROOT:
            rows.setdefault(problem.where, Row(problem.where))
    own = [name for name in rows if name not in cfg.OOD.SETS]
    return [rows[name] for name in [*own, *cfg.OOD.SETS] if name in rows]


def _in_files(cfg, sets: Sequence[ImageSet], full: bool) -> list[Problem]:
    skip = cfg.DATALOADER.BAD_IMAGES == "skip"
    looked, problems, seen = [], [], set()
    for images in sets:
        files = contents.look_at(images, full)
        problems += contents.file_problems(files, skip)
        problems += contents.unreadable(files, full, skip)
        if (place := Path(images.folder).resolve()) not in seen:  # else told already
            looked.append(files)
        seen.add(place)
    return problems + contents.duplicates(looked, full)


def _refusals(cfg, report: Report) -> list[Problem]:
    """What the loaders themselves refuse, where nothing above says why: the last word is theirs."""
    loaders = {"ID": lambda: build_dataset(cfg).test, "OOD": lambda: load_ood_sets(cfg)}
    found = []
    for name, load in loaders.items():
        if any(_stops_evaluation(problem, name) for problem in report.problems):
            continue
        try:
            load()
        except InputError as error:
            found.append(
                Problem("refused", name, str(error), (), BOTH if name == "ID" else (EVALUATION,))
            )
    return found


def _stops_evaluation(problem: Problem, name: str) -> bool:
    own = problem.where.startswith("ID")
    concerned = own if name == "ID" else not own
    return EVALUATION in problem.stops and (concerned or problem.where == DATA_ROOT)
