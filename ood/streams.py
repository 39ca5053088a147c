"""Streams: ID images and those of one OOD set, mixed in a seeded order, scored batch by batch."""

from dataclasses import dataclass

import numpy as np
import torch

from dassl.utils.errors import InputError
from ood.metrics import ood_metrics
from ood.stream_methods import StreamMethod


@dataclass(frozen=True)
class StreamImages:
    """The images of a set in a stream: features `[n, D]` and the base score of each, `[n]`."""

    features: np.ndarray
    base: np.ndarray


def mixture_sizes(inside: int, outside: int, ratio: float | None) -> tuple[int, int]:
    """Return how many ID and OOD images make the longest stream of which `ratio` is OOD.

    Args:
        inside, outside: the images there are. ratio: None for all of them.

    Raises:
        InputError: too few images, so that one of the two would be missing.
    """
    if ratio is None:
        return inside, outside
    odds = ratio / (1 - ratio)
    sizes = min(inside, round(outside / odds)), min(outside, round(inside * odds))
    if 0 in sizes:
        raise InputError(
            f"a stream with a share of {ratio:g} OOD images has none of one kind: {inside} ID and "
            f"{outside} OOD images are too few. Name a --stream-ratio nearer to 0.5"
        )
    return sizes


def mixture(inside: int, outside: int, ratio: float | None, seed: int) -> np.ndarray:
    """Return the order of a stream: numbers of images, the OOD images behind the ID ones, `[n]`.

    Of all images (`ratio` None) it is the order of OODD's public code, whose seed is 110.
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
        method: with an empty memory. order: of the images, as `mixture`. batch: images at a time.
    """
    features = np.concatenate([inside.features, outside.features])
    base = np.concatenate([inside.base, outside.base])
    found = []
    with torch.inference_mode():
        for part in np.split(order, range(batch, len(order), batch)):
            images, scores = (torch.from_numpy(x[part]).to(device) for x in (features, base))
            found.append(method.update(images, scores).cpu().numpy())
    is_id = order < len(inside.base)
    both = np.concatenate(found), base[order]
    own, alone = (ood_metrics(scores[is_id], scores[~is_id]) for scores in both)
    return own, alone


def noise_images(size: int, seed: int = 0) -> torch.Tensor:
    """Return TANL's 15 images of noise, float32 `[15, 3, size, size]`, in [0, 1].

    Three each of normal, uniform, Poisson (5) and Gamma (2, 1) values, and of uniform ones that are
    cut to 0 and 1 at 0.5. The normal, Poisson and Gamma ones are stretched to [0, 1].
    """
    draw, shape = np.random.RandomState(seed), (3, 3, size, size)
    wide = (draw.normal(size=shape), draw.poisson(5, shape), draw.gamma(2, 1, shape))
    flat = draw.uniform(size=shape), (draw.uniform(size=shape) > 0.5).astype(float)
    stretched = [(x - x.min()) / (x.max() - x.min()) for x in wide]
    return torch.from_numpy(np.concatenate([*stretched, *flat])).float()
