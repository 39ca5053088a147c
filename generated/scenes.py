"""Outdoor compositions: the OOD set generated-scenes (in the role of SUN)."""

from collections.abc import Callable

import numpy as np

from generated.backgrounds import ground, sky
from generated.canvas import SIZE, Pen, shade
from generated.noise import below, fractal, gradient, grid, mix, ridge, tint

SCENES: dict[str, Callable[[np.random.Generator], np.ndarray]] = {}


def scene(name: str):
    """Register a scene: a function rng -> float32 `[S, S, 3]`."""

    def register(draw):
        SCENES[name] = draw
        return draw

    return register


@scene("mountains")
def mountains(rng):
    field, height = sky(rng), rng.uniform(0.2, 0.4)
    for layer in range(int(rng.integers(2, 4))):
        x, peaks = np.linspace(0, 1, int(rng.integers(5, 9))), rng.normal(0, 0.12, 9)
        edge = np.interp(np.linspace(0, 1, SIZE), x, height + peaks[: len(x)])
        rocks = mix(tint(rng, (95, 100, 120)), tint(rng, (60, 65, 70)), fractal(rng, 8, 10))
        if layer == 0:
            rocks = mix((240, 243, 248), rocks, below(edge + rng.uniform(0.05, 0.2), 0.08))
        field = mix(field, rocks, below(edge, 0.02))
        height += rng.uniform(0.12, 0.22)
    valley = ground(rng, (60, 100, 50), (95, 125, 60))
    return mix(field, valley, below(ridge(rng, rng.uniform(0.72, 0.95), 0.08), 0.03))


@scene("city skyline")
def city_skyline(rng):
    pen, base, left = Pen(), rng.uniform(0.6, 0.9), -0.05
    glass = tint(rng, (110, 125, 145))
    while left < 1:
        width, top = rng.uniform(0.08, 0.2), rng.uniform(0.1, 0.5)
        wall = shade(tuple(glass), rng.uniform(0.5, 1.3))
        pen.box(left, top, left + width, base, wall)
        if rng.random() < 0.3:
            pen.line([(left + width / 2, top), (left + width / 2, top - 0.1)], 0.015, wall)
        for y in np.arange(top + 0.03, base - 0.03, 0.045):
            pen.line([(left + 0.02, y), (left + width - 0.02, y)], 0.012, shade(wall, 0.6))
        left += width * rng.uniform(0.85, 1.2)
    pen.box(0, base, 1, 1.01, tuple(int(c) for c in tint(rng, (90, 110, 95))))
    return pen.over(sky(rng))


@scene("road")
def road(rng):
    horizon, vanish = rng.uniform(0.25, 0.5), rng.uniform(0.25, 0.75)
    land = ground(rng, (95, 120, 55), (150, 140, 85), 24, 10)
    field = mix(sky(rng), land, below(horizon, 0.02))
    pen, half, foot = Pen(), rng.uniform(0.3, 0.6), rng.uniform(0.3, 0.7)
    tar = shade((90, 90, 95), rng.uniform(0.7, 1.15))
    pen.polygon(
        [
            (vanish - 0.015, horizon),
            (vanish + 0.015, horizon),
            (foot + half, 1.02),
            (foot - half, 1.02),
        ],
        tar,
    )
    for near, far in ((0.0, 0.08), (0.2, 0.3), (0.45, 0.62), (0.8, 1.0)):
        ends = [
            (vanish + (foot - vanish) * t, horizon + (1.02 - horizon) * t, 0.02 * t)
            for t in (near, far)
        ]
        (x0, y0, w0), (x1, y1, w1) = ends
        pen.polygon([(x0 - w0, y0), (x0 + w0, y0), (x1 + w1, y1), (x1 - w1, y1)], (240, 235, 210))
    return pen.over(field)


@scene("lake")
def lake(rng):
    shore, field = rng.uniform(0.35, 0.55), sky(rng)
    hills = mix(tint(rng, (55, 85, 60)), tint(rng, (90, 115, 75)), fractal(rng, 8, 10))
    field = mix(field, hills, below(ridge(rng, shore - 0.15, 0.25), 0.02))
    y, _ = grid()
    mirrored = np.clip((2 * shore - y[:, 0]) * SIZE, 0, SIZE - 1).astype(int)
    ripple = fractal(rng, 40, 3, 2)
    water = mix(field[mirrored] * 0.75, tint(rng, (70, 110, 135)), 0.3 + 0.4 * ripple)
    field = mix(field, water, below(shore, 0.01))
    near = ground(rng, (85, 95, 50), (120, 115, 70))
    return mix(field, near, below(ridge(rng, rng.uniform(0.85, 1.05), 0.15), 0.02))


@scene("waterfall")
def waterfall(rng):
    rock = mix(tint(rng, (95, 88, 78)), tint(rng, (50, 52, 46)), fractal(rng, 6, 14))
    moss = np.clip((fractal(rng, 8, 8) - 0.5) * 3, 0, 0.8)
    field = mix(rock, tint(rng, (65, 105, 50)), moss)
    y, x = grid()
    middle, width = rng.uniform(0.3, 0.7), rng.uniform(0.08, 0.2)
    top, foot = rng.uniform(0.0, 0.2), rng.uniform(0.7, 0.85)
    inside = np.clip((width * (0.8 + 0.5 * y) - np.abs(x - middle)) * 25, 0, 1)
    falling = mix((180, 205, 215), (248, 251, 252), fractal(rng, 3, 30))
    field = mix(field, falling, inside * below(top, 0.05))
    pool = mix(tint(rng, (50, 105, 115)), (215, 230, 230), fractal(rng, 30, 4))
    field = mix(field, pool, below(ridge(rng, foot, 0.06), 0.04))
    return mix(sky(rng), field, below(ridge(rng, top - 0.05, 0.1), 0.03))


@scene("bridge")
def bridge(rng):
    deck, bank = rng.uniform(0.4, 0.6), rng.uniform(0.7, 0.85)
    water = mix(tint(rng, (45, 90, 115)), tint(rng, (110, 150, 165)), fractal(rng, 30, 4))
    pen, stone = Pen(), tuple(int(c) for c in tint(rng, (160, 140, 120), 25))
    if rng.random() < 0.5:
        arches = int(rng.integers(2, 4))
        pen.box(-0.01, deck, 1.01, bank + 0.05, stone)
        for index in range(arches):
            middle = (index + 0.5) / arches
            pen.ellipse(middle, bank + 0.08, 0.4 / arches, bank - deck, (0, 0, 0, 0), 180, 360)
    else:
        for tower in (0.25, 0.75):
            pen.box(tower - 0.025, deck - 0.35, tower + 0.025, bank + 0.1, stone)
        cable = [
            (0, deck - 0.1),
            (0.25, deck - 0.33),
            (0.5, deck - 0.06),
            (0.75, deck - 0.33),
            (1, deck - 0.1),
        ]
        pen.curve(cable, 0.015, shade(stone, 0.6))
        for x in np.arange(0.03, 1, 0.06):
            lift = 0.06 + 0.27 * np.abs(np.cos(2 * np.pi * (x - 0.25) / 1.0)) ** 2
            pen.line([(x, deck), (x, deck - lift * 0.9)], 0.006, shade(stone, 0.6))
    pen.box(-0.01, deck - 0.03, 1.01, deck + 0.045, shade(stone, 0.75))
    return pen.over(mix(sky(rng), water, below(rng.uniform(0.6, bank), 0.02)))


@scene("canyon")
def canyon(rng):
    y, _ = grid()
    bands = np.sin(rng.uniform(40, 70) * (y + 0.06 * fractal(rng, 3, 3)))
    field = sky(rng)
    for depth, light in ((0.15, 0.85), (0.3, 1.0), (0.5, 1.15)):
        wall = mix(tint(rng, (190, 105, 65)), tint(rng, (225, 160, 110)), 0.5 + 0.5 * bands)
        wall = np.minimum(wall * light * (0.8 + 0.3 * fractal(rng, 3, 16))[..., None], 255)
        steps = np.repeat(rng.uniform(-0.08, 0.08, 8), SIZE // 8)
        bowl = (
            depth
            + steps
            + rng.uniform(0.1, 0.6)
            * (0.25 - (np.linspace(0, 1, SIZE) - rng.uniform(0.3, 0.7)) ** 2)
        )
        field = mix(field, wall, below(bowl, 0.02))
    return field


@scene("farmland")
def farmland(rng):
    horizon, vanish = rng.uniform(0.2, 0.45), rng.uniform(0.1, 0.9)
    y, x = grid()
    depth = np.maximum(y - horizon, 0.01)
    rows = np.sin(rng.uniform(8, 16) * (x - vanish) / (depth + 0.08))
    soil, crop = tint(rng, (120, 90, 55)), tint(rng, (125, 165, 50), 20)
    land = mix(soil, crop, 0.5 + 0.5 * rows) * (0.85 + 0.25 * fractal(rng, 20, 20))[..., None]
    return mix(sky(rng), land, below(horizon, 0.02))


@scene("volcano")
def volcano(rng):
    dusk = gradient(tint(rng, (60, 55, 85)), tint(rng, (210, 120, 85)))
    middle, top = rng.uniform(0.35, 0.65), rng.uniform(0.25, 0.4)
    x = np.linspace(0, 1, SIZE)
    slope = np.maximum(top, top + (np.abs(x - middle) - 0.08) * rng.uniform(0.8, 1.4))
    y, columns = grid()
    plume = np.exp(
        -(((columns - middle - 0.15 * (top - y)) / (0.06 + 0.5 * (top - y).clip(0))) ** 2)
    )
    dusk = mix(dusk, (115, 105, 105), plume * (1 - below(top, 0.05)) * fractal(rng, 6, 6) * 1.3)
    rock = mix(tint(rng, (70, 60, 60)), tint(rng, (40, 36, 40)), fractal(rng, 10, 10))
    field = mix(dusk, rock, below(slope, 0.02))
    pen = Pen()
    for _ in range(int(rng.integers(1, 4))):
        drift = middle + rng.uniform(-0.05, 0.05)
        pen.curve(
            [
                (drift, top),
                (drift + rng.normal(0, 0.05), top + 0.2),
                (drift + rng.normal(0, 0.12), top + rng.uniform(0.3, 0.6)),
            ],
            0.025,
            (255, 120, 30),
        )
    return pen.over(field)


@scene("island")
def island(rng):
    line = rng.uniform(0.45, 0.65)
    water = mix(tint(rng, (40, 140, 165)), tint(rng, (110, 200, 205)), fractal(rng, 26, 4))
    pen, middle = Pen(), rng.uniform(0.3, 0.7)
    width = rng.uniform(0.2, 0.4)
    pen.ellipse(middle, line + 0.06, width, 0.1, (230, 210, 155))
    for lean in rng.uniform(-0.12, 0.12, int(rng.integers(1, 4))):
        foot, crown = middle + lean * 2, (middle + lean * 3.2, line - rng.uniform(0.25, 0.38))
        pen.curve(
            [(foot, line + 0.03), (foot + lean * 0.3, line - 0.15), crown], 0.025, (120, 90, 60)
        )
        for turn in np.deg2rad(np.arange(-200, 30, 38)):
            tip = (crown[0] + 0.15 * np.cos(turn), crown[1] + 0.11 * np.sin(turn) + 0.04)
            pen.curve(
                [crown, ((crown[0] + tip[0]) / 2, min(crown[1], tip[1]) - 0.03), tip],
                0.025,
                shade((60, 130, 55), rng.uniform(0.8, 1.2)),
            )
    return pen.over(mix(sky(rng), water, below(line, 0.015)))
