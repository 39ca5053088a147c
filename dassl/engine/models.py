"""Named models with their optimisers, schedulers and checkpoints."""

import logging
import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from dassl import distributed
from dassl.utils import (
    InputError,
    NonFiniteLossError,
    check_availability,
    flatten,
    get_rng_state,
    load_checkpoint,
    load_weights_into,
    named_checkpoint,
    plain,
    restore,
    save_checkpoint,
    set_rng_state,
    tolist_if_not,
)

logger = logging.getLogger(__name__)

Names = str | list[str] | None


class Models:
    """A registry of models, each with an optimiser and a scheduler, saved and loaded together."""

    scaler: torch.amp.GradScaler | None = None
    loaded_epoch: int | None = None  # that of the weights from `load_model`, if the file names it

    def __init__(self) -> None:
        self._models: OrderedDict[str, nn.Module] = OrderedDict()
        self._optims: OrderedDict[str, Optimizer | None] = OrderedDict()
        self._scheds: OrderedDict[str, Any] = OrderedDict()

    def register_model(
        self,
        name: str = "model",
        model: nn.Module | None = None,
        optim: Optimizer | None = None,
        sched: Any = None,
    ) -> None:
        """Register `model` under `name`; its checkpoints go to the folder <output>/<name>."""
        if "_models" not in self.__dict__:
            raise AttributeError("Call super().__init__() before register_model()")
        if name in self._models:
            raise ValueError(f"A model named {name!r} is registered already")
        self._models[name] = model
        self._optims[name] = optim
        self._scheds[name] = sched

    def get_model_names(self, names: Names = None) -> list[str]:
        """Return `names` as a list, each checked; all registered names if None."""
        if names is None:
            return list(self._models)
        names = tolist_if_not(names)
        for name in names:
            check_availability(name, self._models, what="model")
        return names

    def checkpoint_meta(self) -> dict[str, str | float]:
        """Return the facts that weights depend on, for "meta" in a checkpoint; {} by default."""
        return {}

    def check_checkpoint(self, checkpoint: dict[str, Any], path: Path) -> None:
        """Raise InputError if a checkpoint that is about to be loaded does not fit (optional)."""

    def optim_settings(self) -> dict[str, Any]:
        """Return the settings of optimiser and schedule, which may differ in a resumed run."""
        cfg = getattr(self, "cfg", None)
        return {} if cfg is None else plain(flatten(cfg.OPTIM))

    def schedule_steps(self, epochs: int) -> int:
        """Return the number of scheduler steps in `epochs` epochs: one an epoch."""
        return epochs

    def save_model(
        self,
        epoch: int,
        directory: str | os.PathLike,
        is_best: bool = False,
        val_result: float | None = None,
        model_name: str = "",
    ) -> None:
        """Save every model to <directory>/<name>/; `epoch` (from 0) is the one just finished.

        Besides upstream's keys a checkpoint holds "rng", "meta", "optim_settings" and, if the
        trainer has a gradient scaler as `self.scaler`, "scaler": with these, a resumed run equals
        an uninterrupted one. Parameters that are not finite raise NonFiniteLossError, and the
        earlier checkpoint stays. All ranks must call this: rank 0 writes, and the others wait.
        """
        if distributed.is_main():
            self._refuse_non_finite_weights(epoch)
            for name in self.get_model_names():
                state = self._state(name) | {"epoch": epoch + 1, "val_result": val_result}
                folder = Path(directory, name)
                save_checkpoint(state, folder, is_best=is_best, model_name=model_name)
        distributed.barrier()

    def _state(self, name: str) -> dict[str, Any]:
        optim, sched = self._optims[name], self._scheds[name]
        scaler = self.scaler.state_dict() if self.scaler else {}  # {} if the scaler is disabled
        return {
            "state_dict": self._models[name].state_dict(),
            "optimizer": None if optim is None else optim.state_dict(),
            "scheduler": None if sched is None else sched.state_dict(),
            "rng": get_rng_state(),
            "meta": dict(self.checkpoint_meta()),
            "optim_settings": self.optim_settings(),
        } | ({"scaler": scaler} if scaler else {})

    def resume_model_if_exist(self, directory: str | os.PathLike) -> int:
        """Restore what the files <directory>/<name>/checkpoint name; return the start epoch.

        Models, optimisers, schedulers, the scaler and all random generators are restored. If OPTIM
        differs from the checkpoint's, or is not recorded there, the new schedule is used, advanced
        to the epoch. Returns 0 if there is nothing to resume from.
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
                "name one of the same epoch, or start in an empty folder."
            )
        for name, checkpoint in checkpoints.items():
            self._check_same_trainer(checkpoint, paths[name])
            self.check_checkpoint(checkpoint, paths[name])
            steps = self._steps_of_new_schedule(checkpoint, paths[name])
            targets = self._models[name], self._optims[name], self._scheds[name]
            start_epoch = restore(checkpoint, paths[name], *targets, steps)
        self._restore_run(checkpoint)
        return start_epoch

    def _check_same_trainer(self, checkpoint: dict[str, Any], path: Path) -> None:
        """Raise InputError if another trainer wrote the checkpoint."""
        trainer = self.checkpoint_meta().get("trainer")
        writer = (checkpoint.get("meta") or {}).get("trainer", trainer)
        if writer != trainer:
            raise InputError(
                f"{path} is of {writer}, not {trainer}: resume a run with the trainer that began "
                "it. To start from its weights, begin anew with MODEL.INIT_WEIGHTS and that file."
            )

    def _steps_of_new_schedule(self, checkpoint: dict[str, Any], path: Path) -> int | None:
        """Return by how many steps to advance a schedule of new settings; None if unchanged."""
        old, new = checkpoint.get("optim_settings"), self.optim_settings()
        steps = self.schedule_steps(int(checkpoint["epoch"]))
        if old is None:  # a file of upstream, or of an earlier version
            logger.info("%s does not record OPTIM: the config's schedule is followed", path)
            return steps
        changed = [key for key in old if key in new and old[key] != new[key]]
        changes = {key: f"{key} was {old[key]}, is {new[key]}" for key in changed}
        if "NAME" in changes:
            raise InputError(
                f"{path} cannot be resumed with another optimiser: OPTIM.{changes['NAME']}. Set it "
                "as it was, or begin anew without --resume."
            )
        if not changes:
            return None
        logger.info("New settings of the optimiser: %s", "; ".join(changes.values()))
        return steps

    def _restore_run(self, checkpoint: dict[str, Any]) -> None:
        if self.scaler is not None and checkpoint.get("scaler"):
            self.scaler.load_state_dict(checkpoint["scaler"])
        if checkpoint.get("rng") is None:
            logger.warning("The checkpoint holds no random state, so resuming is not exact.")
        else:
            set_rng_state(checkpoint["rng"])

    def load_model(self, directory: str | os.PathLike, epoch: int | None = None) -> None:
        """Load the weights of every model from <directory>/<name>/.

        With `epoch`, from model.pth.tar-<epoch>; else from model-best.pth.tar if there is one, the
        one that the file `checkpoint` names, or model.pth.tar-<N> of the highest N. InputError if
        there is none.
        """
        if not directory:
            logger.info("load_model() is skipped as no pretrained model is given")
            return
        for name in self.get_model_names():
            path = self.checkpoint_file(directory, name, epoch)
            checkpoint = load_checkpoint(path)
            self.check_checkpoint(checkpoint, path)
            load_weights_into(self._models[name], checkpoint["state_dict"], path)
            result, self.loaded_epoch = checkpoint.get("val_result"), checkpoint.get("epoch")
            shown = "" if result is None else f", val_result = {result:.1f}"
            logger.info("Load %s to %s (epoch = %s%s)", path, name, self.loaded_epoch, shown)

    def checkpoint_file(
        self, directory: str | os.PathLike, name: str, epoch: int | None = None
    ) -> Path:
        """Return the file that `load_model` reads the model `name` from."""
        folder = Path(directory, name)
        if epoch is not None:
            return folder / f"model.pth.tar-{epoch}"
        best = folder / "model-best.pth.tar"
        return best if best.is_file() else named_checkpoint(folder) or _last_epoch(folder) or best

    def _optims_of(self, names: Names) -> list[Optimizer]:
        optims = [self._optims[name] for name in self.get_model_names(names)]
        return [optim for optim in optims if optim is not None]

    def _refuse_non_finite_weights(self, epoch: int) -> None:
        """Raise NonFiniteLossError if the last step spoilt weights: no loss shows it yet."""
        for name in self.get_model_names():
            for key, value in self._models[name].named_parameters():
                if value.requires_grad and not torch.isfinite(value).all():
                    raise NonFiniteLossError(
                        f"{key} of {name} is not finite after epoch {epoch + 1}. {self.advice()}"
                    )


def _last_epoch(folder: Path) -> Path | None:
    """Return the model.pth.tar-<N> of the highest N: published files come without `checkpoint`."""
    epochs = {path: path.name.rpartition("-")[2] for path in folder.glob("model.pth.tar-*")}
    numbered = {path: int(epoch) for path, epoch in epochs.items() if epoch.isdecimal()}
    return max(numbered, key=numbered.get, default=None)
