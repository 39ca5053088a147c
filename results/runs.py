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
    def trainer(self) -> str:
        return self.provenance.get("comparable", {}).get("trainer", "unnamed")

    @property
    def seed(self) -> int | None:
        """The seed of a run that learned something; None of zero-shot CLIP, which needs none."""
        learns = self.provenance.get("comparable", {}).get("training") is not None
        return self.provenance.get("seed") if learns else None

    @property
    def ood_sets(self) -> list[str]:
        return [name for name in next(iter(self.result["figures"].values())) if name != AVERAGE]

    @property
    def id_set(self) -> str:
        """Name of the in-distribution set: the one that no figures are of."""
        return next(name for name in self.result["images"] if name not in self.ood_sets)

    @property
    def has_images(self) -> bool:
        """Whether the scores of every image lie beside the figures."""
        return all(self._file(name).exists() for name in self.result["images"])

    @cached_property
    def images(self) -> dict[str, SetScores]:
        """Set -> the scores of its images.

        Raises:
            InputError: a file is missing, damaged, or of another evaluation.
        """
        sets = {name: read_scores(self._file(name)) for name in self.result["images"]}
        for name, found in sets.items():
            lacking = self.result["figures"].keys() - found.scores.keys()
            if len(found.images) != self.result["images"][name] or lacking:
                raise InputError(
                    f"{self._file(name)} is not of the evaluation in results.json: it has "
                    f"{len(found.images)} images with {', '.join(found.scores)}; evaluate again"
                )
        return sets

    def _file(self, name: str) -> Path:
        return self.folder / "scores" / f"{name}.csv"


Groups = Mapping[str, Sequence[Run]]  # method -> its runs


def gather(folders: Iterable[str | os.PathLike]) -> dict[str, list[Run]]:
    """Runs under `folders`, grouped into methods: runs whose folders differ in the seed alone.

    A method is called after its trainer where that is enough to tell it from the others, else
    after what its folder has of its own too.
    """
    paths = {path for folder in folders for path in Path(folder).rglob("results.json")}
    groups: dict[Path, list[Run]] = {}
    for path in sorted(paths, key=lambda path: (path.parent.parent, _natural(path.parent.name))):
        run = Run(path.parent, read_results(path))
        groups.setdefault(_method(run.folder), []).append(run)
    trainers = {method: runs[0].trainer for method, runs in groups.items()}
    names = {method: _name(method, trainers) for method in trainers}
    return {
        names[method]: groups[method]
        for method in sorted(trainers, key=lambda method: trainers[method] != "ZeroshotCLIP")
    }


def _natural(name: str) -> tuple[int, str]:
    """seed2 comes before seed10."""
    return len(name), name


def _method(run: Path) -> Path:
    return run.parent if run.name.startswith("seed") else run


def _name(method: Path, trainers: Mapping[Path, str]) -> str:
    alike = [other for other, trainer in trainers.items() if trainer == trainers[method]]
    if len(alike) == 1:
        return trainers[method]
    own = os.path.relpath(method, os.path.commonpath(alike))
    return f"{trainers[method]} ({method.name if own == '.' else own})"


def only(groups: Groups, scores: Sequence[str]) -> dict[str, list[Run]]:
    """The same runs with the figures of `scores` alone, of each method those that it has."""
    has = {name: {s for r in runs for s in r.result["figures"]} for name, runs in groups.items()}
    unknown = [s for s in scores if not any(s in own for own in has.values())]
    missing = {
        s
        for name, runs in groups.items()
        for run in runs
        for s in has[name].intersection(scores) - run.result["figures"].keys()
    }
    if unknown or missing:
        raise InputError(
            f"score {', '.join(sorted({*unknown, *missing}))} is not in every run: evaluate again, "
            f"or choose of {', '.join(sorted(set().union(*has.values())))}"
        )
    chosen = {name: [s for s in scores if s in own] for name, own in has.items()}
    return {
        name: [_with_scores(run, chosen[name]) for run in runs]
        for name, runs in groups.items()
        if chosen[name]
    }


def _with_scores(run: Run, scores: Sequence[str]) -> Run:
    figures = {score: run.result["figures"][score] for score in scores}
    return replace(run, result={**run.result, "figures": figures})


def missing_runs(folders: Iterable[str | os.PathLike], groups: Groups) -> list[str]:
    """A sentence for each run that one would expect: seeds that other methods have, runs that
    were trained and not evaluated, and seeds that are there twice."""
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
    waiting = {
        path.parent
        for folder in folders
        for path in Path(folder).rglob("config.yaml")
        if not (path.parent / "results.json").exists()
    }
    notes += [
        f"{folder} is not evaluated: bash scripts/eval.sh --model-dir {folder}"
        if (folder / "finished.json").exists()
        else f"{folder} is not trained to its end"
        for folder in sorted(waiting)
    ]
    return notes


def _join(names: Sequence[object]) -> str:
    *first, last = map(str, names)
    return f"{', '.join(first)} and {last}" if first else last
