"""The whole check: folders, names and numbers, files."""

import os
from collections.abc import Mapping, Sequence
from functools import reduce
from operator import or_

from yacs.config import CfgNode

from dassl.data.datasets import DATASET_REGISTRY, build_dataset
from datasets.captions import build_pairs_loader
from datasets.check.files import duplicates, file_problems
from datasets.check.layout import BOTH, PAIRS, ROOT, Layout, check_layout
from datasets.check.listing import ImageSet, listing_problems, wrong_names
from datasets.check.report import Problem, Report, Row
from datasets.classfolders import ClassFolders, data_root
from datasets.classnames import shared_prompts
from datasets.folders import absolute, counted
from datasets.imagelist import ImageList, ImageNetList
from datasets.imagenet import ImageNet
from datasets.lists import not_there, protocol_faults, read_list
from datasets.needs import NOTHING, Needs
from datasets.ood_sets import shared_images


def check(
    cfg: CfgNode, title: str, runs: Mapping[str, Needs], asked: Sequence[str], full: bool = False
) -> Report:
    """Check every set of a config.

    Args:
        title: the data set's name for the user. runs, asked: as in `Report`.
        full: decode and compare all files, not a sample.

    Raises:
        InputError: the config itself is wrong, whatever the folders hold.
    """
    sample = "All names and a sample of the files were read: --full reads all files."
    depth = "All files were read." if full else sample
    needs = reduce(or_, runs.values())
    layout = check_layout(cfg, needs)
    report = Report(absolute(data_root(cfg)), title, runs, asked, depth, problems=layout.problems)
    dataset_class = DATASET_REGISTRY.get(cfg.DATASET.NAME)
    imagenet = issubclass(dataset_class, ImageNet)
    shots = cfg.DATASET.NUM_SHOTS if "training" in asked else 0
    skip = cfg.DATALOADER.BAD_IMAGES == "skip"
    for images in layout.sets:
        _list(report, layout, images, shots if images.name == "ID train" else 0, skip)
        if imagenet and images.stops != Needs.OOD:
            report.problems += wrong_names(images)
    if needs & BOTH and not issubclass(dataset_class, ClassFolders | ImageList):
        what = "a class of its own reads this set: it is built, but its files are not checked."
        report.rows.append(Row("ID", cfg.DATASET.NAME))
        report.problems.append(Problem("ID", "not checked", what))
    if needs & Needs.PAIRS:
        _add_pairs(cfg, report, layout)
    report.rows = _in_order(cfg, report)
    for images in layout.sets:
        report.problems += file_problems(images, full, skip)
    report.problems += _shared(layout.sets)
    if full:
        # A folder that serves as two sets is compared once, but several lists may share a folder.
        distinct = {(s.folder.resolve(), s.file and s.name): s for s in reversed(layout.sets)}
        report.problems += duplicates(list(distinct.values())[::-1])
    _add_errors(cfg, report, layout, imagenet or issubclass(dataset_class, ImageNetList))
    return report


def _shared(sets: Sequence[ImageSet]) -> list[Problem]:
    """Return a problem for each two sets that have files in common, by a link or the same folder;
    only `duplicates` finds copies."""
    paths = {images.name: [images.path(name) for name in images.images] for images in sets}
    text = "{} found in {} too, by a link or the same folder: each set needs images of its own."
    return [
        Problem(other, "duplicates", text.format(counted(count, "image"), one))
        for one, other, count in shared_images(paths)
    ]


def _list(report: Report, layout: Layout, images: ImageSet, shots: int, skip: bool) -> None:
    """List a set, and add its row of the table and the problems of its names and numbers."""
    path = absolute(images.file or images.folder)
    found = os.path.relpath(path, report.root) if path.startswith(report.root + os.sep) else path
    row = Row(images.name, found, expected=images.expected.get("IMAGES") or None)
    report.rows.append(row)
    with layout.collecting(images.name, images.stops):
        images.list()
        items = images.items or images.images
        row.folders, row.images = len(images.counts), len(items)
        report.problems += listing_problems(images, shots)
        if images.missing:
            stops = NOTHING if skip else images.stops
            report.problems.append(Problem.of(not_there(path, images.missing), images.name, stops))
        if items:
            faults = protocol_faults(images.name, items, images.expected, images.file)
            report.problems += [Problem.of(fault, images.name) for fault in faults]


def _add_pairs(cfg: CfgNode, report: Report, layout: Layout) -> None:
    """Add the row of the image-caption pairs, and the errors of their loader."""
    from_id_set = cfg.DATASET.PAIRS.SOURCE == "classnames"
    needs = Needs.TEST | Needs.TRAIN | Needs.PAIRS if from_id_set else Needs.PAIRS
    if any(problem.stops & needs for problem in report.problems):
        return
    row = Row(PAIRS, cfg.DATASET.PAIRS.SOURCE if from_id_set else cfg.DATASET.PAIRS.PATH)
    with layout.collecting(PAIRS, Needs.PAIRS):
        row.images = build_pairs_loader(cfg, transform=None).dataset.count
    report.rows.append(row)


def _in_order(cfg: CfgNode, report: Report) -> list[Row]:
    """Return the rows, also of sets not found: first the ID set, then OOD sets as in the config."""
    rows = {row.name: row for row in report.rows}
    for problem in report.problems:
        if problem.where != ROOT:
            rows.setdefault(problem.where, Row(problem.where))
    first = [name for name in rows if name not in cfg.OOD.SETS]
    return [rows[name] for name in [*first, *cfg.OOD.SETS] if name in rows]


def _add_errors(cfg: CfgNode, report: Report, layout: Layout, imagenet: bool) -> None:
    """Add errors of the ID set's loader that no problem explains yet, labels of shifted ID sets
    that are no class, and equal prompts."""
    if any(problem.stops & Needs.TEST for problem in report.problems):
        return
    with layout.collecting("ID", Needs.TEST | Needs.TRAIN):
        data = build_dataset(cfg)
        # With half of the classes, a run leaves the shifted sets out.
        shifted = cfg.OOD.SHIFTED if cfg.DATASET.SUBSAMPLE_CLASSES == "all" else ()
        for images in layout.sets:
            if images.name in shifted and images.file:
                with layout.collecting(images.name, Needs.OOD):
                    read_list(images.file, images.folder, data.classnames)
        # ImageNet's names have two such pairs, and every paper uses them.
        if not imagenet and (shared := shared_prompts(data.classnames)):
            shared = shared_prompts(data.class_folders) or shared
            row = next((row.name for row in report.rows), "ID")
            report.problems.append(Problem(row, "equal prompts", f"{shared}."))
