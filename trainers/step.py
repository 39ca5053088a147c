"""The training step: its loss, gradients and precision, and its CUDA graph on a GPU."""

from __future__ import annotations

import inspect
import logging
import math
import warnings
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any, ClassVar
from weakref import WeakMethod

import torch
from torch import Tensor, nn

from clip.precision import Precision
from dassl import distributed
from dassl.engine import TrainerX

logger = logging.getLogger(__name__)


class StepTrainer(TrainerX):
    """A trainer whose step is defined by `loss`, the same with and without mixed precision.

    Methods declare
        BATCH: entries of a batch that a step reads, in the order of the arguments of `loss`.
        GRAPHED: True if every step is the same function of a batch's tensors and the learned
            parameters, and neither draws random numbers nor waits for the device: then a GPU
            records it (`StepGraph`).
        BY_STEP: True if the schedule is stepped after every batch, not once an epoch.
    """

    BATCH: ClassVar[tuple[str, ...]] = ("img", "label")
    GRAPHED: ClassVar[bool] = False
    BY_STEP: ClassVar[bool] = False
    precision: Precision

    def loss(self, images: Tensor, labels: Tensor) -> tuple[Tensor | None, dict[str, Tensor]]:
        """Return cosines `[B, C]` and the named parts of the loss, with the total as "loss".

        The arguments are what `parse_batch_train` returns, the labels `[B]` last. A method that
        learns without labels returns None for the cosines. Under torchrun B is this rank's share
        of the batch, and the losses are those of the whole batch.
        """
        raise NotImplementedError

    def forward_backward(self, batch: dict) -> dict[str, float]:
        """Take one step, by the same code with and without mixed precision."""
        summary = self.summary(batch)
        self.model_zero_grad()
        self.scaler.scale(summary["loss"]).backward()
        numbers = self.take_step(summary)
        if self.BY_STEP or self.batch_idx + 1 == self.num_batches:
            self.update_lr()
        return numbers

    def summary(self, batch: dict) -> dict[str, Tensor]:
        """Return the named parts of a batch's loss, and its accuracy "acc" if it has labels."""
        return self._summary(batch) if self.graph is None else self.graph(batch)

    @cached_property
    def graph(self) -> StepGraph | None:
        """Build the CUDA graph of the steps; None if they run without one."""
        wanted = self.GRAPHED and self.cfg.TRAIN.CUDA_GRAPH and self.device.type == "cuda"
        if not wanted or distributed.world_size() > 1:  # a graph holds no collectives
            return None
        parameters = (p for group in self.optim.param_groups for p in group["params"])
        summary = WeakMethod(self._summary)  # a cycle would keep the graph's GPU memory
        return StepGraph(lambda batch: summary()(batch), parameters, self.device)

    def explain_out_of_memory(self, task: str, loader: str, **settings: object) -> Any:
        """Name TRAIN.CUDA_GRAPH too, as a recorded step keeps its memory between the steps."""
        if self.graph is not None and (loader == "TRAIN_X" or self.graph.recorded is not None):
            settings["TRAIN.CUDA_GRAPH"] = True
        return super().explain_out_of_memory(task, loader, **settings)

    def _summary(self, batch: dict) -> dict[str, Tensor]:
        inputs = self.parse_batch_train(batch)
        with self.autocast():
            cosines, summary = self.loss(*inputs)
        if cosines is not None:
            hits = (cosines.argmax(dim=1) == inputs[-1]).float()
            summary["acc"] = 100 * distributed.mean_over_ranks(hits)
        return summary

    def take_step(self, summary: dict[str, Tensor]) -> dict[str, float]:
        """Step every optimiser on the gradients of the scaled "loss", and return the numbers.

        This is the one place of a step where the host waits for the device: it reads all numbers
        together, and refuses a loss that is not finite before the weights change. A gradient scaler
        waits once more, to skip a step that overflows.
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

    def autocast(self) -> AbstractContextManager[None]:
        """Return the context of a forward pass in this run's precision."""
        return self.precision.context(self.device)

    def parse_batch_train(self, batch: dict) -> tuple[Tensor | None, ...]:
        """Return the entries BATCH on the trainer's device; None for one that the batch lacks."""
        entries = (batch.get(key) for key in self.BATCH)
        return tuple(x if x is None else x.to(self.device, non_blocking=True) for x in entries)


class StepGraph:
    """Run `step` forwards and backwards by CUDA graphs.

    A step of a prompt learner launches some 1,600 kernels, most of a few microseconds, so a GPU
    would wait for the host. The graphs are recorded on the first batch whose tensors have the
    shapes of those before, as the very first may lack images that cannot be read; a batch with
    tensors of other shapes is computed without them.

    Args:
        step: function from a batch, of which it reads only the tensors, to named tensors, "loss"
            among them. It launches the same kernels for every batch: it draws no random numbers,
            reads no Python numbers that change, and never waits for the device.
        parameters: the parameters that the loss has gradients for.
    """

    def __init__(
        self,
        step: Callable[[dict], dict[str, Tensor]],
        parameters: Iterable[nn.Parameter],
        device: torch.device,
    ) -> None:
        self.step, self.parameters, self.device = step, tuple(parameters), device
        self.recorded: Callable[..., dict[str, Tensor]] | None = None
        self.shapes: dict[str, tuple] = {}  # those recorded; before, those of the last batch
        self.tried = False

    def __call__(self, batch: dict) -> dict[str, Tensor]:
        tensors = {
            name: value.to(self.device, non_blocking=True)
            for name, value in batch.items()
            if isinstance(value, Tensor)
        }
        shapes = {name: (value.shape, value.dtype) for name, value in tensors.items()}
        if not self.tried:
            self.tried = shapes == self.shapes
            self.shapes = shapes
            if self.tried:
                self._record(tensors)
        if self.recorded is None or shapes != self.shapes:
            return self.step(batch)
        return self.recorded(*(tensors[name] for name in self.shapes), *self.parameters)

    def _record(self, tensors: dict[str, Tensor]) -> None:
        losses = []

        def step(*inputs: Tensor) -> dict[str, Tensor]:
            summary = self.step(dict(zip(tensors, inputs)))  # noqa: B905 (parameters come last)
            losses.append(summary["loss"])
            return {name: x if name == "loss" else x.detach() for name, x in summary.items()}

        # Clones, because each later batch is copied into the recorded tensors.
        inputs = (*(value.clone() for value in tensors.values()), *self.parameters)
        try:
            with warnings.catch_warnings():
                # PyTorch's own warm-up passes cause it: they run on a stream of their own.
                warnings.filterwarnings("ignore", "The AccumulateGrad node's stream")
                self.recorded = _graphed(step, inputs)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            logger.warning("Recording a CUDA graph failed; steps run slower without it: %s", error)
        for loss in losses:
            loss.detach_()  # else autograd's nodes tie the parameters to the recording's stream


def _graphed(step: Callable[..., dict], inputs: tuple[Tensor, ...]) -> Callable[..., dict]:
    make = torch.cuda.make_graphed_callables
    if "capture_error_mode" in inspect.signature(make).parameters:  # since PyTorch 2.14
        # What other threads ask of the device, such as the loader's pinned memory, is no error.
        return make(step, inputs, capture_error_mode="thread_local")
    return make(step, inputs)
