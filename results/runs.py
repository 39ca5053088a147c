"""Find evaluated runs, group them into methods, and set apart those that cannot be compared.

Runs of one method are averaged only if they measured the same thing; methods share a table only if
they were evaluated on the same images and averaged over the same sets. Runs that differ are set
apart and named.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from dassl.utils import InputError, flatten
from dassl.utils.console import one_line
from dassl.utils.names import split_commas
from datasets.folders import first_few
from ood.metrics import PRIMARY
from ood.set_scores import SetScores
from results.files import AVERAGE, Means, read_results, read_scores

ID_SET = ("dataset", "folder")  # facts that say which images are in-distribution
NAMED = 3  # most runs, or differences, that one sentence names


@dataclass(frozen=True)
class Run:
    """The results of one evaluation, and their folder."""

    folder: Path
    result: Mapping[str, Any]

    @property
    def provenance(self) -> Mapping[str, Any]:
        return self.result.get("provenance", {})

    @property
    def comparable(self) -> Mapping[str, Any]:
        """Return the facts that must be equal in runs that are averaged; empty if not recorded."""
        return self.provenance.get("comparable") or {}

    @property
    def trainer(self) -> str:
        return self.comparable.get("trainer", "unnamed")

    @property
    def seed(self) -> int | None:
        """Return the seed of the training, or None if nothing was trained."""
        return self.provenance.get("seed") if self.comparable.get("training") is not None else None

    @property
    def weights(self) -> list[str]:
        """Return hashes of what the run learned, as far as they are recorded."""
        parts = (self.provenance.get(part) for part in ("context", "no_encoder", "decoder"))
        return [part["hash"] for part in parts if part]

    def repeats(self, other: Run) -> str:
        """Return what shows that this run of a method is the `other` one, or "": its weights, else
        its seed."""
        if self.weights and other.weights:
            return "weights" if self.weights == other.weights else ""
        return "seed" if self.seed == other.seed and self.seed not in (None, -1) else ""

    @property
    def figures(self) -> Mapping[str, Mapping[str, Mapping[str, float]]]:
        """Return score -> OOD set or mean over sets -> metric -> fraction."""
        return self.result["figures"]

    @property
    def means(self) -> Means:
        """Return the OOD sets of each mean; older results have a single mean over all sets."""
        names = [name for name in next(iter(self.figures.values())) if name != AVERAGE]
        return self.result.get("means") or {AVERAGE: names}

    @property
    def ood_sets(self) -> list[str]:
        return [name for name in next(iter(self.figures.values())) if name not in self.means]

    @property
    def id_set(self) -> str:
        """Return the name of the in-distribution set: the first without figures."""
        return next(name for name in self.result["images"] if name not in self.ood_sets)

    @property
    def primary(self) -> str:
        """Return the FPR95 that tables show first."""
        return self.result.get("primary", PRIMARY)

    @property
    def spectrum(self) -> list[str]:
        """Return the ID set and the shifted ID sets of full-spectrum figures, [] without such."""
        return self.result.get("full_spectrum", {}).get("sets", [])

    @cached_property
    def images(self) -> dict[str, SetScores]:
        """Return set -> the scores of its images in sorted order; the ID set comes first.

        Raises:
            InputError: a file is missing, damaged, or from another evaluation.
        """
        sets = {}
        for name in (self.id_set, *self.ood_sets):
            path = self.folder / "scores" / f"{name}.csv"
            sets[name] = scored = read_scores(path).in_order()
            missing = self.figures.keys() - scored.scores.keys()
            if len(scored.images) != self.result["images"][name] or missing:
                raise InputError(
                    f"{path} does not belong to the evaluation in results.json: it has "
                    f"{len(scored.images)} images with {', '.join(scored.scores)}; evaluate again"
                )
        return sets

    def with_scores(self, scores: Iterable[str]) -> Run:
        """Return the run with the figures, and the parameters, of `scores` only."""
        figures = {score: self.figures[score] for score in scores}
        comparable = {**self.comparable}
        if isinstance(comparable.get("scores"), Mapping):
            comparable["scores"] = {s: p for s, p in comparable["scores"].items() if s in figures}
        provenance = {**self.provenance, "comparable": comparable}
        return replace(self, result={**self.result, "figures": figures, "provenance": provenance})


Groups = Mapping[str, Sequence[Run]]  # method -> its runs


def load_groups(
    folders: Sequence[str | os.PathLike], scores: str = ""
) -> tuple[dict[str, list[Run]], list[str]]:
    """Return the runs under `folders` by method, and notes on those that are set apart.

    Args:
        scores: scores to keep, separated by commas; "" for all.

    Raises:
        InputError: there is no run, or a score is in no run.
    """
    runs, notes = find_runs(folders)
    if not runs:
        empty = f"there are no results in {', '.join(map(str, folders))}: run an evaluation first"
        raise InputError("\n".join([empty, *notes]))
    # This comes before methods are named, so that a stray run changes no name in the table.
    runs, early = _set_unfinished_apart(runs)
    runs, apart = _on_same_images(runs)
    groups, without = group_runs(runs), []
    if scores:
        groups, without = choose_scores(groups, split_commas(scores))
    return groups, notes + early + apart + without


def find_runs(folders: Iterable[str | os.PathLike]) -> tuple[list[Run], list[str]]:
    """Return the evaluated runs under `folders`, and a note on each that cannot be read."""
    paths = {path.parent for folder in folders for path in Path(folder).rglob("results.json")}
    runs, notes = [], []
    # Sorted by length first, so that seed2 comes before seed10.
    for path in sorted(paths, key=lambda path: (path.parent, len(path.name), path.name)):
        try:
            runs.append(Run(path, read_results(path)))
        except InputError as error:
            notes.append(f"set apart: {error}")
    return runs, notes


def group_runs(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """Group runs into methods: runs of a method have folders that differ only in the seed.

    A method is named after its trainer. Methods of the same trainer add their folders to the name.
    """
    groups: dict[Path, list[Run]] = {}
    for run in runs:
        folder = run.folder.parent if run.folder.name.startswith("seed") else run.folder
        groups.setdefault(folder, []).append(run)
    trainers = {method: runs[0].trainer for method, runs in groups.items()}
    return {
        _name(method, trainers): groups[method]
        for method in sorted(trainers, key=lambda method: trainers[method] != "ZeroshotCLIP")
    }


def _name(method: Path, trainers: Mapping[Path, str]) -> str:
    name = trainers[method]
    alike = [other for other, trainer in trainers.items() if trainer == name]
    if len(alike) > 1:
        path = os.path.relpath(method, os.path.commonpath(alike))
        name = f"{name} ({method.name if path == '.' else path})"
    return one_line(str(name))


def choose_scores(groups: Groups, scores: Sequence[str]) -> tuple[dict[str, list[Run]], list[str]]:
    """Return the runs with the figures of `scores` only, and notes on runs without any of them;
    raise InputError for a score that no run has."""
    known = list(dict.fromkeys(s for runs in groups.values() for r in runs for s in r.figures))
    unknown = [score for score in scores if score not in known]
    if unknown:
        raise InputError(
            f"score {', '.join(unknown)} is in no run: evaluate again, or choose from "
            f"{', '.join(known)}"
        )
    chosen: dict[str, list[Run]] = {}
    notes = []
    for name, run in ((name, run) for name, runs in groups.items() for run in runs):
        present = [score for score in scores if score in run.figures]
        if present:
            chosen.setdefault(name, []).append(run.with_scores(present))
        else:
            notes.append(f"set apart {run.folder}: evaluated without {', '.join(scores)}")
    return chosen, notes


def comparable_runs(groups: Groups) -> tuple[dict[str, list[Run]], list[str]]:
    """Return the runs that can share a table, and notes on those that are set apart.

    The largest set of runs on the same images is kept, and in each method the largest set of runs
    that measured the same; the first of equally large sets.
    """
    alike, notes = _on_same_images([run for runs in groups.values() for run in runs])
    kept = {}
    for name, runs in groups.items():
        candidates = [run for run in runs if run in alike]
        if candidates:
            measured, apart = _keep_largest(candidates, _measured)
            kept[name], copies = _without_copies(measured)
            notes += apart + copies
    return kept, notes


def _set_unfinished_apart(runs: Sequence[Run]) -> tuple[list[Run], list[str]]:
    """Return the runs whose training had ended, or all if none had, and a note on each other."""
    early = [run for run in runs if "unfinished" in run.provenance]
    kept = [run for run in runs if "unfinished" not in run.provenance]
    apart = "set apart " if kept else ""
    return kept or early, [
        f"{apart}{run.folder}: evaluated at {run.provenance['unfinished']}, before its training "
        "ended. Evaluate it again when it has"
        for run in early
    ]


def _without_copies(runs: Sequence[Run]) -> tuple[list[Run], list[str]]:
    """Return the runs of a method without copies of an earlier one, and a note on each copy."""
    kept: list[Run] = []
    notes = []
    for run in runs:
        original = next((other for other in kept if run.repeats(other)), None)
        if original is None:
            kept.append(run)
        else:
            same = run.repeats(original)
            notes.append(f"set apart {run.folder}: the {same} of {original.folder}")
    return kept, notes


def _on_same_images(runs: Sequence[Run]) -> tuple[list[Run], list[str]]:
    """Return the largest set of runs on the same images, with means over the same sets, and notes
    on the others."""
    runs, notes = _keep_largest(runs, _images)
    runs, averaged = _keep_largest(runs, _means)
    runs, elsewhere = _keep_alike(runs, _id_set)
    runs, others = _keep_alike(runs, _image_files)
    return runs, notes + averaged + elsewhere + others


def _images(run: Run) -> dict[str, Any]:
    """Return the facts that must be equal in the runs of a table: ID set, OOD sets, their sizes."""
    rows = next(iter(run.figures.values()))
    ood_sets = {f"OOD set {name}": rows[name]["n_ood"] for name in sorted(run.ood_sets)}
    shifted = {f"shifted ID set {s}": run.result["images"][s] for s in run.spectrum[1:]}
    images = {"ID images": rows[AVERAGE]["n_id"]}
    return {"ID set": run.id_set} | images | ood_sets | shifted


def _means(run: Run) -> dict[str, Any]:
    """Return the OOD sets of each mean, in any order."""
    return {f"sets of {name}": sorted(sets) for name, sets in run.means.items()}


def _id_set(run: Run) -> dict[str, Any]:
    """Return where the ID images come from, as far as it is recorded."""
    facts = {f"ID {key}": run.comparable.get(key) for key in ID_SET}
    return {name: value for name, value in facts.items() if value is not None}


def _image_files(run: Run) -> dict[str, Any]:
    """Return hashes of the image files; earlier versions recorded only their number."""
    hashes = run.provenance.get("image_files", {})
    return {f"files of {name} (hash)": value for name, value in hashes.items()}


def _measured(run: Run) -> dict[str, Any]:
    """Return the facts that must be equal in the runs of a method, with dotted keys.

    Runs without a fact are not averaged with those that have it. ID_SET is left to `_id_set`, the
    sets of the average, however its convention words them, to `_means`.
    """
    comparable = {key: value for key, value in run.comparable.items() if key not in ID_SET}
    conventions = {k: text for k, text in run.result["conventions"].items() if k != AVERAGE}
    more = {"conventions": conventions, "scores found": sorted(run.figures)}
    return flatten({**comparable, **more})


def _keep_alike(
    runs: Sequence[Run], facts_of: Callable[[Run], dict[str, Any]]
) -> tuple[list[Run], list[str]]:
    """Return `_keep_largest` of facts that are unknown, not different, where not recorded."""
    known: dict[str, Any] = {}
    for run in reversed(runs):
        known |= facts_of(run)
    return _keep_largest(runs, lambda run: known | facts_of(run))


def _keep_largest(
    runs: Sequence[Run], facts_of: Callable[[Run], dict[str, Any]]
) -> tuple[list[Run], list[str]]:
    """Return the largest group of runs with equal facts, and a note on each other group."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(repr(sorted(facts_of(run).items())), []).append(run)
    kept, *others = sorted(groups.values(), key=len, reverse=True)
    notes = []
    for group in others:
        ours, theirs = facts_of(kept[0]), facts_of(group[0])
        reasons = [
            f"{key} {theirs.get(key, 'none')} (the table: {ours.get(key, 'none')})"
            for key in ours | theirs
            if ours.get(key) != theirs.get(key)
        ]
        folders = first_few([str(run.folder) for run in group], NAMED, "; ")
        notes.append(
            f"set apart {folders}: {first_few(reasons, NAMED, '; ')}. To see it, name only its "
            "folder; to include it, evaluate it and the table's runs again, in the same way"
        )
    return kept, notes


def missing_seeds(groups: Groups) -> list[str]:
    """Return a sentence for each method that lacks seeds which other methods have."""
    seeds = {name: {r.seed for r in runs if r.seed is not None} for name, runs in groups.items()}
    all_seeds = set().union(*seeds.values())
    return [
        f"{name} has no run of seed {', '.join(map(str, sorted(all_seeds - present)))}"
        for name, present in seeds.items()
        if present and all_seeds - present
    ]
