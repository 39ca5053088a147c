"""Further objects of the training stream; some are ID classes or near-OOD kinds (`kinds.py`).

The others keep the small CLIP from being a closed-set classifier of the ID classes.
"""

import numpy as np

from generated.canvas import CLEAR, any_colour, arc, shade
from generated.drawing import Things

FURTHER_OBJECTS = Things()

STEEL, WOOD, DARK, CREAM = (150, 155, 165), (150, 100, 55), (35, 35, 42), (245, 240, 225)


@FURTHER_OBJECTS("chair")
def chair(pen, rng, paint):
    for x in (-0.45, -0.25, 0.35, 0.5):
        pen.line([(x, 0.15), (x, 0.95)], 0.1, shade(paint, 0.6))
    pen.box(-0.5, -0.95, -0.32, 0.2, paint)
    pen.box(-0.5, -0.9, -0.1, -0.1, shade(paint, 0.8))
    pen.polygon([(-0.5, 0.05), (0.4, 0.05), (0.6, 0.25), (-0.4, 0.25)], paint)


@FURTHER_OBJECTS("ladder", tilt=20)
def ladder(pen, rng, paint):
    for x in (-0.35, 0.35):
        pen.line([(x * 0.8, -0.95), (x, 0.95)], 0.12, paint)
    for y in np.linspace(-0.75, 0.75, 6):
        pen.line([(-0.3, y), (0.3, y)], 0.09, shade(paint, 0.75))


@FURTHER_OBJECTS("bucket", tilt=12)
def bucket(pen, rng, paint):
    pen.ring(0, -0.4, 0.6, 0.55, 0.06, STEEL, 180, 360)
    pen.polygon([(-0.7, -0.4), (0.7, -0.4), (0.45, 0.8), (-0.45, 0.8)], paint)
    pen.ellipse(0, 0.8, 0.45, 0.12, paint)
    pen.ellipse(0, -0.4, 0.7, 0.18, shade(paint, 0.5))
    pen.line([(-0.66, -0.15), (0.66, -0.15)], 0.07, shade(paint, 1.3))


@FURTHER_OBJECTS("drum", tilt=15)
def drum(pen, rng, paint):
    pen.box(-0.85, -0.35, 0.85, 0.5, paint)
    pen.ellipse(0, 0.5, 0.85, 0.28, paint)
    for x in np.linspace(-0.85, 0.45, 4):
        pen.line([(x, -0.3), (x + 0.2, 0.6), (x + 0.4, -0.3)], 0.05, CREAM)
    pen.ellipse(0, -0.35, 0.85, 0.28, CREAM)
    pen.line([(-0.1, -0.4), (0.7, -0.9)], 0.07, WOOD)


@FURTHER_OBJECTS("hammer", tilt=60)
def hammer(pen, rng, paint):
    pen.line([(0, -0.6), (0, 0.95)], 0.17, paint)
    pen.box(-0.5, -0.85, 0.3, -0.5, STEEL)
    pen.polygon([(0.3, -0.85), (0.7, -0.6), (0.3, -0.5)], shade(STEEL, 0.7))


@FURTHER_OBJECTS("scissors", tilt=60)
def scissors(pen, rng, paint):
    gap = rng.uniform(0.15, 0.4)
    for side in (-1, 1):
        pen.polygon(
            [
                (side * gap, -1),
                (side * (gap - 0.12), -0.9),
                (-side * 0.14, 0.2),
                (side * 0.08, 0.15),
            ],
            shade(STEEL, 1 + side * 0.2),
        )
        pen.ring(-side * 0.34, 0.6, 0.22, 0.3, 0.12, paint)
    pen.ellipse(0, 0.1, 0.06, 0.06, DARK)


@FURTHER_OBJECTS("anchor", tilt=15)
def anchor(pen, rng, paint):
    pen.ring(0, -0.78, 0.16, 0.16, 0.09, paint)
    pen.line([(0, -0.6), (0, 0.85)], 0.15, paint)
    pen.line([(-0.4, -0.35), (0.4, -0.35)], 0.13, paint)
    pen.ring(0, 0.2, 0.75, 0.65, 0.15, paint, 10, 170)
    for side in (-1, 1):
        pen.polygon([(side * 0.75, 0.05), (side * 0.95, 0.4), (side * 0.52, 0.38)], paint)


@FURTHER_OBJECTS("crown", tilt=15)
def crown(pen, rng, paint):
    gold = (230, 185, 60) if rng.random() < 0.5 else paint
    pen.polygon(
        [
            (-0.8, 0.6),
            (-0.95, -0.5),
            (-0.45, 0.05),
            (0, -0.75),
            (0.45, 0.05),
            (0.95, -0.5),
            (0.8, 0.6),
        ],
        gold,
    )
    pen.box(-0.8, 0.42, 0.8, 0.68, shade(gold, 0.7))
    for x, y in ((-0.95, -0.55), (0, -0.8), (0.95, -0.55), (-0.4, 0.55), (0, 0.55), (0.4, 0.55)):
        pen.ellipse(x, y, 0.1, 0.1, any_colour(rng))


@FURTHER_OBJECTS("bell", tilt=20)
def bell(pen, rng, paint):
    pen.ellipse(0, 0.72, 0.16, 0.16, DARK)
    pen.blob(
        [
            (0, -0.75),
            (0.35, -0.6),
            (0.5, 0.1),
            (0.85, 0.6),
            (0, 0.68),
            (-0.85, 0.6),
            (-0.5, 0.1),
            (-0.35, -0.6),
        ],
        paint,
    )
    pen.ring(0, -0.85, 0.12, 0.12, 0.08, shade(paint, 0.6))
    pen.line([(-0.72, 0.52), (0.72, 0.52)], 0.1, shade(paint, 0.65))


@FURTHER_OBJECTS("bottle", tilt=20)
def bottle(pen, rng, paint):
    pen.blob(
        [
            (-0.13, -0.85),
            (0.13, -0.85),
            (0.14, -0.4),
            (0.36, -0.1),
            (0.36, 0.9),
            (-0.36, 0.9),
            (-0.36, -0.1),
            (-0.14, -0.4),
        ],
        paint,
    )
    pen.box(-0.15, -1, 0.15, -0.8, any_colour(rng))
    pen.box(-0.36, 0.15, 0.36, 0.6, CREAM)
    pen.line([(-0.24, -0.05), (-0.24, 0.8)], 0.06, shade(paint, 1.5))


@FURTHER_OBJECTS("flag", tilt=8)
def flag(pen, rng, paint):
    pen.line([(-0.7, -0.95), (-0.7, 0.98)], 0.09, STEEL)
    wave = [(-0.66, 0.0), (-0.2, -0.08), (0.3, 0.06), (0.9, -0.02)]
    for top, fill in ((-0.85, paint), (-0.57, any_colour(rng)), (-0.28, paint)):
        edge = [(x, y + top) for x, y in wave]
        pen.polygon(edge + [(x, y + 0.3) for x, y in reversed(edge)], fill)


@FURTHER_OBJECTS("tent", tilt=5)
def tent(pen, rng, paint):
    pen.polygon([(-0.3, -0.7), (0.55, -0.6), (1.0, 0.6), (0.3, 0.7)], shade(paint, 0.65))
    pen.polygon([(-0.3, -0.7), (0.3, 0.7), (-0.95, 0.7)], paint)
    pen.polygon([(-0.3, -0.45), (-0.05, 0.7), (-0.6, 0.7)], DARK)
    pen.line([(-0.3, -0.8), (-0.3, -0.6)], 0.05, WOOD)


@FURTHER_OBJECTS("windmill", tilt=4)
def windmill(pen, rng, paint):
    pen.polygon([(-0.25, -0.3), (0.25, -0.3), (0.42, 1), (-0.42, 1)], paint)
    pen.polygon([(-0.3, -0.3), (0, -0.6), (0.3, -0.3)], shade(paint, 0.6))
    pen.box(-0.1, 0.65, 0.1, 1, DARK)
    start = rng.uniform(0, 90)
    for turn in np.deg2rad(start + np.arange(0, 360, 90)):
        along, across = (
            np.array([np.cos(turn), np.sin(turn)]),
            np.array([-np.sin(turn), np.cos(turn)]),
        )
        hub = np.array([0, -0.3])
        pen.polygon(
            [
                hub,
                hub + 0.7 * along,
                hub + 0.7 * along + 0.18 * across,
                hub + 0.15 * along + 0.18 * across,
            ],
            CREAM,
        )
        pen.line([hub, hub + 0.72 * along], 0.05, WOOD)


@FURTHER_OBJECTS("snowman", tilt=5)
def snowman(pen, rng, paint):
    for y, r in ((0.6, 0.42), (-0.05, 0.32), (-0.55, 0.24)):
        pen.ellipse(0, y, r, r, shade((235, 238, 245), 0.85))
        pen.ellipse(-0.04, y - 0.04, r * 0.88, r * 0.88, (240, 243, 248))
    pen.box(-0.34, -0.76, 0.34, -0.68, DARK)
    pen.box(-0.2, -1.02, 0.2, -0.7, DARK)
    pen.polygon([(0.0, -0.56), (0.35, -0.5), (0.0, -0.46)], (240, 130, 40))
    pen.line([(-0.28, -0.3), (0.28, -0.3)], 0.12, paint)
    for x, y in ((-0.09, -0.62), (0.1, -0.62), (0, -0.08), (0, 0.12), (0, 0.5)):
        pen.ellipse(x, y, 0.045, 0.045, DARK)


@FURTHER_OBJECTS("ice cream", tilt=15)
def ice_cream(pen, rng, paint):
    pen.polygon([(-0.45, -0.1), (0.45, -0.1), (0, 1)], (215, 165, 100))
    for x in (-0.2, 0, 0.2):
        pen.line([(x - 0.1, -0.05), (x * 0.3, 0.65)], 0.03, (170, 115, 60))
    pen.ellipse(0, -0.25, 0.5, 0.38, paint)
    pen.ellipse(0, -0.62, 0.38, 0.33, any_colour(rng))
    pen.ellipse(0.05, -0.95, 0.1, 0.1, (205, 35, 50))


def _wheels(pen, places, radius=0.2):
    for x in places:
        pen.ellipse(x, 0.5, radius, radius, DARK)
        pen.ellipse(x, 0.5, radius * 0.5, radius * 0.5, STEEL)


@FURTHER_OBJECTS("truck", tilt=5)
def truck(pen, rng, paint):
    pen.box(-1, -0.6, 0.35, 0.4, any_colour(rng))
    pen.polygon([(0.4, -0.3), (0.8, -0.3), (1, 0.05), (1, 0.45), (0.4, 0.45)], paint)
    pen.polygon([(0.5, -0.2), (0.75, -0.2), (0.9, 0.05), (0.5, 0.05)], (165, 205, 225))
    pen.box(-1, 0.38, 1, 0.48, DARK)
    _wheels(pen, (-0.7, -0.25, 0.7))


@FURTHER_OBJECTS("bus", tilt=5)
def bus(pen, rng, paint):
    pen.box(-1, -0.55, 1, 0.5, paint)
    for x in np.linspace(-0.9, 0.5, 5):
        pen.box(x, -0.4, x + 0.26, -0.02, (165, 205, 225))
    pen.box(-1, 0.12, 1, 0.24, CREAM)
    _wheels(pen, (-0.6, 0.6))


@FURTHER_OBJECTS("helicopter", tilt=10)
def helicopter(pen, rng, paint):
    pen.polygon([(-0.1, -0.15), (-1, -0.22), (-1, -0.1), (-0.1, 0.2)], paint)
    pen.ellipse(-0.98, -0.16, 0.06, 0.24, STEEL)
    pen.ellipse(0.25, 0.05, 0.55, 0.38, paint)
    pen.ellipse(0.45, -0.02, 0.28, 0.24, (165, 205, 225), -90, 90)
    pen.line([(0.2, -0.3), (0.2, -0.5)], 0.07, DARK)
    pen.line([(-0.65, -0.52), (1, -0.5)], 0.07, DARK)
    pen.line([(-0.2, 0.62), (0.75, 0.62)], 0.06, DARK)
    for x in (0.05, 0.5):
        pen.line([(x, 0.35), (x, 0.62)], 0.05, DARK)


@FURTHER_OBJECTS("pencil", tilt=70)
def pencil(pen, rng, paint):
    pen.box(-0.75, -0.14, 0.6, 0.14, paint)
    pen.box(-0.75, -0.05, 0.6, 0.05, shade(paint, 1.3))
    pen.polygon([(0.6, -0.14), (1, 0), (0.6, 0.14)], (230, 195, 150))
    pen.polygon([(0.86, -0.05), (1, 0), (0.86, 0.05)], DARK)
    pen.box(-1, -0.14, -0.82, 0.14, (230, 130, 140))
    pen.box(-0.84, -0.14, -0.74, 0.14, STEEL)


@FURTHER_OBJECTS("heart", tilt=15)
def heart(pen, rng, paint):
    t = np.linspace(0, 2 * np.pi, 50)
    x = np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)) / 16
    pen.polygon(np.stack([x, y], 1) * 0.95, paint)
    pen.ellipse(-0.45, -0.4, 0.16, 0.12, shade(paint, 1.5), angle=-30)


@FURTHER_OBJECTS("spoon", tilt=70)
def spoon(pen, rng, paint):
    metal = STEEL if rng.random() < 0.5 else paint
    pen.line([(-0.2, 0), (0.95, 0)], 0.12, metal)
    pen.ellipse(-0.55, 0, 0.42, 0.28, metal)
    pen.ellipse(-0.55, 0.02, 0.32, 0.19, shade(metal, 0.7))


@FURTHER_OBJECTS("sunglasses", tilt=15)
def sunglasses(pen, rng, paint):
    pen.ring(0, 0.0, 0.18, 0.15, 0.09, paint, 180, 360)
    for side in (-1, 1):
        pen.line([(side * 0.9, -0.15), (side * 1.0, -0.35)], 0.1, paint)
        pen.ellipse(side * 0.52, 0.05, 0.42, 0.34, paint)
        pen.ellipse(side * 0.52, 0.05, 0.32, 0.25, DARK)
        pen.line([(side * 0.52 - 0.12, 0.05), (side * 0.52 + 0.02, -0.1)], 0.05, STEEL)


@FURTHER_OBJECTS("cat", tilt=6)
def cat(pen, rng, paint):
    pen.curve([(0.35, 0.7), (0.85, 0.6), (0.8, 0.1), (0.95, -0.1)], 0.14, paint)
    pen.ellipse(0.05, 0.4, 0.48, 0.55, paint)
    for x in (-0.18, 0.2):
        pen.ellipse(x, 0.88, 0.17, 0.1, shade(paint, 1.3))
    for side in (-1, 1):
        pen.polygon([(side * 0.45, -0.9), (side * 0.05, -0.6), (side * 0.42, -0.35)], paint)
    pen.ellipse(0, -0.35, 0.45, 0.38, paint)
    for side in (-1, 1):
        pen.ellipse(side * 0.18, -0.4, 0.08, 0.09, (200, 220, 90))
        pen.ellipse(side * 0.18, -0.4, 0.03, 0.08, DARK)
        pen.line([(side * 0.1, -0.2), (side * 0.6, -0.15)], 0.025, CREAM)
    pen.ellipse(0, -0.24, 0.05, 0.04, (225, 130, 140))


@FURTHER_OBJECTS("rabbit", tilt=6)
def rabbit(pen, rng, paint):
    for x in (-0.16, 0.16):
        pen.ellipse(x, -0.68, 0.12, 0.34, paint, angle=x * 60)
        pen.ellipse(x, -0.66, 0.05, 0.24, (235, 170, 175), angle=x * 60)
    pen.ellipse(0.45, 0.7, 0.17, 0.17, CREAM)
    pen.ellipse(0, 0.5, 0.46, 0.5, paint)
    pen.ellipse(0, -0.15, 0.36, 0.33, shade(paint, 1.1))
    for x in (-0.14, 0.14):
        pen.ellipse(x, -0.2, 0.05, 0.06, DARK)
        pen.ellipse(x * 1.6, 0.92, 0.18, 0.1, shade(paint, 1.2))
    pen.ellipse(0, -0.05, 0.05, 0.04, (225, 130, 140))


@FURTHER_OBJECTS("penguin", tilt=6)
def penguin(pen, rng, paint):
    coat = shade((45, 50, 65), rng.uniform(0.7, 1.3))
    for side in (-1, 1):
        pen.ellipse(side * 0.48, 0.15, 0.13, 0.42, coat, angle=-side * 20)
        pen.ellipse(side * 0.2, 0.93, 0.2, 0.08, (240, 150, 40))
    pen.ellipse(0, 0.25, 0.48, 0.68, coat)
    pen.ellipse(0, 0.35, 0.33, 0.54, (243, 243, 240))
    pen.ellipse(0, -0.58, 0.33, 0.33, coat)
    for side in (-1, 1):
        pen.ellipse(side * 0.13, -0.6, 0.09, 0.1, (243, 243, 240))
        pen.ellipse(side * 0.12, -0.6, 0.04, 0.05, DARK)
    pen.polygon([(-0.1, -0.48), (0.1, -0.48), (0, -0.32)], (240, 150, 40))


@FURTHER_OBJECTS("hat", tilt=12)
def hat(pen, rng, paint):
    pen.ellipse(0, 0.45, 0.98, 0.24, paint)
    pen.blob([(-0.5, 0.4), (-0.42, -0.4), (0, -0.55), (0.42, -0.4), (0.5, 0.4)], paint)
    pen.box(-0.5, 0.18, 0.5, 0.38, any_colour(rng))


@FURTHER_OBJECTS("magnet", tilt=50)
def magnet(pen, rng, paint):
    pen.ring(0, 0.1, 0.5, 0.55, 0.32, paint, 0, 180)
    for x in (-0.5, 0.5):
        pen.box(x - 0.16, -0.35, x + 0.16, 0.12, paint)
        pen.box(x - 0.16, -0.75, x + 0.16, -0.35, STEEL)


@FURTHER_OBJECTS("trophy", tilt=10)
def trophy(pen, rng, paint):
    gold = (225, 180, 60) if rng.random() < 0.6 else paint
    for side in (-1, 1):
        pen.ring(side * 0.55, -0.5, 0.25, 0.28, 0.1, gold)
    pen.polygon(
        [(-0.55, -0.95), (0.55, -0.95), (0.4, -0.2), (0.12, 0.1), (-0.12, 0.1), (-0.4, -0.2)], gold
    )
    pen.box(-0.09, 0.0, 0.09, 0.6, shade(gold, 0.8))
    pen.box(-0.45, 0.55, 0.45, 0.92, (80, 50, 40))
    pen.line([(-0.3, -0.8), (-0.22, -0.3)], 0.09, shade(gold, 1.5))


@FURTHER_OBJECTS("wheel", tilt=90)
def wheel(pen, rng, paint):
    pen.polygon(arc(0, 0, 0.95, 0.95), DARK)
    pen.ellipse(0, 0, 0.66, 0.66, paint)
    pen.ellipse(0, 0, 0.56, 0.56, CLEAR)
    for turn in np.deg2rad(np.arange(0, 180, 45)):
        pen.line(
            [(-0.6 * np.cos(turn), -0.6 * np.sin(turn)), (0.6 * np.cos(turn), 0.6 * np.sin(turn))],
            0.1,
            paint,
        )
    pen.ellipse(0, 0, 0.18, 0.18, shade(paint, 0.6))
