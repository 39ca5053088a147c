"""Image-caption pairs, which CLIPN and ZOC are trained on.

Three sources (DATASET.PAIRS.SOURCE) give the same kind of batch:

- `shards`: webdataset tars of images and .txt captions, as img2dataset writes CC3M.
- `csv`: a table of image paths and captions.
- `classnames`: the images of the ID set, few-shot or all, with captions made from its class
  names. **Not the setting of CLIPN's paper**, which trains on web captions and never sees the ID
  classes. Captions of one class match each other, but the image-text loss counts them as
  mismatches: choose batches much smaller than the number of classes.

A pair that cannot be read is skipped and replaced by another, so every rank has the same number
of full batches. The incomplete batch at the end of an epoch is left out. The order and the
augmentations of an epoch depend only on the seed and the epoch (with shards also on the numbers of
ranks and workers), so a run can resume at any epoch.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from torchvision.transforms import Compose, Normalize, PILToTensor, ToTensor
from yacs.config import CfgNode

from dassl import distributed
from dassl.data.workers import worker_settings
from dassl.utils import check_availability
from dassl.utils.errors import InputError
from datasets.caption_files import CaptionedImages, class_pairs, csv_pairs
from datasets.caption_shards import ShardPairs
from datasets.classfolders import data_root
from datasets.pairs import Texts, seeded

logger = logging.getLogger(__name__)

Transform = Callable[[Any], Tensor]
Encode = Callable[[list[str]], Mapping[str, Tensor]]
SOURCES = ("shards", "csv", "classnames")
PREFETCH = 1  # batches that each worker makes ahead; the trainer needs no more than the next


class PairsLoader(DataLoader):
    """Batches `{"img": [b, 3, H, W], "caption": list of b texts}`, b this rank's share.

    A batch has `bad`, a list of names, if pairs were skipped before it. Call `set_epoch` before
    each pass (Dassl's `TrainerX` does); all passes with the same epoch are equal.
    """

    def __init__(
        self, pairs: CaptionedImages | ShardPairs, batches: int, seed: int, **kwargs: Any
    ) -> None:
        # The data set itself makes batches.
        super().__init__(pairs, batch_size=None, generator=torch.Generator(), **kwargs)
        self.batches, self.seed = batches, seed
        self.set_epoch(0)

    def __len__(self) -> int:
        return self.batches

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0, of the next pass: it decides the order and augmentations."""
        self.epoch = epoch
        for source in (self.dataset, self.sampler):
            source.seed, source.epoch = self.seed, epoch

    def __iter__(self) -> Iterator[dict[str, Any]]:
        # The workers' seeds are drawn from it, other ones on every rank.
        rng = seeded(self.seed, self.epoch, distributed.rank())
        self.generator.manual_seed(rng.getrandbits(63))
        return super().__iter__()


class PairBatches(Sampler[tuple[int, list[int]]]):
    """This rank's slices of the global batches of a permutation of `count` pairs, with the step of
    each, counted from 0 through all epochs."""

    seed = epoch = 0  # set by the loader

    def __init__(self, count: int, batches: int, batch_size: int) -> None:
        self.count, self.batches, self.batch_size = count, batches, batch_size

    def __iter__(self) -> Iterator[tuple[int, list[int]]]:
        generator = torch.Generator().manual_seed(seeded(self.seed, self.epoch).getrandbits(63))
        order = torch.randperm(self.count, generator=generator)
        full_batches = order[: self.batches * self.batch_size].split(self.batch_size)
        for number, batch in enumerate(full_batches):
            share = distributed.rank_slice(batch, distributed.rank(), distributed.world_size())
            yield self.epoch * self.batches + number, share.tolist()


def build_pairs_loader(
    cfg: CfgNode, transform: Transform, texts: Texts | None = None, encode: Encode | None = None
) -> PairsLoader:
    """Build the loader of the pairs that `cfg.DATASET.PAIRS` describes.

    Args:
        transform: PIL image -> tensor `[3, H, W]`.
        texts: (captions, step) -> further entries of a batch, made in the process that makes it;
            steps are counted from 0 and go on through all epochs.
        encode: paths -> features `[D]` of each image that can be read. If the images are files,
            it is called once, and batches hold features, "img" `[b, D]`. Ignored with shards.

    Raises:
        InputError: an unknown source, files that are missing or hold no pairs, or fewer pairs
            than a batch of DATALOADER.TRAIN_X.BATCH_SIZE (of all ranks together). With the
            source `classnames` the batch is made smaller instead.
    """
    check_availability(cfg.DATASET.PAIRS.SOURCE, SOURCES, what="DATASET.PAIRS.SOURCE")
    seed = cfg.SEED
    if seed < 0:  # draw one, the same on all ranks
        seed = distributed.from_main(lambda: int(torch.randint(2**31, ())))
    pairs = _open_pairs(cfg, transform)
    pairs.texts = texts
    used, batch_size = _epoch_size(cfg, pairs.count)
    batches, share = used // batch_size, distributed.share_of(batch_size)
    sampler = None
    if isinstance(pairs, ShardPairs):
        pairs.batches, pairs.share = batches, share
    else:
        pairs.encoded = encode(list(dict.fromkeys(pairs.images))) if encode else None
        sampler = PairBatches(pairs.count, batches, batch_size)
    workers = worker_settings(cfg)
    if workers["num_workers"]:
        workers["prefetch_factor"] = PREFETCH
    logger.info(
        f"{used:,} pairs in each epoch ({cfg.DATASET.PAIRS.SOURCE}): {batches:,} batches of "
        f"{batch_size}"
    )
    return PairsLoader(pairs, batches, seed, sampler=sampler, **workers)


def as_bytes(transform: Compose) -> Compose:
    """Return `transform` up to its ToTensor and Normalize: PIL image -> uint8 `[3, H, W]`."""
    steps = [s for s in transform.transforms if not isinstance(s, (ToTensor, Normalize))]
    return Compose([*steps, PILToTensor()])


def from_bytes(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Apply ToTensor and Normalize, with `mean` and `std` `[3, 1, 1]`, to uint8 `[B, 3, H, W]`.

    torchvision's Normalize reads `std` and so waits for the device; this does not.
    """
    return (images.float() / 255 - mean) / std


def pairs_path(cfg: CfgNode) -> Path:
    """Return DATASET.PAIRS.PATH under DATASET.ROOT; InputError if it is empty."""
    if not cfg.DATASET.PAIRS.PATH:
        raise InputError(
            "DATASET.PAIRS.PATH is empty. Give the path of the pairs, under DATASET.ROOT or "
            "absolute, such as cc3m/{00000..00331}.tar"
        )
    return data_root(cfg) / cfg.DATASET.PAIRS.PATH


def _open_pairs(cfg: CfgNode, transform: Transform) -> CaptionedImages | ShardPairs:
    pairs = cfg.DATASET.PAIRS
    if pairs.SOURCE == "classnames":
        return class_pairs(cfg, transform)
    path = pairs_path(cfg)
    if pairs.SOURCE == "csv":
        return csv_pairs(path, pairs.COLUMNS, transform)
    return ShardPairs(path, transform, pairs.SHUFFLE)


def _epoch_size(cfg: CfgNode, count: int) -> tuple[int, int]:
    """Return the number of pairs in an epoch and in a batch, of all ranks together."""
    asked, batch_size = cfg.DATASET.PAIRS.NUM_PAIRS, cfg.DATALOADER.TRAIN_X.BATCH_SIZE
    if not 0 <= asked <= count:
        raise InputError(
            f"DATASET.PAIRS.NUM_PAIRS is {asked}, but there are {count} pairs. Allowed: 1 to "
            f"{count} pairs in each epoch, or 0 for all."
        )
    used = asked or count
    if used >= batch_size:
        return used, batch_size
    smaller = used - used % distributed.world_size()
    if cfg.DATASET.PAIRS.SOURCE != "classnames" or not smaller:
        raise InputError(
            f"An epoch has {used} image-caption pairs, fewer than a batch of {batch_size}. Add "
            f"pairs, or DATALOADER.TRAIN_X.BATCH_SIZE {smaller or used} to the command."
        )
    logger.warning(
        f"There are only {used} training images for DATALOADER.TRAIN_X.BATCH_SIZE {batch_size}: "
        f"batches of {smaller} are used. Batches smaller than the number of classes are best"
    )
    return used, smaller
