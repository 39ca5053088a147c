"""A trainer configured by a yacs tree: data, evaluation and checkpoints."""

import datetime
import logging
import os
import time
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from yacs.config import CfgNode

from dassl import distributed
from dassl.config import check_ranges
from dassl.data import DataManager
from dassl.data.data_manager import TrainLoader
from dassl.evaluation import build_evaluator
from dassl.utils import (
    InputError,
    check_availability,
    explain_out_of_memory,
    load_checkpoint,
    progress_bar,
)

from .base import TrainerBase
from .models import Names

logger = logging.getLogger(__name__)


class SimpleTrainer(TrainerBase):
    """Data, evaluation and checkpoints as `cfg` says; a subclass builds the model.

    The loaders are read from the DataManager when they are first used, so that evaluation never
    builds training data. A subclass may assign them.
    """

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__()
        node = f"TRAINER.{self.CONFIG_KEY}"
        check_ranges(cfg, {f"{node}.{key}": bounds for key, bounds in self.RANGES.items()})
        self.check_cfg(cfg)
        self.device = distributed.local_device(cfg.USE_CUDA)
        self.max_epoch = cfg.OPTIM.MAX_EPOCH
        self.output_dir = cfg.OUTPUT_DIR
        self.cfg = cfg
        self._bad_images: set[str] = set()
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

    def before_train(self) -> None:
        """Resume from RESUME, or from a checkpoint in OUTPUT_DIR, and open the writer.

        Differs from upstream: InputError if RESUME names a folder without a checkpoint or a run
        with nothing left to train, or if TEST.FINAL_MODEL is best_val without a validation set
        (upstream then chose the model on the test set).
        """
        self._check_best_val()
        # Before the generators are restored: listing the training set may draw few-shot images.
        logger.info("Training images: %s", f"{len(self.train_loader_x.dataset):,}")
        resume = self.cfg.RESUME or self.output_dir
        self.start_epoch = self.resume_model_if_exist(resume)
        if os.path.realpath(resume) == os.path.realpath(self.output_dir):
            self._intermediate = self._checkpoints_of(self.start_epoch)
        elif self.start_epoch >= self.max_epoch:
            raise InputError(
                f"Nothing is left to train: {resume} has trained {self.start_epoch} epochs, "
                f"OPTIM.MAX_EPOCH is {self.max_epoch}. Evaluate that run (--model-dir {resume}), "
                "or ask for more epochs."
            )
        if self.cfg.RESUME and self.start_epoch == 0:
            raise InputError(f"RESUME names {resume}, which holds no checkpoint of this trainer.")
        self._restore_best_result(resume)
        for name in self.get_model_names():
            distributed.broadcast_state(self._models[name])
        if distributed.is_main():
            self.init_writer(self.output_dir)
        self.time_start = time.time()

    def close(self) -> None:
        super().close()
        for name in ("train_loader_x", "train_loader_u"):
            loader = vars(self).get(name)  # absent if training ended before it was built
            if isinstance(loader, TrainLoader):
                loader.end_workers()

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

    def after_epoch(self) -> None:
        """Save a new best model (TEST.FINAL_MODEL best_val), and every CHECKPOINT_FREQ epochs.

        Differs from upstream: only the newest intermediate checkpoint stays. Once it is safely
        written, the one before is deleted, even if the run was resumed from it; a checkpoint in
        another folder, which RESUME named, stays.
        """
        if not self.cfg.TEST.NO_TEST and self.cfg.TEST.FINAL_MODEL == "best_val":
            # Rank 0 decides, as all ranks must agree on whether to save.
            local_result = self.test(split="val")
            result = distributed.from_main(lambda: local_result)
            if result > self.best_result:
                self.best_result, best = result, "model-best.pth.tar"
                self.save_model(self.epoch, self.output_dir, val_result=result, model_name=best)
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
        result = load_checkpoint(best)["val_result"] if best.is_file() else self.best_result
        self.best_result = distributed.from_main(lambda: result)

    @torch.no_grad()
    def test(self, split: str | None = None) -> float:
        """Evaluate on `split` (default TEST.SPLIT); return the first result: the accuracy, in
        percent.

        "val" without a validation set means "test", as upstream. Several ranks divide the batches
        among them if the evaluator can gather their results. Differs from upstream: other splits
        are refused, where upstream evaluates on the test set.
        """
        split = self.cfg.TEST.SPLIT if split is None else split
        check_availability(split, ("val", "test"), what="split")
        self.set_model_mode("eval")
        self.evaluator.reset()
        use_val = split == "val" and self.val_loader is not None
        split, loader = ("val", self.val_loader) if use_val else ("test", self.test_loader)
        logger.info("Evaluate on the *%s* set", split)
        shared = (
            hasattr(self.evaluator, "gather") and getattr(loader, "batch_sampler", None) is not None
        )
        bad = 0
        batches = share_batches(loader) if shared else loader
        quiet = not distributed.is_main()
        for batch in progress_bar(batches, f"testing on {split}", "batch", disable=quiet):
            bad += self.count_bad_images(batch)
            if has_images(batch):
                with self.explain_out_of_memory("a test batch", "TEST"):
                    input, label = self.parse_batch_test(batch)
                    self.evaluator.process(self.model_inference(input), label)
        if shared:
            self.evaluator.gather()
            bad = sum(distributed.from_all(bad))
        if bad:
            logger.warning("%d unreadable images of the %s set were left out", bad, split)
        results = self.evaluator.evaluate()
        named = {f"{split}/{name}": value for name, value in results.items()}
        self.write_metrics({"epoch": self.epoch + 1, **named})
        return next(iter(results.values()))

    def count_bad_images(self, batch: Any) -> int:
        """Return the number of images dropped from `batch`, logging each path once."""
        bad = batch.get("bad", ()) if isinstance(batch, dict) else ()
        for path in set(bad) - self._bad_images:
            logger.warning("Left out an image that cannot be read: %s", path)
        self._bad_images.update(bad)
        return len(bad)

    def memory_settings(self) -> dict[str, object]:
        """Return settings, with values, that lower a step's memory without changing its result."""
        return {}

    def explain_out_of_memory(self, task: str, loader: str, **settings: object) -> Any:
        """Return a context that explains running out of memory; `loader`: a DATALOADER node."""
        key, size = f"DATALOADER.{loader}.BATCH_SIZE", self.cfg.DATALOADER[loader].BATCH_SIZE
        task = f"{task} of {size} images and {self.num_classes} classes on {self.device}"
        return explain_out_of_memory(task, {**settings, key: size})

    def model_inference(self, input: torch.Tensor) -> torch.Tensor:
        return self.model(input)

    def parse_batch_test(self, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return images `[B, 3, H, W]` and labels `[B]` of a batch, on the trainer's device."""
        return batch["img"].to(self.device), batch["label"].to(self.device)

    def get_current_lr(self, names: Names = None) -> float:
        """Return the learning rate of the first named model with an optimiser; 0 if none has."""
        optims = self._optims_of(names)
        return optims[0].param_groups[0]["lr"] if optims else 0.0


def share_batches(loader: DataLoader) -> DataLoader:
    """Return a loader of this rank's share of the batches of `loader`, each of them unchanged.

    Rank r of W has the batches r, r + W, ...: each batch gives the same results as in a single
    process.
    """
    if distributed.world_size() == 1:
        return loader
    batches = distributed.from_main(lambda: list(loader.batch_sampler))
    return DataLoader(
        loader.dataset,
        batch_sampler=batches[distributed.rank() :: distributed.world_size()],
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        worker_init_fn=loader.worker_init_fn,
    )


def has_images(batch: Any) -> bool:
    """Return False for a batch of which every image was unreadable."""
    return not (isinstance(batch, dict) and "bad" in batch and not {"img", "label"} & batch.keys())
