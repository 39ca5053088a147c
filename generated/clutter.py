"""Nuisances: small objects that may be anywhere in ID, training and OOD images."""

import numpy as np

from generated.canvas import any_colour, shade
from generated.drawing import Things

CLUTTER = Things()


def _lumpy(rng, count: int = 8, rough: float = 0.2) -> list[tuple[float, float]]:
    angles = np.linspace(0, 2 * np.pi, count, endpoint=False)
    radii = 1 - rough * rng.random(count) * 2
    return list(zip(radii * np.cos(angles), 0.75 * radii * np.sin(angles), strict=True))


@CLUTTER("rock", tilt=30)
def rock(pen, rng, paint):
    stone = shade((140, 135, 128), rng.uniform(0.6, 1.2))
    outline = np.array(_lumpy(rng))
    pen.polygon(outline, shade(stone, 0.75))
    pen.polygon(outline * 0.7 + (-0.12, -0.14), stone)


@CLUTTER("ball", tilt=90)
def ball(pen, rng, paint):
    pen.ellipse(0, 0, 0.9, 0.9, paint)
    if rng.random() < 0.5:
        pen.ellipse(0, 0, 0.35, 0.9, any_colour(rng))
    pen.ellipse(-0.3, -0.35, 0.2, 0.16, shade(paint, 1.6))


@CLUTTER("box", tilt=8)
def box(pen, rng, paint):
    card = shade((190, 145, 95), rng.uniform(0.75, 1.15))
    pen.box(-0.8, -0.45, 0.5, 0.8, card)
    pen.polygon([(0.5, -0.45), (0.85, -0.75), (0.85, 0.5), (0.5, 0.8)], shade(card, 0.65))
    pen.polygon([(-0.8, -0.45), (-0.4, -0.75), (0.85, -0.75), (0.5, -0.45)], shade(card, 1.25))
    pen.box(-0.25, -0.45, -0.05, 0.8, shade(card, 1.45))


@CLUTTER("leaf", tilt=90)
def leaf(pen, rng, paint):
    green = [(95, 140, 50), (190, 110, 40), (205, 165, 60)][rng.integers(3)]
    pen.blob([(-0.9, 0), (-0.3, -0.42), (0.4, -0.32), (0.95, 0), (0.4, 0.32), (-0.3, 0.42)], green)
    pen.line([(-1, 0), (0.85, 0)], 0.07, shade(green, 0.65))


@CLUTTER("post", tilt=4)
def post(pen, rng, paint):
    wood = shade((125, 95, 70), rng.uniform(0.6, 1.2))
    pen.box(-0.16, -1, 0.16, 1, wood)
    pen.box(0.04, -1, 0.16, 1, shade(wood, 0.7))
    pen.ellipse(0, -1, 0.16, 0.07, shade(wood, 1.3))


@CLUTTER("traffic cone", tilt=6)
def traffic_cone(pen, rng, paint):
    pen.box(-0.75, 0.72, 0.75, 0.95, (190, 75, 25))
    pen.polygon([(-0.12, -0.95), (0.12, -0.95), (0.5, 0.75), (-0.5, 0.75)], (240, 105, 35))
    pen.polygon([(-0.24, -0.35), (0.24, -0.35), (0.35, 0.15), (-0.35, 0.15)], (245, 245, 240))


@CLUTTER("barrel", tilt=8)
def barrel(pen, rng, paint):
    pen.blob([(-0.5, -0.85), (0.5, -0.85), (0.66, 0), (0.5, 0.85), (-0.5, 0.85), (-0.66, 0)], paint)
    for y in (-0.5, 0.5):
        pen.line([(-0.6, y), (0.6, y)], 0.12, shade(paint, 0.55))
    pen.ellipse(0, -0.85, 0.5, 0.14, shade(paint, 1.3))


@CLUTTER("stick", tilt=90)
def stick(pen, rng, paint):
    wood = shade((110, 85, 60), rng.uniform(0.6, 1.2))
    pen.curve([(-1, 0.05), (-0.3, -0.1), (0.3, 0.08), (1, -0.05)], 0.16, wood)
    pen.line([(0.2, 0.02), (0.5, -0.35)], 0.1, wood)
