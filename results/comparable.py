"""Choose the runs that may stand in one table, and find seeds that lie far off.

Runs of one method are averaged only if they measured the same thing; methods stand in one table
only if they were evaluated on the same images. What differs is set apart and named.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from dassl.utils.errors import InputError
from dassl.utils.tools import flatten
from ood.metrics import PRIMARY
from results.files import AVERAGE
from results.runs import Groups, Run
from results.tables import percent

NAMED = 3  # runs or figures that one sentence names

# Points, as fractions, from the median of a method's seeds: a rule of thumb, not a test.
FAR_OFF = {PRIMARY: 0.10, "auroc": 0.05, "accuracy": 0.05}
TITLES = {PRIMARY: "FPR95", "auroc": "AUROC"}


def comparable_runs(groups: Groups) -> tuple[dict[str, list[Run]], list[str]]:
    """Return the runs that one table may hold, and sentences on those that are set apart.

    Of runs on different images, and of different runs of a method, the larger part is kept; of
    parts of one size the first.
    """
    alike, notes = same_images([run for runs in groups.values() for run in runs])
    kept = {}
    for name, runs in groups.items():
        same, others = _largest([run for run in runs if run in alike], _measured)
        kept |= {name: same} if same else {}
        notes += [f"{name}: {_set_apart(part, same, _measured)}" for part in others]
    return kept, notes


def same_images(runs: Sequence[Run]) -> tuple[list[Run], list[str]]:
    """Return the largest part of the runs that was evaluated on the same images, and notes.

    Raises:
        InputError: no run is left.
    """
    known = [run for run in runs if run.comparable]
    notes = [
        f'set apart {run.folder}: its results have no provenance["comparable"]; evaluate again'
        for run in runs
        if not run.comparable
    ]
    if not known:
        reasons = ["there are no results to tabulate: run an evaluation first", *notes]
        raise InputError("\n".join(reasons))
    alike, others = _largest(known, _images)
    return alike, notes + [_set_apart(part, alike, _images) for part in others]


def _images(run: Run) -> dict[str, Any]:
    """Return what must be equal in the runs of a table: ID set, OOD sets, their sizes."""
    rows = next(iter(run.figures.values()))
    ood_sets = {f"OOD set {name}": rows[name]["n_ood"] for name in sorted(run.ood_sets)}
    where = {f"ID {key}": run.comparable.get(key) for key in ("dataset", "folder")}
    return {"ID set": run.id_set, **where, "ID images": rows[AVERAGE]["n_id"], **ood_sets}


def _measured(run: Run) -> dict[str, Any]:
    """Return what must be equal in the runs of a method, as flat entries."""
    more = {"conventions": run.result["conventions"], "scores found": sorted(run.figures)}
    return flatten({**run.comparable, **more})


def _largest(
    runs: Sequence[Run], of: Callable[[Run], dict[str, Any]]
) -> tuple[list[Run], list[list[Run]]]:
    """Return the largest part of runs for which `of` is equal, and the other parts."""
    parts: dict[str, list[Run]] = {}
    for run in runs:
        parts.setdefault(repr(sorted(of(run).items())), []).append(run)
    ordered = sorted(parts.values(), key=len, reverse=True)
    return (ordered[0], ordered[1:]) if ordered else ([], [])


def _set_apart(part: Sequence[Run], kept: Sequence[Run], of: Callable) -> str:
    ours, theirs = of(kept[0]), of(part[0])
    keys = [*ours, *(key for key in theirs if key not in ours)]
    reasons = [
        f"no {key} (the table: {ours[key]})"
        if key not in theirs
        else f"{key} {theirs[key]} (the table: {ours.get(key, 'none')})"
        for key in keys
        if ours.get(key) != theirs.get(key)
    ]
    folders = [str(run.folder) for run in part]
    return (
        f"set apart {_first(folders)}: {_first(reasons)}. To see what was set apart, name its "
        "folders alone; to bring it in, evaluate it in the same way"
    )


def _first(parts: Sequence[str]) -> str:
    more = f" and {len(parts) - NAMED} more" if len(parts) > NAMED else ""
    return f"{'; '.join(parts[:NAMED])}{more}"


def far_off_seeds(groups: Groups) -> list[str]:
    """Return a sentence for each seed further than FAR_OFF from the median of its method's seeds.

    Figures are the averages over the OOD sets, and accuracies; of fewer than three runs none is
    far off.
    """
    notes = []
    for name, runs in groups.items():
        off: dict[int, list[str]] = {}
        for title, limit, values in _judged(runs) if len(runs) > 2 else ():
            middle = median(values)
            for i, value in enumerate(values):
                if abs(value - middle) > limit:
                    off.setdefault(i, []).append(
                        f"{title} {percent(value)} (median of the seeds {percent(middle)})"
                    )
        for i, parts in sorted(off.items()):
            notes.append(f"{name}, seed {runs[i].seed} is far off the others: {_first(parts)}")
    return notes


def _judged(runs: Sequence[Run]) -> list[tuple[str, float, list[float]]]:
    """Return (title, limit, a value per run) of all that a seed is judged by."""
    figures = [
        (f"{title} of {score}", FAR_OFF[key], [r.figures[score][AVERAGE][key] for r in runs])
        for score in runs[0].figures
        for key, title in TITLES.items()
    ]
    accuracies = [run.result.get("accuracy", {}) for run in runs]
    return figures + [
        (f"accuracy on {name}", FAR_OFF["accuracy"], [own[name] for own in accuracies])
        for name in accuracies[0]
        if all(name in own for own in accuracies)
    ]
