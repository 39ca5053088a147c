"""Scores that compare the classes with words that are not classes (`ood.negatives`).

Inputs beside those of `ood.scores`:

- `neglabel_logits`, `csp_logits`, `eoe_cosines` [B, C]: with the class texts beside the words.
- `neglabel_negatives_logits`, `csp_negatives_logits` [B, M]: with the negatives.
- `eoe_outliers_cosines` [B, L]: with the names of outliers.
- `candidate_lse` [B]: log-sum-exp of the logits with each image's candidate words.

Differs from upstream: NegLabel, CSP and ZOC have the literal 100 in the place of exp(logit_scale).
"""

import functools

import numpy as np
import torch
from torch import Tensor

from dassl.utils.errors import InputError
from ood.registry import score
from ood.scores import check_temperature, compute_dtype, gap_to_peak

GROUPS = 100
GROUPS_SEED = 0


@functools.cache
def grouping(negatives: int, groups: float) -> np.ndarray:
    """Return which of M negatives each group holds: int64 `[G, M // G]`, which cannot be changed.

    The last `M mod G` are in no group; the others are shuffled with a seed of their own. Fewer
    negatives than groups make one group.

    Differs from upstream: there the GPU shuffles, and fewer negatives than groups are dropped,
    which scores every image 1.
    """
    for name, number in (("groups", groups), ("negatives", negatives)):
        if number < 1 or number % 1:
            raise InputError(
                f"{name} is {number:g}: the number of {name} must be 1 or more, and whole"
            )
    if negatives < groups:
        members = np.arange(negatives)[None]  # [1, M]
    else:
        members = _shuffled(int(negatives - negatives % groups)).reshape(int(groups), -1)
    members.flags.writeable = False
    return members  # [G, M // G]


def _shuffled(count: int) -> np.ndarray:
    """Return `torch.randperm(count)` of a CPU's generator with GROUPS_SEED.

    Without torch, as its numbers are tensors of the mode in which they are drawn: an export would
    draw fake ones, and inference mode ones that no gradient may use.
    """
    draw = np.random.RandomState(GROUPS_SEED).randint(2**32, size=count - 1, dtype=np.uint32)
    order = list(range(count))
    for i, step in enumerate((draw % np.arange(count, 1, -1)).tolist()):
        order[i], order[i + step] = order[i + step], order[i]
    return np.array(order)


@score("NegLabel")
def neg_label(
    neglabel_logits: Tensor,
    neglabel_negatives_logits: Tensor,
    *,
    groups: float = GROUPS,
    negatives_temperature: float = 1.0,
) -> Tensor:
    """Return `mean_g sum_c e^{l_c/T} / (sum_c e^{l_c/T} + sum_{k in g} e^{n_k/T})`:
    [B, C], [B, M] -> [B], in [0, 1]. As a sigmoid of log-sums it cannot overflow.

    Jiang et al., Negative label guided OOD detection with pretrained vision-language models, ICLR
    2024. Differs from upstream: there a single group is scored by a sum of logits.
    """
    t = negatives_temperature
    check_temperature(t)
    logits, negatives = (
        x.to(compute_dtype(x)) for x in (neglabel_logits, neglabel_negatives_logits)
    )
    members = torch.tensor(grouping(int(negatives.shape[-1]), groups), device=negatives.device)
    # On a CPU index_select is six times as fast as indexing.
    grouped = negatives.index_select(1, members.flatten())
    grouped = grouped.view(-1, *members.shape)  # [B, G, M // G]
    outside = (grouped / t).logsumexp(dim=-1)  # [B, G]
    return torch.sigmoid((logits / t).logsumexp(dim=-1, keepdim=True) - outside).mean(dim=-1)


@score("CSP", in_all=False)  # it encodes six times as many prompts as NegLabel
def csp(
    csp_logits: Tensor,
    csp_negatives_logits: Tensor,
    *,
    groups: float = GROUPS,
    negatives_temperature: float = 1.0,
) -> Tensor:
    """Return NegLabel's score with CSP's class texts and negatives: [B, C], [B, M] -> [B].

    Chen et al., Conjugated semantic pool improves OOD detection with pre-trained vision-language
    models, NeurIPS 2024.
    """
    return neg_label(
        csp_logits, csp_negatives_logits, groups=groups, negatives_temperature=negatives_temperature
    )


@score("EOE")
def eoe(
    eoe_cosines: Tensor,
    eoe_outliers_cosines: Tensor,
    *,
    outlier_temperature: float = 1.0,
    outlier_weight: float = 0.25,
) -> Tensor:
    """Return `max_c p_c - w max_k p_k`, `p` the softmax of `cosines / T` over the C classes and
    the L outlier names: [B, C], [B, L] -> [B].

    Cao et al., Envisioning outlier exposure by large language models for out-of-distribution
    detection, ICML 2024.
    """
    both = torch.cat([eoe_cosines, eoe_outliers_cosines], dim=-1)  # [B, C + L]
    gap, _ = gap_to_peak(both, outlier_temperature)
    p = gap.softmax(dim=-1)
    inside, outside = p.split([eoe_cosines.shape[-1], eoe_outliers_cosines.shape[-1]], dim=-1)
    return inside.amax(dim=-1) - outlier_weight * outside.amax(dim=-1)


@score("ZOC")
def zoc(logits: Tensor, candidate_lse: Tensor) -> Tensor:
    """Return `log sum_c e^{l_c} - log sum_{k in U} e^{l_k}`, the log-odds of the classes' share of
    the softmax over classes and an image's candidates U: [B, C], [B] -> [B].

    Esmaeilpour et al., Zero-shot out-of-distribution detection based on the pre-trained model CLIP,
    AAAI 2022. Differs from upstream: there it is the share, which in float32 is 0 for many images.
    """
    logits, candidate_lse = (x.to(compute_dtype(x)) for x in (logits, candidate_lse))
    return logits.logsumexp(dim=-1) - candidate_lse
