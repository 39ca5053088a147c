"""How much a figure owes to the images it was measured on: the bootstrap over images.

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

METRICS = ("fpr95_id_nearest", "auroc", "fpr95_ood_nearest")
RESAMPLES, LEVEL, TPR = 1000, 0.95, 0.95
BLOCK_DRAWS = 400_000  # resamples are taken some at a time, so that they stay in the cache


def resample(
    inside: Sequence[np.ndarray],
    outside: Mapping[str, Sequence[np.ndarray]],
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> np.ndarray:
    """Figures of several scores of the same images, in each resample of these images.

    Args:
        inside: a score of the ID images, [n], for each of k scores.
        outside: OOD set -> the same k scores of its images, [m] each.

    Returns:
        [k, resamples, sets, 3] float64: METRICS as fractions, exactly those that `ood.metrics`
        gives on the resampled images.
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
    return figures


def interval(values: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """The percentile interval of resampled figures [resamples]."""
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _counts(sizes: Mapping[str, int], resamples: int, seed: int) -> Iterator[list[np.ndarray]]:
    """How often each image is drawn, for each set int32 [block, images], some resamples a time."""
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
    """[rows, n + 1]: how many drawn images come before each place of the order."""
    below = np.zeros((len(counts), len(order) + 1), dtype=np.int32)
    np.cumsum(np.take(counts, order, axis=1), axis=1, out=below[:, 1:])
    return below


class _Sample:
    """A score of the ID images, [n], and of every OOD set, sorted once for all resamples."""

    def __init__(self, inside: np.ndarray, outside: Sequence[np.ndarray]) -> None:
        self.order = np.argsort(inside)
        self.scores = np.asarray(inside, dtype=np.float64)[self.order]
        self.thresholds = _Thresholds(self.scores)
        self.sets = [_OODSet(self, np.asarray(scores, dtype=np.float64)) for scores in outside]

    def figures(self, id_counts: np.ndarray, ood_counts: Sequence[np.ndarray]) -> np.ndarray:
        """METRICS [rows, sets, 3]; image i of a set is drawn counts[row, i] times."""
        below = _below(id_counts, self.order)
        cuts = self.thresholds.nearest(below)
        parts = [s.figures(below, cuts, c) for s, c in zip(self.sets, ood_counts, strict=True)]
        return np.stack(parts, axis=1)


class _OODSet:
    """A score of one OOD set, [m], among the ID images of a sample."""

    def __init__(self, sample: _Sample, scores: np.ndarray) -> None:
        self.order = np.argsort(scores)
        self.id_thresholds, inside = sample.thresholds, sample.scores
        own = scores[self.order]
        # How many ID images are below each OOD image, and how many are not above it.
        self.below, self.up_to = (np.searchsorted(inside, own, side) for side in ("left", "right"))
        # With OOD positive all runs from the other end.
        self.thresholds = _Thresholds(-own[::-1])
        self.ood_places = self.id_thresholds.places(own)
        self.id_places = [len(inside) - p for p in self.thresholds.places(-inside[::-1])]

    def figures(self, id_below: np.ndarray, id_cuts: _Cuts, counts: np.ndarray) -> np.ndarray:
        """METRICS [rows, 3], of `id_below` [rows, n + 1] and the OOD images' counts [rows, m]."""
        below = _below(counts, self.order)
        rows, n, m = np.arange(len(below)), id_below[0, -1], below[0, -1]
        ood_cuts = self.thresholds.nearest(m - below[:, ::-1])
        return np.stack(
            [
                1 - below[rows, id_cuts.places(*self.ood_places)] / m,
                self._auroc(id_below, below),
                id_below[rows, ood_cuts.places(*self.id_places)] / n,
            ],
            axis=-1,
        )

    def _auroc(self, id_below: np.ndarray, below: np.ndarray) -> np.ndarray:
        """Mann and Whitney's count of pairs in which ID is above, a tie counting 1/2."""
        not_won = np.take(id_below, self.below, axis=1)  # twice, once for either side of a tie
        not_won += np.take(id_below, self.up_to, axis=1)
        drawn = np.diff(below, axis=1)
        lost = [
            np.dot(c.astype(float), w.astype(float)) for c, w in zip(drawn, not_won, strict=True)
        ]
        return 1 - np.array(lost) / (2.0 * id_below[0, -1] * below[0, -1])


class _Cuts(NamedTuple):
    """For every resample the threshold with recall nearest to TPR, and whether all is recalled."""

    index: np.ndarray
    full: np.ndarray

    def places(self, at: np.ndarray, above: np.ndarray) -> np.ndarray:
        """Of `_Thresholds.places`, those of the cuts, [rows]."""
        # Undrawn images share the recall of the next drawn one below them. Of thresholds with
        # the same recall the laxest counts: just above that image, or at it if it is the last.
        return np.where(self.full, at[self.index], above[self.index - 1])


class _Thresholds:
    """The distinct scores of one class, rising; the class is recognised by high ones."""

    def __init__(self, scores: np.ndarray) -> None:
        starts = np.append(0, np.flatnonzero(np.diff(scores)) + 1)  # equal scores fall together
        self.levels = scores[starts]
        self.starts = starts if len(starts) < len(scores) else None

    def places(self, others: np.ndarray) -> list[np.ndarray]:
        """Of every threshold, how many `others` (sorted) are below it, and how many not above."""
        return [np.searchsorted(others, self.levels, side) for side in ("left", "right")]

    def nearest(self, below: np.ndarray) -> _Cuts:
        """Rule "nearest" of `ood.metrics` in each row of `below` [rows, n + 1]."""
        missed = below[:, :-1] if self.starts is None else np.take(below, self.starts, axis=1)
        rows = zip(missed, below[:, -1], strict=True)
        cuts = [_nearest(row, int(positives)) for row, positives in rows]
        return _Cuts(*map(np.array, zip(*cuts, strict=True)))


def _nearest(missed: np.ndarray, positives: int) -> tuple[int, bool]:
    """`missed` [t], rising from 0: images that each threshold misses. Gives (index, all found)."""
    lax = missed.searchsorted(np.int32((1 - TPR) * positives), "right") - 1
    candidates = {int(m) for m in missed[lax : lax + 2]}
    chosen = min(candidates, key=lambda m: (abs((positives - m) / positives - TPR), m))
    if chosen == 0:
        return int(missed.searchsorted(np.int32(0), "right")) - 1, True
    return int(missed.searchsorted(np.int32(chosen))), False
