"""CLIPN's threshold-free decisions: OOD or not, without a score to put a threshold on.

Wang et al., ICCV 2023, Section 3.4. A decision says of each image whether it is rejected as OOD.

Differs from upstream: the public code has the scores of CTW and ATD only.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from torch import Tensor

from ood.scores import atd_log_probabilities, ctw

logger = logging.getLogger(__name__)

NEEDS = ("logits", "no_logits")
FEW_CLASSES = 3

Rates = dict[str, dict]


def competing_to_win(logits: Tensor, no_logits: Tensor) -> Tensor:
    """Reject as OOD iff `p_no > 1/2` for the class of the largest logit: bool [B]."""
    return ctw(logits, no_logits) < 0


def agreeing_to_differ(logits: Tensor, no_logits: Tensor) -> Tensor:
    """Reject as OOD iff the unknown class, `1 - sum_c (1 - p_no_c) p_c`, is more probable
    than every `(1 - p_no_c) p_c`: [B, C], [B, C] -> bool [B].

    The reading of the paper in which the C + 1 probabilities sum to 1.
    """
    known, unknown = atd_log_probabilities(logits, no_logits)
    return unknown > known.amax(dim=-1)


DECISIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "CTW": competing_to_win,
    "ATD": agreeing_to_differ,
}


def decide(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Make every decision on a batch, bool [B] each; none without logits of a "no" encoder."""
    if not set(NEEDS) <= inputs.keys():
        return {}
    return {
        name: function(*(inputs[need] for need in NEEDS)) for name, function in DECISIONS.items()
    }


def warn_if_few_classes(classes: int) -> None:
    """Warn of so few classes that the decisions have little to compete or differ about."""
    if classes <= FEW_CLASSES:
        logger.warning(
            "With %d classes ATD is known to reject nearly everything (with one "
            "class, CTW decides the same): use a score with a threshold, or add classes",
            classes,
        )


def decision_rates(
    inside: Mapping[str, np.ndarray],
    outside: Mapping[str, Mapping[str, np.ndarray]],
    means: Mapping[str, Sequence[str]] | None = None,
) -> Rates:
    """Return the rates of every decision, as fractions.

    Args:
        inside: decision -> bool [n], which ID images are rejected. outside: set -> the same.
        means: name -> the sets it is over. None: "average", over all.

    Returns:
        decision -> {"id_acceptance": share of ID images kept, "sets": set -> {"ood_rejection":
        share of its images rejected, "accuracy": share of its and the ID images that are decided
        rightly}}, after the sets their unweighted means.
    """
    rates: Rates = {}
    for name, rejected in inside.items():
        kept = ~np.asarray(rejected)
        rows = {}
        for set_name, decisions in outside.items():
            caught = np.asarray(decisions[name])
            right = (kept.sum() + caught.sum()) / (len(kept) + len(caught))
            rows[set_name] = {"ood_rejection": float(caught.mean()), "accuracy": float(right)}
        for mean, sets in (means or {"average": list(outside)}).items():
            rows[mean] = {
                key: float(np.mean([rows[s][key] for s in sets]))
                for key in ("ood_rejection", "accuracy")
            }
        rates[name] = {"id_acceptance": float(kept.mean()), "sets": rows}
    return rates
