"""Samplers of images by name, their batches shared out over ranks, and the workers' seeds."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import RandomSampler, Sampler, SequentialSampler

from dassl import distributed
from dassl.utils import InputError, check_availability

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
    """Build the sampler called `sampler_type` over `data_source`.

    Differs from upstream: its samplers by domain and by class, which read the other arguments,
    are left out. Their length is a guess, and trainers change the learning rate at batch
    number `len(loader)`.
    """
    check_availability(sampler_type, SAMPLERS, what="sampler")
    return SAMPLERS[sampler_type](data_source)


class RankBatches(Sampler[list[int]]):
    """This rank's slice of each batch that a single process would draw from `sampler`.

    The order is rank 0's, as it draws it from its generators: N ranks see the global batches of
    one. `batch_size` is the global one.

    Raises:
        InputError: the ranks do not divide `batch_size`, or a last, smaller batch that is kept
            has fewer images than there are ranks.
    """

    def __init__(self, sampler: Sampler[int], batch_size: int, drop_last: bool) -> None:
        distributed.share_of(batch_size)
        self.sampler, self.batch_size, self.drop_last = sampler, batch_size, drop_last
        last = len(sampler) % batch_size
        if not drop_last and 0 < last < distributed.world_size():
            raise InputError(
                f"{distributed.world_size()} processes cannot share a batch of {last} images, the "
                f"last of {len(sampler)}. Start fewer processes, or choose another "
                "DATALOADER.TRAIN_X.BATCH_SIZE."
            )

    def __len__(self) -> int:
        full, last = divmod(len(self.sampler), self.batch_size)
        return full + (last > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[list[int]]:
        order = distributed.from_main(lambda: list(self.sampler))
        rank, ranks = distributed.rank(), distributed.world_size()
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            batch = order[start : start + self.batch_size]
            yield list(distributed.rank_slice(batch, rank, ranks))


@dataclass(frozen=True)
class FirstBatch:
    """Indices of an epoch's first batch for a worker, which is seeded when it begins to read them.

    The seed travels with the batch, so it does not matter whether the worker is new.
    """

    indices: list[int]
    seed: int

    def __iter__(self) -> Iterator[int]:
        random.seed(self.seed)
        np.random.seed(self.seed % 2**32)
        torch.manual_seed(self.seed)
        return iter(self.indices)


class SeededBatches(Sampler):
    """`batches` for a number of workers, who augment each epoch from a seed of its own.

    The seed is drawn from torch's global generator where a DataLoader whose workers start anew in
    every epoch draws its own, and worker w gets seed + w as there. Workers may therefore stay
    alive, and a resumed run still equals an uninterrupted one.
    """

    def __init__(self, batches: Collection[list[int]], workers: int) -> None:
        self.batches, self.workers = batches, workers

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int] | FirstBatch]:
        seed = int(torch.empty((), dtype=torch.int64).random_())
        for number, batch in enumerate(self.batches):
            # A DataLoader hands batches to its workers in turn.
            yield FirstBatch(batch, seed + number) if number < self.workers else batch
