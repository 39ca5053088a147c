"""The quick part: what is where, by the names of folders alone, in milliseconds.

Entry points run it first. The images are then listed, and counted, once: by the run itself.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from dassl.data.datasets import DATASET_REGISTRY
from dassl.utils.errors import InputError
from datasets.check import id_layout, ood_layout, pairs_layout
from datasets.check.findings import EVALUATION, TRAINING, Problem, told
from datasets.check.near import subfolders
from datasets.classfolders import ClassFolders, data_root, no_root
from datasets.folders import absolute
from datasets.needs import trains_elsewhere, trains_on_names

DATA_ROOT = "data root"  # where a problem is that no set can help


@dataclass
class Layout:
    """Folders that are there: of the ID set's splits, of the OOD sets; and what is wrong.

    pairs: whether the run's image-caption pairs are there, of a trainer that reads some.
    """

    splits: dict[str, Path] = field(default_factory=dict)
    ood: dict[str, Path] = field(default_factory=dict)
    pairs: bool = False
    problems: list[Problem] = field(default_factory=list)


def require_data(cfg, run: str, ood: bool = True) -> None:
    """Raise an InputError that tells all at once what keeps a run from its data.

    Args:
        run: EVALUATION, or TRAINING, which needs no OOD sets.
        ood: False for an evaluation on the ID set alone.
    """
    problems = [problem for problem in look(cfg, [run], ood).problems if run in problem.stops]
    if problems:
        count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
        raise InputError(
            f"the data are not ready for {run}: {count}.\n\n{told(problems)}\n\n"
            "bash scripts/check.sh with the same flags looks at all of the data."
        )


def look(cfg, runs: Sequence[str], ood: bool = True) -> Layout:
    """Where the sets that the runs need are, and what is wrong with their folders.

    Args:
        ood: whether an evaluation is to have OOD sets.

    Raises:
        InputError: the config asks for what no folder could give.
    """
    layout, rootless = Layout(), _rootless(cfg, runs, ood)
    if rootless:
        layout.problems.append(_no_root(cfg, rootless))
    if left := [run for run in runs if run not in rootless]:
        _look_at_sets(cfg, layout, ood and EVALUATION in left)
    if TRAINING in left and trains_elsewhere(cfg):
        problems = pairs_layout.look(cfg)
        layout.pairs = not problems
        layout.problems += problems
    if not (layout.splits or layout.ood or layout.pairs or rootless) and layout.problems:
        layout.problems = _elsewhere(cfg, layout.problems)
    return layout


def _look_at_sets(cfg, layout: Layout, ood: bool) -> None:
    kind = DATASET_REGISTRY.get(cfg.DATASET.NAME)
    if issubclass(kind, ClassFolders):  # others keep their images as they like
        layout.splits, problems = id_layout.look(cfg, kind)
        if not layout.splits and trains_on_names(cfg):
            problems = [replace(problem, stops=(EVALUATION,)) for problem in problems]
        layout.problems += _of_the_trainer(cfg, problems)
    if ood:
        layout.ood, problems = ood_layout.look(cfg)
        layout.problems += problems


def _of_the_trainer(cfg, problems: list[Problem]) -> list[Problem]:
    """Without those of training images that the trainer does not learn from."""
    if not trains_elsewhere(cfg):
        return problems
    train = id_layout.row_name("train")
    return [
        problem for problem in problems if problem.where != train or EVALUATION in problem.stops
    ]


def _rootless(cfg, runs: Sequence[str], ood: bool) -> list[str]:
    """The runs that need a data root which is not there."""
    if data_root(cfg).is_dir():
        return []
    return [run for run in runs if not all(map(os.path.isabs, _named(cfg, run, ood)))]


def _named(cfg, run: str, ood: bool) -> list[str]:
    """What the run needs, as the config names it."""
    if run == TRAINING:
        images = [] if trains_on_names(cfg) else [cfg.DATASET.FOLDER]
        return images + [cfg.DATASET.PAIRS.PATH] * trains_elsewhere(cfg)
    sets = [
        entry["FOLDERS"]
        for entry in cfg.OOD.SETS.values()
        if isinstance(entry, dict) and isinstance(entry.get("FOLDERS"), (list, tuple))
    ]
    return [cfg.DATASET.FOLDER, *(folder for folders in sets for folder in folders if ood)]


def _no_root(cfg, stops: Sequence[str]) -> Problem:
    root = better_root(cfg)
    mend = (
        [f"# use   --root {root}"]
        if root
        else ["# name the folder with --root, or make it:", f"mkdir -p {data_root(cfg)}"]
    )
    return Problem("no data root", DATA_ROOT, str(no_root(data_root(cfg))), mend, stops)


def _elsewhere(cfg, problems: list[Problem]) -> list[Problem]:
    """Nothing was found here: if it is near, that alone is the problem."""
    root = better_root(cfg)
    if root is None:
        return problems
    stops = sorted({run for problem in problems for run in problem.stops})
    return [
        Problem(
            "wrong root",
            DATA_ROOT,
            f"{absolute(data_root(cfg))} holds none of the data sets, but {absolute(root)} does.",
            [f"# use   --root {root}"],
            stops,
        )
    ]


def better_root(cfg) -> Path | None:
    """A folder above, beside or in the data root with more of the data sets in it."""
    root = data_root(cfg)
    above = [
        folder
        for folder in (root.absolute().parent, root.absolute().parent.parent)
        if folder.is_dir()
    ]
    near = [
        *(root / name for name in subfolders(root)),
        *above,
        *(above[0] / name for name in (subfolders(above[0]) if above else [])),
    ]
    counts = {folder: _sets_in(cfg, folder) for folder in near}
    best = max(counts, key=counts.get, default=None)
    return best if best is not None and counts[best] > _sets_in(cfg, root) else None


def _sets_in(cfg, root: Path) -> int:
    """How many of the data sets lie under a root; named folders alone count, the root does not."""
    there = cfg.clone()
    there.defrost()
    there.DATASET.ROOT = str(root)
    kind = DATASET_REGISTRY.get(cfg.DATASET.NAME)
    own = issubclass(kind, ClassFolders) and kind.locate(there)
    count = int(bool(own) and own != root and own.is_dir())
    count += trains_elsewhere(cfg) and not pairs_layout.look(there)
    return count + sum(folder is not None for folder in ood_layout.locate_ood_sets(there).values())
