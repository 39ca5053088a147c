"""Objects that are ID classes, each drawn within about [-1, 1] x [-1, 1]."""

import numpy as np

from generated.canvas import CLEAR, any_colour, arc, shade
from generated.drawing import Things

OBJECTS = Things()

STEEL, WOOD, DARK, CREAM = (150, 155, 165), (150, 100, 55), (35, 35, 42), (245, 240, 225)


@OBJECTS("umbrella", tilt=20)
def umbrella(pen, rng, paint):
    pen.line([(0, -0.9), (0, 0.75)], 0.06, DARK)
    pen.ring(0.16, 0.75, 0.16, 0.17, 0.07, WOOD, 0, 180)
    rise = rng.uniform(0.7, 0.9)
    pen.ellipse(0, 0, 1, rise, paint, 180, 360)
    second = any_colour(rng) if rng.random() < 0.4 else shade(paint, 0.72)
    pen.ellipse(0, 0, 0.66, rise, second, 180, 360)
    pen.ellipse(0, 0, 0.3, rise, paint, 180, 360)
    for x in (-0.83, -0.48, 0, 0.48, 0.83):
        pen.ellipse(x, 0.02, 0.17 if abs(x) > 0.5 else 0.2, 0.11, CLEAR, 180, 360)
    pen.line([(0, -0.12), (0, 0.75)], 0.05, DARK)


@OBJECTS("sailboat", tilt=8)
def sailboat(pen, rng, paint):
    hull = shade(any_colour(rng), 0.8)
    pen.line([(0, -0.95), (0, 0.55)], 0.06, WOOD)
    pen.polygon([(0.07, -0.9), (0.07, 0.38), (rng.uniform(0.6, 0.85), 0.38)], paint)
    pen.polygon(
        [(-0.07, -0.75), (-0.07, 0.38), (-rng.uniform(0.5, 0.75), 0.38)], shade(paint, 1.35)
    )
    pen.polygon([(-0.9, 0.48), (0.95, 0.48), (0.65, 0.88), (-0.65, 0.88)], hull)
    pen.line([(-0.85, 0.54), (0.9, 0.54)], 0.07, shade(hull, 1.6))


@OBJECTS("teapot", tilt=10)
def teapot(pen, rng, paint):
    pen.ring(-0.62, 0.1, 0.34, 0.36, 0.12, shade(paint, 0.75), 60, 300)
    pen.polygon(
        [
            (0.35, 0.4),
            (0.5, 0.0),
            (0.78, -0.12),
            (0.88, -0.42),
            (1.05, -0.4),
            (0.98, 0.0),
            (0.7, 0.42),
        ],
        shade(paint, 0.85),
    )
    pen.ellipse(0, 0.18, 0.68, rng.uniform(0.48, 0.6), paint)
    pen.ellipse(-0.2, 0.0, 0.22, 0.17, shade(paint, 1.35))
    pen.ellipse(0, -0.27, 0.36, 0.14, shade(paint, 0.7))
    pen.ellipse(0, -0.33, 0.3, 0.13, shade(paint, 1.1))
    pen.ellipse(0, -0.5, 0.1, 0.1, shade(paint, 0.8))
    pen.box(-0.38, 0.62, 0.38, 0.74, shade(paint, 0.65))


@OBJECTS("mug", tilt=10)
def mug(pen, rng, paint):
    pen.ring(0.52, 0.05, 0.32, 0.36, 0.14, shade(paint, 0.8), -100, 100)
    taper = rng.uniform(0, 0.1)
    pen.polygon([(-0.6, -0.6), (0.55, -0.6), (0.55 - taper, 0.65), (-0.6 + taper, 0.65)], paint)
    pen.ellipse(-0.025, 0.65, 0.575 - taper, 0.13, paint)
    if rng.random() < 0.5:
        pen.box(-0.585, -0.15, 0.535, 0.15, any_colour(rng))
    pen.box(-0.45, -0.5, -0.32, 0.6, shade(paint, 1.35))
    pen.ellipse(-0.025, -0.6, 0.575, 0.16, shade(paint, 1.2))
    pen.ellipse(-0.025, -0.58, 0.48, 0.11, (70, 40, 25) if rng.random() < 0.6 else CREAM)


@OBJECTS("bicycle", tilt=8)
def bicycle(pen, rng, paint):
    for x in (-0.58, 0.58):
        pen.ring(x, 0.35, 0.38, 0.38, 0.085, DARK)
        for angle in np.arange(0, 180, 45):
            dx, dy = 0.36 * np.cos(np.deg2rad(angle)), 0.36 * np.sin(np.deg2rad(angle))
            pen.line([(x - dx, 0.35 - dy), (x + dx, 0.35 + dy)], 0.02, STEEL)
    seat, head, crank = (-0.3, -0.25), (0.4, -0.3), (-0.05, 0.35)
    for path in (
        [(-0.58, 0.35), seat, head, crank, (-0.58, 0.35)],
        [seat, crank],
        [(0.36, -0.52), head, (0.58, 0.35)],
    ):
        pen.line(path, 0.1, paint)
    pen.line([seat, (-0.34, -0.42)], 0.07, STEEL)
    pen.line([(-0.52, -0.44), (-0.18, -0.42)], 0.13, DARK)
    pen.line([(0.2, -0.62), (0.37, -0.55), (0.55, -0.62)], 0.09, DARK)
    pen.ellipse(*crank, 0.1, 0.1, STEEL)


@OBJECTS("guitar", tilt=50)
def guitar(pen, rng, paint):
    waist = rng.uniform(0.24, 0.32)
    right = [(0.0, 0.95), (0.4, 0.85), (0.48, 0.52), (waist, 0.27), (0.36, 0.02), (0.22, -0.14)]
    outline = right + [(-x, y) for x, y in reversed(right[1:])]
    pen.blob(outline, shade(paint, 0.6))
    pen.blob([(x * 0.86, 0.4 + (y - 0.4) * 0.9) for x, y in outline], paint)
    pen.ellipse(0, 0.28, 0.15, 0.15, DARK)
    pen.box(-0.06, -0.78, 0.06, 0.2, (75, 50, 35))
    pen.polygon([(-0.1, -1.0), (0.1, -1.0), (0.07, -0.74), (-0.07, -0.74)], (50, 35, 25))
    pen.box(-0.17, 0.6, 0.17, 0.67, (60, 40, 30))
    for x in (-0.025, 0.025):
        pen.line([(x, -0.75), (x, 0.62)], 0.012, CREAM)


@OBJECTS("airplane", tilt=15)
def airplane(pen, rng, paint):
    wing = shade(paint, 0.7)
    pen.polygon([(0.05, 0), (-0.2, -0.5), (-0.36, -0.5), (-0.22, 0)], shade(paint, 0.55))
    pen.polygon([(-0.62, -0.05), (-0.92, -0.55), (-1.0, -0.55), (-0.95, 0.0)], wing)
    pen.blob(
        [
            (-1, -0.08),
            (-0.5, -0.17),
            (0.4, -0.18),
            (0.85, -0.1),
            (1, 0.05),
            (0.8, 0.15),
            (0.2, 0.19),
            (-0.5, 0.1),
        ],
        paint,
    )
    pen.polygon([(0.85, -0.1), (0.72, -0.14), (0.7, -0.02), (0.92, -0.01)], (60, 90, 130))
    for x in np.arange(-0.45, 0.62, 0.17):
        pen.ellipse(x, -0.04, 0.05, 0.05, (60, 90, 130))
    reach = rng.uniform(0.45, 0.7)
    pen.polygon([(0.22, 0.06), (-0.3, reach), (-0.5, reach), (-0.25, 0.06)], wing)
    pen.polygon([(-0.7, 0.0), (-0.98, 0.2), (-1.06, 0.2), (-0.92, 0.0)], wing)


@OBJECTS("hot air balloon", tilt=6)
def hot_air_balloon(pen, rng, paint):
    second = any_colour(rng)
    for x in (-0.13, 0.13):
        pen.line([(x * 2.2, 0.35), (x, 0.78)], 0.03, DARK)
    for width, fill in ((0.72, paint), (0.52, second), (0.3, paint), (0.1, second)):
        pen.blob(
            [
                (0, -1),
                (width, -0.75),
                (width * 1.1, -0.3),
                (width * 0.55, 0.25),
                (width * 0.35, 0.42),
                (-width * 0.35, 0.42),
                (-width * 0.55, 0.25),
                (-width * 1.1, -0.3),
                (-width, -0.75),
            ],
            fill,
        )
    pen.polygon([(-0.17, 0.75), (0.17, 0.75), (0.13, 1.0), (-0.13, 1.0)], WOOD)


@OBJECTS("key", tilt=70)
def key(pen, rng, paint):
    metal = paint if rng.random() < 0.5 else [(200, 165, 70), STEEL][rng.integers(2)]
    pen.line([(-0.3, 0), (0.95, 0)], 0.17, metal)
    for x in (0.58, 0.86)[: 1 + (rng.random() < 0.8)]:
        pen.box(x - 0.09, 0, x + 0.09, rng.uniform(0.28, 0.42), metal)
    if rng.random() < 0.5:
        pen.ring(-0.58, 0, 0.32, 0.36, 0.19, metal)
    else:
        pen.ellipse(-0.55, 0, 0.42, 0.46, metal)
        pen.ellipse(-0.68, 0, 0.14, 0.17, CLEAR)
    pen.line([(-0.15, -0.04), (0.9, -0.04)], 0.04, shade(metal, 1.5))


@OBJECTS("alarm clock", tilt=12)
def alarm_clock(pen, rng, paint):
    for side in (-1, 1):
        pen.line([(side * 0.3, 0.5), (side * 0.58, 0.95)], 0.13, shade(paint, 0.6))
        pen.ellipse(side * 0.45, -0.68, 0.3, 0.2, shade(paint, 0.75), angle=side * 38)
    pen.line([(0, -0.6), (0, -0.92)], 0.09, STEEL)
    pen.ellipse(0, 0.05, 0.75, 0.75, paint)
    pen.ellipse(0, 0.05, 0.57, 0.57, CREAM)
    for angle in np.deg2rad(np.arange(0, 360, 30)):
        pen.ellipse(0.47 * np.cos(angle), 0.05 + 0.47 * np.sin(angle), 0.045, 0.045, DARK)
    for length, width in ((0.28, 0.1), (0.44, 0.06)):
        turn = rng.uniform(0, 2 * np.pi)
        pen.line([(0, 0.05), (length * np.cos(turn), 0.05 + length * np.sin(turn))], width, DARK)


@OBJECTS("car", tilt=6)
def car(pen, rng, paint):
    back, roof = rng.uniform(-0.85, -0.5), rng.uniform(-0.55, -0.42)
    pen.polygon([(back, -0.05), (back + 0.2, roof), (0.25, roof), (0.6, -0.05)], paint)
    glass = (165, 205, 225) if rng.random() < 0.7 else (60, 75, 95)
    pen.polygon(
        [(back + 0.14, -0.06), (back + 0.27, roof + 0.09), (-0.1, roof + 0.09), (-0.1, -0.06)],
        glass,
    )
    pen.polygon([(0.0, -0.06), (0.0, roof + 0.09), (0.21, roof + 0.09), (0.46, -0.06)], glass)
    pen.blob(
        [
            (-1, 0.0),
            (-0.6, -0.08),
            (0.55, -0.08),
            (0.95, 0.04),
            (1, 0.3),
            (0.8, 0.4),
            (-0.8, 0.4),
            (-1, 0.32),
        ],
        paint,
    )
    pen.line([(-0.95, 0.3), (0.95, 0.3)], 0.07, shade(paint, 0.6))
    pen.ellipse(0.92, 0.1, 0.07, 0.07, (255, 240, 170))
    for x in (-0.55, 0.55):
        pen.ellipse(x, 0.36, 0.25, 0.25, DARK)
        pen.ellipse(x, 0.36, 0.12, 0.12, STEEL)


@OBJECTS("duck", tilt=8)
def duck(pen, rng, paint):
    bill = (240, 150, 40)
    pen.polygon([(0.62, -0.5), (1.0, -0.42), (0.98, -0.32), (0.62, -0.3)], bill)
    pen.blob(
        [
            (-1, -0.12),
            (-0.6, 0.05),
            (0, 0.0),
            (0.2, -0.25),
            (0.62, 0.1),
            (0.6, 0.5),
            (0.15, 0.75),
            (-0.45, 0.72),
            (-0.85, 0.35),
        ],
        paint,
    )
    head = shade(any_colour(rng), 0.8) if rng.random() < 0.4 else paint
    pen.ellipse(0.4, -0.12, 0.18, 0.3, paint)
    pen.ellipse(0.42, -0.45, 0.32, 0.3, head)
    pen.blob(
        [(-0.65, 0.2), (-0.1, 0.15), (0.25, 0.3), (-0.1, 0.55), (-0.5, 0.45)], shade(paint, 0.72)
    )
    pen.ellipse(0.52, -0.52, 0.06, 0.06, DARK)


@OBJECTS("turtle", tilt=12)
def turtle(pen, rng, paint):
    skin = shade((120, 150, 70), rng.uniform(0.7, 1.2))
    pen.blob(
        [(0.5, 0.1), (0.72, -0.2), (0.95, -0.25), (1.02, -0.05), (0.8, 0.15), (0.55, 0.38)], skin
    )
    pen.ellipse(0.9, -0.13, 0.04, 0.05, DARK)
    pen.polygon([(-0.7, 0.25), (-1.0, 0.4), (-0.65, 0.42)], skin)
    for x in (-0.45, 0.4):
        pen.ellipse(x, 0.5, 0.17, 0.28, shade(skin, 0.8))
    pen.ellipse(0, 0.35, 0.78, rng.uniform(0.7, 0.9), paint, 180, 360)
    for x, y, r in ((-0.42, 0.1, 0.16), (0, -0.1, 0.2), (0.42, 0.1, 0.16)):
        pen.polygon(arc(x, y, r, r, 0, 360)[:: 1 if rng.random() < 0.3 else 7], shade(paint, 0.6))
    pen.line([(-0.76, 0.37), (0.76, 0.37)], 0.1, shade(paint, 1.4))


@OBJECTS("rocket", tilt=25)
def rocket(pen, rng, paint):
    trim = any_colour(rng)
    pen.polygon([(-0.16, 0.6), (0, 1.05), (0.16, 0.6)], (255, 150, 40))
    pen.polygon([(-0.08, 0.6), (0, 0.88), (0.08, 0.6)], (255, 230, 120))
    for side in (-1, 1):
        pen.polygon(
            [(side * 0.25, 0.1), (side * 0.6, 0.5), (side * 0.6, 0.75), (side * 0.22, 0.55)], trim
        )
    pen.blob(
        [
            (0, -1.0),
            (0.22, -0.62),
            (0.33, -0.1),
            (0.3, 0.35),
            (0.2, 0.64),
            (-0.2, 0.64),
            (-0.3, 0.35),
            (-0.33, -0.1),
            (-0.22, -0.62),
        ],
        paint,
    )
    pen.polygon([(0, -1.02), (0.21, -0.62), (-0.21, -0.62)], trim)
    pen.ellipse(0, -0.25, 0.19, 0.19, STEEL)
    pen.ellipse(0, -0.25, 0.13, 0.13, (90, 160, 215))


@OBJECTS("boot", tilt=12)
def boot(pen, rng, paint):
    top = rng.uniform(-0.95, -0.6)
    pen.polygon([(-0.5, top), (0.12, top), (0.14, 0.1), (-0.5, 0.5)], paint)
    pen.blob(
        [
            (-0.55, 0.15),
            (0.05, 0.05),
            (0.3, 0.2),
            (0.75, 0.3),
            (0.92, 0.55),
            (0.85, 0.75),
            (-0.5, 0.75),
        ],
        paint,
    )
    pen.box(-0.56, 0.66, 0.9, 0.82, DARK)
    pen.box(-0.56, 0.7, -0.15, 0.95, DARK)
    pen.box(-0.53, top, 0.15, top + 0.18, shade(paint, 1.4))
    for y in np.linspace(top + 0.3, 0.08, 4):
        pen.line([(-0.02, y), (0.14, y + 0.05)], 0.05, CREAM)


@OBJECTS("kite", tilt=25)
def kite(pen, rng, paint):
    second = any_colour(rng)
    pen.curve([(0, 0.4), (0.12, 0.6), (-0.1, 0.78), (0.06, 1.0)], 0.035, DARK)
    for x, y in ((0.08, 0.58), (-0.08, 0.76), (0.05, 0.95)):
        pen.polygon(
            [
                (x - 0.12, y - 0.06),
                (x + 0.12, y + 0.06),
                (x + 0.12, y - 0.06),
                (x - 0.12, y + 0.06),
            ],
            second,
        )
    wide = rng.uniform(0.5, 0.65)
    corners = [(0, -1), (wide, -0.4), (0, 0.45), (-wide, -0.4)]
    for corner, fill in enumerate((paint, second, paint, second)):
        pen.polygon([corners[corner], corners[(corner + 1) % 4], (0, -0.4)], fill)
    pen.line([corners[0], corners[2]], 0.035, DARK)
    pen.line([corners[1], corners[3]], 0.035, DARK)
