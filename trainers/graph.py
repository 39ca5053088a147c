"""A training step as CUDA graphs: one call of the host in the place of a kernel each."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

logger = logging.getLogger(__name__)


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
        return self.recorded(*tensors.values(), *self.parameters)

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
