"""Trainers that are configured by a yacs tree: SimpleTrainer and TrainerX."""

from __future__ import annotations

import datetime
import logging
import os
import time
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from tqdm import tqdm
from yacs.config import CfgNode

from dassl import distributed
from dassl.data import DataManager
from dassl.data.ahead import batches_for
from dassl.evaluation import build_evaluator
from dassl.utils import (
    InputError,
    check_availability,
    explain_out_of_memory,
    load_checkpoint,
    mkdir_if_missing,
)

from .base import TrainerBase
from .progress import EpochProgress, MetricsFile, timed

__all__ = ["SimpleTrainer", "TrainerBase", "TrainerX"]

logger = logging.getLogger(__name__)


class SimpleTrainer(TrainerBase):
    """Data, evaluation and checkpoints as `cfg` says; a subclass builds the model.

    The loaders are read from the DataManager when they are first used, so that evaluation never
    builds training data. A subclass may assign them.
    """

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__()
        self.check_cfg(cfg)
        self.device = distributed.local_device(cfg.USE_CUDA)
        self.start_epoch = self.epoch = 0
        self.max_epoch = cfg.OPTIM.MAX_EPOCH
        self.output_dir = cfg.OUTPUT_DIR
        self.cfg = cfg
        self._metrics: MetricsFile | None = None
        self._bad_images: set[str] = set()
        self._data_advised = False
        self._intermediate: list[Path] = []
        self.build_data_loader()
        self.build_model()
        self.evaluator = build_evaluator(cfg, lab2cname=self.lab2cname)
        self.best_result = float("-inf")

    def check_cfg(self, cfg: CfgNode) -> None:
        """Raise if `cfg` does not suit the trainer (optional)."""

    def build_data_loader(self) -> None:
        """Set self.dm, num_classes, num_source_domains and lab2cname (label -> class name).

        An override that sets no self.dm must assign the loaders itself.
        """
        self.dm = self.build_data_manager()
        self.num_classes = self.dm.num_classes
        self.num_source_domains = self.dm.num_source_domains
        self.lab2cname = self.dm.lab2cname

    def build_data_manager(self) -> DataManager:
        return DataManager(self.cfg)

    @cached_property
    def train_loader_x(self) -> DataLoader:
        return self.dm.train_loader_x

    @cached_property
    def train_loader_u(self) -> DataLoader | None:
        return self.dm.train_loader_u

    @cached_property
    def val_loader(self) -> DataLoader | None:
        return self.dm.val_loader

    @cached_property
    def test_loader(self) -> DataLoader:
        return self.dm.test_loader

    def build_model(self) -> None:
        """Build self.model, optimiser and scheduler, and call register_model().

        Differs from upstream: there is no default model, as backbones are left out.
        """
        raise NotImplementedError(f"{type(self).__name__} must override build_model()")

    def train(self) -> None:
        super().train(self.start_epoch, self.max_epoch)

    def before_train(self) -> None:
        """Resume from RESUME, or from what OUTPUT_DIR holds, and open the writers.

        Differs from upstream: RESUME naming a folder without a checkpoint is an InputError, and
        so is TEST.FINAL_MODEL best_val without a validation set (upstream then chose the model on
        the test set).
        """
        self._check_best_val()
        # Listing the training set may draw (few shots): before the generators are restored.
        logger.info("Training images: %s", f"{len(self.train_loader_x.dataset):,}")
        resume = self.cfg.RESUME
        self.start_epoch = self.resume_model_if_exist(resume or self.output_dir)
        if os.path.realpath(resume or self.output_dir) == os.path.realpath(self.output_dir):
            self._intermediate = self._checkpoints_of(self.start_epoch)
        if resume and self.start_epoch == 0:
            raise InputError(f"RESUME names {resume}, which holds no checkpoint of this trainer.")
        self._restore_best_result(resume or self.output_dir)
        for name in self.get_model_names():
            distributed.broadcast_state(self._models[name])
        if distributed.is_main():
            self._open_writers()
        self.time_start = time.time()

    def _open_writers(self) -> None:
        writer_dir = os.path.join(self.output_dir, "tensorboard")
        mkdir_if_missing(writer_dir)
        self.init_writer(writer_dir)
        metrics_path = os.path.join(self.output_dir, "metrics.jsonl")
        self._metrics = MetricsFile(metrics_path, self.start_epoch)

    def after_train(self) -> None:
        logger.info("Finish training")
        if not self.cfg.TEST.NO_TEST:
            if self.cfg.TEST.FINAL_MODEL == "best_val":
                logger.info("Deploy the model with the best val performance")
                self.load_model(self.output_dir)
            else:
                logger.info("Deploy the last-epoch model")
            self.test()
        elapsed = datetime.timedelta(seconds=round(time.time() - self.time_start))
        logger.info("Elapsed: %s", elapsed)
        self.close_writer()

    def after_epoch(self) -> None:
        """Keep the best model (TEST.FINAL_MODEL best_val), save every CHECKPOINT_FREQ epochs.

        Differs from upstream: of the intermediate checkpoints only the newest stays. One is
        deleted once a later one is safely written, also the one that the run resumed from; what
        RESUME names in another folder stays.
        """
        if not self.cfg.TEST.NO_TEST and self.cfg.TEST.FINAL_MODEL == "best_val":
            self._keep_if_best(self.test(split="val"))
        done = self.epoch + 1
        freq = self.cfg.TRAIN.CHECKPOINT_FREQ
        if done == self.max_epoch or (freq > 0 and done % freq == 0):
            self.save_model(self.epoch, self.output_dir)
            for path in self._intermediate:
                path.unlink(missing_ok=True)
            self._intermediate = self._checkpoints_of(done)

    def _checkpoints_of(self, epoch: int) -> list[Path]:
        names = self.get_model_names()
        return [Path(self.output_dir, name, f"model.pth.tar-{epoch}") for name in names]

    def _keep_if_best(self, result: float) -> None:
        if result > self.best_result:
            self.best_result = result
            self.save_model(
                self.epoch, self.output_dir, val_result=result, model_name="model-best.pth.tar"
            )

    def _check_best_val(self) -> None:
        check_availability(
            self.cfg.TEST.FINAL_MODEL, ("last_step", "best_val"), what="TEST.FINAL_MODEL"
        )
        if self.cfg.TEST.FINAL_MODEL == "best_val" and self.val_loader is None:
            raise InputError(
                "TEST.FINAL_MODEL is best_val, but the dataset has no validation images. "
                "Choose last_step, or a dataset with a validation set."
            )

    def _restore_best_result(self, directory: str) -> None:
        if self.start_epoch == 0 or self.cfg.TEST.FINAL_MODEL != "best_val":
            return
        best = Path(directory, self.get_model_names()[0], "model-best.pth.tar")
        if best.is_file():
            self.best_result = load_checkpoint(best)["val_result"]

    @torch.no_grad()
    def test(self, split: str | None = None) -> float:
        """Evaluate on `split` (default TEST.SPLIT); returns the first result, the accuracy.

        "val" without a validation set means "test", as upstream.
        """
        self.set_model_mode("eval")
        self.evaluator.reset()
        split = self.cfg.TEST.SPLIT if split is None else split
        use_val = split == "val" and self.val_loader is not None
        split, loader = ("val", self.val_loader) if use_val else ("test", self.test_loader)
        logger.info("Evaluate on the *%s* set", split)
        bad = 0
        for batch in tqdm(loader, disable=not distributed.is_main()):
            bad += self.count_bad_images(batch)
            if has_images(batch):
                with self.memory_of("a test batch", "TEST"):
                    input, label = self.parse_batch_test(batch)
                    self.evaluator.process(self.model_inference(input), label)
        if bad:
            logger.warning("%d unreadable images of the %s set were left out", bad, split)
        results = self.evaluator.evaluate()
        for name, value in results.items():
            self.write_scalar(f"{split}/{name}", value, self.epoch)
        return next(iter(results.values()))

    def count_bad_images(self, batch: Any) -> int:
        """Number of images dropped from `batch`; each path is logged the first time it occurs."""
        bad = batch.get("bad", ()) if isinstance(batch, dict) else ()
        for path in set(bad) - self._bad_images:
            logger.warning("Left out, as it cannot be read: %s", path)
        self._bad_images.update(bad)
        return len(bad)

    def memory_settings(self) -> dict[str, object]:
        """Settings that lower a training step's need of memory and not its result, with values."""
        return {}

    def memory_of(self, what: str, loader: str, **settings: object) -> Any:
        """`explain_out_of_memory` for a batch; `loader` is a node of DATALOADER."""
        key, size = f"DATALOADER.{loader}.BATCH_SIZE", self.cfg.DATALOADER[loader].BATCH_SIZE
        doing = f"{what} of {size} images and {self.num_classes} classes on {self.device}"
        return explain_out_of_memory(doing, {**settings, key: size})

    def model_inference(self, input: torch.Tensor) -> torch.Tensor:
        return self.model(input)

    def parse_batch_test(self, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Images [B, 3, H, W] and labels [B] of a batch, on the trainer's device."""
        return batch["img"].to(self.device), batch["label"].to(self.device)

    def get_current_lr(self, names: str | list[str] | None = None) -> float:
        """The learning rate of the first named model that has an optimiser; 0 if none has."""
        optims = self._optims_of(names)
        return optims[0].param_groups[0]["lr"] if optims else 0.0


class TrainerX(SimpleTrainer):
    """Training on labelled images."""

    def run_epoch(self) -> None:
        """One pass over train_loader_x, with `forward_backward` for each batch.

        self.num_batches and self.batch_idx are set for it. A batch of which no image could be
        read (BAD_IMAGES skip) is left out; if it is the last one, `update_lr` is called here, as
        trainers do that themselves in the last batch.

        A loader whose order depends on the epoch is told it by its `set_epoch`.

        Differs from upstream: the learning rate printed is the one the step used, not the next.
        """
        self.begin_epoch()
        for self.batch_idx, (batch, waited) in enumerate(  # noqa: B020 (Dassl's API)
            timed(batches_for(self.train_loader_x, self.device))
        ):
            self.run_batch(batch, waited)
        self.end_epoch()

    def begin_epoch(self) -> None:
        """What `run_epoch` does before its first batch."""
        self.set_model_mode("train")
        distributed.seed_other_ranks()
        if hasattr(self.train_loader_x, "set_epoch"):
            self.train_loader_x.set_epoch(self.epoch)
        self.num_batches = len(self.train_loader_x)
        self._progress = EpochProgress(self.epoch, self.max_epoch, self.num_batches)

    def run_batch(self, batch: Any, waited: float) -> None:
        """A step on batch number self.batch_idx, which came after `waited` seconds."""
        progress = self._progress
        progress.data_time.update(waited)
        progress.bad_images += self.count_bad_images(batch)
        if has_images(batch):
            lr = self.get_current_lr()
            with self.memory_of("a training step", "TRAIN_X", **self.memory_settings()):
                progress.step_done(self.forward_backward(batch) or {})
            self._report(progress, lr)
        else:
            _refuse_to_stand_by()
            progress.step_done(None)
            if self.batch_idx + 1 == self.num_batches:
                self.update_lr()

    def end_epoch(self) -> None:
        """What `run_epoch` does after its last batch."""
        progress = self._progress
        progress.bad_images = distributed.total(progress.bad_images)
        if progress.bad_images:
            logger.warning(
                "Epoch %d: %d unreadable images were left out", self.epoch + 1, progress.bad_images
            )
        if progress.batch_time.count == 0:
            raise InputError("No training image could be read; see the paths above.")
        self._write_metrics(progress.epoch_record())
        self._advise(progress)

    def _report(self, progress: EpochProgress, lr: float) -> None:
        freq = self.cfg.TRAIN.PRINT_FREQ
        if self.num_batches < freq or (freq > 0 and (self.batch_idx + 1) % freq == 0):
            logger.info("%s", progress.line(self.batch_idx, lr))
            self._write_metrics(progress.batch_record(self.batch_idx, lr))
        step = self.epoch * self.num_batches + self.batch_idx
        for name, meter in progress.losses.meters.items():
            self.write_scalar(f"train/{name}", meter.avg, step)
        self.write_scalar("train/lr", lr, step)

    def _advise(self, progress: EpochProgress) -> None:
        """Say once that the run waits for its data; not of epoch 1, which starts the workers."""
        first, last = self.epoch == self.start_epoch, self.epoch + 1 == self.max_epoch
        if self._data_advised or (first and not last):
            return
        advice = progress.data_advice(self.cfg.DATALOADER)
        if advice is not None and distributed.is_main():
            logger.warning("%s", advice)
        self._data_advised = advice is not None

    def _write_metrics(self, record: dict[str, Any]) -> None:
        if self._metrics is not None:
            self._metrics.write(record)

    def parse_batch_train(
        self, batch: dict[str, Any]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Images [B, 3, H, W], labels [B] and domains [B] of a batch, on the trainer's device."""
        return tuple(batch[key].to(self.device) for key in ("img", "label", "domain"))


def has_images(batch: Any) -> bool:
    """False for a batch of which every image was unreadable."""
    return not (isinstance(batch, dict) and "bad" in batch and not {"img", "label"} & batch.keys())


def _refuse_to_stand_by() -> None:
    """A rank without images would leave the others waiting for its features for ever."""
    if distributed.world_size() > 1:
        raise InputError(
            f"No image of a batch's share of {distributed.name_of_rank()} can be read; see the "
            "paths above. Replace or remove these files, or start fewer processes."
        )
