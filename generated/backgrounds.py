"""The backgrounds of the ID images, the training stream and generated-nature.

Each is a function rng -> float32 `[S, S, 3]` (0..255), registered with the words of captions.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from generated.canvas import SIZE, Pen, shade
from generated.noise import below, fractal, gradient, grid, mix, ridge, smooth_noise, tint


@dataclass(frozen=True)
class Background:
    name: str
    place: str
    draw: Callable[[np.random.Generator], np.ndarray]


BACKGROUNDS: dict[str, Background] = {}


def background(name: str, place: str):
    """Register a background: `name` with its article ("a beach"), `place` ("on a beach")."""

    def register(draw):
        BACKGROUNDS[name] = Background(name, place, draw)
        return draw

    return register


def sky(rng: np.random.Generator, clouds: float = 0.5) -> np.ndarray:
    """Draw a day sky with soft clouds, which cover at most about the share `clouds`."""
    blue = mix(
        tint(rng, (80, 140, 215)), tint(rng, (150, 175, 205)), np.full((1, 1), rng.random() ** 2)
    )[0, 0]
    field = gradient(blue, shade(tuple(blue), 1.55))
    cover = (fractal(rng, 4, 2, octaves=4) - rng.uniform(0.9 - clouds, 0.9)) * 3
    return mix(field, tint(rng, (242, 244, 248), 6), np.clip(cover, 0, 0.9))


def ground(rng: np.random.Generator, first, second, rows: int = 16, columns: int = 6):
    """Draw mottled ground `[S, S, 3]` that darkens towards the viewer."""
    field = mix(tint(rng, first), tint(rng, second), fractal(rng, rows, columns))
    y, _ = grid()
    return field * (1.05 - 0.2 * y)[..., None]


def with_sky(
    rng: np.random.Generator,
    land: np.ndarray,
    above: np.ndarray,
    high: float = 0.15,
    low: float = 0.45,
    roughness: float = 0.05,
) -> np.ndarray:
    """Draw `land` below a horizon, which lies between `high` and `low`, and `above` over it."""
    return mix(above, land, below(ridge(rng, rng.uniform(high, low), roughness), 0.02))


@background("a grass field", "on the grass")
def grass_field(rng):
    land = ground(rng, (60, 120, 40), (125, 165, 70), 20, 12)
    pen = Pen()
    for x, y in rng.random((50, 2)):
        tip = (x + rng.normal(0, 0.02), y - rng.uniform(0.03, 0.08))
        pen.line([(x, y), tip], 0.008, shade((85, 150, 55), rng.uniform(0.6, 1.3)))
    return with_sky(rng, pen.over(land), sky(rng), high=-0.3, low=0.4)


@background("a beach", "on a beach")
def beach(rng):
    sand = ground(rng, (225, 200, 150), (200, 170, 120), 20, 20)
    sea = mix(tint(rng, (30, 110, 150)), tint(rng, (90, 175, 195)), fractal(rng, 24, 3))
    horizon = rng.uniform(0.08, 0.3)
    shore = ridge(rng, horizon + rng.uniform(0.1, 0.25), 0.12, 4)
    field = mix(sky(rng), sea, below(horizon, 0.02))
    field = mix(field, (240, 246, 246), below(shore - 0.035, 0.03))
    return mix(field, sand, below(shore, 0.03))


@background("a snowy hill", "in the snow")
def snowy_hill(rng):
    land = mix(tint(rng, (236, 240, 247), 5), tint(rng, (190, 205, 228), 8), fractal(rng, 6, 3))
    field = with_sky(rng, land, sky(rng, 0.8) * 0.95, -0.1, 0.4, 0.2)
    pen = Pen()
    for x, y in rng.random((rng.integers(0, 40), 2)):
        pen.ellipse(x, y, 0.011, 0.011, (255, 255, 255))
    return pen.over(field)


def _courses(rng, rows: int, columns: int, gap: float, shift: float = 0.5):
    """Lay a running bond: the share of gap `[S, S]`, and a random number a brick `[S, S]`."""
    y, x = grid()
    row = np.floor(y * rows)
    along = x * columns + shift * (row % 2) + rng.random()
    inside_y, inside_x = (y * rows) % 1, along % 1
    gaps = np.maximum(np.abs(inside_y - 0.5) * 2, 0) > 1 - gap * rows
    gaps = gaps | (np.abs(inside_x - 0.5) * 2 > 1 - gap * columns)
    table = rng.random((rows + 1, columns + 3), dtype=np.float32)
    return gaps.astype(np.float32), table[row.astype(int), np.floor(along).astype(int)]


@background("a brick wall", "in front of a brick wall")
def brick_wall(rng):
    rows = int(rng.integers(7, 13))
    gaps, brick = _courses(rng, rows, max(3, rows // 2), 0.035)
    base = tint(rng, (165, 80, 60) if rng.random() < 0.7 else (160, 135, 110), 14)
    field = mix(base * 0.75, np.minimum(base * 1.2, 255), brick)
    field = mix(field, tint(rng, (190, 180, 165)), gaps * 0.8)
    return field * (0.85 + 0.3 * fractal(rng, 10, 10))[..., None]


@background("a wooden floor", "on a wooden floor")
def wooden_floor(rng):
    rows = int(rng.integers(4, 9))
    gaps, plank = _courses(rng, rows, 2, 0.014, rng.random())
    base = tint(rng, (165, 115, 70), 18)
    grain = fractal(rng, 40, 2)
    field = mix(base * 0.75, np.minimum(base * 1.2, 255), 0.5 * plank + 0.5 * grain)
    field = mix(field, base * 0.4, gaps * 0.8)
    return np.swapaxes(field, 0, 1) if rng.random() < 0.4 else field


@background("a tiled floor", "on a tiled floor")
def tiled_floor(rng):
    y, x = grid()
    depth = 1 / (y + rng.uniform(0.3, 1.2))
    tiles = rng.uniform(3, 5)
    u, v = (x - 0.5) * depth * tiles + rng.random(), depth * tiles * rng.uniform(1, 2)
    check = (np.floor(u) + np.floor(v)) % 2
    light = tint(rng, (215, 210, 200))
    field = mix(light, tint(rng, light * rng.uniform(0.5, 0.95)), check)
    joint = (np.abs(u % 1 - 0.5) > 0.46) | (np.abs(v % 1 - 0.5) > 0.46)
    return mix(field, light * 0.6, joint * 0.6) * (0.9 + 0.2 * fractal(rng, 4, 4))[..., None]


@background("a cloudy sky", "in a cloudy sky")
def cloudy_sky(rng):
    return sky(rng, 0.75)


@background("a street at night", "on a street at night")
def night_street(rng):
    pen = Pen()
    horizon = rng.uniform(0.45, 0.65)
    left = -0.05
    while left < 1:
        width, top = rng.uniform(0.12, 0.3), rng.uniform(0.02, 0.4)
        wall = shade((70, 72, 95), rng.uniform(0.4, 0.9))
        pen.box(left, top, left + width, horizon, wall)
        for wx in np.arange(left + 0.03, left + width - 0.03, 0.06):
            for wy in np.arange(top + 0.04, horizon - 0.05, 0.09):
                lit = rng.random() < 0.4
                pen.box(wx, wy, wx + 0.03, wy + 0.045, (250, 215, 120) if lit else shade(wall, 0.6))
        left += width
    field = pen.over(gradient(tint(rng, (14, 16, 40), 5), tint(rng, (60, 50, 85), 8)))
    road = gradient(tint(rng, (62, 60, 70), 6), tint(rng, (34, 34, 42), 5))
    field = mix(field, road, below(horizon, 0.02))
    y, x = grid()
    lamp = np.exp(-((x - rng.random()) ** 2 + (y - horizon) ** 2) / 0.05)
    return np.minimum(field + 90 * lamp[..., None] * np.array([1, 0.8, 0.45]), 255)


@background("a forest", "in a forest")
def forest(rng):
    field = mix(tint(rng, (22, 52, 26), 8), tint(rng, (95, 140, 65)), fractal(rng, 8, 8, 4))
    floor = ground(rng, (85, 75, 42), (70, 100, 42), 16, 8)
    field = mix(field, floor, below(ridge(rng, rng.uniform(0.6, 0.85), 0.08), 0.05))
    pen = Pen()
    for x in rng.random(rng.integers(3, 8)):
        foot, width = rng.uniform(0.65, 0.9), rng.uniform(0.015, 0.05)
        bark = shade((105, 80, 58), rng.uniform(0.5, 1.1))
        top = x + rng.normal(0, 0.03)
        pen.polygon(
            [
                (top - width * 0.6, -0.1),
                (top + width * 0.6, -0.1),
                (x + width, foot),
                (x - width, foot),
            ],
            bark,
        )
    leaves = (smooth_noise(rng, 12, 12) - 0.45) * 4 * (1 - below(rng.uniform(0.2, 0.4), 0.3))
    return mix(pen.over(field), tint(rng, (60, 105, 45)), np.clip(leaves, 0, 1))


@background("a desert", "in the desert")
def desert(rng):
    field = gradient(tint(rng, (120, 170, 215)), tint(rng, (235, 215, 180)))
    height = rng.uniform(0.1, 0.4)
    for _ in range(int(rng.integers(2, 5))):
        edge = ridge(rng, height, 0.3, 3)
        sand = tint(rng, (220, 165, 95), 14)
        ripples = 0.5 + 0.5 * np.sin(60 * grid()[0] + 12 * smooth_noise(rng, 4, 4))
        dune = mix(sand, sand * 0.72, 0.35 * ripples + 0.65 * fractal(rng, 3, 4))
        field = mix(field, dune, below(edge, 0.02))
        height += rng.uniform(0.12, 0.28)
    return field


@background("the sea", "on the sea")
def sea(rng):
    deep = tint(rng, (22, 80, 120))
    waves = mix(deep, np.minimum(deep * 1.8 + 20, 255), fractal(rng, 28, 5, 3) ** 1.5)
    foam = np.clip((fractal(rng, 40, 8, 2) - 0.75) * 4, 0, 0.7)
    return with_sky(rng, mix(waves, (235, 242, 245), foam), sky(rng), -0.2, 0.4, 0.0)


@background("autumn leaves", "on autumn leaves")
def autumn_leaves(rng):
    pen = Pen()
    for x, y in rng.random((110, 2)):
        leaf = shade(
            [(200, 105, 35), (180, 60, 30), (215, 160, 50), (125, 80, 40)][rng.integers(4)],
            rng.uniform(0.6, 1.15),
        )
        pen.ellipse(
            x, y, rng.uniform(0.03, 0.07), rng.uniform(0.02, 0.04), leaf, angle=rng.uniform(0, 180)
        )
    return pen.over(ground(rng, (90, 65, 35), (70, 60, 30)))


@background("a gravel path", "on a gravel path")
def gravel_path(rng):
    stones = rng.random((SIZE, SIZE), dtype=np.float32) * 0.5 + 0.5 * fractal(rng, 24, 24, 2)
    base = tint(rng, (150, 143, 132), 14)
    path = mix(base * 0.6, np.minimum(base * 1.3, 255), stones)
    y, x = grid()
    bend = 0.5 + rng.normal(0, 0.15) * (1 - y)
    verge = (np.abs(x - bend) - (0.12 + rng.uniform(0.2, 0.5) * y)) * 10
    field = mix(path, ground(rng, (70, 115, 50), (115, 145, 70), 24, 24), np.clip(verge, 0, 1))
    return with_sky(rng, field, sky(rng), -0.3, 0.2)


@background("a field at sunset", "in a field at sunset")
def sunset_field(rng):
    glow = gradient(tint(rng, (110, 75, 130)), tint(rng, (250, 160, 80)))
    horizon = rng.uniform(0.4, 0.65)
    y, x = grid()
    sun = np.exp(-((x - rng.random()) ** 2 + (y - horizon + 0.1) ** 2) / 0.02)
    glow = np.minimum(glow + 120 * sun[..., None] * np.array([1, 0.85, 0.4]), 255)
    hill = mix(tint(rng, (70, 55, 60), 6), tint(rng, (120, 85, 55), 8), fractal(rng, 18, 8))
    return mix(glow, hill, below(ridge(rng, horizon, 0.15, 3), 0.02))
