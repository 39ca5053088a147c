"""Views: augmentations that epochs repeat, each image of each encoded once and kept on disk.

With DATALOADER.VIEWS V, epoch e has the augmentations of epoch e mod V. A view is then a fixed set
of images: the training images under the augmentations of one epoch. It is encoded in the very
batches of that epoch, the images that these leave out behind them, and kept as the image tower
gave it. So with V of at least the number of epochs a step sees, bit by bit, the features of the run
that keeps nothing; and with fewer, the same features whoever encoded them and when: this run, one
of another method, or this one before it was stopped.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING
from weakref import proxy

import numpy as np
import torch
from torch import Tensor

from dassl import distributed
from dassl.data import DatasetWrapper
from dassl.data.ahead import batches_for
from dassl.data.data_manager import TrainLoader
from dassl.data.samplers import SeededBatch
from dassl.utils import InputError, progress_bar
from dassl.utils.cache import check_room
from ood.features import (
    ATTENTION,
    GLOBAL,
    LOCAL,
    FeatureStore,
    FeatureWriter,
    KeptFeatures,
    as_tensor,
)

if TYPE_CHECKING:
    from trainers.prompt_trainer import PromptTrainer

logger = logging.getLogger(__name__)


def check_views(trainer: PromptTrainer) -> None:
    """Raise an InputError if the features of a run's training images cannot be kept."""
    cfg, loader, reason = trainer.cfg, trainer.train_loader_x, ""
    if cfg.SEED < 0:
        reason = "without a seed no two runs see the same views: give a --seed of 0 or more"
    elif distributed.world_size() > 1:
        reason = "each process sees its share of the images alone: start one process"
    elif cfg.EVAL.FEATURES.lower() in ("", "none"):
        reason = "EVAL.FEATURES names no folder to keep features in: name one"
    elif not isinstance(loader, TrainLoader) or type(loader.dataset) is not DatasetWrapper:
        reason = "this data set is not a fixed list of images"
    if reason:
        raise InputError(f"DATALOADER.VIEWS is {cfg.DATALOADER.VIEWS}: {reason}, or set it to 0")


class KeptViews:
    """The features of the training images of a trainer, view by view."""

    def __init__(self, trainer: PromptTrainer) -> None:
        cfg = trainer.cfg
        self.trainer, self.loader = proxy(trainer), trainer.train_loader_x  # not a cycle
        self.items = self.loader.dataset.data_source
        self.labels = torch.tensor([item.label for item in self.items])
        self.views, self.total = cfg.DATALOADER.VIEWS, min(cfg.DATALOADER.VIEWS, trainer.max_epoch)
        encoding = trainer.image_encoding() | {
            "transform": str(trainer.dm.tfm_train),
            "batch_size": cfg.DATALOADER.TRAIN_X.BATCH_SIZE,
        }
        self.store = FeatureStore(cfg, encoding)
        self.opened: dict[int, KeptFeatures] = {}
        how = "not as published" if self.views < trainer.max_epoch else "as published"
        numbers = self.views, trainer.max_epoch
        logger.info("%d views for %d epochs, %s. Kept in %s", *numbers, how, self.store.folder)

    def batches(self, epoch: int, *reads: bool) -> Iterator[dict]:
        """Yield the encoded batches of an epoch; `reads`: with regions, with attention."""
        view = epoch % self.views
        order, kept = self._order(view), self._kept(view, *reads)
        row_of = np.full(len(order), -1)  # [n], -1: the image could not be read
        row_of[order[kept.index]] = np.arange(len(kept.index))
        for batch in self.loader.batch_sampler.batches_of(epoch):
            index = np.array(batch.indices)
            rows = row_of[index]
            found = self._batch(index[rows >= 0], kept, rows[rows >= 0], *reads)
            bad = [self.items[i].impath for i in index[rows < 0]]
            yield found | ({"bad": bad} if bad else {})

    def _batch(self, index: np.ndarray, kept: KeptFeatures, rows: np.ndarray, *reads: bool) -> dict:
        if not len(rows):
            return {}
        parts = zip((kept.features, kept.regions, kept.attention), (True, *reads), strict=True)
        found = [self._tensor(part, rows) if wanted else None for part, wanted in parts]
        labels = self.labels[index].to(self.trainer.device, non_blocking=True)
        return {**self.trainer.encoded(*found), "label": labels}

    def _tensor(self, kept: np.ndarray, rows: np.ndarray) -> Tensor:
        return as_tensor(np.asarray(kept)[rows]).to(self.trainer.device, non_blocking=True)

    def _order(self, view: int) -> np.ndarray:
        """Return the images `[n]` in the order in which they are encoded."""
        batches = [batch.indices for batch in self.loader.batch_sampler.batches_of(view)]
        seen = np.array(list(chain.from_iterable(batches)))
        return np.append(seen, np.setdiff1d(np.arange(len(self.items)), seen))

    def _kept(self, view: int, *reads: bool) -> KeptFeatures:
        """Return the features of a view, which are encoded first if they are not there."""
        kept = self.opened.get(view)
        if not _has(kept, *reads):
            name = f"training-seed{self.loader.batch_sampler.seed}-view{view}"
            items = [self.items[i] for i in self._order(view)]
            kept = self.store.read(name, items, reads[0])
            if not _has(kept, *reads):
                self._encode(view, name, items, *reads)
                kept = self.store.read(name, items, reads[0])
            if not _has(kept, *reads):
                raise InputError(
                    f"the features of view {view + 1} could not be kept in {self.store.folder}; "
                    "the log says why, or another run wrote them at the same time. Start again, "
                    "or name another folder as EVAL.FEATURES"
                )
            self.opened[view] = kept
        return kept

    def _encode(self, view: int, name: str, items: list, *reads: bool) -> None:
        place = np.argsort(self._order(view))  # [n], where an image stands in the order
        writer = None
        try:
            for batch in self._images(view):
                if "img" not in batch:
                    continue
                images = batch["img"].to(self.trainer.device, non_blocking=True)
                with self.trainer.explain_out_of_memory("a training step", "TRAIN_X"):
                    found = self.trainer.tower(images, *reads)
                writer = writer or self._writer(view, name, items, *found)
                writer.append(place[batch["index"]], *found)
            if writer is not None:
                writer.finish()
        finally:
            if writer is not None:
                writer.discard()

    def _images(self, view: int) -> Iterator[dict]:
        """Yield the batches of a view's first epoch, and then the images that these leave out."""
        loader = self.loader
        loader.set_epoch(view)
        yield from progress_bar(
            batches_for(loader, self.trainer.device),
            f"encoding view {view + 1}/{self.total}",
            "batch",
            total=len(loader),
            leave=False,
        )
        left = self._order(view)[len(loader) * self.trainer.cfg.DATALOADER.TRAIN_X.BATCH_SIZE :]
        if len(left):
            batch = SeededBatch(left.tolist(), loader.batch_sampler.seed, view)
            yield loader.collate_fn([loader.dataset[i] for i in batch])

    def _writer(self, view: int, name: str, items: list, *found: Tensor | None) -> FeatureWriter:
        """Make the writer of a view whose first batch is given, if all that follow have room."""
        named = zip((GLOBAL, LOCAL, ATTENTION), found, strict=True)
        parts = {kind: part for kind, part in named if part is not None}
        image = sum(part[0].numel() * part.element_size() for part in parts.values())
        left = self.total - view
        try:
            needed = image * len(items) * left
            check_room(self.store.folder, needed, self.store.limit, "EVAL.FEATURES_LIMIT")
        except InputError as error:
            raise InputError(
                f"there is no room for the features of {left} views: {error}. Choose fewer "
                "DATALOADER.VIEWS, 0 to keep none, or a larger limit"
            ) from error
        return self.store.writer(name, items, {kind: part.dtype for kind, part in parts.items()})


def _has(kept: KeptFeatures | None, local: bool, attention: bool) -> bool:
    """Return whether a view is there with all that is asked for."""
    return (
        kept is not None
        and not (local and kept.regions is None)
        and not (attention and kept.attention is None)
    )
