"""Living-looking shapes: the kinds of the OOD set generated-nature (in iNaturalist's role)."""

import numpy as np

from generated.canvas import any_colour, arc, shade
from generated.drawing import Things

CREATURES = Things()

DARK, STEM = (32, 30, 30), (70, 125, 45)


@CREATURES("flower", tilt=12)
def flower(pen, rng, paint):
    pen.curve([(0, -0.3), (0.06, 0.3), (-0.03, 1)], 0.08, STEM)
    pen.ellipse(0.28, 0.55, 0.28, 0.1, shade(STEM, 1.2), angle=-30)
    count, first = int(rng.integers(5, 11)), rng.uniform(0, 360)
    for angle in first + np.arange(count) * 360 / count:
        turn = np.deg2rad(angle)
        pen.ellipse(
            0.36 * np.cos(turn), -0.4 + 0.36 * np.sin(turn), 0.27, 1.1 / count, paint, angle=angle
        )
    pen.ellipse(0, -0.4, 0.2, 0.2, (235, 190, 50) if rng.random() < 0.6 else (90, 55, 30))


@CREATURES("fern", tilt=25)
def fern(pen, rng, paint):
    green = shade((70, 130, 50), rng.uniform(0.7, 1.3))
    bend = rng.uniform(-0.4, 0.4)
    for height in np.linspace(0.85, -0.9, 12):
        x = bend * (0.9 - height) ** 2 / 3.2
        reach = 0.12 + 0.33 * (height + 0.95)
        for side in (-1, 1):
            pen.ellipse(
                x + side * reach / 2, height - 0.08, reach / 2, 0.06, green, angle=-side * 25
            )
    heights = np.linspace(1, -0.98, 9)
    pen.curve([(bend * (0.9 - h) ** 2 / 3.2, h) for h in heights], 0.05, shade(green, 0.7))


@CREATURES("mushroom", tilt=10)
def mushroom(pen, rng, paint):
    pen.blob(
        [(-0.17, -0.1), (0.17, -0.1), (0.2, 0.5), (0.3, 0.92), (-0.3, 0.92), (-0.2, 0.5)],
        (232, 222, 200),
    )
    tall = rng.uniform(0.55, 0.95)
    pen.ellipse(0, 0, 0.85, tall, paint, 180, 360)
    pen.ellipse(0, 0, 0.85, 0.15, shade(paint, 0.6))
    if rng.random() < 0.6:
        for x, y in ((-0.5, -0.3), (-0.1, -0.6), (0.3, -0.35), (0.05, -0.22), (0.6, -0.2)):
            pen.ellipse(x, y * tall, 0.09, 0.08, (245, 240, 230))


@CREATURES("beetle", tilt=90)
def beetle(pen, rng, paint):
    for y in (-0.3, 0.1, 0.5):
        for side in (-1, 1):
            pen.line([(0, y), (side * 0.72, y - 0.1), (side * 0.9, y + 0.2)], 0.07, DARK)
    for side in (-1, 1):
        pen.curve([(side * 0.1, -0.7), (side * 0.3, -0.9), (side * 0.5, -0.95)], 0.05, DARK)
    pen.ellipse(0, -0.62, 0.25, 0.2, DARK)
    pen.ellipse(0, -0.35, 0.42, 0.24, shade(paint, 0.5))
    pen.ellipse(0, 0.25, 0.55, 0.62, paint)
    pen.line([(0, -0.3), (0, 0.86)], 0.05, shade(paint, 0.4))
    if rng.random() < 0.5:
        for x, y in ((-0.27, 0.05), (0.27, 0.05), (-0.25, 0.45), (0.25, 0.45)):
            pen.ellipse(x, y, 0.11, 0.11, DARK)


@CREATURES("fish", tilt=15)
def fish(pen, rng, paint):
    fin = any_colour(rng) if rng.random() < 0.5 else shade(paint, 0.7)
    pen.polygon([(-0.45, 0), (-1, -0.45), (-0.85, 0), (-1, 0.45)], fin)
    pen.blob([(-0.2, -0.3), (0.1, -0.65), (0.4, -0.3)], fin)
    pen.blob([(0, 0.3), (0.0, 0.6), (0.3, 0.3)], fin)
    pen.blob(
        [(-0.6, 0), (-0.1, -0.36), (0.45, -0.38), (0.95, 0), (0.45, 0.38), (-0.1, 0.36)], paint
    )
    for x in np.linspace(-0.2, 0.35, int(rng.integers(0, 4))):
        pen.ring(x - 0.25, 0, 0.3, 0.42, 0.06, shade(paint, 1.45), -45, 45)
    pen.ellipse(0.65, -0.1, 0.1, 0.1, (250, 250, 245))
    pen.ellipse(0.67, -0.1, 0.055, 0.055, DARK)


@CREATURES("cactus", tilt=5)
def cactus(pen, rng, paint):
    green = shade((60, 125, 70), rng.uniform(0.7, 1.3))
    left, right = rng.uniform(-0.2, 0.4, 2)
    pen.line([(0, left), (-0.52, left), (-0.52, left - 0.5)], 0.24, green)
    pen.line([(0, right + 0.15), (0.5, right + 0.15), (0.5, right - 0.4)], 0.22, green)
    pen.line([(0, -0.75), (0, 1)], 0.4, green)
    for x in (-0.1, 0.02, 0.13):
        pen.line([(x, -0.7), (x, 1)], 0.025, shade(green, 0.65))
    if rng.random() < 0.5:
        pen.ellipse(0, -0.95, 0.14, 0.1, (225, 80, 130))


@CREATURES("starfish", tilt=90)
def starfish(pen, rng, paint):
    reach = rng.uniform(0.33, 0.45)
    angles = np.deg2rad(np.arange(0, 360, 36) - 90)
    radii = np.where(np.arange(10) % 2 == 0, 1.0, reach)
    points = np.stack([radii * np.cos(angles), radii * np.sin(angles)], 1)
    pen.blob(points, paint)
    for tip in points[::2]:
        for share in (0.2, 0.45, 0.7):
            pen.ellipse(*(tip * share), 0.05, 0.05, shade(paint, 1.5))


@CREATURES("snail", tilt=10)
def snail(pen, rng, paint):
    body = shade((190, 160, 120), rng.uniform(0.7, 1.15))
    for x in (0.72, 0.9):
        pen.line([(0.75, 0.2), (x, -0.35)], 0.05, body)
        pen.ellipse(x, -0.38, 0.06, 0.06, DARK)
    pen.blob(
        [(-1, 0.7), (-0.4, 0.5), (0.4, 0.45), (0.62, 0.1), (0.88, 0.15), (0.9, 0.5), (0.6, 0.75)],
        body,
    )
    pen.ellipse(-0.08, 0.05, 0.6, 0.55, paint)
    t = np.linspace(0, 4.5 * np.pi, 60)
    spiral = np.stack([-0.08 + 0.036 * t * np.cos(t), 0.05 + 0.033 * t * np.sin(t)], 1)
    pen.line(spiral, 0.06, shade(paint, 0.5))


@CREATURES("butterfly", tilt=35)
def butterfly(pen, rng, paint):
    spots = any_colour(rng)
    for side in (-1, 1):
        pen.blob(
            [(side * 0.05, -0.05), (side * 0.4, -0.75), (side * 0.95, -0.7), (side * 0.75, -0.05)],
            paint,
        )
        pen.blob(
            [(side * 0.05, 0.05), (side * 0.65, 0.05), (side * 0.6, 0.65), (side * 0.25, 0.6)],
            shade(paint, 0.75),
        )
        pen.ellipse(side * 0.65, -0.42, 0.14, 0.14, spots)
        pen.ellipse(side * 0.42, 0.33, 0.1, 0.1, spots)
        pen.curve([(0, -0.4), (side * 0.12, -0.7), (side * 0.25, -0.8)], 0.035, DARK)
    pen.ellipse(0, 0.05, 0.08, 0.52, DARK)


@CREATURES("spider", tilt=60)
def spider(pen, rng, paint):
    body = shade(paint, rng.uniform(0.4, 0.9))
    for side in (-1, 1):
        for near, far in ((-0.6, -0.95), (-0.35, -0.3), (-0.1, 0.4), (0.15, 0.95)):
            pen.line([(0, -0.1), (side * 0.55, near), (side * 0.95, far)], 0.055, shade(body, 0.6))
    pen.ellipse(0, 0.3, 0.38, 0.45, body)
    pen.ellipse(0, -0.25, 0.24, 0.24, shade(body, 0.75))
    if rng.random() < 0.5:
        pen.polygon([(0, 0.1), (0.15, 0.3), (0, 0.55), (-0.15, 0.3)], any_colour(rng))


@CREATURES("caterpillar", tilt=20)
def caterpillar(pen, rng, paint):
    wave, second = rng.uniform(0.1, 0.25), any_colour(rng)
    for step, x in enumerate(np.linspace(-0.85, 0.6, 7)):
        y = wave * np.sin(step * 1.3)
        pen.line([(x, y + 0.15), (x, y + 0.36)], 0.06, DARK)
        pen.ellipse(x, y, 0.2, 0.24, paint if step % 2 else second)
    pen.ellipse(0.8, -0.05, 0.22, 0.24, shade(paint, 0.75))
    pen.ellipse(0.88, -0.1, 0.05, 0.06, DARK)
    for x in (0.72, 0.9):
        pen.line([(x, -0.25), (x + 0.08, -0.5)], 0.04, DARK)


@CREATURES("jellyfish", tilt=15)
def jellyfish(pen, rng, paint):
    for x in np.linspace(-0.5, 0.5, 6):
        sway = rng.uniform(-0.2, 0.2)
        pen.curve(
            [(x, -0.1), (x + sway, 0.3), (x - sway, 0.65), (x + sway, 1)], 0.06, shade(paint, 1.25)
        )
    pen.polygon(arc(0, -0.1, 0.75, rng.uniform(0.6, 0.85), 180, 360), paint)
    for x in np.linspace(-0.6, 0.6, 5):
        pen.ellipse(x, -0.1, 0.15, 0.1, shade(paint, 0.8))
    pen.ellipse(-0.25, -0.45, 0.18, 0.1, shade(paint, 1.5), angle=-30)
