"""The training loop and its step, with hooks for trainers to override."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from yacs.config import CfgNode

from dassl import distributed
from dassl.utils import NonFiniteLossError, check_availability

from .models import Models, Names
from .progress import MetricsFile

SAFER = {"fp32": (), "amp": ("fp32",)}  # precision -> wider ones; others: both


class TrainerBase(Models):
    """An epoch loop with hooks, and the training step of the registered models.

    A trainer declares the properties of its method in these class attributes, all optional.
    """

    CONFIG_KEY: ClassVar[str] = ""  # its node of the config is TRAINER.<CONFIG_KEY>
    CONFIG: ClassVar[CfgNode] = CfgNode()  # the settings in that node, with their defaults
    RANGES: ClassVar[Mapping[str, tuple[float, float]]] = {}  # key -> its smallest, largest value
    FLAGS: ClassVar[Mapping[str, str]] = {}  # its command-line flags -> keys of that node
    INCIDENTAL: ClassVar[tuple[str, ...]] = ()  # keys that change time and memory, not figures
    MAY_DIFFER: ClassVar[tuple[str, ...]] = ()  # keys that an evaluation may change, besides PREC
    LEARNS: ClassVar[bool] = True  # if not, shots and seed change nothing
    # A step reads only image features of a frozen encoder, so that they can be kept (VIEWS).
    KEEPS_VIEWS: ClassVar[bool] = False
    READS_PAIRS: ClassVar[bool] = False  # it trains on the image-caption pairs of DATASET.PAIRS
    SCORE: ClassVar[str] = "MCM"  # the score its paper proposes, a detector's default

    start_epoch = epoch = batch_idx = num_batches = 0
    _writer: MetricsFile | None = None

    # Infinity and NaN

    def detect_anomaly(self, loss: Tensor) -> None:
        """Raise NonFiniteLossError (a FloatingPointError) if `loss` holds infinity or NaN."""
        if not torch.isfinite(loss).all():
            self.refuse_loss(loss.detach().float().mean().item())

    def refuse_loss(self, loss: float) -> None:
        """Raise NonFiniteLossError for a `loss` that is infinite or NaN, naming the step."""
        precision = self.precision_in_use()
        raise NonFiniteLossError(
            f"The loss is {loss} in epoch {self.epoch + 1}, batch {self.batch_idx + 1}"
            f"{f' at precision {precision}' if precision else ''}. {self.advice()}"
        )

    def precision_in_use(self) -> str:
        """Return the precision that the trainer computes in; "" if unknown."""
        return ""

    def ways_out(self) -> list[str]:
        """List remedies for infinity and NaN, never the precision that is in use."""
        safer = " or ".join(SAFER.get(self.precision_in_use(), ("fp32", "amp")))
        return [f"precision {safer}"] * bool(safer) + ["a smaller OPTIM.LR"]

    def advice(self) -> str:
        """Return a sentence on what to do about numbers that are not finite."""
        return f"Try {', '.join(self.ways_out())}, or look for damaged images and labels."

    # The loop

    def init_writer(self, log_dir: str | os.PathLike) -> None:
        """Open <log_dir>/metrics.jsonl for `write_scalar`, unless it is open.

        Differs from upstream: numbers go to one file of JSON lines, not to TensorBoard's.
        """
        if self._writer is None:
            self._writer = MetricsFile(Path(log_dir, "metrics.jsonl"), self.start_epoch)

    def close_writer(self) -> None:
        self._writer = None

    def close(self) -> None:
        """Release what only training needs, however it ended."""
        self.close_writer()

    def write_scalar(self, tag: str, scalar_value: float, global_step: int | None = None) -> None:
        """Write a line to metrics.jsonl; nothing happens if no writer is open."""
        self.write_metrics({"epoch": self.epoch + 1, "step": global_step, tag: scalar_value})

    def write_metrics(self, record: Mapping[str, Any]) -> None:
        if self._writer is not None:
            self._writer.write(record)

    def train(self, start_epoch: int | None = None, max_epoch: int | None = None) -> None:
        """Run the epochs `start_epoch` .. `max_epoch` - 1, with the hooks around them.

        An argument that is None defaults to the trainer's attribute of that name.
        """
        self.start_epoch = self.start_epoch if start_epoch is None else start_epoch
        self.max_epoch = self.max_epoch if max_epoch is None else max_epoch
        try:
            self.before_train()
            for self.epoch in range(self.start_epoch, self.max_epoch):  # noqa: B020 (Dassl's API)
                self.before_epoch()
                self.run_epoch()
                self.after_epoch()
            self.after_train()
        finally:
            self.close()

    def before_train(self) -> None:
        pass

    def after_train(self) -> None:
        pass

    def before_epoch(self) -> None:
        pass

    def after_epoch(self) -> None:
        pass

    def forward_backward(self, batch: Any) -> dict[str, float]:
        raise NotImplementedError

    def set_model_mode(self, mode: str = "train", names: Names = None) -> None:
        """Set the named models, or all, to `mode`: "train", or "eval" or "test"."""
        check_availability(mode, ("train", "eval", "test"), what="mode")
        for name in self.get_model_names(names):
            self._models[name].train(mode == "train")

    def update_lr(self, names: Names = None) -> None:
        """Step the learning-rate schedulers: once an epoch."""
        for name in self.get_model_names(names):
            if self._scheds[name] is not None:
                self._scheds[name].step()

    # A step

    def model_zero_grad(self, names: Names = None) -> None:
        for optim in self._optims_of(names):
            optim.zero_grad()

    def model_backward(self, loss: Tensor) -> None:
        self.detect_anomaly(loss)
        loss.backward()
        self.mean_gradients()

    def mean_gradients(self) -> None:
        """Average the gradients of all trained parameters over the ranks, under torchrun."""
        groups = [group for optim in self._optims_of(None) for group in optim.param_groups]
        distributed.mean_gradients(p for group in groups for p in group["params"])

    def model_update(self, names: Names = None) -> None:
        for optim in self._optims_of(names):
            optim.step()

    def model_backward_and_update(self, loss: Tensor, names: Names = None) -> None:
        """Zero the gradients, go backward, step: for the named models or all."""
        self.model_zero_grad(names)
        self.model_backward(loss)
        self.model_update(names)
