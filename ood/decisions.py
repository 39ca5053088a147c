"""CLIPN's threshold-free decisions: OOD or not, without a score to put a threshold on.

Wang et al., ICCV 2023, Section 3.4. A decision says of each image whether it is rejected as OOD.

Differs from upstream: the public code has the scores of CTW and ATD only.
"""

import logging
from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from ood.scores import atd_log_probabilities, ctw

logger = logging.getLogger(__name__)

NEEDS = ("logits", "no_logits")
DECISIONS = ("CTW", "ATD")  # competing to win, agreeing to differ
FEW_CLASSES = 3


def decide(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Reject images of a batch, bool [B], by each decision; {} without logits of a "no" encoder.

    CTW: iff `p_no > 1/2` for the class of the largest logit. ATD: iff the unknown class,
    `1 - sum_c (1 - p_no_c) p_c`, is more probable than every `(1 - p_no_c) p_c`, the reading of the
    paper in which the C + 1 probabilities sum to 1.
    """
    if not set(NEEDS) <= inputs.keys():
        return {}
    logits, no_logits = (inputs[need] for need in NEEDS)  # [B, C]
    known, unknown = atd_log_probabilities(logits, no_logits)
    return {"CTW": ctw(logits, no_logits) < 0, "ATD": unknown > known.amax(dim=-1)}


def warn_if_few_classes(classes: int) -> None:
    """Warn of so few classes that the decisions have little to compete or differ about."""
    if classes <= FEW_CLASSES:
        logger.warning(
            f"With {classes} classes ATD is known to reject nearly everything (with one class, CTW "
            "decides the same): use a score with a threshold, or add classes"
        )


def decision_rates(
    inside: Mapping[str, np.ndarray],
    outside: Mapping[str, Mapping[str, np.ndarray]],
    means: Mapping[str, Sequence[str]],
) -> dict[str, dict]:
    """Return the rates of every decision, as fractions.

    Args:
        inside: decision -> bool [n], which ID images are rejected. outside: set -> the same.
        means: name -> the sets it is over.

    Returns:
        decision -> {"id_acceptance": share of ID images kept, "sets": set -> {"ood_rejection":
        share of its images rejected, "accuracy": share of its and the ID images that are decided
        rightly}}, after the sets their unweighted means.
    """
    rates = {}
    for name, rejected in inside.items():
        kept = ~np.asarray(rejected)
        rows = {}
        for set_name, decisions in outside.items():
            caught = np.asarray(decisions[name])
            right = (kept.sum() + caught.sum()) / (len(kept) + len(caught))
            rows[set_name] = {"ood_rejection": float(caught.mean()), "accuracy": float(right)}
        for mean, sets in means.items():
            rows[mean] = {
                key: float(np.mean([rows[s][key] for s in sets]))
                for key in ("ood_rejection", "accuracy")
            }
        rates[name] = {"id_acceptance": float(kept.mean()), "sets": rows}
    return rates
