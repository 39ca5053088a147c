"""Find LoCoOp's ID-irrelevant regions.

LoCoOp (Miyai et al., NeurIPS 2023, section 3.2) calls a region of an ID image ID-irrelevant when
the image's label is not among the K classes most similar to the region. The loss pushes these
regions away from all classes; `ood/region_maps.py` draws them.
"""

import operator
from typing import Any

import torch
from torch import Tensor

from dassl.utils.errors import InputError


def suggest_top_k(num_classes: int) -> int:
    """Return K by the paper's ratio, 200 of 1000, as the authors' 20 for ImageNet-100."""
    return max(1, num_classes // 5)


def check_top_k(k: int, num_classes: int) -> None:
    """Raise InputError unless `1 <= k <= num_classes`."""
    if not 1 <= k <= num_classes:
        raise InputError(
            f"K = {k} with {num_classes} classes: K (--topk) must lie between 1 and the number "
            f"of classes; the paper's ratio (200 of 1000) gives K = {suggest_top_k(num_classes)}"
        )


def class_index(asked: Any, num_classes: int) -> int:
    """Return a class as an int, from any integer: also numpy's, or a tensor's.

    Raises:
        InputError: `asked` is no integer, or none from 0 to `num_classes - 1`.
    """
    try:
        index = -1 if isinstance(asked, bool) else operator.index(asked)
    except TypeError:
        index = -1
    if not 0 <= index < num_classes:
        raise InputError(
            f"class {asked!r}: name a class by its index, an integer from 0 to {num_classes - 1}"
        )
    return index


def label_ranks(local_cosines: Tensor, label: Tensor | int) -> Tensor:
    """Return the rank of the label among the classes of each region, 1 for the most similar.

    local_cosines [N, C] with one label, or [B, N, C] with labels [B]; returns int32 [N] or [B, N].
    Logits and probabilities may replace cosines, as they give the same ranks. Of equal
    numbers the label's ranks first; those of two classes with the same text need not be equal, as a
    matrix product may round its columns differently.
    """
    label = torch.as_tensor(label, device=local_cosines.device)
    regions = local_cosines.shape[-2]
    index = label[..., None, None].expand(*label.shape, regions, 1)  # [..., N, 1]
    label_cosines = local_cosines.gather(-1, index)
    # On a CPU int32 is twice as fast as the default int64.
    return (local_cosines > label_cosines).sum(dim=-1, dtype=torch.int32) + 1


def id_irrelevant_regions(local_cosines: Tensor, label: Tensor | int, k: int) -> Tensor:
    """Return True where the label is not among the region's top-K classes: bool [N] or [B, N].

    Arguments as for `label_ranks`. K must lie between 1 and C, else InputError suggests one; with
    K = C no region is irrelevant.

    Differs from upstream: `torch.topk` breaks ties by an order of its own, and fails when K > C.
    """
    check_top_k(k, local_cosines.shape[-1])
    return label_ranks(local_cosines, label) > k
