"""Vectorised noise and colour fields, of which backgrounds and textures are made."""

import numpy as np
from PIL import Image

from generated.canvas import SIZE


def grid(size: int = SIZE) -> tuple[np.ndarray, np.ndarray]:
    """Return pixel centres in [0, 1]: y `[size, 1]` and x `[1, size]`."""
    centres = ((np.arange(size) + 0.5) / size).astype(np.float32)
    return centres[:, None], centres[None, :]


def smooth_noise(rng: np.random.Generator, rows: int, columns: int, size: int = SIZE) -> np.ndarray:
    """Interpolate random values at rows x columns knots to `[size, size]`, about 0..1."""
    knots = rng.random((max(2, rows), max(2, columns)), dtype=np.float32)
    return np.asarray(Image.fromarray(knots).resize((size, size), Image.Resampling.BICUBIC))


def fractal(
    rng: np.random.Generator, rows: int, columns: int, octaves: int = 3, size: int = SIZE
) -> np.ndarray:
    """Add octaves of smooth noise, each twice as fine and half as strong: `[size, size]`, 0..1."""
    total = np.zeros((size, size), dtype=np.float32)
    for octave in range(octaves):
        scale = 2**octave
        total += (
            smooth_noise(rng, min(rows * scale, size), min(columns * scale, size), size) / scale
        )
    return np.clip((total - total.min()) / (np.ptp(total) + 1e-6), 0, 1)


def mix(first, second, share: np.ndarray) -> np.ndarray:
    """Blend colours (or images) by `share` `[H, W]`, where 0 is `first`, into `[H, W, 3]`."""
    share = np.clip(share, 0, 1)
    first, second = np.asarray(first, np.float32), np.asarray(second, np.float32)
    shape = np.broadcast_shapes((*share.shape, 1), first.shape, second.shape)
    mixed = np.empty(shape, np.result_type(share, np.float32))
    for channel in range(3):  # numpy is slow over a last axis of three
        start = first[..., channel]
        mixed[..., channel] = start + (second[..., channel] - start) * share
    return mixed


def gradient(top, bottom, size: int = SIZE) -> np.ndarray:
    """Draw a gradient `[size, size, 3]` from the colour `top` down to `bottom`."""
    y, _ = grid(size)
    return mix(top, bottom, np.broadcast_to(y, (size, size)))


def below(edge, softness: float = 0.01, size: int = SIZE) -> np.ndarray:
    """Return a mask `[size, size]`: 1 below the height `edge` (one, or one a column), 0 above."""
    y, _ = grid(size)
    edge = np.broadcast_to(np.asarray(edge, np.float32), (size,))
    return np.clip((y - edge[None]) / softness + 0.5, 0, 1)


def ridge(
    rng: np.random.Generator, height: float, roughness: float, knots: int = 6, size: int = SIZE
) -> np.ndarray:
    """Draw a wavy horizon around `height`: one value a column `[size]`."""
    coarse = smooth_noise(rng, 2, knots, size)[0]
    fine = smooth_noise(rng, 2, knots * 4, size)[0]
    return height + roughness * (coarse - 0.5 + 0.2 * (fine - 0.5))


def tint(rng: np.random.Generator, rgb, spread: float = 12) -> np.ndarray:
    """Vary `rgb` a little, as light and season do: float32 `[3]`."""
    moved = np.asarray(rgb, np.float32) + rng.normal(0, spread) + rng.normal(0, spread / 2, 3)
    return np.clip(moved, 0, 255).astype(np.float32)
