"""Textures in two colours: the OOD set generated-textures (in the role of Texture, DTD).

They are computed at twice the size and averaged.
"""

from collections.abc import Callable

import numpy as np

from generated.canvas import SIZE
from generated.noise import fractal, grid, mix, smooth_noise

FINE = 2 * SIZE
TEXTURES: dict[str, Callable] = {}


def texture(name: str):
    """Register a texture: a function rng -> share of the second colour `[FINE, FINE]`."""

    def register(draw):
        TEXTURES[name] = draw
        return draw

    return register


def draw_texture(rng: np.random.Generator, name: str, first, second) -> np.ndarray:
    """Draw the texture in the colours `first` and `second`, unevenly lit: float32 `[S, S, 3]`."""
    field = mix(first, second, TEXTURES[name](rng))
    field = field * (0.75 + 0.4 * fractal(rng, 2, 2, 2, FINE))[..., None]
    return field.reshape(SIZE, 2, SIZE, 2, 3).mean((1, 3))


def _turned(rng, frequency: float, warp: float = 0.0):
    """Return coordinates (u, v) in periods, turned by a random angle and warped."""
    y, x = grid(FINE)
    turn = rng.uniform(0, np.pi)
    dx, dy = (warp * (smooth_noise(rng, 4, 4, FINE) - 0.5) for _ in range(2))
    x, y = x + dx, y + dy
    return (
        frequency * (x * np.cos(turn) + y * np.sin(turn)),
        frequency * (y * np.cos(turn) - x * np.sin(turn)),
    )


def _soft(value, sharpness: float = 6):
    return np.clip(0.5 + sharpness * value, 0, 1)


def _nearest_two(rng, count: int):
    """Return distances to the nearest two of `count` random points (Worley noise)."""
    y, x = grid(FINE)
    points = rng.random((count, 2), dtype=np.float32)
    distances = np.sqrt((x[..., None] - points[:, 0]) ** 2 + (y[..., None] - points[:, 1]) ** 2)
    return np.partition(distances, 1, axis=-1)[..., :2]


@texture("stripes")
def stripes(rng):
    u, _ = _turned(rng, rng.uniform(3, 12), rng.uniform(0, 0.2))
    return _soft(np.sin(2 * np.pi * u), 3)


@texture("dots")
def dots(rng):
    u, v = _turned(rng, rng.uniform(4, 10))
    u = u + 0.5 * (np.floor(v) % 2) * (rng.random() < 0.5)
    return _soft(rng.uniform(0.2, 0.38) - np.hypot(u % 1 - 0.5, v % 1 - 0.5), 12)


@texture("checks")
def checks(rng):
    u, v = _turned(rng, rng.uniform(4, 12), rng.uniform(0, 0.15))
    return _soft(np.sin(np.pi * u) * np.sin(np.pi * v))


@texture("plaid")
def plaid(rng):
    u, v = _turned(rng, rng.uniform(2, 5))
    bands = [np.clip(np.sin(2 * np.pi * k * w) * 3, 0, 1) for w in (u, v) for k in (1, 3)]
    return np.clip(0.38 * (bands[0] + bands[2]) + 0.18 * (bands[1] + bands[3]), 0, 1)


@texture("weave")
def weave(rng):
    u, v = _turned(rng, rng.uniform(5, 10))
    over = (np.floor(u) + np.floor(v)) % 2
    thread = np.where(over > 0, np.sin(np.pi * (u % 1)), np.sin(np.pi * (v % 1)))
    return np.clip(thread**0.7 * (0.6 + 0.4 * over), 0, 1)


@texture("marble")
def marble(rng):
    u, _ = _turned(rng, rng.uniform(2, 5))
    return 1 - np.abs(np.sin(np.pi * (u + 3 * fractal(rng, 3, 3, 4, FINE)))) ** rng.uniform(0.3, 1)


@texture("cracks")
def cracks(rng):
    near = _nearest_two(rng, int(rng.integers(10, 40)))
    gap = near[..., 1] - near[..., 0] + 0.015 * fractal(rng, 12, 12, 2, FINE)
    return np.clip(1.3 - gap / rng.uniform(0.012, 0.03), 0, 1)


@texture("cells")
def cells(rng):
    near = _nearest_two(rng, int(rng.integers(25, 90)))[..., 0]
    return np.clip(near / np.quantile(near, 0.97), 0, 1)


@texture("zigzag")
def zigzag(rng):
    u, v = _turned(rng, rng.uniform(4, 9))
    wave = np.abs((u * rng.uniform(0.6, 1.2)) % 2 - 1)
    return _soft(np.sin(2 * np.pi * (v + wave)), 3)


@texture("honeycomb")
def honeycomb(rng):
    u, v = _turned(rng, rng.uniform(4, 8))
    waves = [np.cos(2 * np.pi * (u * np.cos(a) + v * np.sin(a))) for a in np.pi / 3 * np.arange(3)]
    return _soft(sum(waves) / 3 - rng.uniform(-0.25, -0.1), 5)


@texture("scales")
def scales(rng):
    u, v = _turned(rng, rng.uniform(4, 8))
    row = np.floor(v)
    across = (u + 0.5 * (row % 2)) % 1 - 0.5
    return np.clip(np.hypot(across, v % 1) / 0.9, 0, 1) ** 1.5


@texture("swirls")
def swirls(rng):
    y, x = grid(FINE)
    cx, cy = rng.uniform(0.2, 0.8, 2)
    radius, angle = np.hypot(x - cx, y - cy), np.arctan2(y - cy, x - cx)
    arms, pitch = int(rng.integers(0, 5)), rng.uniform(5, 14)
    return _soft(np.sin(arms * angle + 2 * np.pi * pitch * radius), 2)


@texture("speckles")
def speckles(rng):
    return _soft(fractal(rng, 24, 24, 2, FINE) - rng.uniform(0.45, 0.65), 7)


@texture("fibres")
def fibres(rng):
    u, _ = _turned(rng, 1, 0.2)
    table = rng.random((97,), dtype=np.float32)
    strands = table[(np.floor(u * rng.uniform(30, 70)) % 97).astype(int)]
    return np.clip(0.65 * strands + 0.35 * fractal(rng, 6, 6, 3, FINE), 0, 1)
