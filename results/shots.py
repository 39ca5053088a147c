"""Figures over the number of training images a class, of the same method."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from ood.metrics import PRIMARY
from results.files import AVERAGE
from results.runs import Groups, Run

Lines = dict[str, dict[str, dict[int, list[float]]]]  # title -> line -> shots -> fractions


def shots_of(run: Run) -> int | None:
    """Return the training images a class of a run, None where nothing, or all, was trained on."""
    shots = (run.comparable.get("training") or {}).get("shots", 0)
    return shots if shots > 0 else None


def over_shots(groups: Groups) -> Lines:
    """Return ID accuracy, and FPR95 of each score on average over the OOD sets, over shots.

    A line is a method, or a method and a score. Empty where no method has several numbers.
    """
    accuracy, fpr95 = (defaultdict(lambda: defaultdict(list)) for _ in range(2))
    trained = [run for runs in groups.values() for run in runs if shots_of(run)]
    for run in trained:
        name, shots = method_of(run, trained), shots_of(run)
        found = run.result.get("accuracy", {}).get(run.id_set)
        if found is not None:
            accuracy[name][shots].append(found)
        for score, sets in run.figures.items():
            fpr95[f"{name} {score}"][shots].append(sets[AVERAGE][PRIMARY])
    kept = {
        title: {name: runs for name, runs in own.items() if len(runs) > 1}
        for title, own in (("ID accuracy (%)", accuracy), ("FPR95 (%), ID positive", fpr95))
    }
    return {title: own for title, own in kept.items() if own}


def method_of(run: Run, runs: Sequence[Run]) -> str:
    """Return the trainer's name, with what runs of this trainer differ in besides the shots."""
    alike = [_method(other) for other in runs if other.trainer == run.trainer]
    own = _method(run)
    differing = [key for key in own if any(other.get(key) != own[key] for other in alike)]
    return " ".join([run.trainer, *(f"{key} {own[key]}" for key in differing)])


def _method(run: Run) -> dict:
    views = (run.comparable.get("training") or {}).get("views", 0)
    own = run.comparable.get("settings") or {}
    return {"backbone": run.provenance.get("backbone"), "views": views, **own}
