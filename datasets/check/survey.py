"""The whole check: folders, names and numbers, files."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import reduce
from operator import or_

from yacs.config import CfgNode

from dassl.data.datasets import DATASET_REGISTRY, build_dataset
from dassl.utils.errors import InputError
from datasets.captions import build_pairs_loader
from datasets.check.files import duplicates, file_problems
from datasets.check.layout import PAIRS, ROOT, Layout, check_layout, row_name
from datasets.check.listing import ImageSet, listing_problems, wrong_names
from datasets.check.report import Problem, Report, Row
from datasets.classfolders import data_root
from datasets.classnames import shared_prompts
from datasets.folders import absolute, counted, some, subfolders, wrong_count
from datasets.imagelist import ImageList
from datasets.imagenet import ImageNet
from datasets.needs import Needs


def check(
    cfg: CfgNode, title: str, runs: Mapping[str, Needs], asked: Sequence[str], full: bool = False
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
    layout = check_layout(cfg, needs)
    imagenet = issubclass(DATASET_REGISTRY.get(cfg.DATASET.NAME), ImageNet)
    report.problems += layout.problems
    sets = _id_sets(layout, needs)
    sets += [ImageSet(name, folder, Needs.OOD) for name, folder in layout.ood.items()]
    shots = cfg.DATASET.NUM_SHOTS if "training" in asked else 0
    for images in sets:
        expected = _expected_images(cfg, layout, images)
        _list(report, images, expected, shots if images.name == row_name("train") else 0)
        if imagenet and images.stops != Needs.OOD:
            report.problems += wrong_names(images)
    if issubclass(DATASET_REGISTRY.get(cfg.DATASET.NAME), ImageList):
        _add_lists(cfg, report)
    if needs & Needs.PAIRS:
        _add_pairs(cfg, report)
    report.rows = _in_order(cfg, report)
    for images in sets:
        skip = cfg.DATALOADER.BAD_IMAGES == "skip"
        report.problems += file_problems(images, full, skip)
    if full:
        places = {images.folder.resolve(): images for images in reversed(sets)}
        report.problems += duplicates(list(places.values())[::-1])
    report.problems += _refusals(cfg, report, imagenet)
    return report


def _id_sets(layout: Layout, needs: Needs) -> list[ImageSet]:
    """Return the evaluation splits, then the training set: it is the largest. Alone it is both."""
    sets, alone = [], len(layout.splits) == 1
    for name, path in sorted(layout.splits.items(), key=lambda split: split[0] == "train"):
        stops = Needs.TRAIN if name == "train" else Needs.TEST
        if alone:
            stops = Needs.TEST | Needs.TRAIN
        found = subfolders(path)
        wanted = set(found if layout.classes is None else layout.classes)
        classes = [folder for folder in found if folder in wanted]
        if stops & needs:
            # A flat split has no classes: listed as it lies.
            sets.append(ImageSet(row_name(name), path, stops, classes or None))
    return sets


def _expected_images(cfg: CfgNode, layout: Layout, images: ImageSet) -> int | None:
    """Return the images that the protocol has in a set, None where it says nothing."""
    if images.stops == Needs.OOD:
        return cfg.OOD.SETS[images.name].get("IMAGES", 0) or None
    kind, split = DATASET_REGISTRY.get(cfg.DATASET.NAME), images.name.removeprefix("ID ")
    return kind.expected_images(split, len(layout.classes or images.classes or ()))


def _list(report: Report, images: ImageSet, expected: int | None, shots: int) -> None:
    """List a set: its row in the table, and what its numbers show."""
    path = absolute(images.folder)
    found = os.path.relpath(path, report.root) if path.startswith(report.root + os.sep) else path
    row = Row(images.name, found, expected=expected)
    report.rows.append(row)
    try:
        images.list()
    except InputError as error:
        report.problems.append(Problem.of(error, images.name, images.stops))
        return
    row.folders, row.images = len(images.counts), len(images.images)
    report.problems += listing_problems(images, shots)
    if expected and row.images not in (0, expected):
        fault = wrong_count(images.name, row.images, expected)
        report.problems.append(Problem.of(fault, images.name))


def _add_lists(cfg: CfgNode, report: Report) -> None:
    """Add a row for each split that files list, and the listed images that are not there."""
    if any(problem.stops & Needs.TEST for problem in report.problems):
        return  # the lists cannot be read
    for split, items in ImageList.read(cfg)[1].items():
        row = Row(row_name(split), cfg.DATASET.SPLIT_FILE, len({x.label for x in items}))
        row.images = len(items)
        report.rows.append(row)
        if missing := [x.impath for x in items if not os.path.isfile(x.impath)]:
            text = f"{counted(len(missing), 'listed image')} not there: {some(missing, 3)}."
            stops = Needs.TEST if split == "test" else Needs.TRAIN
            report.problems.append(Problem(row.name, "missing", text, stops, missing))


def _add_pairs(cfg: CfgNode, report: Report) -> None:
    """Add the row of the image-caption pairs, and what their loader alone refuses."""
    own = cfg.DATASET.PAIRS.SOURCE == "classnames"  # the ID set's, which has rows of its own
    part = Needs.TEST | Needs.TRAIN | Needs.PAIRS if own else Needs.PAIRS
    if any(problem.stops & part for problem in report.problems):
        return
    row = Row(PAIRS, cfg.DATASET.PAIRS.SOURCE if own else cfg.DATASET.PAIRS.PATH)
    try:
        row.images = build_pairs_loader(cfg, transform=None).dataset.count
    except InputError as error:
        report.problems.append(Problem.of(error, PAIRS, Needs.PAIRS))
    report.rows.append(row)


def _in_order(cfg: CfgNode, report: Report) -> list[Row]:
    """Return the rows, with those of sets not found: the ID set, then the config's order."""
    rows = {row.name: row for row in report.rows}
    for problem in report.problems:
        if problem.where != ROOT:
            rows.setdefault(problem.where, Row(problem.where))
    own = [name for name in rows if name not in cfg.OOD.SETS]
    return [rows[name] for name in [*own, *cfg.OOD.SETS] if name in rows]


def _refusals(cfg: CfgNode, report: Report, imagenet: bool) -> list[Problem]:
    """Return what the ID set's loader refuses where nothing above says why, and equal prompts."""
    if any(problem.stops & Needs.TEST for problem in report.problems):
        return []
    try:
        data = build_dataset(cfg)
    except InputError as error:
        return [Problem.of(error, "ID", Needs.TEST | Needs.TRAIN)]
    shared = shared_prompts(data.classnames)
    if imagenet or not shared:  # ImageNet's own names hold two such pairs, in every paper alike
        return []
    shared = shared_prompts(data.class_folders) or shared
    row = next((row.name for row in report.rows), "ID")
    return [Problem(row, "equal prompts", f"{shared}.")]
