"""Numerical precision of a run: the dtypes of weights and of autocast."""

import functools
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dassl.utils import check_availability

logger = logging.getLogger(__name__)

CPU_FACTS = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Precision:
    """A precision by name: the dtypes of the frozen towers (`weights`) and of autocast."""

    name: str
    weights: torch.dtype = torch.float32
    autocast: torch.dtype | None = None

    @property
    def needs_scaler(self) -> bool:
        """Return whether the loss must be scaled, because gradients in float16 underflow."""
        return torch.float16 in (self.weights, self.autocast)

    @contextmanager
    def context(self, device: torch.device) -> Iterator[None]:
        """Compute a forward pass on `device` in this precision, whatever else has been loaded."""
        before = [(switch, switch.allow_tf32) for switch in _tf32_switches(device)]
        self.set_tf32(device)
        try:
            enabled = self.autocast is not None
            with torch.autocast(device.type, dtype=self.autocast, enabled=enabled):
                yield
        finally:
            for switch, allowed in before:
                switch.allow_tf32 = allowed

    def set_tf32(self, device: torch.device) -> None:
        """Set PyTorch's TF32 switches as this precision needs them on `device`."""
        for switch in _tf32_switches(device):
            switch.allow_tf32 = self.name == "tf32"


def _tf32_switches(device: torch.device) -> tuple[Any, ...]:
    """Return the owners of PyTorch's global switches `allow_tf32`; none on the CPU."""
    return () if device.type == "cpu" else (torch.backends.cudnn, torch.backends.cuda.matmul)


PRECISIONS = {
    "fp32": Precision("fp32"),
    # Matrix products and convolutions with 10 bits of mantissa, on GPUs since Ampere.
    "tf32": Precision("tf32"),
    # float16 rather than bfloat16: features feed a softmax at scale 100, and
    # bfloat16's 8 bits leave a tenth of a logit of noise.
    "amp": Precision("amp", autocast=torch.float16),
    "amp_bf16": Precision("amp_bf16", autocast=torch.bfloat16),
    "fp16": Precision("fp16", weights=torch.float16),
}


def resolve_precision(name: str, device: torch.device | str) -> Precision:
    """Return the precision `name`, or fp32 where `device` lacks it; set PyTorch's TF32 switches.

    The switches stay for a training's backward passes, which run outside of `Precision.context`. On
    a GPU only "tf32" computes in TF32, though PyTorch's default does so in all convolutions of
    float32. A CPU supports fp32 and amp_bf16, which is faster only with instructions for it; for
    the others fp32 is used, and a message says so.

    Raises:
        InputError: unknown name.
    """
    check_availability(name, PRECISIONS, what="precision (TRAINER.*.PREC)")
    precision = PRECISIONS[name]
    if torch.device(device).type == "cpu":
        if name == "tf32" or precision.needs_scaler:
            logger.info("Precision %s needs a GPU: fp32 is used on the CPU", name)
            return PRECISIONS["fp32"]
        if precision.autocast:
            _warn_if_emulated()
        return precision
    precision.set_tf32(torch.device(device))
    return precision


@functools.cache
def _warn_if_emulated() -> None:
    """Warn once if Linux lists no bfloat16 instructions for this CPU."""
    if CPU_FACTS.exists() and "bf16" not in CPU_FACTS.read_text():
        logger.warning("This CPU emulates bfloat16, many times slower than float32: use fp32")
