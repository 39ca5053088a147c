"""Samplers of images by name, and their batches shared out over ranks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

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
    """The sampler called `sampler_type` over `data_source`.

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
