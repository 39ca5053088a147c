"""Measure by the bootstrap how much a figure depends on the images: resample them.

A resample draws images with replacement, as many from each set as the set has (stratified: the
sizes of the sets are the benchmark's choice, not chance). A 95 % interval runs from the 2.5th to
the 97.5th percentile of the figure over the resamples: the percentile interval of Efron and
Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13. Their BCa interval is not used: its
acceleration comes from the jackknife, which fails for quantiles (their chapter 11), and the
threshold of FPR95 is one.

The draws of a set depend only on the seed, the set's name and its size. So two methods on the same
images can be compared resample by resample, and adding an OOD set changes no interval.

The interval covers other images of the same kind. It does not cover other training runs; the
standard deviation over seeds does.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from dassl.utils.errors import InputError
from ood.metrics import PRIMARY

METRICS = (PRIMARY, "auroc")
RESAMPLES, MIN_RESAMPLES, TPR = 1000, 100, 0.95


def check_resamples(resamples: int) -> None:
    """Raise InputError unless `resamples` are enough for a 95 % interval."""
    if resamples < MIN_RESAMPLES:
        raise InputError(
            f"--resamples {resamples}: 95 % intervals need at least {MIN_RESAMPLES} resamples "
            f"(default: {RESAMPLES}); 0 leaves the intervals out"
        )


def resample(
    inside: Sequence[np.ndarray],
    outside: Mapping[str, Sequence[np.ndarray]],
    resamples: int = RESAMPLES,
    seed: int = 0,
    means: Sequence[Sequence[str]] | None = None,
) -> np.ndarray:
    """Compute the figures of k scores on the same images in each resample of these images.

    Args:
        inside: k arrays [n], each a score of the ID images.
        outside: OOD set -> the same k scores of its images, [m] each.
        means: the OOD sets of each mean. None: one mean, over all.

    Returns:
        [k, resamples, sets + means, 2] float64: METRICS as fractions, exactly those that
        `ood.metrics` gives on the resampled images; last, the means over sets.
    """
    sizes = {"": len(inside[0])} | {name: len(scores[0]) for name, scores in outside.items()}
    draws = [(np.random.default_rng([seed, *name.encode()]), n) for name, n in sizes.items()]
    ranked = [_RankedScore(*sets) for sets in zip(inside, *outside.values(), strict=True)]
    figures = np.empty((len(ranked), resamples, len(outside), len(METRICS)))
    for row in range(resamples):
        drawn_id, *drawn_ood = [generator.integers(0, n, n) for generator, n in draws]
        id_counts = np.bincount(drawn_id, minlength=len(inside[0]))
        for score, rows in zip(ranked, figures, strict=True):
            rows[row] = score.figures(id_counts, drawn_ood)
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

    It is twice the share of resamples, the observed one included, in which the difference does not
    have its more frequent sign.
    """
    total = len(differences) + 1
    tails = [(1 + np.count_nonzero(tail)) / total for tail in (differences <= 0, differences >= 0)]
    return float(min(1.0, 2 * min(tails)))


class _RankedScore:
    """One score of the ID images, [n], and of every OOD set, ranked once for all resamples."""

    def __init__(self, inside: np.ndarray, *outside: np.ndarray) -> None:
        self.order = np.argsort(inside)
        values = np.asarray(inside, dtype=np.float64)[self.order]
        # Only thresholds between distinct ID scores differ; the levels are these scores, ascending.
        self.ends = np.append(np.flatnonzero(np.diff(values)), len(values) - 1)
        levels = values[self.ends]
        # For each OOD image, the number of levels below it, and of those not above it: [m] each.
        self.sets = [
            [np.searchsorted(levels, scores, side) for side in ("left", "right")]
            for scores in (np.asarray(others, dtype=np.float64) for others in outside)
        ]

    def figures(self, id_counts: np.ndarray, drawn_ood: Sequence[np.ndarray]) -> np.ndarray:
        """Return METRICS [sets, 2] of a resample: counts of ID images, indices of OOD images."""
        missed = np.append(0, np.cumsum(id_counts[self.order])[self.ends])  # below each level
        positives = int(missed[-1])
        level, full = _nearest_level(missed, positives)
        figures = []
        for (below, up_to), drawn in zip(self.sets, drawn_ood, strict=True):
            below, up_to = below[drawn], up_to[drawn]
            # All thresholds between two drawn ID images have the same recall. The lowest counts:
            # just above the lower image, or, at full recall, at the lowest drawn image.
            kept = np.count_nonzero(up_to > level if full else below >= level)
            # Pairs in which ID is not above OOD; a tie counts 1/2 (Mann and Whitney).
            lost = (missed[below].sum() + missed[up_to].sum()) / 2
            figures.append((kept / len(drawn), 1 - lost / (positives * len(drawn))))
        return np.array(figures)


def _nearest_level(missed: np.ndarray, positives: int) -> tuple[int, bool]:
    """Return the level with recall nearest to TPR (rule "nearest"), and whether recall is full.

    Args:
        missed: number of the `positives` drawn ID images below each distinct ID score, from 0.
    """
    lax = missed.searchsorted(int((1 - TPR) * positives), "right") - 1
    candidates = (int(m) for m in missed[lax : lax + 2])
    chosen = min(candidates, key=lambda m: (abs((positives - m) / positives - TPR), m))
    if chosen == 0:
        return int(missed.searchsorted(0, "right")) - 1, True
    return int(missed.searchsorted(chosen)), False
