from collections.abc import Sequence

import torch


def compute_accuracy(
    output: torch.Tensor | Sequence[torch.Tensor], target: torch.Tensor, topk: Sequence[int] = (1,)
) -> list[torch.Tensor]:
    """Return the top-k accuracy in percent for each k, as tensors `[1]`.

    Args:
        output: logits `[B, C]`, or a tuple with these as its first entry.
        target: labels `[B]`.
        topk: values of k; one above C counts as C.
    """
    logits = output[0] if isinstance(output, (tuple, list)) else output
    largest = min(max(topk), logits.shape[1])
    ranked = logits.topk(largest, dim=1).indices  # [B, largest]
    hits = ranked.eq(target.view(-1, 1)).float()
    return [hits[:, :k].sum().reshape(1) * (100.0 / target.shape[0]) for k in topk]
