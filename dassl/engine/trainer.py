"""Training on labelled images, alone or together with unlabelled ones."""

import itertools
import logging
import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from dassl import distributed
from dassl.data.ahead import batches_for
from dassl.utils import AverageMeter, InputError, MetricMeter, check_availability  # noqa: F401

from .base import TrainerBase  # noqa: F401
from .progress import EpochProgress, timed
from .simple import SimpleTrainer, has_images

logger = logging.getLogger(__name__)


class TrainerX(SimpleTrainer):
    """Training on labelled images."""

    def run_epoch(self) -> None:
        """Call `forward_backward` for each batch of train_loader_x.

        self.num_batches and self.batch_idx are set before. A batch of which no image could be
        read (BAD_IMAGES skip) is left out; if it is the last one, `update_lr` is called here, as
        trainers themselves call it in the last batch.

        A loader with a method `set_epoch` is given the epoch.

        Differs from upstream: the learning rate printed is the one the step used, not the next.
        """
        self.begin_epoch()
        for self.batch_idx, (batch, waited) in enumerate(  # noqa: B020 (Dassl's API)
            timed(self.train_batches())
        ):
            self.run_batch(batch, waited)
        self.end_epoch()

    def count_batches(self) -> int:
        """Return the number of batches of an epoch."""
        return len(self.train_loader_x)

    def train_batches(self) -> Iterable[Any]:
        """Return the batches of an epoch."""
        return batches_for(self.train_loader_x, self.device)

    def begin_epoch(self) -> None:
        """Prepare for the first batch of an epoch."""
        self.set_model_mode("train")
        distributed.seed_other_ranks()
        if hasattr(self.train_loader_x, "set_epoch"):
            self.train_loader_x.set_epoch(self.epoch)
        self.num_batches = self.count_batches()
        self._progress = EpochProgress(self.epoch, self.max_epoch, self.num_batches)

    def run_batch(self, batch: Any, waited: float) -> None:
        """Take a step on batch number self.batch_idx, which took `waited` seconds to arrive."""
        progress, inputs = self._progress, self.step_inputs(batch)
        progress.data_time.update(waited)
        progress.bad_images += sum(map(self.count_bad_images, inputs))
        if all(map(has_images, inputs)):
            lr = self.get_current_lr()
            with self.explain_out_of_memory("a training step", "TRAIN_X", **self.memory_settings()):
                progress.step_done(self.forward_backward(*inputs) or {})
            self._report(progress, lr)
        else:
            if distributed.world_size() > 1:  # the others would wait for its features for ever
                raise InputError(
                    f"{distributed.name_of_rank()} can read no image of its share of a batch; "
                    "see the paths above. Replace or remove these files, or start fewer processes."
                )
            progress.step_done(None)
            if self.batch_idx + 1 == self.num_batches:
                self.update_lr()

    def step_inputs(self, batch: Any) -> tuple[Any, ...]:
        """Return the arguments of `forward_backward`."""
        return (batch,)

    def end_epoch(self) -> None:
        """Report on an epoch after its last batch."""
        progress = self._progress
        progress.bad_images = sum(distributed.from_all(progress.bad_images))
        if progress.bad_images:
            logger.warning(
                "Epoch %d: %d unreadable images were left out", self.epoch + 1, progress.bad_images
            )
        if progress.batch_time.count == 0:
            raise InputError("No training image could be read; see the paths above.")
        self.write_metrics(progress.epoch_record())

    def _report(self, progress: EpochProgress, lr: float) -> None:
        freq = self.cfg.TRAIN.PRINT_FREQ
        if self.num_batches < freq or (freq > 0 and (self.batch_idx + 1) % freq == 0):
            logger.info("%s", progress.line(self.batch_idx, lr))
            self.write_metrics(progress.batch_record(self.batch_idx, lr))

    def parse_batch_train(self, batch: dict[str, Any]) -> tuple[torch.Tensor, ...]:
        """Return images `[B, 3, H, W]`, labels and domains `[B]`, on the trainer's device."""
        return tuple(batch[key].to(self.device) for key in ("img", "label", "domain"))


class TrainerXU(TrainerX):
    """Training on labelled and unlabelled images: `forward_backward(batch_x, batch_u)`.

    TRAIN.COUNT_ITER defines an epoch: one pass over the loader "train_x" or "train_u", or over the
    "smaller_one"; the other loader starts again as often as needed.
    """

    def count_batches(self) -> int:
        labelled, unlabelled = len(self.train_loader_x), len(self.train_loader_u or ())
        if not unlabelled:
            raise InputError(f"{type(self).__name__} needs unlabelled images; the data has none.")
        smaller = min(labelled, unlabelled)
        counts = {"train_x": labelled, "train_u": unlabelled, "smaller_one": smaller}
        check_availability(self.cfg.TRAIN.COUNT_ITER, counts, what="TRAIN.COUNT_ITER")
        return counts[self.cfg.TRAIN.COUNT_ITER]

    def begin_epoch(self) -> None:
        super().begin_epoch()
        for loader in (self.train_loader_x, self.train_loader_u):
            if hasattr(loader, "set_epoch"):  # each of several passes is numbered
                loader.set_epoch(self.epoch * math.ceil(self.num_batches / len(loader)))

    def train_batches(self) -> Iterable[tuple[Any, Any]]:
        pairs = zip(_endless(self.train_loader_x), _endless(self.train_loader_u), strict=True)
        return itertools.islice(pairs, self.num_batches)

    def step_inputs(self, batch: tuple[Any, Any]) -> tuple[Any, ...]:
        return batch

    def parse_batch_train(
        self, batch_x: dict[str, Any], batch_u: dict[str, Any]
    ) -> tuple[torch.Tensor, ...]:
        """Return images, labels and domains of a labelled batch, and images of an unlabelled."""
        return (*super().parse_batch_train(batch_x), batch_u["img"].to(self.device))


def _endless(loader: DataLoader) -> Iterator[Any]:
    while True:
        yield from loader
