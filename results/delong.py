"""AUROC's variance in closed form, also of the difference of two detectors on the same images.

DeLong, DeLong and Clarke-Pearson, Biometrics 44, 1988. AUROC is the mean over all pairs of one ID
and one OOD image of [ID above], a tie counting 1/2. The placement of an image is that mean over
the pairs it is in; the variance of AUROC is that of the placements' means:

    var = var(placements of ID) / n + var(placements of OOD) / m

Placements are linear in the figure, so those of a difference, or of a mean over runs or OOD sets
with the same ID images, are the difference and the mean of the placements.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Placements(NamedTuple):
    """Of the ID images, [n], and of the images of each OOD set, [m] each."""

    inside: np.ndarray
    outside: list[np.ndarray]

    def __sub__(self, other: Placements) -> Placements:
        parts = zip(self.outside, other.outside, strict=True)
        return Placements(self.inside - other.inside, [a - b for a, b in parts])

    @property
    def mean(self) -> float:
        return float(self.inside.mean())

    @property
    def standard_error(self) -> float:
        samples = (self.inside, *self.outside)
        return math.sqrt(sum(_variance(p) / len(p) for p in samples))


def _variance(values: np.ndarray) -> float:
    return float(values.var(ddof=1)) if len(values) > 1 else 0.0


def placements(inside: np.ndarray, outside: np.ndarray) -> Placements:
    """Of scores [n] and [m]; `.mean` is AUROC."""
    return Placements(_lower(inside, outside), [1 - _lower(outside, inside)])


def _lower(scores: np.ndarray, others: np.ndarray) -> np.ndarray:
    """For each score the share of `others` below it, a tie counting 1/2."""
    others = np.sort(others)
    both = np.searchsorted(others, scores) + np.searchsorted(others, scores, "right")
    return both / (2 * len(others))


def mean_over_runs(parts: Sequence[Placements]) -> Placements:
    """Of the mean AUROC of several runs on the same images."""
    outside = zip(*(part.outside for part in parts), strict=True)
    return Placements(_mean([p.inside for p in parts]), [_mean(o) for o in outside])


def mean_over_sets(parts: Sequence[Placements]) -> Placements:
    """Of the mean AUROC over several OOD sets with the same ID images."""
    outside = [o / len(parts) for part in parts for o in part.outside]
    return Placements(_mean([p.inside for p in parts]), outside)


def _mean(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return np.mean(np.stack(arrays), axis=0)


def two_sided_p(difference: Placements) -> float:
    """Probability of so large a difference between two detectors of equal AUROC (normal)."""
    error = difference.standard_error
    if error == 0:
        return 1.0 if difference.mean == 0 else 0.0
    return math.erfc(abs(difference.mean) / error / math.sqrt(2))
