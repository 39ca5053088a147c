"""OOD detection metrics on arrays of scores; higher score = more in-distribution.

Published figures disagree on two points, so both are named wherever a number is written:

*Which class is positive.* With ID as the positive class, FPR95 is the share of OOD images kept
when 95 % of the ID images are kept (MCM, GL-MCM, LoCoOp, CLIPN). With OOD as the positive class
it is the share of ID images rejected when 95 % of the OOD images are rejected (OpenOOD).

*Where the threshold lies.* An image is kept when its score reaches the threshold; every distinct
score is a threshold. With finitely many images the rate 0.95 is rarely met exactly:

- `nearest`: the threshold whose rate is nearest to 0.95, of equally near ones the laxest, but none
  past a rate of 1 (MCM, GL-MCM, LoCoOp). Of a rate below 0.95 and one as far above it, such as 9
  and 10 of 10 images, the one is taken whose distance is the smaller in floating point;
- `interpolated`: linear interpolation between the points of the ROC curve (CLIPN). Unless a
  rate is exactly 0.95, this is between two thresholds, and no threshold gives the rates found;
- `first`: the strictest threshold whose rate is at least 0.95 (OpenOOD).

All functions take one-dimensional arrays (a column is accepted), compute in float64, and raise
InputError for an empty array, NaN, infinity, masked values or complex numbers, naming the array.
"""

from __future__ import annotations  # so that help() shows ArrayLike by its name

from numbers import Real
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from dassl.utils.errors import InputError

Positive = Literal["id", "ood"]
Rule = Literal["nearest", "interpolated", "first"]
POSITIVES = ("id", "ood")

PRIMARY = "fpr95_id_nearest"
"""The FPR95 of the MCM, GL-MCM and LoCoOp papers; tables show this one first."""

OPENOOD = "fpr95_ood_first"
"""OpenOOD's FPR95; first in the tables of its benchmarks."""

CONVENTIONS = {
    "direction": "higher score = more in-distribution",
    "units": "fractions in [0, 1]",
    "auroc": "area under the ROC curve; a tie of an ID and an OOD image counts 1/2",
    "aupr_in": "average precision, ID positive",
    "aupr_out": "average precision, OOD positive (on negated scores)",
    "fpr95_id": "share of OOD images kept when 95 % of ID images are kept (ID positive)",
    "fpr95_ood": "share of ID images rejected when 95 % of OOD images are caught (OOD positive)",
    "nearest": "threshold whose true positive rate is nearest to 95 %, of equally near ones the "
    "laxest, but none past 100 % (MCM, GL-MCM, LoCoOp)",
    "interpolated": "linear interpolation of the ROC curve at 95 % (CLIPN)",
    "first": "strictest threshold whose true positive rate is at least 95 % (OpenOOD)",
    "average": "unweighted mean over the OOD sets that have no GROUP (over all, if every set has "
    "one)",
}
"""The meaning of the figures' names; every results file holds it, and runs with another wording are
set apart."""


class OperatingPoint(NamedTuple):
    """A threshold and the rates it gives.

    With ID positive, an image is kept at `score >= threshold`; with OOD positive, it is rejected
    at `score <= threshold`. `tpr` and `fpr` are rates of the positive class. With the rule
    `interpolated` they lie between two thresholds, where no rate is the one asked for: scores
    compared with `threshold` then give other rates.
    """

    threshold: float
    tpr: float
    fpr: float


Curve = tuple[np.ndarray, np.ndarray, np.ndarray]  # thresholds, strictest first; TPR; FPR


def _as_scores(values: ArrayLike, name: str) -> np.ndarray:
    try:
        many = isinstance(values, list | tuple)
        array = np.asarray([_plain(x) for x in values] if many else _plain(values))
        if array.dtype.kind in "cmM":  # complex, or times: NumPy would convert them
            raise TypeError(f"real ones are needed, got {array.dtype}")
        array = array.astype(np.float64, copy=False)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise InputError(f"{name} scores are not numbers: {error}") from error
    if array.ndim != 1 and not (array.ndim == 2 and array.shape[1] == 1):
        raise InputError(f"{name} scores must be one number per image, got shape {array.shape}")
    if array.size == 0:
        raise InputError(f"{name} scores are empty: metrics need at least one image in each set")
    bad = array.size - np.count_nonzero(np.isfinite(array))
    if bad:
        raise InputError(f"{name} scores hold NaN or infinity for {bad} of {array.size} images")
    return array.reshape(-1)


def _plain(values: ArrayLike) -> ArrayLike:
    """Return a tensor as an array: NumPy refuses one with a gradient, on a GPU, or in bfloat16.
    Raise TypeError for masked values, whose mask NumPy would drop."""
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        raise TypeError("some are masked; give the others alone, scores.compressed()")
    if not isinstance(values, Tensor):
        return values
    return (values if values.is_complex() else values.double()).numpy(force=True)


def _labelled(id_scores: ArrayLike, ood_scores: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return whether each image is ID, and its score, for all images, ID images first."""
    inside, outside = _as_scores(id_scores, "ID"), _as_scores(ood_scores, "OOD")
    scores = np.concatenate([inside, outside])
    return np.arange(scores.size) < inside.size, scores


def auroc(id_scores: ArrayLike, ood_scores: ArrayLike) -> float:
    """Return the chance that a random ID image scores above a random OOD image; ties count 1/2."""
    return _auroc(*_labelled(id_scores, ood_scores))


def _auroc(positive: np.ndarray, scores: np.ndarray) -> float:
    # Imported here, as scikit-learn takes a second, and not every command computes metrics.
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(positive, scores))


def aupr_in(id_scores: ArrayLike, ood_scores: ArrayLike) -> float:
    """Return the average precision, ID positive: `sum_n (R_n - R_{n-1}) P_n` over thresholds."""
    return _average_precision(*_labelled(id_scores, ood_scores))


def aupr_out(id_scores: ArrayLike, ood_scores: ArrayLike) -> float:
    """Return the average precision with OOD positive, on the negated scores."""
    is_id, scores = _labelled(id_scores, ood_scores)
    return _average_precision(~is_id, -scores)


def _average_precision(positive: np.ndarray, scores: np.ndarray) -> float:
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(positive, scores))


def _curve(is_positive: np.ndarray, scores: np.ndarray) -> Curve:
    """Return the ROC curve at every distinct threshold, beginning with (0, 0)."""
    from sklearn.metrics import roc_curve

    fpr, tpr, thresholds = roc_curve(is_positive, scores, drop_intermediate=False)
    thresholds[0] = thresholds[1]  # no number lies above every score
    return thresholds, tpr, fpr


def _nearest(curve: Curve, tpr: float) -> OperatingPoint:
    """Return the laxest of the nearest thresholds, as upstream does, but none past full recall;
    distances are rounded to floats, as upstream's are.

    Several thresholds may have the same recall and differ only in the negatives they let in. The
    laxest of these has the largest FPR, and published figures use it.
    """
    last = int(np.searchsorted(curve[1], 1.0))
    distance = np.abs(curve[1][1 : last + 1] - tpr)  # (0, 0) is at no threshold
    return _point(curve, last - int(np.argmin(distance[::-1])))


def _first(curve: Curve, tpr: float) -> OperatingPoint:
    return _point(curve, int(np.argmax(curve[1] >= tpr)))


def _interpolated(curve: Curve, tpr: float) -> OperatingPoint:
    thresholds, rates, fpr = curve
    threshold = float(np.interp(tpr, rates, thresholds))
    return OperatingPoint(threshold, tpr, float(np.interp(tpr, rates, fpr)))


def _point(curve: Curve, i: int) -> OperatingPoint:
    return OperatingPoint(*(float(column[i]) for column in curve))


RULES = {"nearest": _nearest, "interpolated": _interpolated, "first": _first}


def threshold_at_tpr(
    id_scores: ArrayLike,
    ood_scores: ArrayLike,
    tpr: float = 0.95,
    positive: Positive = "id",
    rule: Rule = "nearest",
) -> OperatingPoint:
    """Return the threshold at which the true positive rate is `tpr`, and the rates found there.

    Args:
        id_scores, ood_scores: [n] and [m], higher = more in-distribution.
        tpr: share of the positive class, in (0, 1].
        positive: the class whose rate is `tpr`. "id": ID images kept, and `fpr` is the share of
            OOD images kept. "ood": OOD images rejected, and `fpr` is that of ID images rejected.
        rule: which threshold to take where no rate is exactly `tpr`. "nearest": that of the nearest
            rate. "first": the strictest one whose rate is at least `tpr`. "interpolated": a point
            between two thresholds, at exactly `tpr`; no threshold gives its rates. See the module.

    Differs from upstream: OpenOOD takes the first point of a ROC curve from which scikit-learn has
    dropped collinear points; here every threshold is on the curve.
    """
    if positive not in POSITIVES or rule not in RULES:
        raise InputError(
            f'positive = "{positive}", rule = "{rule}": positive must be one of {POSITIVES}, '
            f"and rule one of {(*RULES,)}"
        )
    tpr = _as_rate(tpr)
    is_id, scores = _labelled(id_scores, ood_scores)
    if positive == "id":
        return RULES[rule](_curve(is_id, scores), tpr)
    point = RULES[rule](_curve(~is_id, -scores), tpr)
    return point._replace(threshold=-point.threshold)


def _as_rate(tpr: float) -> float:
    # A tensor or array without dimensions, and NumPy's own numbers, hold one number.
    number = tpr.item() if getattr(tpr, "ndim", None) == 0 else tpr
    if not (isinstance(number, Real) and 0 < number <= 1):
        raise InputError(f"tpr = {tpr!r}: it must be a number in (0, 1], for example 0.95")
    return float(number)


def fpr_at_tpr(
    id_scores: ArrayLike,
    ood_scores: ArrayLike,
    tpr: float = 0.95,
    positive: Positive = "id",
    rule: Rule = "nearest",
) -> float:
    """Return the false positive rate at a true positive rate of `tpr`.

    The arguments are those of `threshold_at_tpr`: with `positive` "id" this is the share of OOD
    images kept, with "ood" that of ID images rejected; `rule` says which threshold is taken.
    """
    return threshold_at_tpr(id_scores, ood_scores, tpr, positive, rule).fpr


def roc_points(id_scores: ArrayLike, ood_scores: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return the ROC curve, ID positive: FPR [k + 1] and TPR [k + 1], the shares of OOD and of ID
    images kept at each of the k distinct scores, strictest first, after the point (0, 0)."""
    _, tpr, fpr = _curve(*_labelled(id_scores, ood_scores))
    return fpr, tpr


def ood_metrics(id_scores: ArrayLike, ood_scores: ArrayLike) -> dict[str, float]:
    """Return all metrics of one OOD set, as fractions; CONVENTIONS explains their names.

    Keys: auroc, aupr_in, aupr_out, fpr95_{id,ood}_{nearest,interpolated,first}, n_id, n_ood.
    """
    is_id, scores = _labelled(id_scores, ood_scores)
    order = np.argsort(scores)  # scikit-learn sorts them five times, in half the time if sorted
    is_id, scores = is_id[order], scores[order]
    curves = {"id": _curve(is_id, scores), "ood": _curve(~is_id, -scores)}
    figures = {
        "auroc": _auroc(is_id, scores),
        "aupr_in": _average_precision(is_id, scores),
        "aupr_out": _average_precision(~is_id, -scores),
    }
    for positive, curve in curves.items():
        for rule, point in RULES.items():
            figures[f"fpr95_{positive}_{rule}"] = point(curve, 0.95).fpr
    figures["n_id"] = int(np.count_nonzero(is_id))
    figures["n_ood"] = int(scores.size - figures["n_id"])
    return figures
