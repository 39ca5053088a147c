"""Mean and spread over seeds, the refusal to average what does not belong together, and seeds
that do not fit the others.

Runs are averaged only if they measured the same thing: `mean_and_spread` refuses results which
differ in their conventions, sets, image counts, or in anything under provenance["comparable"].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev, variance
from typing import Any, NamedTuple

from scipy.special import stdtr

from dassl.utils.errors import InputError
from dassl.utils.tools import flatten
from ood.metrics import PRIMARY
from results.files import AVERAGE, percent
from results.runs import Groups, Run

ABSENT = "(absent)"

# Outlying seeds: see `outliers`.
TYPICAL = {PRIMARY: 0.02, "auroc": 0.01, "accuracy": 0.01}
TYPICAL_WEIGHT = 4
OUTLIER_LEVEL = 0.01


class Spread(NamedTuple):
    """Mean, sample standard deviation (None for a single run) and number of runs."""

    mean: float
    std: float | None
    runs: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(fmean(values), stdev(values) if len(values) > 1 else None, len(values))

    def __str__(self) -> str:
        spread = "" if self.std is None else f" ± {percent(self.std)}"
        return f"{percent(self.mean):>5}{spread}"


def mean_and_spread(
    runs: Sequence[Run], name: str = "runs"
) -> dict[str, dict[str, dict[str, Spread]]]:
    """score -> set -> metric -> Spread over runs, which must be comparable (else InputError)."""
    check_comparable(runs, name)
    return {
        score: {
            set_name: {
                metric: Spread.of([r.result["figures"][score][set_name][metric] for r in runs])
                for metric in row
            }
            for set_name, row in sets.items()
        }
        for score, sets in runs[0].result["figures"].items()
    }


def check_comparable(runs: Sequence[Run], name: str = "runs") -> None:
    """InputError, naming the first difference, unless the runs may be averaged."""
    if not runs:
        raise InputError(f"{name}: there is no result to average; run an evaluation first")
    reference = _measured(runs[0], name)
    for run in runs[1:]:
        other = _measured(run, name)
        for key in [*reference, *(k for k in other if k not in reference)]:
            one, two = reference.get(key, ABSENT), other.get(key, ABSENT)
            if one != two:
                raise InputError(
                    f"{name}: {runs[0].folder} and {run.folder} cannot be averaged, they differ in "
                    f"{key}: {one!r} and {two!r}; evaluate both in the same way"
                )


def _measured(run: Run, name: str) -> dict[str, Any]:
    """All that must be equal in two averaged runs, as flat entries."""
    comparable = run.provenance.get("comparable")
    if not isinstance(comparable, Mapping):
        raise InputError(
            f'{name}: the result in {run.folder} has no provenance["comparable"]; evaluate again'
        )
    counts = {
        score: {set_name: (row["n_id"], row["n_ood"]) for set_name, row in sets.items()}
        for score, sets in run.result["figures"].items()
    }
    tree = {**comparable, "conventions": run.result["conventions"], "images (ID, OOD)": counts}
    return flatten(tree)


def outliers(values: Sequence[float], typical: float) -> list[int]:
    """Indices of the seeds that lie further from the others than seeds scatter.

    With three seeds no rule can be told by their values alone: two of three are often close by
    chance, and then the third is far off by any measure of their closeness (Dixon's Q and the
    median absolute deviation call a seed of pure noise an outlier, or none that is not 30 times
    as far). So the variance of the other seeds, n - 2 degrees of freedom, is pooled with
    ``typical``, the usual standard deviation between seeds, which counts as TYPICAL_WEIGHT degrees:
    Smyth's moderated t (Stat. Appl. Genet. Mol. Biol. 3, 2004). A seed is an outlier if

        |x_i - mean of the others| / (s sqrt(1 + 1 / (n - 1)))

    is improbable at OUTLIER_LEVEL / n under Student's t with TYPICAL_WEIGHT + n - 2 degrees. With
    two seeds that agree, a third is one from 5.7 times ``typical`` on (11 points of FPR95), and
    from further on as the two disagree. Of fewer than three seeds none is an outlier. TYPICAL is
    of the order by which the quick start's seeds scatter. Two like strays hide each other.
    """
    n = len(values)
    if n < 3:
        return []
    degrees = TYPICAL_WEIGHT + n - 2
    found = []
    for i, value in enumerate(values):
        others = [*values[:i], *values[i + 1 :]]
        pooled = (TYPICAL_WEIGHT * typical**2 + (n - 2) * variance(others)) / degrees
        t = abs(value - fmean(others)) / (pooled * (1 + 1 / (n - 1))) ** 0.5
        if 2 * stdtr(degrees, -t) < OUTLIER_LEVEL / n:
            found.append(i)
    return found


def outlying_seeds(groups: Groups) -> list[str]:
    """A sentence for each run that `outliers` finds, by its average FPR95 and AUROC or accuracy."""
    notes = []
    for name, runs in groups.items():
        off: dict[int, list[str]] = {}
        for title, key, values in _columns(runs):
            for i in outliers(values, TYPICAL[key]):
                rest = ", ".join(percent(v) for j, v in enumerate(values) if j != i)
                off.setdefault(i, []).append(f"{title} {percent(values[i])} (others {rest})")
        notes += [
            f"{name}, seed {runs[i].seed} is far off the others: {'; '.join(parts)}"
            for i, parts in sorted(off.items())
        ]
    return notes


def _columns(runs: Sequence[Run]) -> list[tuple[str, str, list[float]]]:
    """(title, key of TYPICAL, a value per run) of everything that a seed is judged by."""
    figures = [run.result["figures"] for run in runs]
    columns = [
        (f"{title} of {score}", metric, [f[score][AVERAGE][metric] for f in figures])
        for score in figures[0]
        for title, metric in (("FPR95", PRIMARY), ("AUROC", "auroc"))
    ]
    accuracies = [run.result.get("accuracy", {}) for run in runs]
    return columns + [
        (f"accuracy on {name}", "accuracy", [own[name] for own in accuracies])
        for name in accuracies[0]
        if all(name in own for own in accuracies)
    ]
