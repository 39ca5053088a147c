"""Numerical precision of a run: what the weights are stored in, what is autocast."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch

from dassl.utils.errors import InputError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Precision:
    """`weights`: dtype of the frozen towers. `autocast`: dtype of autocast, None without."""

    name: str
    weights: torch.dtype = torch.float32
    autocast: torch.dtype | None = None

    @property
    def needs_scaler(self) -> bool:
        """Gradients in float16 underflow unless the loss is scaled; bfloat16's do not."""
        return torch.float16 in (self.weights, self.autocast)

    def context(self, device: torch.device) -> torch.autocast:
        """The autocast context of a forward pass on `device`."""
        return torch.autocast(device.type, dtype=self.autocast, enabled=self.autocast is not None)


PRECISIONS = {
    "fp32": Precision("fp32"),
    # float16 rather than bfloat16: features feed a softmax at scale 100, and
    # bfloat16's 8 bits leave a tenth of a logit of noise.
    "amp": Precision("amp", autocast=torch.float16),
    "amp_bf16": Precision("amp_bf16", autocast=torch.bfloat16),
    "fp16": Precision("fp16", weights=torch.float16),
}


def resolve_precision(name: str, device: torch.device | str) -> Precision:
    """The precision `name` as `device` can do it.

    A CPU does fp32 and, faster where it has instructions for it, amp_bf16; in place of the two
    float16 precisions it computes in float32 and says so.

    Raises:
        InputError: unknown name.
    """
    if name not in PRECISIONS:
        raise InputError(
            f"unknown precision {name!r}: use one of {', '.join(PRECISIONS)} (TRAINER.*.PREC)"
        )
    if torch.device(device).type == "cpu" and PRECISIONS[name].needs_scaler:
        logger.info("precision %s needs a GPU: on the CPU fp32 is used (amp_bf16 could be)", name)
        return PRECISIONS["fp32"]
    return PRECISIONS[name]
