"""A training step: its loss, gradients and precision; on a GPU it is one CUDA graph."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import ClassVar
from weakref import WeakMethod

import torch
from torch import Tensor, nn

from clip.precision import Precision
from dassl import distributed
from dassl.engine import TrainerX
from dassl.metrics import compute_accuracy

logger = logging.getLogger(__name__)


class StepTrainer(TrainerX):
    """A trainer whose step is defined by `loss`, the same with and without mixed precision.

    Methods declare
        BATCH: entries of a batch that a step reads, in the order of the arguments of `loss`.
        GRAPHED: every step is the same function of a batch's tensors and the learned parameters,
            without draws or waits of its own: on a GPU it is recorded (`StepGraph`).
        BY_STEP: the schedule is stepped after every batch, not once an epoch.
    """

    BATCH: ClassVar[tuple[str, ...]] = ("img", "label")
    GRAPHED: ClassVar[bool] = False
    BY_STEP: ClassVar[bool] = False
    precision: Precision

    def loss(self, images: Tensor, labels: Tensor) -> tuple[Tensor | None, dict[str, Tensor]]:
        """Return cosines `[B, C]` and the named parts of the loss, the total as "loss".

        The arguments are what `parse_batch_train` returns, the labels `[B]` last; a method that
        learns from no labels has no cosines. Under torchrun B is this rank's share; the losses are
        those of the batch of all ranks.
        """
        raise NotImplementedError

    def forward_backward(self, batch: dict) -> dict[str, float]:
        """Take one step: the same code with and without mixed precision."""
        summary = self.summary(batch)
        self.model_zero_grad()
        self.scaler.scale(summary["loss"]).backward()
        numbers = self.take_step(summary)
        if self.BY_STEP or self.batch_idx + 1 == self.num_batches:
            self.update_lr()
        return numbers

    def summary(self, batch: dict) -> dict[str, Tensor]:
        """Return the named parts of a batch's loss, and its accuracy "acc" where there is one."""
        return self._summary(batch) if self.graph is None else self.graph(batch)

    @cached_property
    def graph(self) -> StepGraph | None:
        """Make the graph of the steps; None where each kernel is launched."""
        wanted = self.GRAPHED and self.cfg.TRAIN.CUDA_GRAPH and self.device.type == "cuda"
        if not wanted or distributed.world_size() > 1:  # a graph holds no collectives
            return None
        parameters = (p for group in self.optim.param_groups for p in group["params"])
        summary = WeakMethod(self._summary)  # not a cycle: a graph holds memory of the GPU
        return StepGraph(lambda batch: summary()(batch), parameters, self.device)

    def _summary(self, batch: dict) -> dict[str, Tensor]:
        inputs = self.parse_batch_train(batch)
        with self.autocast():
            cosines, summary = self.loss(*inputs)
        if cosines is not None:
            summary["acc"] = distributed.mean_over_ranks(compute_accuracy(cosines, inputs[-1])[0])
        return summary

    def take_step(self, summary: dict[str, Tensor]) -> dict[str, float]:
        """Step every optimiser on the gradients of the scaled "loss"; return the numbers.

        The host waits for the device once in a step, here: all numbers are read together, and a
        loss that is not finite is refused before the weights are changed.
        """
        self.mean_gradients()  # before unscaling, so that all ranks see the same overflow
        values = torch.stack([value.detach().double() for value in summary.values()]).tolist()
        numbers = dict(zip(summary, values, strict=True))
        if not math.isfinite(numbers["loss"]):
            self.refuse_loss(numbers["loss"])
        for optimizer in self._optims_of(None):
            self.scaler.step(optimizer)
        self.scaler.update()
        return numbers

    def autocast(self) -> torch.autocast:
        """Return the context of a forward pass in this run's precision."""
        return self.precision.context(self.device)

    def parse_batch_train(self, batch: dict) -> tuple[Tensor | None, ...]:
        """Return the entries BATCH, on their way to the trainer's device; None of one it lacks."""
        found = (batch.get(key) for key in self.BATCH)
        return tuple(x if x is None else x.to(self.device, non_blocking=True) for x in found)


class StepGraph:
    """Compute what `step` does of a batch, forwards and backwards, by CUDA graphs.

    A step of a prompt learner is some 1,600 kernels, most of a few microseconds, and a GPU waits
    for the host that launches them. The graphs are recorded on the first batch; batches with
    tensors of other shapes are computed as they would be without.

    Args:
        step: from a batch, entries by name of which it reads the tensors alone, to tensors by name,
            "loss" among them. The same kernels for every batch: no draws, no numbers of Python's
            that change, nothing that waits for the device.
        parameters: what the loss has gradients for.
    """

    def __init__(
        self,
        step: Callable[[dict], dict[str, Tensor]],
        parameters: Iterable[nn.Parameter],
        device: torch.device,
    ) -> None:
        self.step, self.parameters, self.device = step, tuple(parameters), device
        self.recorded: Callable[..., dict[str, Tensor]] | None = None
        self.shapes: dict[str, tuple] = {}

    def __call__(self, batch: dict) -> dict[str, Tensor]:
        tensors = {
            name: value.to(self.device, non_blocking=True)
            for name, value in batch.items()
            if isinstance(value, Tensor)
        }
        shapes = {name: (value.shape, value.dtype) for name, value in tensors.items()}
        if not self.shapes:
            self.shapes = shapes
            self._record(tensors)
        if self.recorded is None or shapes != self.shapes:
            return self.step(batch)
        return self.recorded(*(tensors[name] for name in self.shapes), *self.parameters)

    def _record(self, tensors: dict[str, Tensor]) -> None:
        losses = []

        def step(*inputs: Tensor) -> dict[str, Tensor]:
            found = self.step(dict(zip(tensors, inputs)))  # noqa: B905 (parameters stand behind)
            losses.append(found["loss"])
            return {name: x if name == "loss" else x.detach() for name, x in found.items()}

        # Clones: each batch is copied into the tensors that were recorded.
        inputs = (*(value.clone() for value in tensors.values()), *self.parameters)
        try:
            with warnings.catch_warnings():
                # Of PyTorch's own rehearsals, on a stream beside the steps'.
                warnings.filterwarnings("ignore", "The AccumulateGrad node's stream")
                self.recorded = torch.cuda.make_graphed_callables(step, inputs)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            logger.warning("Steps are not recorded as a CUDA graph, and slower for it: %s", error)
        for loss in losses:
            # Lets go of autograd's nodes, which would tie the parameters to the recording's stream.
            loss.detach_()
