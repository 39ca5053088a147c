"""The whole check: folders, names and numbers, files."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import reduce
from operator import or_

from dassl.data.datasets import DATASET_REGISTRY, build_dataset
from dassl.utils.errors import InputError
from datasets.caption_shards import ShardPairs, count_pairs, find_shards
from datasets.captions import build_pairs_loader, pairs_path
from datasets.check.files import duplicates, file_problems
from datasets.check.layout import PAIRS, ROOT, Layout, check_layout, row_name
from datasets.check.listing import ImageSet, listing_problems, wrong_names
from datasets.check.report import Problem, Report, Row
from datasets.classfolders import data_root
from datasets.classnames import read_class_list, shared_prompts
from datasets.folders import absolute, subfolders, wrong_count
from datasets.imagenet import ImageNet
from datasets.needs import Needs
from datasets.ood_sets import load_ood_sets


def check(
    cfg, title: str, runs: Mapping[str, Needs], asked: Sequence[str], full: bool = False
) -> Report:
    """Look at every set of a config.

    Args:
        title: what the user calls the data set.
        runs: the runs that the user may want, by name, and what each needs.
        asked: names of those that the user wants.
        full: decode and compare all files, not some.

    Raises:
        InputError: the config asks for what no folder could give.
    """
    sample = "All names were read, of the files a sample: --full reads all."
    depth = "All files were read." if full else sample
    report = Report(absolute(data_root(cfg)), title, runs, asked, depth)
    needs = reduce(or_, runs.values())
    layout = check_layout(cfg, needs if cfg.OOD.SETS else needs & ~Needs.OOD)
    report.problems += layout.problems
    sets = _id_sets(cfg, layout, needs)
    sets += [ImageSet(name, folder, Needs.OOD) for name, folder in layout.ood.items()]
    shots = cfg.DATASET.NUM_SHOTS if "training" in asked else 0
    for images in sets:
        _list(cfg, report, images, shots)
    if needs & Needs.PAIRS:
        _add_pairs(cfg, report, full)
    report.rows = _in_order(cfg, report)
    for images in sets:
        skip = cfg.DATALOADER.BAD_IMAGES == "skip"
        report.problems += file_problems(images, full, skip)
    if full:
        places = {images.folder.resolve(): images for images in reversed(sets)}
        report.problems += duplicates(list(places.values())[::-1])
    report.problems += _refusals(cfg, report)
    return report


def _id_sets(cfg, layout: Layout, needs: Needs) -> list[ImageSet]:
    """Return the evaluation splits, then the training set: it is the largest. Alone it is both."""
    found = {name: subfolders(path) for name, path in layout.splits.items()}
    wanted = _wanted(cfg, list(found.values()))
    sets = []
    for name in sorted(found, key=lambda name: name == "train"):
        alone = len(found) == 1
        if name == "train" and not alone and not needs & Needs.TRAIN:
            continue
        stops = Needs.TRAIN if name == "train" else Needs.TEST
        classes = [folder for folder in found[name] if wanted is None or folder in wanted]
        # A flat split has no classes: listed as it lies.
        stops = Needs.TEST | Needs.TRAIN if alone else stops
        sets.append(ImageSet(row_name(name), layout.splits[name], stops, classes or None))
    return sets


def _wanted(cfg, found: Sequence[Sequence[str]] = ()) -> set[str] | None:
    """Return the classes that the config asks for, of the folders of each split; None = any."""
    if cfg.DATASET.CLASSES == "present":
        return set.intersection(*map(set, found)) if found else None
    return set(read_class_list(cfg.DATASET.CLASSES)) if cfg.DATASET.CLASSES else None


def _list(cfg, report: Report, images: ImageSet, shots: int) -> None:
    """List a set: its row in the table, and what its names and numbers show."""
    path = absolute(images.folder)
    found = os.path.relpath(path, report.root) if path.startswith(report.root + os.sep) else path
    row = Row(images.name, found)
    report.rows.append(row)
    try:
        images.list()
    except InputError as error:
        report.problems.append(Problem.of(error, images.name, images.stops))
        return
    row.folders, row.images = len(images.counts), len(images.images)
    kind, split = DATASET_REGISTRY.get(cfg.DATASET.NAME), images.name.removeprefix("ID ")
    if images.name in cfg.OOD.SETS:
        row.expected = cfg.OOD.SETS[images.name].get("IMAGES", 0) or None
    else:
        row.expected = kind.expected_images(split, len(_wanted(cfg) or images.classes or ()))
        report.problems += wrong_names(images) if issubclass(kind, ImageNet) else []
    report.problems += listing_problems(images, shots if split == "train" else 0)
    if row.expected and row.images not in (0, row.expected):
        fault = wrong_count(images.name, row.images, row.expected)
        report.problems.append(Problem.of(fault, images.name))


def _add_pairs(cfg, report: Report, full: bool) -> None:
    """Add the row of the image-caption pairs, and what their loader alone refuses."""
    own = cfg.DATASET.PAIRS.SOURCE == "classnames"  # the ID set's, which has rows of its own
    part = Needs.TEST | Needs.TRAIN | Needs.PAIRS if own else Needs.PAIRS
    if any(problem.stops & part for problem in report.problems):
        return
    row = Row(PAIRS, cfg.DATASET.PAIRS.SOURCE if own else cfg.DATASET.PAIRS.PATH)
    try:
        row.images = _count_pairs(cfg, full)
    except InputError as error:
        report.problems.append(Problem.of(error, PAIRS, Needs.PAIRS))
    report.rows.append(row)


def _count_pairs(cfg, full: bool) -> int | None:
    """Return the pairs that the loader finds.

    Of shards, whose archives are read through, only if `full`: else the first is, and None comes.
    """
    if cfg.DATASET.PAIRS.SOURCE != "shards" or full:
        cfg = cfg.clone()
        cfg.defrost()
        cfg.DATALOADER.NUM_WORKERS = 0  # no pair is read
        pairs = build_pairs_loader(cfg, transform=None).dataset
        return pairs.count if isinstance(pairs, ShardPairs) else len(pairs)
    count_pairs(find_shards(pairs_path(cfg))[:1])
    return None


def _in_order(cfg, report: Report) -> list[Row]:
    """Return the rows, with those of sets not found: the ID set, then the config's order."""
    rows = {row.name: row for row in report.rows}
    for problem in report.problems:
        if problem.where != ROOT:
            rows.setdefault(problem.where, Row(problem.where))
    own = [name for name in rows if name not in cfg.OOD.SETS]
    return [rows[name] for name in [*own, *cfg.OOD.SETS] if name in rows]


def _refusals(cfg, report: Report) -> list[Problem]:
    """Return what the loaders refuse where nothing above says why: the last word is theirs."""
    parts = {"ID": Needs.TEST, "OOD": Needs.OOD}
    loaders = {"ID": lambda: build_dataset(cfg), "OOD": lambda: load_ood_sets(cfg)}
    found = []
    for name, load in loaders.items():
        if any(problem.stops & parts[name] for problem in report.problems):
            continue
        try:
            loaded = load()
        except InputError as error:
            stops = Needs.TEST | Needs.TRAIN if name == "ID" else Needs.OOD
            found.append(Problem.of(error, name, stops))
        else:
            # ImageNet's own names hold two such pairs, in every paper alike.
            own = name == "ID" and not issubclass(DATASET_REGISTRY.get(cfg.DATASET.NAME), ImageNet)
            if own and (shared := shared_prompts(loaded.classnames)):
                row = next((row.name for row in report.rows), "ID")
                by_folder = shared_prompts(getattr(loaded, "class_folders", ()))
                found.append(Problem(row, "equal prompts", f"{by_folder or shared}."))
    return found
