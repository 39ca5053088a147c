"""Streams: images of ID and of one OOD set, mixed in a seeded order and scored batch by batch."""

from dataclasses import dataclass

import numpy as np
import torch

from dassl.utils.errors import InputError
from ood.metrics import ood_metrics
from ood.stream_methods import StreamMethod


@dataclass(frozen=True)
class StreamImages:
    """A set's images for a stream: features `[n, D]` and base scores `[n]`."""

    features: np.ndarray
    base: np.ndarray


def mixture_sizes(inside: int, outside: int, ratio: float | None) -> tuple[int, int]:
    """Return how many ID and OOD images make the longest stream of which `ratio` is OOD.

    Args:
        inside, outside: numbers of ID and of OOD images. ratio: None for all of them.

    Raises:
        InputError: there are too few images, so that the stream would lack one of the two kinds.
    """
    if ratio is None:
        return inside, outside
    odds = ratio / (1 - ratio)
    sizes = min(inside, round(outside / odds)), min(outside, round(inside * odds))
    if 0 in sizes:
        raise InputError(
            f"a stream with a share of {ratio:g} OOD images would have no ID or no OOD image: "
            f"{inside} ID and {outside} OOD images are too few. Set --stream-ratio nearer to 0.5"
        )
    return sizes


def mixture(inside: int, outside: int, ratio: float | None, seed: int) -> np.ndarray:
    """Return the order of a stream, numbers of images `[n]`: ID images first, then OOD images.

    With all images (`ratio` None) it is the order of OODD's public code, whose seed is 110.
    """
    draw, images = np.random.RandomState(seed), np.arange(inside + outside)
    if ratio is not None:
        sizes = mixture_sizes(inside, outside, ratio)
        parts = zip(np.split(images, [inside]), sizes, strict=True)
        images = np.concatenate([draw.permutation(part)[:size] for part, size in parts])
    return draw.permutation(images)


def run_stream(
    method: StreamMethod,
    inside: StreamImages,
    outside: StreamImages,
    order: np.ndarray,
    batch: int,
    device: torch.device,
) -> tuple[dict[str, float], dict[str, float]]:
    """Return the metrics (`ood.metrics`) of the method, and of the base score, on a stream.

    Args:
        method: with an empty memory. order: of the images, from `mixture`. batch: images a batch.
    """
    features = np.concatenate([inside.features, outside.features])
    base = np.concatenate([inside.base, outside.base])
    scores = []
    with torch.inference_mode():
        for index in np.split(order, range(batch, len(order), batch)):
            images, base_scores = (torch.from_numpy(x[index]).to(device) for x in (features, base))
            scores.append(method.update(images, base_scores).cpu().numpy())
    is_id = order < len(inside.base)
    both = np.concatenate(scores), base[order]
    of_method, of_base = (ood_metrics(x[is_id], x[~is_id]) for x in both)
    return of_method, of_base


def noise_images(size: int, seed: int = 0) -> torch.Tensor:
    """Return TANL's 15 images of noise, float32 `[15, 3, size, size]`, in [0, 1].

    There are three each of normal, uniform, Poisson (5) and Gamma (2, 1) values, and of uniform
    values thresholded at 0.5. Normal, Poisson and Gamma values are rescaled to [0, 1].
    """
    draw, shape = np.random.RandomState(seed), (3, 3, size, size)
    unbounded = (draw.normal(size=shape), draw.poisson(5, shape), draw.gamma(2, 1, shape))
    bounded = draw.uniform(size=shape), (draw.uniform(size=shape) > 0.5).astype(float)
    rescaled = [(x - x.min()) / (x.max() - x.min()) for x in unbounded]
    return torch.from_numpy(np.concatenate([*rescaled, *bounded])).float()
