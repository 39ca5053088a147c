"""Samplers by name, their batches divided among ranks, and the seeds of augmentations."""

import random
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.utils.data import BatchSampler, RandomSampler, Sampler, SequentialSampler

from dassl import distributed
from dassl.utils import InputError, check_availability, get_rng_state, seed_cpu, set_rng_state

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
    are left out. Their length is an estimate, yet trainers change the learning rate at batch
    number `len(loader)`.
    """
    check_availability(sampler_type, SAMPLERS, what="sampler")
    return SAMPLERS[sampler_type](data_source)


class RankBatches(BatchSampler):
    """This rank's slice of each batch that a single process would draw from `sampler`.

    Rank 0 draws the order from its generators, so that N ranks see the same global batches as one.
    `batch_size` is the global one.

    Raises:
        InputError: `batch_size` is no multiple of the number of ranks, or a last, smaller batch
            is kept that has fewer images than there are ranks.
    """

    def __init__(self, sampler: Sampler[int], batch_size: int, drop_last: bool) -> None:
        distributed.share_of(batch_size)
        super().__init__(sampler, batch_size, drop_last)
        last = len(sampler) % batch_size
        if not drop_last and 0 < last < distributed.world_size():
            raise InputError(
                f"{distributed.world_size()} processes cannot share a batch of {last} images, the "
                f"last of {len(sampler)}. Start fewer processes, or choose another "
                "DATALOADER.TRAIN_X.BATCH_SIZE."
            )

    def __iter__(self) -> Iterator[list[int]]:
        batches = distributed.from_main(lambda: list(BatchSampler.__iter__(self)))
        for batch in batches:
            yield distributed.rank_slice(batch, distributed.rank(), distributed.world_size())


@dataclass(frozen=True)
class SeededBatch:
    """The indices of a batch; iterating over them seeds the augmentation of each image.

    Before an index is yielded, the global generators are seeded from the run's seed, the number of
    the view and the index, so that neither workers nor batches influence an augmentation.
    """

    indices: list[int]
    seed: int
    view: int

    def __iter__(self) -> Iterator[int]:
        state = get_rng_state(cuda=False)
        for index in self.indices:
            seed_cpu(random.Random(f"{self.seed} {self.view} {index}").getrandbits(63))
            yield index
        set_rng_state(state)


class EpochBatches(Sampler[SeededBatch]):
    """The batches of each epoch, which depend only on `seed` and the epoch.

    Every pass is an epoch; `epoch` is the number of the next one. The order is the one that a
    DataLoader's sampler draws in its (epoch + 1)-th pass after torch was seeded with `seed`.

    Args:
        batches: made by a sampler that draws from the global generators.
        views: V; epoch e has the augmentations of epoch e mod V. 0: each epoch has new ones.
    """

    def __init__(self, batches: Collection[list[int]], seed: int, views: int = 0) -> None:
        self.batches, self.seed, self.views, self.epoch = batches, seed, views, 0

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[SeededBatch]:
        # A generator, so that a pass counts from its first batch on: a DataLoader may begin twice.
        epoch, self.epoch = self.epoch, self.epoch + 1
        yield from self.batches_of(epoch)

    def batches_of(self, epoch: int) -> list[SeededBatch]:
        """Return the batches of an epoch."""
        state = get_rng_state(cuda=False)
        seed_cpu(self.seed)
        for _ in range(2 * epoch + 1):  # a DataLoader draws a worker seed before each order
            torch.empty((), dtype=torch.int64).random_()
        order = list(self.batches)
        set_rng_state(state)
        view = epoch % self.views if self.views else epoch
        return [SeededBatch(indices, self.seed, view) for indices in order]
