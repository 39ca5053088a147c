"""Samplers of images by name."""

from __future__ import annotations

from collections.abc import Sequence

from torch.utils.data import RandomSampler, Sampler, SequentialSampler

from dassl.utils import check_availability

from .datasets import Datum

SAMPLERS = {"RandomSampler": RandomSampler, "SequentialSampler": SequentialSampler}


def build_sampler(
    sampler_type: str,
    cfg=None,
    data_source: Sequence[Datum] = (),
    batch_size: int = 32,
    n_domain: int = 0,
    n_ins: int = 16,
) -> Sampler[int]:
    """The sampler called `sampler_type` over `data_source`.

    Differs from upstream: its samplers by domain and by class, which read the other arguments,
    are left out. Their length is a guess, and trainers change the learning rate at batch
    number `len(loader)`.
    """
    check_availability(sampler_type, SAMPLERS, what="sampler")
    return SAMPLERS[sampler_type](data_source)
