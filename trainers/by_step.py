"""A learning rate that follows a cosine over steps, not over epochs."""

import math
from weakref import WeakMethod

from torch.optim.lr_scheduler import LambdaLR

from trainers.base import ClipTrainer


class StepSchedule(ClipTrainer):
    """A trainer whose learning rate changes in every step: LR (1 + cos(pi step / all steps)) / 2.

    The schedule reads only LR and MAX_EPOCH of OPTIM. If the method's settings have WARMUP_STEPS,
    that many steps of linear warm-up come before the cosine.
    """

    BY_STEP = True

    def build_scheduler(self) -> LambdaLR:
        rate = WeakMethod(self.learning_rate)  # a cycle would keep the trainer's CLIP in memory
        return LambdaLR(self.optim, lambda step: rate()(step))

    def schedule_steps(self, epochs: int) -> int:
        return epochs * len(self.train_loader_x)

    def optim_settings(self) -> dict[str, object]:
        steps = {"steps of an epoch": len(self.train_loader_x), "WARMUP_STEPS": self.warmup_steps}
        return super().optim_settings() | steps

    @property
    def warmup_steps(self) -> int:
        settings = self.settings
        return settings.WARMUP_STEPS if "WARMUP_STEPS" in settings else 0

    def learning_rate(self, step: int) -> float:
        """Return the factor on LR in a step: linear warm-up, then a cosine to 0."""
        warmup = self.warmup_steps
        if step < warmup:
            return (step + 1) / warmup
        if step == warmup:
            return 1.0  # needs no training data, which an evaluation does not have
        total = self.cfg.OPTIM.MAX_EPOCH * len(self.train_loader_x)
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))
