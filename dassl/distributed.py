"""Training one model in several processes, which `torchrun` starts (or NPROC of scripts/train.sh).

The rule: a batch is global. DATALOADER.TRAIN_X.BATCH_SIZE is its size whatever the number of
ranks, each rank encodes its share of it, and **every rank computes the loss of the whole batch**,
from features that `gather_with_grad` collects or sums that `mean_over_ranks` forms. After backward,
`mean_gradients` leaves the exact gradient of that loss on every rank: for the features f_r of rank
r, backward sums what all W ranks send to f_r, which is W dL/df_r, so that the mean of the ranks'
parameter gradients is sum_r dL/df_r df_r/dtheta. So N ranks take the same step as one.

Class prompts are divided among the ranks too (`clip.prefix`): rank r encodes the texts t_r and all
ranks gather them. A rank's own graph reaches only its images' part of L, but W times, as backward
of `mean_over_ranks` sums over the ranks; the gather's backward sums these parts to W dL/dt_r.

DistributedDataParallel hooks into the forward of one module; it is not used because the losses take
features of several calls, and what is trained is small. Rank 0 alone writes files and logs; all
ranks read the same checkpoint. In a single process everything here does nothing.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dassl.utils.errors import InputError
from dassl.utils.tools import set_random_seed

_store: dist.Store | None = None


def init_from_env() -> None:
    """Join the process group that torchrun's environment describes, if there is one."""
    global _store
    if dist.is_initialized() or "TORCHELASTIC_RUN_ID" not in os.environ:
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    _store, rank_, world = next(dist.rendezvous("env://"))
    dist.init_process_group(backend, store=_store, rank=rank_, world_size=world)


def shutdown() -> None:
    """Leave the process group after the last collective of a successful run."""
    global _store
    if dist.is_initialized():
        # gloo's destructor joins threads that may still need the GIL, to free the tensors of their
        # last collective. Only a reference held here is dropped without the GIL.
        backend = dist.group.WORLD._get_backend(torch.device("cpu"))
        dist.destroy_process_group()
        del backend
    _store = None


def rank() -> int:
    """Return this process's number, from 0; 0 in a single process."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return the number of processes; 1 without a process group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Return True in the process that writes the files and the log."""
    return rank() == 0


def local_device(use_cuda: bool = True) -> torch.device:
    """Return the device of this process: its own GPU (LOCAL_RANK) if there is one, else the CPU.

    InputError if there are more processes on this machine than GPUs.
    """
    if not (use_cuda and torch.cuda.is_available()):
        return torch.device("cpu")
    if not dist.is_initialized():
        return torch.device("cuda")
    local, gpus = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
    if local >= gpus:
        raise InputError(
            f"Process {local + 1} of this machine has no GPU: there are {gpus}. Start at most "
            f"{gpus} processes a machine (NPROC={gpus}), or train on the CPU with USE_CUDA False."
        )
    torch.cuda.set_device(local)
    return torch.device("cuda", local)


def share_of(batch_size: int) -> int:
    """Return each rank's share of a global batch; InputError if it is no multiple of the ranks."""
    ranks = world_size()
    if batch_size < 1 or batch_size % ranks:
        raise InputError(
            f"DATALOADER.TRAIN_X.BATCH_SIZE is {batch_size}, which {ranks} processes cannot share "
            f"equally. It is the size of the global batch: choose a multiple of {ranks}, or "
            "another NPROC."
        )
    return batch_size // ranks


def rank_slice(batch: Sequence, index: int, ranks: int) -> Sequence:
    """Return the `index`-th of `ranks` consecutive parts of `batch`; sizes differ by at most 1."""
    return batch[index * len(batch) // ranks : (index + 1) * len(batch) // ranks]


def gather_with_grad(tensor: Tensor, counts: Sequence[int] | None = None) -> Tensor:
    """Concatenate all ranks' `tensor` `[b, ...]`, in rank order, to `[W b, ...]`.

    The gradient sums what all ranks send to this rank's slice; the module's docstring explains
    the consequences. `counts`: the number of rows of each rank; None: the same for all.
    """
    if world_size() == 1:
        return tensor
    counts = counts or [len(tensor)] * world_size()
    # Each rank pads its rows with zeros; the sum over ranks has all rows, and the right gradient.
    before, after = sum(counts[: rank()]), sum(counts[rank() + 1 :])
    above, below = (tensor.new_zeros(n, *tensor.shape[1:]) for n in (before, after))
    return _Sum.apply(torch.cat([above, tensor, below]))


def mean_over_ranks(values: Tensor) -> Tensor:
    """Return the mean of all ranks' `values` `[n]`, where n may differ; 0 if no rank has any.

    The mean of the ranks' means would be wrong where n differs, as it does for LoCoOp's regions.
    Differentiable like `gather_with_grad`.
    """
    if world_size() == 1:
        return values.sum() / max(1, values.numel())
    count = torch.full((), values.numel(), dtype=values.dtype, device=values.device)
    return mean_of_sums(values.sum(), count)


def mean_of_sums(total: Tensor, count: Tensor) -> Tensor:
    """Return `mean_over_ranks` from each rank's sum `total` of its `count` values."""
    if world_size() > 1:
        count, total = _all_reduce(count), _Sum.apply(total)
    return total / count.clamp(min=1)


@torch.no_grad()
def mean_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace the gradient of every parameter by its mean over the ranks, in one all-reduce.

    A gradient that this rank's share of the batch did not reach counts as zero; one that no rank
    has stays None, as the optimiser would otherwise apply weight decay.
    """
    learned = [parameter for parameter in parameters if parameter.requires_grad]
    if world_size() == 1 or not learned:
        return
    # On the CPU, so that the ranks need not wait for their devices.
    reached = torch.tensor([parameter.grad is not None for parameter in learned]).int()
    _all_reduce(reached)
    learned = [p for p, ranks in zip(learned, reached.tolist(), strict=True) if ranks]
    if not learned:
        return
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in learned]
    flat = torch.cat([g.to(torch.promote_types(g.dtype, torch.float32)).flatten() for g in grads])
    _all_reduce(flat)
    flat /= world_size()
    for parameter, mean in zip(learned, flat.split([p.numel() for p in learned]), strict=True):
        parameter.grad = mean.view_as(parameter).to(parameter.dtype)


@torch.no_grad()
def broadcast_state(module: nn.Module) -> None:
    """Give every rank the parameters and buffers of rank 0, so that all start from one model."""
    if world_size() == 1:
        return
    for tensor in module.state_dict().values():
        # NCCL refuses a view with gaps, gloo writes into the gaps.
        sent = tensor.contiguous()
        with explain_failed_collective():
            dist.broadcast(sent, 0)
        tensor.copy_(sent)


def seed_other_ranks() -> None:
    """Seed the generators of ranks above 0 from rank 0's state and their rank.

    Ranks that draw the same numbers in a step would drop the same units of all images. Rank 0 keeps
    its state, which is that of a single process, and which a checkpoint restores: called at the
    start of each epoch, this makes a resumed run equal an uninterrupted one.
    """
    if world_size() == 1:
        return
    state = hashlib.sha256(torch.get_rng_state().numpy().tobytes()).digest()
    seed = from_main(lambda: int.from_bytes(state[:4], "little"))
    if not is_main():
        set_random_seed((seed + rank()) % 2**32)


def barrier() -> None:
    """Wait for all ranks."""
    if world_size() > 1:
        with explain_failed_collective():
            dist.barrier()


def from_main(function: Callable[[], Any]) -> Any:
    """Call `function` on rank 0 alone, and return its result on every rank."""
    if world_size() == 1:
        return function()
    result = [function() if is_main() else None]
    with explain_failed_collective():
        dist.broadcast_object_list(result, 0)
    return result[0]


def from_all(value: Any) -> list[Any]:
    """Return every rank's `value`, in rank order."""
    values = [value] * world_size()
    if world_size() > 1:
        with explain_failed_collective():
            dist.all_gather_object(values, value)
    return values


def first_to_fail() -> bool:
    """Return True for the first rank that calls this, which alone reports a common failure."""
    if _store is None:
        return True
    try:
        return _store.add("failed", 1) == 1
    except RuntimeError:  # the machine that keeps the store is gone
        return True


def name_of_rank() -> str:
    """Return `rank 1 of 4`, or "" in a single process."""
    return f"rank {rank()} of {world_size()}" if world_size() > 1 else ""


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tensor: Tensor) -> Tensor:
        return _all_reduce(tensor.clone())

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return _all_reduce(grad.clone())


def _all_reduce(tensor: Tensor) -> Tensor:
    """Replace `tensor` by its sum over the ranks, and return it."""
    with explain_failed_collective():
        dist.all_reduce(tensor)
    return tensor


@contextmanager
def explain_failed_collective() -> Iterator[None]:
    """Turn any error of a collective into an InputError that names the usual cause."""
    try:
        yield
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise InputError(
            f"Another process of the run has died, or {name_of_rank()} cannot reach it ({reason}). "
            "Its own message says why. The same command resumes from the last checkpoint."
        ) from error
