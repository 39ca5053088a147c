"""Compute a threshold for deployment from the scores of held-out ID images.

An image is ID when its score reaches the threshold. Of n held-out ID images the threshold is the
m-th largest score, `m = ceil(tpr (n + 1))`: it keeps at least the share `tpr` of these images, ties
included, and at least `tpr` of *new* ID images on average over draws of the n, whatever their
distribution (the quantile of split conformal prediction: Vovk, Gammerman and Shafer, Algorithmic
Learning in a Random World, 2005). With n < tpr / (1 - tpr) images (19 for 95 %) no threshold can
promise that; the threshold is then the smallest score, which keeps n / (n + 1) on average.

All this holds only for images that are drawn like the held-out ones, and if nothing was trained or
chosen on either.
"""

import itertools
import logging
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from dassl.config.defaults import EVAL
from dassl.utils.errors import InputError
from datasets.folders import counted

logger = logging.getLogger(__name__)

TPR = EVAL["TPR"]
CONFIDENCE = 0.95  # of intervals
# `warn_if_one_sided` warns if half of the classes or fewer make up this share of predictions.
NEARLY_ALL = 0.95


@dataclass(frozen=True)
class Threshold:
    """A score's threshold: ID at `score >= value`.

    `tpr` is the share asked for. `kept` of the `images` held-out ID images reach the threshold;
    `required` of them would without ties.
    """

    value: float
    tpr: float
    required: int
    kept: int
    images: int

    @property
    def promised(self) -> bool:
        """Return whether the images suffice to keep at least `tpr` of new ones on average."""
        return self.required >= self.tpr * (self.images + 1) - 1e-9

    @property
    def interval(self) -> tuple[float, float]:
        """Return the interval of the rate at which new ID images are kept, at `CONFIDENCE`.

        Clopper and Pearson's exact interval (Biometrika 1934). For continuous scores the rate of
        an order statistic has the law Beta(m, n + 1 - m) (Wilks, Annals of Mathematical
        Statistics 1941); the lower end is that law's quantile, the upper end lies above it. Ties
        can only raise the rate, so the lower end counts without them, the upper end with them.
        """
        from scipy.special import betaincinv  # here, so that a verdict does not wait for scipy

        tail, n = (1 - CONFIDENCE) / 2, self.images
        low = betaincinv(self.required, n - self.required + 1, tail)
        high = betaincinv(self.kept + 1, n - self.kept, 1 - tail) if self.kept < n else 1.0
        return float(low), float(high)

    def __str__(self) -> str:
        low, high = (100 * rate for rate in self.interval)
        text = (
            f"{self.value:.6g}, which keeps {self.kept:,} of {self.images:,} held-out ID images "
            f"({100 * self.kept / self.images:.2f} %); of new ones {low:.1f} to {high:.1f} % "
            f"(at {100 * CONFIDENCE:g} % confidence)"
        )
        if not self.promised:
            text += f"; {self.images:,} images are too few to promise {100 * self.tpr:g} %"
        return text


def calibrate(id_scores: ArrayLike, tpr: float = TPR) -> Threshold:
    """Return the threshold that keeps at least `tpr` of ID images, from `id_scores` [n].

    Raises:
        InputError: no scores, one that is not finite, or `tpr` outside (0, 1].
    """
    scores = np.sort(np.asarray(id_scores).reshape(-1))
    if not scores.size or not np.isfinite(scores).all():
        raise InputError(
            f"{scores.size} ID scores, {np.count_nonzero(~np.isfinite(scores))} of them not "
            "finite: a threshold needs at least one image, and finite scores"
        )
    check_tpr(tpr)
    n = scores.size
    # Rounds 19.000000000000004 to 19: binary fractions cannot represent 0.95 exactly.
    required = min(math.ceil(tpr * (n + 1) * (1 - 1e-9)), n)
    value = scores[n - required]
    kept = n - int(np.searchsorted(scores, value, side="left"))
    return Threshold(float(value), float(tpr), required, kept, n)


def check_tpr(tpr: float) -> None:
    """Raise InputError unless `tpr` is a share of images."""
    if not 0 < tpr <= 1:
        raise InputError(f"--tpr {tpr}: the share of ID images to keep lies in (0, 1], as 0.95")


def check_read(read: int, unreadable: Sequence[str], of: str) -> None:
    """Raise InputError if no ID image was read, else warn of unreadable ones.

    Args:
        unreadable: the error of each. of: source of the images, "" if it is not known.
    """
    errors = [error.rstrip(".") for error in unreadable]
    first = ", first" * (len(errors) > 3)
    fault = f"{counted(len(errors), 'image')} could not be read{first}: {'; '.join(errors[:3])}"
    if not read:
        reason = fault if errors else "give images, or a folder that holds some"
        raise InputError(f"no ID image to calibrate on{of and f' in {of}'}: {reason}")
    if errors:
        logger.warning(f"Of the images to calibrate on, {fault}. The threshold is of the others")


def warn_if_one_sided(labels: Counter[int], names: Sequence[str]) -> None:
    """Warn if few of the classes `names` are predicted; `labels` counts the images of each."""
    total = labels.total()
    running = itertools.accumulate(count for _, count in labels.most_common())
    needed = 1 + sum(images < NEARLY_ALL * total for images in running)
    if 2 * needed <= min(len(names), total):
        examples = ", ".join(names[label] for label, _ in labels.most_common(min(needed, 5)))
        logger.warning(
            f"Nearly all of the {total} images to calibrate on are predicted as {needed} of the "
            f"{len(names)} classes ({examples}), and the threshold suits only images like these. "
            "Use images of all classes"
        )
