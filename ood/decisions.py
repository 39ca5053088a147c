"""CLIPN's threshold-free decisions: whether an image is rejected as OOD, without a threshold.

Wang et al., ICCV 2023, Section 3.4.

Differs from upstream: the public code has the scores of CTW and ATD only.
"""

import logging
from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from ood.scores import atd_log_probabilities, ctw

logger = logging.getLogger(__name__)

NEEDS = ("logits", "no_logits")
DECISIONS = ("CTW", "ATD")  # competing-to-win, agreeing-to-differ
FEW_CLASSES = 3


def decide(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return which images each decision rejects, bool [B]; {} without logits of a "no" encoder.

    CTW rejects iff `p_no > 1/2` for the class of the largest logit. ATD rejects iff the unknown
    class, `1 - sum_c (1 - p_no_c) p_c`, is more probable than every `(1 - p_no_c) p_c`; this is the
    reading of the paper in which the C + 1 probabilities sum to 1.
    """
    if not set(NEEDS) <= inputs.keys():
        return {}
    logits, no_logits = (inputs[need] for need in NEEDS)  # [B, C]
    known, unknown = atd_log_probabilities(logits, no_logits)
    return {"CTW": ctw(logits, no_logits) < 0, "ATD": unknown > known.amax(dim=-1)}


def warn_if_few_classes(classes: int) -> None:
    """Warn of so few classes that the decisions are unreliable."""
    if classes <= FEW_CLASSES:
        logger.warning(
            f"With {classes} classes ATD is known to reject nearly everything (and with one class, "
            "CTW equals ATD): use a score with a threshold, or add classes"
        )


def decision_rates(
    inside: Mapping[str, np.ndarray],
    outside: Mapping[str, Mapping[str, np.ndarray]],
    means: Mapping[str, Sequence[str]],
) -> dict[str, dict]:
    """Return the rates of every decision, as fractions.

    Args:
        inside: decision -> bool [n], which ID images it rejects. outside: OOD set -> the same.
        means: name of a mean -> the OOD sets it is over.

    Returns:
        decision -> {"id_acceptance": share of ID images kept, "sets": set -> {"ood_rejection":
        share of its images rejected, "accuracy": share of correct decisions on its and the ID
        images}}; the unweighted means follow the sets.
    """
    rates = {}
    for name, rejected in inside.items():
        kept = ~np.asarray(rejected)
        rows = {}
        for set_name, decisions in outside.items():
            caught = np.asarray(decisions[name])
            accuracy = (kept.sum() + caught.sum()) / (len(kept) + len(caught))
            rows[set_name] = {"ood_rejection": float(caught.mean()), "accuracy": float(accuracy)}
        for mean, sets in means.items():
            rows[mean] = {
                key: float(np.mean([rows[s][key] for s in sets]))
                for key in ("ood_rejection", "accuracy")
            }
        rates[name] = {"id_acceptance": float(kept.mean()), "sets": rows}
    return rates
