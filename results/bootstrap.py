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

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from dassl.utils.errors import InputError
from ood.metrics import PRIMARY

METRICS = (PRIMARY, "auroc")
RESAMPLES, MIN_RESAMPLES, LEVEL, TPR = 1000, 100, 0.95, 0.95
BLOCK_DRAWS = 400_000  # resamples are taken some at a time, so that they stay in the cache


def check_resamples(resamples: int, seed: int) -> None:
    """Raise InputError unless a 95 % interval can be taken from so many resamples."""
    if seed < 0:
        raise InputError(f"--seed {seed}: the seed of the resamples must not be negative")
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
) -> np.ndarray:
    """Compute the figures of several scores of the same images in each resample of these images.

    Args:
        inside: a score of the ID images, [n], for each of k scores.
        outside: OOD set -> the same k scores of its images, [m] each.

    Returns:
        [k, resamples, sets + 1, 2] float64: METRICS as fractions, exactly those that `ood.metrics`
        gives on the resampled images; last, their mean over the sets.
    """
    samples = [
        _Sample(scores, [others[i] for others in outside.values()])
        for i, scores in enumerate(inside)
    ]
    figures = np.empty((len(samples), resamples, len(outside), len(METRICS)))
    sizes = {"": len(inside[0])} | {name: len(scores[0]) for name, scores in outside.items()}
    done = 0
    for id_counts, *ood_counts in _counts(sizes, resamples, seed):
        block = slice(done, done + len(id_counts))
        done = block.stop
        for sample, own in zip(samples, figures, strict=True):
            own[block] = sample.figures(id_counts, ood_counts)
    return np.concatenate([figures, figures.mean(axis=2, keepdims=True)], axis=2)


def interval(values: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """Return the percentile interval of resampled figures [resamples]."""
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def two_sided_p(differences: np.ndarray) -> float:
    """Return the p-value of bootstrapped differences [resamples], at least 2 / (resamples + 1).

    Twice the share of resamples, the observed one included, in which the difference does not have
    the sign that it mostly has.
    """
    total = len(differences) + 1
    tails = [(1 + np.count_nonzero(tail)) / total for tail in (differences <= 0, differences >= 0)]
    return float(min(1.0, 2 * min(tails)))


def _counts(sizes: Mapping[str, int], resamples: int, seed: int) -> Iterator[list[np.ndarray]]:
    """Draw images: how often each is drawn, int32 [block, images] a set, some resamples a time."""
    draws = {name: np.random.default_rng([seed, *name.encode()]) for name in sizes}
    step = max(1, BLOCK_DRAWS // sum(sizes.values()))
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        yield [_bincounts(draws[name].integers(0, n, (rows, n)), n) for name, n in sizes.items()]


def _bincounts(drawn: np.ndarray, n: int) -> np.ndarray:
    rows = len(drawn)
    drawn += n * np.arange(rows)[:, None]
    return np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n).astype(np.int32)


def _below(counts: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Count the drawn images before each place of the order: [rows, n + 1]."""
    below = np.zeros((len(counts), len(order) + 1), dtype=np.int32)
    np.cumsum(np.take(counts, order, axis=1), axis=1, out=below[:, 1:])
    return below


class _Places(NamedTuple):
    """Where the sorted scores of an OOD set, [m], lie among those of the ID images."""

    order: np.ndarray
    id_below: np.ndarray  # [m], ID images below each OOD image
    id_up_to: np.ndarray  # [m], ID images not above it
    below: np.ndarray  # OOD images below each distinct ID score
    up_to: np.ndarray  # OOD images not above it


class _Sample:
    """One score of the ID images, [n], and of every OOD set, sorted once for all resamples."""

    def __init__(self, inside: np.ndarray, outside: Sequence[np.ndarray]) -> None:
        self.order = np.argsort(inside)
        self.scores = np.asarray(inside, dtype=np.float64)[self.order]
        # A threshold can only lie at the first of equal scores.
        self.starts = np.append(0, np.flatnonzero(np.diff(self.scores)) + 1)
        self.sets = [self._places(np.asarray(scores, dtype=np.float64)) for scores in outside]

    def _places(self, scores: np.ndarray) -> _Places:
        order = np.argsort(scores)
        own, levels = scores[order], self.scores[self.starts]
        return _Places(
            order,
            *(np.searchsorted(self.scores, own, side) for side in ("left", "right")),
            *(np.searchsorted(own, levels, side) for side in ("left", "right")),
        )

    def figures(self, id_counts: np.ndarray, ood_counts: Sequence[np.ndarray]) -> np.ndarray:
        """Return METRICS [rows, sets, 2]; image i of a set is drawn counts[row, i] times."""
        below = _below(id_counts, self.order)
        cuts = [_nearest(row[self.starts], int(row[-1])) for row in below]
        index, full = (np.array(part) for part in zip(*cuts, strict=True))
        figures = []
        for places, counts in zip(self.sets, ood_counts, strict=True):
            drawn = _below(counts, places.order)  # [rows, m + 1]
            # Images that were not drawn share the recall of the next drawn one below them, and of
            # thresholds with the same recall the laxest counts: just above that image, or at the
            # lowest image where all are recalled.
            rejected = np.where(full, places.below[index], places.up_to[index - 1])
            fpr = 1 - drawn[np.arange(len(drawn)), rejected] / drawn[:, -1]
            figures.append(np.stack([fpr, _auroc(below, drawn, places)], axis=-1))
        return np.stack(figures, axis=1)


def _auroc(id_below: np.ndarray, ood_below: np.ndarray, places: _Places) -> np.ndarray:
    """Count pairs in which ID is above, a tie counting 1/2 (Mann and Whitney): [rows]."""
    not_won = np.take(id_below, places.id_below, axis=1)  # twice, once for either side of a tie
    not_won += np.take(id_below, places.id_up_to, axis=1)
    drawn = np.diff(ood_below, axis=1)
    lost = np.einsum("rm,rm->r", drawn.astype(float), not_won.astype(float))
    return 1 - lost / (2.0 * id_below[:, -1] * ood_below[:, -1])


def _nearest(missed: np.ndarray, positives: int) -> tuple[int, bool]:
    """Find the threshold with recall nearest to TPR, rule "nearest" of `ood.metrics`.

    Args:
        missed: how many images each distinct threshold misses, rising from 0.
        positives: drawn images.

    Returns:
        The threshold's index, and whether it recalls all images.
    """
    lax = missed.searchsorted(np.int32((1 - TPR) * positives), "right") - 1
    candidates = {int(m) for m in missed[lax : lax + 2]}
    chosen = min(candidates, key=lambda m: (abs((positives - m) / positives - TPR), m))
    if chosen == 0:
        return int(missed.searchsorted(np.int32(0), "right")) - 1, True
    return int(missed.searchsorted(np.int32(chosen))), False
