"""The quick part: what is where, by the names of folders alone, in milliseconds.

Entry points run it first. The images are then listed, and counted, once: by the run itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dassl.data.datasets import DATASET_REGISTRY
from dassl.utils.errors import InputError
from datasets.check import id_layout, ood_layout
from datasets.check.findings import EVALUATION, TRAINING, Problem, told
from datasets.check.near import subfolders
from datasets.classfolders import ClassFolders, data_root, require_root
from datasets.folders import absolute

DATA_ROOT = "data root"  # where a problem is that no set can help


@dataclass
class Layout:
    """Folders that are there: of the ID set's splits, of the OOD sets; and what is wrong."""

    splits: dict[str, Path] = field(default_factory=dict)
    ood: dict[str, Path] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def require_data(cfg, run: str) -> None:
    """Raise an InputError that tells all at once what keeps a run from its data.

    Args:
        run: EVALUATION, or TRAINING, which needs no OOD sets.
    """
    problems = [p for p in look(cfg, [run]).problems if run in p.stops and _needed(cfg, p)]
    if problems:
        count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
        raise InputError(
            f"the data are not ready for {run}: {count}.\n\n{told(problems)}\n\n"
            "bash scripts/check.sh with the same flags looks at all of the data."
        )


def look(cfg, runs: Sequence[str]) -> Layout:
    """Where the sets that the runs need are, and what is wrong with their folders.

    Raises:
        InputError: the config asks for what no folder could give.
    """
    kind = DATASET_REGISTRY.get(cfg.DATASET.NAME)
    layout = Layout()
    try:
        require_root(data_root(cfg), _named(cfg, runs))
    except InputError as error:
        layout.problems.append(_no_root(cfg, str(error)))
        return layout
    if issubclass(kind, ClassFolders):  # others keep their images as they like
        layout.splits, layout.problems = id_layout.look(cfg, kind)
    if EVALUATION in runs:
        layout.ood, problems = ood_layout.look(cfg)
        layout.problems += problems
    if not layout.splits and not layout.ood and layout.problems:
        layout.problems = _elsewhere(cfg, layout.problems)
    return layout


def _needed(cfg, problem: Problem) -> bool:
    """CLIPN's pairs may come from elsewhere than the training images."""
    own_pairs = cfg.DATASET.PAIRS.SOURCE not in ("", "classnames")
    return not (own_pairs and problem.where == id_layout.row_name("train")
                and list(problem.stops) == [TRAINING])


def _named(cfg, runs: Sequence[str]) -> list[str]:
    sets = [entry["FOLDERS"] for entry in cfg.OOD.SETS.values()
            if isinstance(entry, dict) and isinstance(entry.get("FOLDERS"), (list, tuple))]
    folders = [folder for folders in sets for folder in folders] if EVALUATION in runs else []
    return [cfg.DATASET.FOLDER, *folders]


def _no_root(cfg, what: str) -> Problem:
    root = better_root(cfg)
    mend = [f"# use   --root {root}"] if root else ["# name the folder with --root, or make it:",
                                                     f"mkdir -p {data_root(cfg)}"]
    return Problem("no data root", DATA_ROOT, what, mend, (EVALUATION, TRAINING))


def _elsewhere(cfg, problems: list[Problem]) -> list[Problem]:
    """Nothing was found here: if it is near, that alone is the problem."""
    root = better_root(cfg)
    if root is None:
        return problems
    return [Problem("wrong root", DATA_ROOT, f"{absolute(data_root(cfg))} holds none of the data "
                    f"sets, but {absolute(root)} does.", [f"# use   --root {root}"],
                    (EVALUATION, TRAINING))]


def better_root(cfg) -> Path | None:
    """A folder above, beside or in the data root with more of the data sets in it."""
    root = data_root(cfg)
    above = [folder for folder in (root.absolute().parent, root.absolute().parent.parent)
             if folder.is_dir()]
    near = [*(root / name for name in subfolders(root)), *above,
            *(above[0] / name for name in (subfolders(above[0]) if above else []))]
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
    return count + sum(folder is not None for folder in ood_layout.locate_ood_sets(there).values())
