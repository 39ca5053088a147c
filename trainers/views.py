"""Views: augmentations that epochs repeat, whose image features are computed once and kept on disk.

With DATALOADER.VIEWS V, epoch e repeats the augmentations of epoch e mod V. A view is a fixed set
of images: the training images under the augmentations of one of the first V epochs. It is encoded
in the batches of that epoch, followed by the images that these leave out, and kept on disk in the
precision of the image tower. So if V is at least the number of epochs, a step sees bit for bit the
features it would see without views. If V is smaller, the features are the same whichever run
encoded them: this one, one of another method, or this one before it was stopped.
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
    keeps_nothing,
)

if TYPE_CHECKING:
    from trainers.prompt_trainer import PromptTrainer

logger = logging.getLogger(__name__)


def check_views(trainer: PromptTrainer) -> None:
    """Raise InputError if the features of a run's training images cannot be kept."""
    cfg, loader, reason = trainer.cfg, trainer.train_loader_x, ""
    if own := trainer.redefined():
        reason = (
            f"features are kept only as PromptTrainer encodes images, and {cfg.TRAINER.NAME} has "
            f"its own {', '.join(own)}: leave these to PromptTrainer"
        )
    elif cfg.SEED < 0:
        reason = "without a seed no two runs see the same views: give a --seed of 0 or more"
    elif distributed.world_size() > 1:
        reason = "each process sees only its share of the images: start one process"
    elif keeps_nothing(cfg):
        reason = "EVAL.FEATURES names no folder to keep features in: name one"
    elif not isinstance(loader, TrainLoader) or type(loader.dataset) is not DatasetWrapper:
        reason = "this data set is not a fixed list of images"
    if reason:
        raise InputError(f"DATALOADER.VIEWS is {cfg.DATALOADER.VIEWS}: {reason}, or set it to 0")


class KeptViews:
    """The features of a trainer's training images, view by view."""

    def __init__(self, trainer: PromptTrainer) -> None:
        cfg = trainer.cfg
        self.trainer, self.loader = proxy(trainer), trainer.train_loader_x  # proxy: no cycle
        self.items = self.loader.dataset.data_source
        self.labels = torch.tensor([item.label for item in self.items])
        self.views, self.total = cfg.DATALOADER.VIEWS, min(cfg.DATALOADER.VIEWS, trainer.max_epoch)
        encoding = trainer.image_encoding() | {
            "transform": str(trainer.dm.tfm_train),
            "batch_size": cfg.DATALOADER.TRAIN_X.BATCH_SIZE,
        }
        self.store = FeatureStore(cfg, encoding)
        self.opened: dict[int, KeptFeatures] = {}
        note = "not as published" if self.views < trainer.max_epoch else "as published"
        numbers = self.views, trainer.max_epoch
        logger.info("%d views for %d epochs (%s), kept in %s", *numbers, note, self.store.folder)

    def batches(self, epoch: int, *needs: bool) -> Iterator[dict]:
        """Yield the encoded batches of an epoch; `needs`: with regions, with attention."""
        view = epoch % self.views
        order, kept = self._order(view), self._kept(view, *needs)
        row_of = np.full(len(order), -1)  # [n], -1: the image could not be read
        row_of[order[kept.index]] = np.arange(len(kept.index))
        for batch in self.loader.batch_sampler.batches_of(epoch):
            index = np.array(batch.indices)
            rows = row_of[index]
            encoded = self._batch(index[rows >= 0], kept, rows[rows >= 0], *needs)
            bad = [self.items[i].impath for i in index[rows < 0]]
            yield encoded | ({"bad": bad} if bad else {})

    def _batch(self, index: np.ndarray, kept: KeptFeatures, rows: np.ndarray, *needs: bool) -> dict:
        if not len(rows):
            return {}
        arrays = zip((kept.features, kept.regions, kept.attention), (True, *needs), strict=True)
        outputs = [self._tensor(array, rows) if needed else None for array, needed in arrays]
        labels = self.labels[index].to(self.trainer.device, non_blocking=True)
        return {**self.trainer.encoded(*outputs), "label": labels}

    def _tensor(self, kept: np.ndarray, rows: np.ndarray) -> Tensor:
        return as_tensor(np.asarray(kept)[rows]).to(self.trainer.device, non_blocking=True)

    def _order(self, view: int) -> np.ndarray:
        """Return the numbers `[n]` of the images in the order in which they are encoded."""
        batches = [batch.indices for batch in self.loader.batch_sampler.batches_of(view)]
        in_batches = np.array(list(chain.from_iterable(batches)))
        return np.append(in_batches, np.setdiff1d(np.arange(len(self.items)), in_batches))

    def _kept(self, view: int, *needs: bool) -> KeptFeatures:
        """Return the features of a view, encoding it first if they are not on disk."""
        kept = self.opened.get(view)
        if not _has(kept, *needs):
            name = f"training-seed{self.loader.batch_sampler.seed}-view{view}"
            items = [self.items[i] for i in self._order(view)]
            kept = self.store.read(name, items, needs[0])
            if not _has(kept, *needs):
                self._encode(view, name, items, *needs)
                kept = self.store.read(name, items, needs[0])
            if not _has(kept, *needs):
                raise InputError(
                    f"the features of view {view + 1} could not be kept in {self.store.folder}: "
                    "the log says why, or another run wrote them at the same time. Start again, "
                    "or set EVAL.FEATURES to another folder"
                )
            self.opened[view] = kept
        return kept

    def _encode(self, view: int, name: str, items: list, *needs: bool) -> None:
        place = np.argsort(self._order(view))  # [n], each image's place in the order
        writer = None
        try:
            for batch in self._images(view):
                if "img" not in batch:
                    continue
                images = batch["img"].to(self.trainer.device, non_blocking=True)
                with self.trainer.explain_out_of_memory("a training step", "TRAIN_X"):
                    outputs = self.trainer.tower(images, *needs)
                writer = writer or self._writer(view, name, items, *outputs)
                writer.append(place[batch["index"].numpy()], *outputs)
            if writer is not None:
                writer.finish()
        finally:
            if writer is not None:
                writer.discard()

    def _images(self, view: int) -> Iterator[dict]:
        """Yield the batches of a view's first epoch, then one of the images that they leave out."""
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

    def _writer(self, view: int, name: str, items: list, *outputs: Tensor | None) -> FeatureWriter:
        """Build the writer of a view from its first batch's `outputs`, if all views have room."""
        named = zip((GLOBAL, LOCAL, ATTENTION), outputs, strict=True)
        tensors = {kind: tensor for kind, tensor in named if tensor is not None}
        bytes_per_image = sum(x[0].numel() * x.element_size() for x in tensors.values())
        left = self.total - view
        try:
            needed = bytes_per_image * len(items) * left
            check_room(self.store.folder, needed, self.store.limit, "EVAL.FEATURES_LIMIT")
        except InputError as error:
            raise InputError(
                f"there is no room for the features of {left} views: {error}. Choose fewer "
                "DATALOADER.VIEWS, or 0 to keep none, or a larger limit"
            ) from error
        return self.store.writer(name, items, {kind: x.dtype for kind, x in tensors.items()})


def _has(kept: KeptFeatures | None, local: bool, attention: bool) -> bool:
    """Return whether a view's features are on disk, with regions and attention if asked."""
    return (
        kept is not None
        and not (local and kept.regions is None)
        and not (attention and kept.attention is None)
    )
