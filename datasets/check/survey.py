"""The whole check: folders, names and numbers, files."""

import os
from collections.abc import Mapping, Sequence
from functools import reduce
from operator import or_

from yacs.config import CfgNode

from dassl.data.datasets import DATASET_REGISTRY, build_dataset
from datasets.captions import build_pairs_loader
from datasets.check.files import duplicates, file_problems
from datasets.check.layout import PAIRS, ROOT, Layout, check_layout
from datasets.check.listing import ImageSet, listing_problems, wrong_names
from datasets.check.report import Problem, Report, Row
from datasets.classfolders import data_root
from datasets.classnames import shared_prompts
from datasets.folders import absolute
from datasets.imagelist import ImageNetList
from datasets.imagenet import ImageNet
from datasets.lists import not_there, protocol_faults, read_list
from datasets.needs import NOTHING, Needs


def check(
    cfg: CfgNode, title: str, runs: Mapping[str, Needs], asked: Sequence[str], full: bool = False
) -> Report:
    """Look at every set of a config.

    Args:
        title: what the user calls the data set. runs, asked: as in `Report`.
        full: decode and compare all files, not some.

    Raises:
        InputError: the config asks for what no folder could give.
    """
    sample = "All names were read, of the files a sample: --full reads all."
    depth = "All files were read." if full else sample
    needs = reduce(or_, runs.values())
    layout = check_layout(cfg, needs)
    report = Report(absolute(data_root(cfg)), title, runs, asked, depth, problems=layout.problems)
    kind = DATASET_REGISTRY.get(cfg.DATASET.NAME)
    imagenet = issubclass(kind, ImageNet)
    shots = cfg.DATASET.NUM_SHOTS if "training" in asked else 0
    skip = cfg.DATALOADER.BAD_IMAGES == "skip"
    for images in layout.sets:
        own = shots if images.name == "ID train" else 0
        _list(report, layout, images, own, skip)
        if imagenet and images.stops != Needs.OOD:
            report.problems += wrong_names(images)
    if needs & Needs.PAIRS:
        _add_pairs(cfg, report, layout)
    report.rows = _in_order(cfg, report)
    for images in layout.sets:
        report.problems += file_problems(images, full, skip)
    if full:
        # A folder that is two sets is compared once; several lists may share one.
        places = {(s.folder.resolve(), s.file and s.name): s for s in reversed(layout.sets)}
        report.problems += duplicates(list(places.values())[::-1])
    _add_refusals(cfg, report, layout, imagenet or issubclass(kind, ImageNetList))
    return report


def _list(report: Report, layout: Layout, images: ImageSet, shots: int, skip: bool) -> None:
    """List a set: its row in the table, and what its numbers show."""
    path = absolute(images.file or images.folder)
    found = os.path.relpath(path, report.root) if path.startswith(report.root + os.sep) else path
    row = Row(images.name, found, expected=images.expected.get("IMAGES") or None)
    report.rows.append(row)
    with layout.refusing(images.name, images.stops):
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
    """Add the row of the image-caption pairs, and what their loader alone refuses."""
    own = cfg.DATASET.PAIRS.SOURCE == "classnames"  # the ID set's, which has rows of its own
    part = Needs.TEST | Needs.TRAIN | Needs.PAIRS if own else Needs.PAIRS
    if any(problem.stops & part for problem in report.problems):
        return
    row = Row(PAIRS, cfg.DATASET.PAIRS.SOURCE if own else cfg.DATASET.PAIRS.PATH)
    with layout.refusing(PAIRS, Needs.PAIRS):
        row.images = build_pairs_loader(cfg, transform=None).dataset.count
    report.rows.append(row)


def _in_order(cfg: CfgNode, report: Report) -> list[Row]:
    """Return the rows, with those of sets not found: the ID set, then the config's order."""
    rows = {row.name: row for row in report.rows}
    for problem in report.problems:
        if problem.where != ROOT:
            rows.setdefault(problem.where, Row(problem.where))
    own = [name for name in rows if name not in cfg.OOD.SETS]
    return [rows[name] for name in [*own, *cfg.OOD.SETS] if name in rows]


def _add_refusals(cfg: CfgNode, report: Report, layout: Layout, imagenet: bool) -> None:
    """Add what the ID set's loader refuses where nothing above says why, shifted ID sets' labels
    that are no class, and equal prompts."""
    if any(problem.stops & Needs.TEST for problem in report.problems):
        return
    with layout.refusing("ID", Needs.TEST | Needs.TRAIN):
        data = build_dataset(cfg)
        shifted = cfg.OOD.SHIFTED if cfg.DATASET.SUBSAMPLE_CLASSES == "all" else ()  # else left out
        for images in layout.sets:
            if images.name in shifted and images.file:
                with layout.refusing(images.name, Needs.OOD):
                    read_list(images.file, images.folder, data.classnames)
        # ImageNet's own names hold two such pairs, in every paper alike.
        if not imagenet and (shared := shared_prompts(data.classnames)):
            shared = shared_prompts(data.class_folders) or shared
            row = next((row.name for row in report.rows), "ID")
            report.problems.append(Problem(row, "equal prompts", f"{shared}."))
