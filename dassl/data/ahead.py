"""Prefetching: batches are sent to the GPU one ahead of the step that needs them."""

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

_END = object()


def batches_for(loader: DataLoader, device: torch.device) -> Iterator[Any]:
    """Iterate over the batches of `loader`; for a GPU, copy the next images during each step.

    Images ("img", "img2", ...) arrive on `device`; other entries stay where they are. On the CPU,
    or without workers that read in the meantime, these are simply the loader's batches.
    """
    if device.type != "cuda" or not getattr(loader, "num_workers", 0):
        return iter(loader)
    copies = copy_stream(device)

    def send(batch: Any) -> Any:
        with torch.cuda.stream(copies):
            return move_images(batch, device)

    def receive(batch: Any) -> Any:
        step = torch.cuda.current_stream(device)
        step.wait_stream(copies)
        for image in images_of(batch).values():
            image.record_stream(step)  # else the next copy could reuse its memory too soon
        return batch

    return one_ahead(loader, send, receive)


@functools.cache
def copy_stream(device: torch.device) -> torch.cuda.Stream:
    """Return the one stream for copies to `device`: PyTorch keeps freed memory for each stream."""
    return torch.cuda.Stream(device)


def one_ahead(
    batches: Iterable[Any], send: Callable[[Any], Any], receive: Callable[[Any], Any]
) -> Iterator[Any]:
    """Yield each batch, sent one batch ahead and received when its turn comes.

    If a batch cannot be read, the error is raised after all batches before it were yielded.
    """
    ahead = map(send, batches)
    sent = next(ahead, _END)
    while sent is not _END:
        batch = receive(sent)  # before the next is sent, so as not to wait for that copy as well
        try:
            sent = next(ahead, _END)
        except Exception:
            yield batch
            raise
        yield batch


def move_images(batch: Any, device: torch.device) -> Any:
    """Return `batch` with its images on `device`, copied without waiting where they are pinned."""
    moved = {key: image.to(device, non_blocking=True) for key, image in images_of(batch).items()}
    return {**batch, **moved} if moved else batch


def images_of(batch: Any) -> dict[str, torch.Tensor]:
    """Return the entries of a batch that are images."""
    entries = batch.items() if isinstance(batch, dict) else ()
    return {key: value for key, value in entries if key.startswith("img")}
