"""Image-caption pairs: what CLIPN is trained on.

Four sources (DATASET.PAIRS.SOURCE), one kind of batch:

- ``shards``: webdataset tars of images and .txt captions, as img2dataset writes CC3M.
- ``csv``: a table of image paths and captions.
- ``folder``: images, each with a .txt of the same name beside it.
- ``classnames``: the images of the ID data set, few-shot or all, with captions made from its class
  names. **Not the setting of CLIPN's paper**, which trains on web captions and never sees the ID
  classes: figures of such a run are few-shot figures. Images of one class also get captions that
  match each other, which the image-text loss counts as mismatches: keep the batch small beside
  the number of classes.

A pair that cannot be read (no caption, an image that does not decode) is skipped, and another one
takes its place: every rank has the same number of full batches. ``batch["bad"]`` names what was
skipped, and the trainer logs and counts it. The incomplete batch at the end of an epoch is left
out. Order and augmentation of an epoch depend on the seed, the epoch and the numbers of ranks and
workers, on nothing before it, so that a run resumes at any epoch.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from dassl import distributed
from dassl.data.workers import end_with_parent
from dassl.utils import check_availability
from dassl.utils.errors import InputError
from datasets.caption_files import class_pairs, csv_pairs, folder_pairs
from datasets.caption_shards import ShardPairs
from datasets.classfolders import data_root
from datasets.pairs import Place, seeded

logger = logging.getLogger(__name__)

Transform = Callable[[Any], Tensor]
SOURCES = ("shards", "csv", "folder", "classnames")


class PairsLoader(DataLoader):
    """Batches ``{"img": [b, 3, H, W], "caption": list of b texts}``, b this rank's share.

    ``bad``, a list of names, is in a batch before which pairs were skipped. Call ``set_epoch``
    before each pass (Dassl's ``TrainerX`` does): the passes of an epoch are all alike.
    """

    def __init__(self, dataset, seed: int, **kwargs):
        generator = torch.Generator()
        super().__init__(dataset, generator=generator, collate_fn=collate_pairs, **kwargs)
        self.seed = seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0, whose order and augmentation the next pass has."""
        self.epoch = epoch
        self.dataset.epoch = epoch
        if isinstance(self.batch_sampler, PairBatches):
            self.batch_sampler.epoch = epoch

    def __iter__(self) -> Iterator[dict[str, Any]]:
        # The workers' seeds are drawn from it; no two ranks augment alike.
        own = seeded(self.seed, self.epoch, distributed.rank())
        self.generator.manual_seed(own.getrandbits(63))
        return super().__iter__()


class PairBatches(Sampler[list[int]]):
    """This rank's slices of the global batches of an epoch's permutation of ``count`` pairs."""

    def __init__(self, count: int, batches: int, batch_size: int, seed: int):
        self.count, self.batches, self.batch_size, self.seed = count, batches, batch_size, seed
        self.epoch = 0

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(seeded(self.seed, self.epoch).getrandbits(63))
        order = torch.randperm(self.count, generator=generator)
        for batch in order[: self.batches * self.batch_size].split(self.batch_size):
            part = distributed.rank_slice(batch, distributed.rank(), distributed.world_size())
            yield part.tolist()


def build_pairs_loader(cfg, transform: Transform, seed: int | None = None) -> PairsLoader:
    """The loader of the pairs that ``cfg.DATASET.PAIRS`` describes (see dassl/config/defaults.py).

    Args:
        transform: PIL image -> float tensor ``[3, H, W]``.
        seed: of the order; None for ``cfg.SEED``. Below 0 one is drawn, the same on all ranks.

    Raises:
        InputError: an unknown source, files that are missing or hold no pairs, or fewer pairs
            than a batch of DATALOADER.TRAIN_X.BATCH_SIZE, which is that of all ranks.
    """
    check_source(cfg)
    seed = _agreed(cfg.SEED if seed is None else seed)
    batch_size = cfg.DATALOADER.TRAIN_X.BATCH_SIZE
    share = distributed.share_of(batch_size)
    workers = {
        "num_workers": cfg.DATALOADER.NUM_WORKERS,
        "worker_init_fn": end_with_parent,
        "pin_memory": torch.cuda.is_available() and cfg.USE_CUDA,
    }
    if cfg.DATASET.PAIRS.SOURCE == "shards":
        pairs = ShardPairs(pairs_path(cfg), transform, seed, cfg.DATASET.PAIRS.SHUFFLE)
        count, batches = _batches(cfg, pairs.count)
        pairs.place = Place(distributed.rank(), distributed.world_size(), batches, share)
        loader = PairsLoader(pairs, seed, batch_size=share, **workers)
    else:
        pairs = _listed(cfg, transform, seed)
        count, batches = _batches(cfg, len(pairs))
        sampler = PairBatches(len(pairs), batches, batch_size, seed)
        loader = PairsLoader(pairs, seed, batch_sampler=sampler, **workers)
    logger.info(
        "%s pairs an epoch (%s), %s batches of %d",
        f"{count:,}",
        cfg.DATASET.PAIRS.SOURCE,
        f"{batches:,}",
        batch_size,
    )
    return loader


def collate_pairs(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Stack images, list captions, and name what was skipped, if anything was."""
    batch = {
        "img": torch.stack([sample["img"] for sample in samples]),  # [b, 3, H, W]
        "caption": [sample["caption"] for sample in samples],
    }
    bad = [name for sample in samples for name in sample["bad"]]
    return {**batch, "bad": bad} if bad else batch


def _listed(cfg, transform: Transform, seed: int):
    pairs = cfg.DATASET.PAIRS
    if pairs.SOURCE == "csv":
        return csv_pairs(pairs_path(cfg), pairs.COLUMNS, transform)
    if pairs.SOURCE == "folder":
        return folder_pairs(pairs_path(cfg), transform)
    return class_pairs(cfg, pairs.TEMPLATES, transform, seed)


def check_source(cfg) -> None:
    """Raise an InputError unless DATASET.PAIRS.SOURCE is one of SOURCES."""
    check_availability(cfg.DATASET.PAIRS.SOURCE, SOURCES, what="DATASET.PAIRS.SOURCE")


def pairs_path(cfg) -> Path:
    """DATASET.PAIRS.PATH under DATASET.ROOT; an InputError where there is none."""
    if not cfg.DATASET.PAIRS.PATH:
        raise InputError(
            f"DATASET.PAIRS.SOURCE is {cfg.DATASET.PAIRS.SOURCE}, but DATASET.PAIRS.PATH is empty. "
            "Give the path of the pairs, under DATASET.ROOT or absolute, such as "
            "cc3m/{00000..00331}.tar"
        )
    return data_root(cfg) / cfg.DATASET.PAIRS.PATH


def _batches(cfg, count: int) -> tuple[int, int]:
    """Pairs used in an epoch, and the full batches they make."""
    wanted, batch_size = cfg.DATASET.PAIRS.NUM_PAIRS, cfg.DATALOADER.TRAIN_X.BATCH_SIZE
    if not 0 <= wanted <= count:
        raise InputError(
            f"DATASET.PAIRS.NUM_PAIRS is {wanted}, but there are {count} pairs. Allowed: 1 to "
            f"{count} pairs an epoch, or 0 for all."
        )
    used = wanted or count
    if used < batch_size:
        raise InputError(
            f"An epoch has {used} image-caption pairs, fewer than a batch: "
            f"DATALOADER.TRAIN_X.BATCH_SIZE is {batch_size}. Choose a smaller one, or add pairs."
        )
    return used, used // batch_size


def _agreed(seed: int) -> int:
    if seed >= 0:
        return seed
    return distributed.from_main(lambda: int(torch.randint(2**31, ())))
