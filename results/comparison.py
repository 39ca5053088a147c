"""Two methods on the same images: is one better than the other, or is it these images?

Every resample draws the same images for both (`results.bootstrap`), so what makes an image hard for
both cancels. The interval is that of the difference over the resamples. Its two-sided p-value is
twice the share of resamples, the observed one included, in which the difference has not the sign
that it mostly has. For AUROC, DeLong's closed form stands beside it.

Of a method with several runs the mean over its runs is compared. That speaks of these runs on
other images, not of other training runs; so the seeds that both methods have are counted too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from dassl.utils.errors import InputError
from dassl.utils.names import check_availability
from results import delong
from results.averages import check_comparable
from results.bootstrap import METRICS, RESAMPLES, interval, resample
from results.files import AVERAGE
from results.runs import Groups, Run

MIN_RESAMPLES = 100


class Difference(NamedTuple):
    """First minus second, as fractions; `wins` of `seeds`: common seeds with the first better."""

    set_name: str
    metric: str
    first: float
    second: float
    low: float
    high: float
    p: float
    p_delong: float | None
    wins: int
    seeds: int

    @property
    def difference(self) -> float:
        return self.first - self.second


class Side(NamedTuple):
    """A method, its runs and one of its scores."""

    method: str
    runs: Sequence[Run]
    score: str

    def __str__(self) -> str:
        return f"{self.method}, {self.score}"


def find_sides(groups: Groups, first: str, second: str) -> list[tuple[Side, Side]]:
    """What `--compare FIRST SECOND` names: METHOD or METHOD:SCORE each.

    Without a score, the scores that both methods have; with one alone, that of both.
    """
    (a, a_score), (b, b_score) = (_method_and_score(groups, text) for text in (first, second))
    a_scores, b_scores = (list(groups[m][0].result["figures"]) for m in (a, b))
    if a_score or b_score:
        pairs = [(a_score or b_score, b_score or a_score)]
    else:
        pairs = [(score, score) for score in a_scores if score in b_scores]
    for one, other in pairs:
        check_availability(one, a_scores, f"score of {a}")
        check_availability(other, b_scores, f"score of {b}")
    if not pairs:
        raise InputError(f"{a} and {b} have no score in common: name one of each, METHOD:SCORE")
    if a == b and all(one == other for one, other in pairs):
        raise InputError(f"{a} is compared with itself: name two methods, or two of its scores")
    return [(Side(a, groups[a], one), Side(b, groups[b], other)) for one, other in pairs]


def _method_and_score(groups: Groups, text: str) -> tuple[str, str]:
    if text in groups:
        return text, ""
    method, colon, score = text.rpartition(":")
    method = method if colon else text
    check_availability(method, groups, "method")
    return method, score


def compare(
    first: Side, second: Side, resamples: int = RESAMPLES, seed: int = 0
) -> list[Difference]:
    """Differences of METRICS on every OOD set and on average.

    Raises:
        InputError: the runs of a method differ in what matters, or the images of two runs differ.
    """
    for side in (first, second):
        check_comparable(side.runs, side.method)
    check_resamples(resamples, seed)
    if set(first.runs[0].ood_sets) != set(second.runs[0].ood_sets):
        raise InputError(
            f"{first.method} and {second.method} were evaluated on different OOD sets: "
            f"{', '.join(first.runs[0].ood_sets)}; {', '.join(second.runs[0].ood_sets)}"
        )
    inside, outside = _same_images(first, second)
    figures = resample(inside, outside, resamples, seed)
    figures = np.concatenate([figures, figures.mean(axis=2, keepdims=True)], axis=2)
    split = len(first.runs)
    differences = figures[:split].mean(axis=0) - figures[split:].mean(axis=0)
    p_delong = _delong(inside, outside, split)
    return [
        _difference(
            first,
            second,
            set_name,
            metric,
            differences[:, column, k],
            p_delong[column] if metric == "auroc" else None,
        )
        for column, set_name in enumerate([*outside, AVERAGE])
        for k, metric in enumerate(METRICS)
    ]


def check_resamples(resamples: int, seed: int) -> None:
    """InputError unless an interval can be taken from so many resamples."""
    if seed < 0:
        raise InputError(f"--seed {seed}: the seed of the resamples must not be negative")
    if resamples < MIN_RESAMPLES:
        raise InputError(
            f"--resamples {resamples}: 95 % intervals need at least {MIN_RESAMPLES} resamples, "
            f"{RESAMPLES} are usual"
        )


def _difference(
    first: Side,
    second: Side,
    set_name: str,
    metric: str,
    resampled: np.ndarray,
    p_delong: float | None,
) -> Difference:
    one, other = (_by_seed(side, set_name, metric) for side in (first, second))
    better = 1 if metric == "auroc" else -1
    common = [seed for seed in one.keys() & other.keys() if seed is not None]
    wins = sum(better * (one[seed] - other[seed]) > 0 for seed in common)
    means = [
        float(np.mean([_figure(run, side.score, set_name, metric) for run in side.runs]))
        for side in (first, second)
    ]
    return Difference(
        set_name,
        metric,
        *means,
        *interval(resampled),
        two_sided_p(resampled),
        p_delong,
        wins,
        len(common),
    )


def _figure(run: Run, score: str, set_name: str, metric: str) -> float:
    return run.result["figures"][score][set_name][metric]


def _by_seed(side: Side, set_name: str, metric: str) -> dict[int | None, float]:
    return {run.seed: _figure(run, side.score, set_name, metric) for run in side.runs}


def two_sided_p(differences: np.ndarray) -> float:
    """Of a bootstrapped difference [resamples]; at least 2 / (resamples + 1)."""
    total = len(differences) + 1
    tails = [(1 + np.count_nonzero(tail)) / total for tail in (differences <= 0, differences >= 0)]
    return float(min(1.0, 2 * min(tails)))


def _same_images(first: Side, second: Side) -> tuple[list, dict[str, list]]:
    """Scores of both methods' runs, image by image the same; as `resample` takes them."""
    everything = [(run, side.score) for side in (first, second) for run in side.runs]
    reference = first.runs[0]
    columns = {
        name: [_in_order(reference, run, name, score) for run, score in everything]
        for name in [reference.id_set, *reference.ood_sets]
    }
    return columns.pop(reference.id_set), columns


def _in_order(reference: Run, run: Run, name: str, score: str) -> np.ndarray:
    """A run's scores of one set, in the reference's order of images."""
    if name not in run.images:
        raise InputError(f"{run.folder} has no scores of {name}, {reference.folder} has")
    wanted, found = reference.images[name], run.images[name]
    values = found.scores[score]
    if list(wanted.images) == list(found.images):
        return values
    place = {image: i for i, image in enumerate(found.images)}
    lacking = [image for image in wanted.images if image not in place]
    if lacking or len(place) != len(wanted.images):
        example = lacking[0] if lacking else next(iter(place.keys() - set(wanted.images)))
        raise InputError(
            f"{reference.folder} and {run.folder} do not have the same images of {name} "
            f"({len(wanted.images):,} and {len(found.images):,}; {example} is in one alone): a "
            "paired comparison needs both evaluated on the same data"
        )
    return values[[place[image] for image in wanted.images]]


def _delong(inside: list, outside: Mapping[str, list], split: int) -> list[float]:
    """p-values of the difference in AUROC on each set, and on average."""
    by_set = []
    for others in outside.values():
        parts = [delong.placements(i, o) for i, o in zip(inside, others, strict=True)]
        by_set.append(delong.mean_over_runs(parts[:split]) - delong.mean_over_runs(parts[split:]))
    return [delong.two_sided_p(part) for part in [*by_set, delong.mean_over_sets(by_set)]]
