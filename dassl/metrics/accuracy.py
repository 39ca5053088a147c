from collections.abc import Sequence

import torch


def compute_accuracy(
    output: torch.Tensor | Sequence[torch.Tensor], target: torch.Tensor, topk: Sequence[int] = (1,)
) -> list[torch.Tensor]:
    """Share in percent, a tensor [1] for each k, of samples whose label is among the k largest.

    Args:
        output: logits [B, C], or a tuple whose first entry they are.
        target: labels [B].
        topk: values of k; one above C counts as C.
    """
    logits = output[0] if isinstance(output, (tuple, list)) else output
    largest = min(max(topk), logits.shape[1])
    ranked = logits.topk(largest, dim=1).indices  # [B, largest]
    hits = ranked.eq(target.view(-1, 1)).float()
    return [hits[:, :k].sum().reshape(1) * (100.0 / target.shape[0]) for k in topk]
