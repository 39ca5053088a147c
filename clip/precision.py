"""Numerical precision of a run: what the weights are stored in, what is autocast."""

import functools
import logging
from dataclasses import dataclass
from pathlib import Path

import torch

from dassl.utils import check_availability

logger = logging.getLogger(__name__)

CPU_FACTS = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Precision:
    """Say how to compute: the dtypes of the frozen towers (`weights`) and of autocast."""

    name: str
    weights: torch.dtype = torch.float32
    autocast: torch.dtype | None = None

    @property
    def needs_scaler(self) -> bool:
        """Return whether the loss must be scaled: gradients in float16 underflow otherwise."""
        return torch.float16 in (self.weights, self.autocast)

    def context(self, device: torch.device) -> torch.autocast:
        """Return the autocast context of a forward pass on `device`."""
        return torch.autocast(device.type, dtype=self.autocast, enabled=self.autocast is not None)


PRECISIONS = {
    "fp32": Precision("fp32"),
    # Products and convolutions with 10 bits of mantissa, on GPUs since Ampere.
    "tf32": Precision("tf32"),
    # float16 rather than bfloat16: features feed a softmax at scale 100, and
    # bfloat16's 8 bits leave a tenth of a logit of noise.
    "amp": Precision("amp", autocast=torch.float16),
    "amp_bf16": Precision("amp_bf16", autocast=torch.bfloat16),
    "fp16": Precision("fp16", weights=torch.float16),
}


def resolve_precision(name: str, device: torch.device | str) -> Precision:
    """Return the precision `name` as `device` can do it, and set PyTorch's switches for TF32.

    On a GPU only "tf32" computes in TF32: PyTorch's default would do so in all convolutions of
    float32. A CPU does fp32 and, faster where it has instructions for it, amp_bf16; in place of
    the others it computes in float32 and says so.

    Raises:
        InputError: unknown name.
    """
    check_availability(name, PRECISIONS, what="precision (TRAINER.*.PREC)")
    precision = PRECISIONS[name]
    if torch.device(device).type == "cpu":
        if name == "tf32" or precision.needs_scaler:
            logger.info("precision %s needs a GPU: on the CPU fp32 is used", name)
            return PRECISIONS["fp32"]
        if precision.autocast:
            _warn_if_emulated()
        return precision
    torch.backends.cudnn.allow_tf32 = name == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = name == "tf32"
    return precision


@functools.cache
def _warn_if_emulated() -> None:
    """Warn, once, of bfloat16 on a CPU without units for it (as far as Linux says)."""
    if CPU_FACTS.exists() and "bf16" not in CPU_FACTS.read_text():
        logger.warning("this CPU emulates bfloat16, many times slower than float32: fp32 is faster")
