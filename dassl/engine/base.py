"""The registry of models, their checkpoints, and the training loop's skeleton."""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dassl import distributed
from dassl.utils import (
    InputError,
    NonFiniteLossError,
    check_availability,
    get_rng_state,
    load_checkpoint,
    load_weights_into,
    named_checkpoint,
    restore,
    save_checkpoint,
    set_rng_state,
    tolist_if_not,
)

from .events import EventFile

logger = logging.getLogger(__name__)

SAFER = {"fp32": (), "amp": ("fp32",)}  # precisions with more room than one; than others: both


class TrainerBase:
    """Models with their optimisers and schedulers, and an epoch loop with hooks."""

    def __init__(self) -> None:
        self._models: OrderedDict[str, nn.Module] = OrderedDict()
        self._optims: OrderedDict[str, torch.optim.Optimizer | None] = OrderedDict()
        self._scheds: OrderedDict[str, Any] = OrderedDict()
        self._writer: EventFile | None = None

    def register_model(
        self,
        name: str = "model",
        model: nn.Module | None = None,
        optim: torch.optim.Optimizer | None = None,
        sched: Any = None,
    ) -> None:
        """Put `model` under `name`: its checkpoints go to the folder <output>/<name>."""
        if "_models" not in self.__dict__:
            raise AttributeError("Call super().__init__() before register_model()")
        if name in self._models:
            raise ValueError(f"A model named {name!r} is registered already")
        self._models[name] = model
        self._optims[name] = optim
        self._scheds[name] = sched

    def get_model_names(self, names: str | list[str] | None = None) -> list[str]:
        """`names` as a list, each checked; all registered names if None."""
        if names is None:
            return list(self._models)
        names = tolist_if_not(names)
        for name in names:
            check_availability(name, self._models, what="model")
        return names

    def checkpoint_meta(self) -> dict[str, str | float]:
        """What a checkpoint's weights depend on; stored in it under "meta". Empty by default."""
        return {}

    def check_checkpoint(self, checkpoint: dict[str, Any], path: Path) -> None:
        """Called before a checkpoint's weights are loaded: raise InputError if it does not fit."""

    def save_model(
        self,
        epoch: int,
        directory: str | os.PathLike,
        is_best: bool = False,
        val_result: float | None = None,
        model_name: str = "",
    ) -> None:
        """Save every model to <directory>/<name>/; `epoch` (from 0) is the one just finished.

        Besides upstream's keys a checkpoint holds "rng", "meta" and, if the trainer has a gradient
        scaler as `self.scaler`, "scaler": what a resumed run needs to equal an uninterrupted one.
        Parameters that are not finite are refused (NonFiniteLossError): the checkpoint before
        stays.
        Of several ranks, all must call this; rank 0 writes, and the others wait until it has.
        """
        if distributed.is_main():
            self._write_checkpoints(epoch, directory, is_best, val_result, model_name)
        distributed.barrier()

    def _write_checkpoints(
        self,
        epoch: int,
        directory: str | os.PathLike,
        is_best: bool,
        val_result: float | None,
        model_name: str,
    ) -> None:
        self._refuse_non_finite(epoch)
        extra = {"rng": get_rng_state(), "meta": dict(self.checkpoint_meta())}
        if getattr(self, "scaler", None) is not None:
            extra["scaler"] = self.scaler.state_dict()
        for name in self.get_model_names():
            state = {
                "state_dict": self._models[name].state_dict(),
                "epoch": epoch + 1,
                "optimizer": _state_of(self._optims[name]),
                "scheduler": _state_of(self._scheds[name]),
                "val_result": val_result,
                **extra,
            }
            folder = Path(directory, name)
            save_checkpoint(state, folder, is_best=is_best, model_name=model_name)

    def resume_model_if_exist(self, directory: str | os.PathLike) -> int:
        """Restore what the notes <directory>/<name>/checkpoint name; returns the start epoch.

        Models, optimisers, schedulers, the scaler and all random generators are restored. Returns
        0 if there is nothing to resume from. Of several ranks each reads the same files.
        """
        start_epoch = self._resume(directory)
        epochs = distributed.from_all(start_epoch)
        if len(set(epochs)) > 1:
            raise InputError(
                f"The ranks found checkpoints of different epochs in {directory}: {epochs}. The "
                "output folder must be on a file system that all machines share."
            )
        return start_epoch

    def _resume(self, directory: str | os.PathLike) -> int:
        paths = {name: named_checkpoint(Path(directory, name)) for name in self.get_model_names()}
        if not paths or None in paths.values():
            logger.info("No checkpoint found, train from scratch")
            return 0
        logger.info("Found checkpoint at %s (will resume training)", directory)
        checkpoints = {name: load_checkpoint(path) for name, path in paths.items()}
        epochs = {str(paths[name]): checkpoints[name]["epoch"] for name in paths}
        if len(set(epochs.values())) > 1:
            raise InputError(
                f"The checkpoints are of different epochs: {epochs}. Let each file `checkpoint` "
                "name one of the same epoch, or begin in an empty folder."
            )
        for name, checkpoint in checkpoints.items():
            self.check_checkpoint(checkpoint, paths[name])
            model, optim, sched = self._models[name], self._optims[name], self._scheds[name]
            start_epoch = restore(checkpoint, paths[name], model, optim, sched)
        self._restore_run(checkpoint)
        return start_epoch

    def _restore_run(self, checkpoint: dict[str, Any]) -> None:
        if getattr(self, "scaler", None) is not None and checkpoint.get("scaler"):
            self.scaler.load_state_dict(checkpoint["scaler"])
        if checkpoint.get("rng") is None:
            logger.warning("The checkpoint holds no random state: a resumed run will differ.")
        else:
            set_rng_state(checkpoint["rng"])

    def load_model(self, directory: str | os.PathLike, epoch: int | None = None) -> None:
        """Load the weights of every model from <directory>/<name>/.

        With `epoch`, model.pth.tar-<epoch>; else model-best.pth.tar if there is one, else the
        file that the note `checkpoint` names, else model.pth.tar-<N> of the highest N. InputError
        if it is not there.
        """
        if not directory:
            logger.info("load_model() is skipped as no pretrained model is given")
            return
        for name in self.get_model_names():
            path = model_file(Path(directory, name), epoch)
            checkpoint = load_checkpoint(path)
            self.check_checkpoint(checkpoint, path)
            load_weights_into(self._models[name], checkpoint["state_dict"], path)
            result = checkpoint.get("val_result")
            shown = "" if result is None else f", val_result = {result:.1f}"
            logger.info("Load %s to %s (epoch = %s%s)", path, name, checkpoint.get("epoch"), shown)

    def set_model_mode(self, mode: str = "train", names: str | list[str] | None = None) -> None:
        """`mode` "train", or "eval" or "test", for the named models or all."""
        check_availability(mode, ("train", "eval", "test"), what="mode")
        for name in self.get_model_names(names):
            self._models[name].train(mode == "train")

    def update_lr(self, names: str | list[str] | None = None) -> None:
        """Step the learning-rate schedulers: once an epoch."""
        for name in self.get_model_names(names):
            if self._scheds[name] is not None:
                self._scheds[name].step()

    def detect_anomaly(self, loss: torch.Tensor) -> None:
        """NonFiniteLossError (a FloatingPointError) if `loss` holds an infinite value or NaN."""
        if torch.isfinite(loss).all():
            return
        where = f"epoch {getattr(self, 'epoch', 0) + 1}, batch {getattr(self, 'batch_idx', 0) + 1}"
        precision = self.precision_in_use()
        raise NonFiniteLossError(
            f"The loss is {loss.detach().float().mean().item()} in {where}"
            f"{f' at precision {precision}' if precision else ''}. {_ways_out(precision)}"
        )

    def precision_in_use(self) -> str | None:
        """What the trainer computes in, for messages: as its config says, None if it does not.

        A trainer that may compute in another than was asked for overrides this.
        """
        cfg = getattr(self, "cfg", None)
        if cfg is None or "TRAINER" not in cfg:
            return None
        node = cfg.TRAINER.get(str(cfg.TRAINER.get("NAME", "")).upper())
        return node.get("PREC") if isinstance(node, dict) else None

    def _refuse_non_finite(self, epoch: int) -> None:
        """The last step of an epoch may have ended in NaN, which no loss has shown yet."""
        for name in self.get_model_names():
            for key, value in self._models[name].named_parameters():
                if value.requires_grad and not torch.isfinite(value).all():
                    raise NonFiniteLossError(
                        f"{key} of {name} is not finite after epoch {epoch + 1}. "
                        f"{_ways_out(self.precision_in_use())}"
                    )

    def init_writer(self, log_dir: str | os.PathLike) -> None:
        """Open a TensorBoard writer unless one is open.

        Differs from upstream: it writes scalars alone, see `EventFile`.
        """
        if self._writer is None:
            logger.info("Initialize tensorboard (log_dir=%s)", log_dir)
            self._writer = EventFile(log_dir)

    def close_writer(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    def write_scalar(self, tag: str, scalar_value: float, global_step: int | None = None) -> None:
        """Write to TensorBoard; nothing happens if no writer is open."""
        if self._writer is not None:
            self._writer.add_scalar(tag, scalar_value, global_step)

    def train(self, start_epoch: int, max_epoch: int) -> None:
        """Run the epochs `start_epoch` .. `max_epoch` - 1, with the hooks around them."""
        self.start_epoch = start_epoch
        self.max_epoch = max_epoch
        try:
            self.before_train()
            for self.epoch in range(self.start_epoch, self.max_epoch):  # noqa: B020 (Dassl's API)
                self.before_epoch()
                self.run_epoch()
                self.after_epoch()
            self.after_train()
        except BaseException:
            with suppress(InputError):  # what ended the run is what its user must know
                self.close_writer()
            raise
        self.close_writer()

    def before_train(self) -> None:
        pass

    def after_train(self) -> None:
        pass

    def before_epoch(self) -> None:
        pass

    def after_epoch(self) -> None:
        pass

    def run_epoch(self) -> None:
        raise NotImplementedError

    def test(self) -> float:
        raise NotImplementedError

    def parse_batch_train(self, batch: Any) -> Any:
        raise NotImplementedError

    def parse_batch_test(self, batch: Any) -> Any:
        raise NotImplementedError

    def forward_backward(self, batch: Any) -> dict[str, float]:
        raise NotImplementedError

    def model_inference(self, input: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def model_zero_grad(self, names: str | list[str] | None = None) -> None:
        for optim in self._optims_of(names):
            optim.zero_grad()

    def model_backward(self, loss: torch.Tensor) -> None:
        self.detect_anomaly(loss)
        loss.backward()
        self.mean_gradients()

    def mean_gradients(self) -> None:
        """After backward, under torchrun: the mean over the ranks, for all that is learned."""
        optims = self._optims_of(None)
        groups = [group for optim in optims for group in optim.param_groups]
        distributed.mean_gradients(p for group in groups for p in group["params"])

    def model_update(self, names: str | list[str] | None = None) -> None:
        for optim in self._optims_of(names):
            optim.step()

    def model_backward_and_update(
        self, loss: torch.Tensor, names: str | list[str] | None = None
    ) -> None:
        """Zero the gradients, go backward, step: for the named models or all."""
        self.model_zero_grad(names)
        self.model_backward(loss)
        self.model_update(names)

    def _optims_of(self, names: str | list[str] | None) -> list[torch.optim.Optimizer]:
        optims = [self._optims[name] for name in self.get_model_names(names)]
        return [optim for optim in optims if optim is not None]


def model_file(folder: Path, epoch: int | None = None) -> Path:
    """The checkpoint of `epoch` in `folder`; without one the best, else the newest."""
    if epoch is not None:
        return folder / f"model.pth.tar-{epoch}"
    best = folder / "model-best.pth.tar"
    return best if best.is_file() else named_checkpoint(folder) or _last_epoch(folder) or best


def _last_epoch(folder: Path) -> Path | None:
    """The model.pth.tar-<N> of the highest N: files are published without the note."""
    epochs = {path: path.name.rpartition("-")[2] for path in folder.glob("model.pth.tar-*")}
    numbered = {path: int(epoch) for path, epoch in epochs.items() if epoch.isdecimal()}
    return max(numbered, key=numbered.get, default=None)


def _state_of(obj: Any) -> dict[str, Any] | None:
    return None if obj is None else obj.state_dict()


def _ways_out(precision: str | None) -> str:
    """What to try against infinity and NaN; never the precision that is in use."""
    safer = " or ".join(SAFER.get(precision, ("fp32", "amp")))
    ways = [f"precision {safer}"] * bool(safer) + ["a smaller OPTIM.LR"]
    return f"Try {', '.join(ways)}, or look for damaged images and labels."
