"""Evaluated runs on disk: found, grouped into methods, and what is missing among them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from dassl.utils.errors import InputError
from ood.set_scores import SetScores
from results.files import AVERAGE, read_results, read_scores


@dataclass(frozen=True)
class Run:
    """The results of one evaluation, and the folder that they lie in."""

    folder: Path
    result: Mapping[str, Any]

    @property
    def provenance(self) -> Mapping[str, Any]:
        return self.result.get("provenance", {})

    @property
    def comparable(self) -> Mapping[str, Any]:
        """What must be equal in runs that are averaged; empty if the results do not say."""
        return self.provenance.get("comparable") or {}

    @property
    def trainer(self) -> str:
        return self.comparable.get("trainer", "unnamed")

    @property
    def learns(self) -> bool:
        """Whether the run trained something, so that another seed gives other figures."""
        return self.comparable.get("training") is not None

    @property
    def seed(self) -> int | None:
        return self.provenance.get("seed") if self.learns else None

    @property
    def figures(self) -> Mapping[str, Mapping[str, Mapping[str, float]]]:
        """score -> OOD set or "average" -> metric -> fraction."""
        return self.result["figures"]

    @property
    def ood_sets(self) -> list[str]:
        return [name for name in next(iter(self.figures.values())) if name != AVERAGE]

    @property
    def id_set(self) -> str:
        """Name of the in-distribution set: the one that no figures are of."""
        return next(name for name in self.result["images"] if name not in self.ood_sets)

    @cached_property
    def images(self) -> dict[str, SetScores]:
        """Set -> the scores of its images.

        Raises:
            InputError: a file is missing, damaged, or of another evaluation.
        """
        sets = {name: read_scores(self._file(name)) for name in self.result["images"]}
        for name, found in sets.items():
            lacking = self.figures.keys() - found.scores.keys()
            if len(found.images) != self.result["images"][name] or lacking:
                raise InputError(
                    f"{self._file(name)} is not of the evaluation in results.json: it has "
                    f"{len(found.images)} images with {', '.join(found.scores)}; evaluate again"
                )
        return sets

    def with_scores(self, scores: Iterable[str]) -> Run:
        """Return the run with the figures, and their parameters, of `scores` alone."""
        scores = list(scores)
        chosen = {**self.comparable}
        if isinstance(chosen.get("scores"), Mapping):
            chosen["scores"] = {s: p for s, p in chosen["scores"].items() if s in scores}
        provenance = {**self.provenance, **({"comparable": chosen} if chosen else {})}
        figures = {score: self.figures[score] for score in scores}
        return replace(self, result={**self.result, "figures": figures, "provenance": provenance})

    def _file(self, name: str) -> Path:
        return self.folder / "scores" / f"{name}.csv"


Groups = Mapping[str, Sequence[Run]]  # method -> its runs


def find_runs(folders: Iterable[str | os.PathLike]) -> tuple[list[Run], list[str]]:
    """Return the evaluated runs under `folders`, and a sentence for each that cannot be read."""
    paths = {path for folder in folders for path in Path(folder).rglob("results.json")}
    runs, notes = [], []
    for path in sorted(paths, key=lambda path: (path.parent.parent, _natural(path.parent.name))):
        try:
            runs.append(Run(path.parent, read_results(path)))
        except InputError as error:
            notes.append(f"set apart: {error}")
    return runs, notes


def group_runs(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """Group runs into methods: those whose folders differ in the seed alone.

    A method is named after its trainer where that is enough to tell it from the others, else
    after what its folder has of its own too.
    """
    groups: dict[Path, list[Run]] = {}
    for run in runs:
        folder = run.folder.parent if run.folder.name.startswith("seed") else run.folder
        groups.setdefault(folder, []).append(run)
    trainers = {method: runs[0].trainer for method, runs in groups.items()}
    names = {method: _name(method, trainers) for method in trainers}
    return {
        names[method]: groups[method]
        for method in sorted(trainers, key=lambda method: trainers[method] != "ZeroshotCLIP")
    }


def _natural(name: str) -> tuple[int, str]:
    """Sort seed2 before seed10."""
    return len(name), name


def _name(method: Path, trainers: Mapping[Path, str]) -> str:
    alike = [other for other, trainer in trainers.items() if trainer == trainers[method]]
    if len(alike) == 1:
        return trainers[method]
    own = os.path.relpath(method, os.path.commonpath(alike))
    return f"{trainers[method]} ({method.name if own == '.' else own})"


def choose_scores(groups: Groups, scores: Sequence[str]) -> tuple[dict[str, list[Run]], list[str]]:
    """Return the runs with the figures of `scores` alone, and notes on runs that have none of them.

    Raises:
        InputError: a score that no run has.
    """
    known = list(dict.fromkeys(s for runs in groups.values() for r in runs for s in r.figures))
    unknown = [score for score in scores if score not in known]
    if unknown:
        raise InputError(
            f"score {', '.join(unknown)} is in no run: evaluate again, or choose of "
            f"{', '.join(known)}"
        )
    chosen, notes = {}, []
    for name, runs in groups.items():
        having = [run for run in runs if run.figures.keys() & set(scores)]
        own = [run.with_scores(s for s in scores if s in run.figures) for run in having]
        chosen |= {name: own} if own else {}
        notes += [
            f"{name}: set apart {run.folder}, it was evaluated without {', '.join(scores)}"
            for run in runs
            if own and run not in having
        ]
    return chosen, notes


def missing_runs(folders: Iterable[str | os.PathLike], groups: Groups) -> list[str]:
    """Return a sentence for each run that one would expect: seeds that other methods have, runs
    that were trained and not evaluated, and seeds that are there twice."""
    seeds = {name: [r.seed for r in runs if r.seed is not None] for name, runs in groups.items()}
    everything = set().union(*seeds.values()) if seeds else set()
    notes = []
    for name, own in seeds.items():
        lacking = sorted(everything - set(own))
        if own and lacking:
            others = [other for other, theirs in seeds.items() if set(lacking) & set(theirs)]
            notes.append(f"{name} has no run of seed {_join(lacking)}, which {_join(others)} has")
        notes += [
            f"{name} has seed {seed} {times} times: its spread is too small"
            for seed, times in Counter(own).items()
            if times > 1
        ]
    return notes + _unfinished(folders)


def _unfinished(folders: Iterable[str | os.PathLike]) -> list[str]:
    waiting = {
        path.parent
        for folder in folders
        for path in Path(folder).rglob("config.yaml")
        if not (path.parent / "results.json").exists()
    }
    return [
        f"{folder} is not evaluated: bash scripts/eval.sh --model-dir {folder}"
        if (folder / "finished.json").exists()
        else f"{folder} is not trained to its end"
        for folder in sorted(waiting)
    ]


def _join(names: Sequence[object]) -> str:
    *first, last = map(str, names)
    return f"{', '.join(first)} and {last}" if first else last
