"""A learning rate that follows a cosine by step, not by epoch."""

import math
from weakref import WeakMethod

from torch.optim.lr_scheduler import LambdaLR

from trainers.base import ClipTrainer


class StepSchedule(ClipTrainer):
    """A trainer whose rate changes in every step: LR (1 + cos(pi step / all steps)) / 2.

    Of OPTIM's settings of a schedule it reads LR and MAX_EPOCH alone; WARMUP_STEPS, if its own
    settings have it, come before the cosine.
    """

    BY_STEP = True

    def build_scheduler(self) -> LambdaLR:
        rate = WeakMethod(self.learning_rate)  # not a cycle: a trainer holds a CLIP
        return LambdaLR(self.optim, lambda step: rate()(step))

    def schedule_steps(self, epochs: int) -> int:
        return epochs * len(self.train_loader_x)

    def optim_settings(self) -> dict[str, object]:
        own = {"steps of an epoch": len(self.train_loader_x), "WARMUP_STEPS": self.warmup_steps}
        return super().optim_settings() | own

    @property
    def warmup_steps(self) -> int:
        own = self.settings
        return own.WARMUP_STEPS if "WARMUP_STEPS" in own else 0

    def learning_rate(self, step: int) -> float:
        """Return the share of LR of a step: linear warm-up, then a cosine to 0."""
        warmup = self.warmup_steps
        if step < warmup:
            return (step + 1) / warmup
        if step == warmup:
            return 1.0  # without asking for the training data, which an evaluation has none of
        total = self.cfg.OPTIM.MAX_EPOCH * len(self.train_loader_x)
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))
