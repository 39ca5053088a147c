"""Learning-rate schedules by name, with an optional warm-up before them.

A scheduler is stepped once an epoch. Warm-up and successor are composed as upstream composes
them: with constant warm-up of one epoch and WARMUP_RECOUNT, epoch 0 runs at WARMUP_CONS_LR and
epoch e >= 1 of a cosine at LR (1 + cos(pi (e - 1) / MAX_EPOCH)) / 2, so that the last epoch does
not reach 0.
"""

from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, MultiStepLR, StepLR
from yacs.config import CfgNode

from dassl.utils import InputError, check_availability

SCHEDULERS = ("single_step", "multi_step", "cosine")
WARMUPS = ("constant", "linear")


class ConstantWarmupScheduler(LRScheduler):
    """A warm-up of `warmup_epoch` epochs at `cons_lr`, after which `successor` takes over.

    The state is plain (numbers, lists, dicts; the successor's state nested), so that
    `torch.load(weights_only=True)` reads it. `verbose`, which torch has dropped, does nothing.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        successor: LRScheduler,
        warmup_epoch: int,
        cons_lr: float,
        last_epoch: int = -1,
        verbose: bool = False,
    ) -> None:
        self.successor, self.warmup_epoch, self.first_lr = successor, warmup_epoch, cons_lr
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        if self.last_epoch >= self.warmup_epoch:
            return self.successor.get_last_lr()
        return [self.first_lr] * len(self.base_lrs)

    def step(self, epoch: int | None = None) -> None:
        if self.last_epoch < self.warmup_epoch:
            super().step(epoch)
            return
        self.successor.step(epoch)
        self._last_lr = self.successor.get_last_lr()

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "successor": self.successor.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        state = dict(state_dict)
        self.successor.load_state_dict(state.pop("successor"))
        super().load_state_dict(state)


class LinearWarmupScheduler(ConstantWarmupScheduler):
    """The same, but at `min_lr` in epoch 0 alone, then at LR * epoch / warmup_epoch."""

    def __init__(
        self,
        optimizer: Optimizer,
        successor: LRScheduler,
        warmup_epoch: int,
        min_lr: float,
        last_epoch: int = -1,
        verbose: bool = False,
    ) -> None:
        super().__init__(optimizer, successor, warmup_epoch, min_lr, last_epoch)

    def get_lr(self) -> list[float]:
        if 0 < self.last_epoch < self.warmup_epoch:
            return [lr * self.last_epoch / self.warmup_epoch for lr in self.base_lrs]
        return super().get_lr()


def build_lr_scheduler(optimizer: Optimizer, optim_cfg: CfgNode) -> LRScheduler:
    """Build the schedule OPTIM.LR_SCHEDULER, after a warm-up if WARMUP_EPOCH > 0."""
    scheduler = _main_scheduler(optimizer, optim_cfg)
    epochs = optim_cfg.WARMUP_EPOCH
    if epochs <= 0:
        return scheduler
    check_availability(optim_cfg.WARMUP_TYPE, WARMUPS, what="OPTIM.WARMUP_TYPE")
    if not optim_cfg.WARMUP_RECOUNT:
        scheduler.last_epoch = epochs
    if optim_cfg.WARMUP_TYPE == "constant":
        return ConstantWarmupScheduler(optimizer, scheduler, epochs, optim_cfg.WARMUP_CONS_LR)
    return LinearWarmupScheduler(optimizer, scheduler, epochs, optim_cfg.WARMUP_MIN_LR)


def _main_scheduler(optimizer: Optimizer, cfg: CfgNode) -> LRScheduler:
    check_availability(cfg.LR_SCHEDULER, SCHEDULERS, what="OPTIM.LR_SCHEDULER")
    several = isinstance(cfg.STEPSIZE, (list, tuple))
    if cfg.LR_SCHEDULER == "cosine":
        return CosineAnnealingLR(optimizer, float(cfg.MAX_EPOCH))
    if cfg.LR_SCHEDULER == "multi_step":
        if not several:
            raise InputError(f"multi_step needs a list as OPTIM.STEPSIZE, not {cfg.STEPSIZE!r}.")
        return MultiStepLR(optimizer, milestones=list(cfg.STEPSIZE), gamma=cfg.GAMMA)
    step = cfg.STEPSIZE[-1] if several else cfg.STEPSIZE
    if not isinstance(step, int):
        raise InputError(f"single_step needs whole epochs as OPTIM.STEPSIZE, not {step!r}.")
    return StepLR(optimizer, step_size=step if step > 0 else cfg.MAX_EPOCH, gamma=cfg.GAMMA)
