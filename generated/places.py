"""Indoor compositions: the OOD set generated-places (in the role of Places)."""

from collections.abc import Callable

import numpy as np

from generated.canvas import SIZE, Pen, any_colour, shade
from generated.noise import fractal, tint

PLACES: dict[str, Callable[[np.random.Generator], np.ndarray]] = {}


def indoor(name: str):
    """Register a place: a function (pen, rng, room) that draws over an empty room."""

    def register(draw):
        PLACES[name] = draw
        return draw

    return register


class Room:
    """A room seen from its open front: walls, floor and ceiling in one-point perspective."""

    def __init__(self, rng: np.random.Generator, depth: float | None = None):
        self.scale = depth or rng.uniform(0.45, 0.75)
        self.vanish = rng.uniform(0.35, 0.65), rng.uniform(0.35, 0.5)
        self.wall = _rgb(
            tint(
                rng,
                [(205, 190, 165), (170, 185, 190), (190, 170, 160), (160, 175, 150)][
                    rng.integers(4)
                ],
                18,
            )
        )
        self.floor = _rgb(
            tint(rng, [(140, 100, 70), (110, 110, 115), (160, 140, 120)][rng.integers(3)], 15)
        )

    def at(self, x: float, y: float, depth: float) -> tuple[float, float]:
        """Return the point (x, y) of the front opening, moved inside to `depth` (0..1)."""
        shrink = 1 - depth * (1 - self.scale * 0.55)
        vx, vy = self.vanish
        return vx + (x - vx) * shrink, vy + (y - vy) * shrink

    def quad(self, corners) -> list[tuple[float, float]]:
        return [self.at(*corner) for corner in corners]

    def draw(self, pen: Pen) -> None:
        for (x0, y0), (x1, y1), fill in (
            ((0, 0), (1, 0), shade(self.wall, 1.5)),
            ((0, 1), (1, 1), self.floor),
            ((0, 0), (0, 1), shade(self.wall, 0.8)),
            ((1, 0), (1, 1), shade(self.wall, 0.88)),
        ):
            pen.polygon(self.quad([(x0, y0, -0.2), (x1, y1, -0.2), (x1, y1, 1), (x0, y0, 1)]), fill)
        pen.polygon(self.quad([(0, 0, 1), (1, 0, 1), (1, 1, 1), (0, 1, 1)]), self.wall)


def _rgb(values) -> tuple[int, int, int]:
    return tuple(int(v) for v in values)


def draw_place(rng: np.random.Generator, name: str) -> np.ndarray:
    """Draw the place under soft light, float32 `[S, S, 3]`."""
    pen, room = Pen(), Room(rng)
    room.draw(pen)
    PLACES[name](pen, rng, room)
    image = pen.over(np.full((SIZE, SIZE, 3), 40, np.float32))
    return np.clip(image * (0.75 + 0.4 * fractal(rng, 2, 2, 2))[..., None], 0, 255)


def _window(pen, rng, left, top, right, bottom, room, depth=1.0):
    corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
    pen.polygon(room.quad([(x, y, depth) for x, y in corners]), (235, 232, 225))
    inner = [
        (left + 0.02, top + 0.02),
        (right - 0.02, top + 0.02),
        (right - 0.02, bottom - 0.02),
        (left + 0.02, bottom - 0.02),
    ]
    pen.polygon(
        room.quad([(x, y, depth) for x, y in inner]), shade((165, 205, 235), rng.uniform(0.5, 1.2))
    )
    middle = (left + right) / 2
    pen.line(room.quad([(middle, top, depth), (middle, bottom, depth)]), 0.015, (235, 232, 225))


@indoor("bedroom")
def bedroom(pen, rng, room):
    _window(pen, rng, 0.55, 0.15, 0.85, 0.55, room)
    cover, left = any_colour(rng), rng.uniform(0.05, 0.3)
    right = left + 0.5
    pen.polygon(
        room.quad([(left, 0.6, 0.98), (right, 0.6, 0.98), (right, 1, 0.98), (left, 1, 0.98)]),
        (110, 75, 50),
    )
    pen.polygon(
        room.quad([(left, 0.8, 0.95), (right, 0.8, 0.95), (right, 0.8, 0.3), (left, 0.8, 0.3)]),
        cover,
    )
    pen.polygon(
        room.quad([(left, 0.8, 0.3), (right, 0.8, 0.3), (right, 1, 0.3), (left, 1, 0.3)]),
        shade(cover, 0.65),
    )
    for x in (left + 0.04, left + 0.27):
        pen.polygon(
            room.quad(
                [(x, 0.74, 0.95), (x + 0.19, 0.74, 0.95), (x + 0.19, 0.79, 0.8), (x, 0.79, 0.8)]
            ),
            (245, 243, 238),
        )


@indoor("corridor")
def corridor(pen, rng, room):
    room.scale = 0.25
    room.draw(pen)
    door = shade(any_colour(rng), 0.8)
    for depth in np.arange(0.1, 0.95, 0.28):
        for x in (0, 1):
            pen.polygon(
                room.quad(
                    [(x, 0.25, depth), (x, 0.25, depth + 0.13), (x, 1, depth + 0.13), (x, 1, depth)]
                ),
                door,
            )
        pen.polygon(
            room.quad(
                [(0.4, 0, depth), (0.6, 0, depth), (0.6, 0, depth + 0.1), (0.4, 0, depth + 0.1)]
            ),
            (255, 252, 235),
        )


@indoor("shelves")
def shelves(pen, rng, room):
    wood = shade((140, 100, 65), rng.uniform(0.6, 1.2))
    pen.box(0, 0, 1, 1, shade(wood, 0.45))
    rows = int(rng.integers(3, 6))
    for row in range(rows):
        foot, x = (row + 1) / rows, 0.02
        while x < 0.97:
            width, height = rng.uniform(0.03, 0.1), rng.uniform(0.5, 0.85) / rows
            if rng.random() < 0.88:
                pen.box(x, foot - height, min(x + width, 0.98), foot, any_colour(rng))
            x += width + 0.008
        pen.box(0, foot - 0.02, 1, foot + 0.015, wood)


@indoor("stage")
def stage(pen, rng, room):
    cloth = shade(any_colour(rng), 0.85)
    pen.box(0, 0, 1, 1, (28, 24, 32))
    floor = rng.uniform(0.65, 0.8)
    pen.polygon([(0, 1), (0.12, floor), (0.88, floor), (1, 1)], (135, 95, 60))
    for index, x in enumerate(np.linspace(0, 0.2, 6)):
        for left in (x, 1 - x - 0.045):
            pen.box(left, 0, left + 0.045, 1, shade(cloth, 1.1 if index % 2 else 0.7))
    for x in np.linspace(0, 1, 8):
        pen.ellipse(x, 0, 0.09, 0.16, shade(cloth, 0.85))
    spot = rng.uniform(0.35, 0.65)
    pen.ellipse(spot, floor + 0.1, 0.2, 0.06, (235, 215, 160))


@indoor("staircase")
def staircase(pen, rng, room):
    steps, stone = int(rng.integers(6, 11)), shade((170, 155, 140), rng.uniform(0.7, 1.15))
    left, right = rng.uniform(0, 0.15), rng.uniform(0.8, 1)
    for step in range(steps):
        t, u = step / steps, (step + 1) / steps
        x0, x1 = left + 0.25 * t, right - 0.25 * t
        y0, y1 = 1 - 0.75 * t, 1 - 0.75 * u
        middle = y1 + (y0 - y1) * 0.4
        pen.box(x0, middle, x1, y0, shade(stone, 0.6))
        pen.polygon([(x0, middle), (x1, middle), (x1 - 0.03, y1), (x0 + 0.03, y1)], stone)
    for x, far in ((left, left + 0.25), (right, right - 0.25)):
        pen.line([(x, 0.75), (far, 0.08)], 0.03, (95, 65, 45))


@indoor("kitchen")
def kitchen(pen, rng, room):
    front, top = any_colour(rng), shade((190, 185, 175), rng.uniform(0.6, 1.1))
    pen.box(0, 0, 1, 1, room.wall)
    for x in np.arange(0, 1, 0.08):
        pen.line([(x, 0.34), (x, 0.56)], 0.006, shade(room.wall, 0.75))
    for y in (0.34, 0.41, 0.48, 0.55):
        pen.line([(0, y), (1, y)], 0.006, shade(room.wall, 0.75))
    width = rng.uniform(0.18, 0.3)
    for x in np.arange(-rng.uniform(0, 0.2), 1, width):
        for y0, y1 in ((0.02, 0.33), (0.63, 0.95)):
            pen.box(x + 0.01, y0, x + width - 0.01, y1, front)
            pen.box(
                x + width - 0.05,
                (y0 + y1) / 2 - 0.03,
                x + width - 0.03,
                (y0 + y1) / 2 + 0.03,
                shade(front, 0.4),
            )
    pen.box(0, 0.57, 1, 0.63, top)
    sink = rng.uniform(0.2, 0.7)
    pen.ring(sink, 0.48, 0.05, 0.06, 0.02, (150, 155, 160), 180, 360)
    pen.line([(sink - 0.05, 0.48), (sink - 0.05, 0.57)], 0.02, (150, 155, 160))


@indoor("arcade")
def arcade(pen, rng, room):
    stone, rows = shade((200, 180, 150), rng.uniform(0.7, 1.1)), int(rng.integers(3, 5))
    vx, vy = room.vanish
    for index in range(rows):
        shrink = 0.62**index
        tone = shade(stone, 1 - 0.17 * index)
        x0, x1, y0, y1 = (
            v + (edge - v) * shrink
            for v, edge in ((vx, -0.02), (vx, 1.02), (vy, -0.02), (vy, 1.02))
        )
        pen.box(x0, y0, x1, y1, tone)
        half, middle = (x1 - x0) * 0.38, (x0 + x1) / 2
        spring = y0 + (y1 - y0) * 0.5
        hole = (90, 110, 130) if index == rows - 1 else shade(stone, 0.35)
        pen.ellipse(middle, spring, half, (y1 - y0) * 0.4, hole, 180, 360)
        pen.box(middle - half, spring - 0.005, middle + half, y1, hole)


@indoor("swimming hall")
def swimming_hall(pen, rng, room):
    for x in (0.08, 0.38, 0.68):
        _window(pen, rng, x, 0.12, x + 0.24, 0.6, room)
    left, right = 0.15, 0.85
    pen.polygon(
        room.quad([(left, 1, 0.95), (right, 1, 0.95), (right, 1, -0.2), (left, 1, -0.2)]),
        shade((60, 165, 200), rng.uniform(0.8, 1.15)),
    )
    for x in np.linspace(left, right, int(rng.integers(4, 7)))[1:-1]:
        ends = room.quad([(x, 1, 0.95), (x, 1, -0.2)])
        points = np.linspace(*ends, 9)
        for index in range(8):
            pen.line(
                points[index : index + 2], 0.012, (230, 70, 60) if index % 2 else (245, 245, 245)
            )


@indoor("office")
def office(pen, rng, room):
    for x in np.arange(0.06, 0.9, 0.3):
        _window(pen, rng, x, 0.1, x + 0.26, 0.55, room)
    desk = shade((180, 150, 115), rng.uniform(0.7, 1.1))
    for depth in (0.75, 0.4):
        for x in (0.1, 0.58):
            pen.polygon(
                room.quad(
                    [
                        (x, 0.78, depth),
                        (x + 0.32, 0.78, depth),
                        (x + 0.32, 0.78, depth - 0.2),
                        (x, 0.78, depth - 0.2),
                    ]
                ),
                desk,
            )
            pen.polygon(
                room.quad(
                    [
                        (x, 0.78, depth - 0.2),
                        (x + 0.32, 0.78, depth - 0.2),
                        (x + 0.32, 1, depth - 0.2),
                        (x, 1, depth - 0.2),
                    ]
                ),
                shade(desk, 0.6),
            )
            pen.polygon(
                room.quad(
                    [
                        (x + 0.08, 0.58, depth),
                        (x + 0.24, 0.58, depth),
                        (x + 0.24, 0.74, depth),
                        (x + 0.08, 0.74, depth),
                    ]
                ),
                (45, 50, 60),
            )


@indoor("lift lobby")
def lift_lobby(pen, rng, room):
    steel = shade((165, 168, 175), rng.uniform(0.75, 1.15))
    doors = int(rng.integers(1, 4))
    for index in range(doors):
        left, right = (index + 0.15) / doors, (index + 0.85) / doors
        for x0, x1, tone in ((left, (left + right) / 2, 1.0), ((left + right) / 2, right, 0.82)):
            pen.polygon(
                room.quad([(x0, 0.2, 1), (x1, 0.2, 1), (x1, 1, 1), (x0, 1, 1)]), shade(steel, tone)
            )
        pen.line(room.quad([(left, 0.2, 1), (right, 0.2, 1)]), 0.025, (80, 70, 65))
        lamp = room.at((left + right) / 2, 0.12, 1)
        pen.ellipse(*lamp, 0.02, 0.02, (250, 190, 70))
    pen.polygon(
        room.quad([(0.25, 1, 0.9), (0.75, 1, 0.9), (0.75, 1, 0), (0.25, 1, 0)]),
        shade(any_colour(rng), 0.8),
    )
