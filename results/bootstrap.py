"""Resample images to see how much a figure owes to them: the bootstrap.

A resample draws as many ID images as there are, with replacement, and as many of each OOD set
(stratified: the sizes of the sets are the benchmark's choice, not chance). A 95 % interval runs
from the 2.5th to the 97.5th percentile of the figure over the resamples: the percentile interval
of Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13. Not their BCa: its
acceleration comes from the jackknife, which fails for quantiles (their chapter 11), and the
threshold of FPR95 is one.

The draws of a set depend on the seed, the set's name and its size alone. Whatever is resampled
with one seed is therefore resampled alike: two methods on the same images can be compared resample
by resample, and another OOD set beside it changes no interval.

The interval covers other images of the same kind. It does not cover other training runs; that is
what the standard deviation over seeds is for.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from dassl.utils.errors import InputError
from ood.metrics import PRIMARY

METRICS = (PRIMARY, "auroc")
RESAMPLES, MIN_RESAMPLES, TPR = 1000, 100, 0.95


def check_resamples(resamples: int) -> None:
    """Raise InputError unless a 95 % interval can be taken from so many resamples."""
    if resamples < MIN_RESAMPLES:
        raise InputError(
            f"--resamples {resamples}: 95 % intervals need at least {MIN_RESAMPLES} resamples, "
            f"{RESAMPLES} are usual; 0 leaves them out"
        )


def resample(
    inside: Sequence[np.ndarray],
    outside: Mapping[str, Sequence[np.ndarray]],
    resamples: int = RESAMPLES,
    seed: int = 0,
    means: Sequence[Sequence[str]] | None = None,
) -> np.ndarray:
    """Compute the figures of several scores of the same images in each resample of these images.

    Args:
        inside: a score of the ID images, [n], for each of k scores.
        outside: OOD set -> the same k scores of its images, [m] each.
        means: the OOD sets of each mean. None: one mean, over all.

    Returns:
        [k, resamples, sets + means, 2] float64: METRICS as fractions, exactly those that
        `ood.metrics` gives on the resampled images; last, the means over sets.
    """
    sizes = {"": len(inside[0])} | {name: len(scores[0]) for name, scores in outside.items()}
    draws = [(np.random.default_rng([seed, *name.encode()]), n) for name, n in sizes.items()]
    samples = [_Sample(own, sets) for own, *sets in zip(inside, *outside.values(), strict=True)]
    figures = np.empty((len(samples), resamples, len(outside), len(METRICS)))
    for row in range(resamples):
        drawn_id, *drawn_ood = [generator.integers(0, n, n) for generator, n in draws]
        id_counts = np.bincount(drawn_id, minlength=len(inside[0]))
        for sample, own in zip(samples, figures, strict=True):
            own[row] = sample.figures(id_counts, drawn_ood)
    names = list(outside)
    columns = [[names.index(name) for name in sets] for sets in means or [names]]
    averages = [figures[:, :, c].mean(axis=2, keepdims=True) for c in columns]
    return np.concatenate([figures, *averages], axis=2)


def interval(values: np.ndarray) -> tuple[float, float]:
    """Return the 95 % percentile interval of resampled figures [resamples]."""
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def two_sided_p(differences: np.ndarray) -> float:
    """Return the p-value of bootstrapped differences [resamples], at least 2 / (resamples + 1).

    Twice the share of resamples, the observed one included, in which the difference does not have
    the sign that it mostly has.
    """
    total = len(differences) + 1
    tails = [(1 + np.count_nonzero(tail)) / total for tail in (differences <= 0, differences >= 0)]
    return float(min(1.0, 2 * min(tails)))


class _Sample:
    """One score of the ID images, [n], and of every OOD set, ranked once for all resamples."""

    def __init__(self, inside: np.ndarray, outside: Sequence[np.ndarray]) -> None:
        self.order = np.argsort(inside)
        values = np.asarray(inside, dtype=np.float64)[self.order]
        # A threshold can only lie between distinct scores of ID images: the levels, rising.
        self.ends = np.append(np.flatnonzero(np.diff(values)), len(values) - 1)
        levels = values[self.ends]
        # The levels below each OOD image, and those not above it: [m] each.
        self.sets = [
            [np.searchsorted(levels, scores, side) for side in ("left", "right")]
            for scores in (np.asarray(others, dtype=np.float64) for others in outside)
        ]

    def figures(self, id_counts: np.ndarray, drawn_ood: Sequence[np.ndarray]) -> np.ndarray:
        """Return METRICS [sets, 2]: ID image i is drawn id_counts[i] times, OOD by indices."""
        missed = np.append(0, np.cumsum(id_counts[self.order])[self.ends])  # below each level
        positives = int(missed[-1])
        level, full = _nearest(missed, positives)
        figures = []
        for (below, up_to), drawn in zip(self.sets, drawn_ood, strict=True):
            below, up_to = below[drawn], up_to[drawn]
            # Thresholds between two drawn ID images have one recall, and the laxest counts: just
            # above the lower of the two, or at the lowest drawn image where all are recalled.
            kept = np.count_nonzero(up_to > level if full else below >= level)
            # Pairs in which ID is not above, a tie counting 1/2 (Mann and Whitney).
            lost = (missed[below].sum() + missed[up_to].sum()) / 2
            figures.append((kept / len(drawn), 1 - lost / (positives * len(drawn))))
        return np.array(figures)


def _nearest(missed: np.ndarray, positives: int) -> tuple[int, bool]:
    """Return the level whose recall is nearest to TPR (rule "nearest"), and if it is full recall.

    Args:
        missed: of the `positives` drawn ID images those below each distinct ID score, from 0.
    """
    lax = missed.searchsorted(int((1 - TPR) * positives), "right") - 1
    candidates = (int(m) for m in missed[lax : lax + 2])
    chosen = min(candidates, key=lambda m: (abs((positives - m) / positives - TPR), m))
    if chosen == 0:
        return int(missed.searchsorted(0, "right")) - 1, True
    return int(missed.searchsorted(chosen)), False
