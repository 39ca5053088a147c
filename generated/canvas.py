"""Supersampled vector drawing on a small transparent layer, and named colours."""

import colorsys
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

SIZE = 96
"""Side of every generated image, in pixels."""

SUPERSAMPLE = 3
CLEAR = (0, 0, 0, 0)

# name -> (hue, saturation, value) in [0, 1]
_COLOURS = {
    "red": (0.99, 0.85, 0.80),
    "orange": (0.07, 0.90, 0.95),
    "yellow": (0.14, 0.85, 0.95),
    "green": (0.35, 0.75, 0.60),
    "teal": (0.49, 0.75, 0.65),
    "blue": (0.61, 0.80, 0.80),
    "purple": (0.77, 0.60, 0.65),
    "pink": (0.92, 0.45, 0.95),
    "brown": (0.07, 0.60, 0.45),
    "white": (0.10, 0.04, 0.95),
    "grey": (0.60, 0.05, 0.55),
    "black": (0.65, 0.15, 0.14),
}
COLOUR_NAMES = tuple(_COLOURS)


def colour(rng: np.random.Generator, name: str) -> tuple[int, int, int]:
    """Draw a random shade (RGB, 0..255) of the colour `name`."""
    hue, saturation, value = _COLOURS[name]
    jitter = rng.normal(0, (0.015, 0.06, 0.06))
    rgb = colorsys.hsv_to_rgb(
        (hue + jitter[0]) % 1, *np.clip((saturation + jitter[1], value + jitter[2]), 0, 1)
    )
    return tuple(int(255 * c) for c in rgb)


def any_colour(rng: np.random.Generator) -> tuple[int, int, int]:
    return colour(rng, COLOUR_NAMES[rng.integers(len(COLOUR_NAMES))])


def shade(rgb: tuple[int, ...], factor: float) -> tuple[int, int, int]:
    """Darken a colour (factor < 1), or lighten it towards white (factor > 1; 2 is white)."""
    if factor <= 1:
        return tuple(int(c * factor) for c in rgb)
    return tuple(int(c + (255 - c) * (factor - 1)) for c in rgb)


@dataclass(frozen=True)
class Pose:
    """The transform of drawing coordinates: centre in pixels, pixels a unit, stretch, degrees."""

    x: float = 0.0
    y: float = 0.0
    scale: float = 1.0
    aspect: float = 1.0
    angle: float = 0.0
    mirror: bool = False

    def matrix(self) -> np.ndarray:
        turn = np.deg2rad(self.angle)
        rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        stretch = self.scale * np.array([self.aspect**0.5, self.aspect**-0.5])
        stretch[0] *= -1 if self.mirror else 1
        return rotation * stretch


WHOLE_IMAGE = Pose(scale=SIZE)
"""The pose in which [0, 1] x [0, 1] covers the image: x to the right, y down."""


class Pen:
    """A pen for filled shapes; later ones cover earlier ones, and `CLEAR` erases.

    Objects are drawn within about [-1, 1] x [-1, 1], x to the right, y down, and placed by the
    pose; whole scenes use `WHOLE_IMAGE`.
    """

    def __init__(self, pose: Pose = WHOLE_IMAGE, supersample: int = SUPERSAMPLE):
        self.supersample = supersample
        self._matrix = pose.matrix() * supersample
        self._centre = np.array([pose.x, pose.y]) * supersample
        self._unit = pose.scale * supersample
        self._layer = Image.new("RGBA", (SIZE * supersample,) * 2, CLEAR)
        self._draw = ImageDraw.Draw(self._layer)

    def _place(self, points) -> list[float]:
        """Return the pixels of points as x, y, x, y, ..., which Pillow takes fastest."""
        return (np.asarray(points, dtype=float) @ self._matrix.T + self._centre).ravel().tolist()

    def polygon(self, points, fill) -> None:
        self._draw.polygon(self._place(points), fill=fill)

    def box(self, left, top, right, bottom, fill) -> None:
        self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], fill)

    def blob(self, points, fill) -> None:
        """Draw a closed smooth shape through `points`."""
        self.polygon(smooth(points, closed=True), fill)

    def ellipse(self, x, y, rx, ry, fill, start=0.0, end=360.0, angle=0.0) -> None:
        """Draw an ellipse, or its part from `start` to `end` degrees (clockwise from +x), closed by
        a chord."""
        self.polygon(arc(x, y, rx, ry, start, end, angle), fill)

    def line(self, points, width, fill) -> None:
        """Draw a stroke with round joints and ends."""
        placed = self._place(points)
        pixels = max(1.0, width * self._unit)
        self._draw.line(placed, fill=fill, width=round(pixels), joint="curve")
        for x, y in (placed[:2], placed[-2:]):
            r = pixels / 2
            self._draw.ellipse((x - r, y - r, x + r, y + r), fill=fill)

    def curve(self, points, width, fill) -> None:
        """Draw a stroke along a smooth curve through `points`."""
        self.line(smooth(points), width, fill)

    def ring(self, x, y, rx, ry, width, fill, start=0.0, end=360.0) -> None:
        self.line(arc(x, y, rx, ry, start, end), width, fill)

    def rgba(self) -> np.ndarray:
        """Return the antialiased drawing, float32 `[S, S, 4]`: colour 0..255, alpha 0..1."""
        pixels = np.zeros((SIZE, SIZE, 4), np.float32)
        box = self._layer.getbbox()
        if box is not None:  # only the part drawn on, as most things are small
            step = self.supersample
            left, top = box[0] // step, box[1] // step
            right, bottom = -(-box[2] // step), -(-box[3] // step)
            crop = self._layer.crop((left * step, top * step, right * step, bottom * step))
            pixels[top:bottom, left:right] = np.asarray(crop.reduce(step) if step > 1 else crop)
        pixels[..., 3] /= 255
        return pixels

    def over(self, image: np.ndarray) -> np.ndarray:
        """Composite the drawing over `image` `[S, S, 3]`."""
        return composite(image, self.rgba())


def composite(image: np.ndarray, layer: np.ndarray) -> np.ndarray:
    """Composite `layer` `[H, W, 4]` over `image` `[H, W, 3]`, float32."""
    alpha = np.repeat(layer[..., 3:], 3, axis=-1)
    return image * (1 - alpha) + layer[..., :3] * alpha


def arc(x, y, rx, ry, start=0.0, end=360.0, angle=0.0) -> np.ndarray:
    """Return points `[n, 2]` along an ellipse turned by `angle` degrees."""
    cosines, sines = _unit_arc(start, end)
    turn = np.deg2rad(angle)
    dx, dy = rx * cosines, ry * sines
    points = np.empty((len(dx), 2))
    points[:, 0] = x + dx * np.cos(turn) - dy * np.sin(turn)
    points[:, 1] = y + dx * np.sin(turn) + dy * np.cos(turn)
    return points


@lru_cache(maxsize=256)
def _unit_arc(start: float, end: float) -> tuple[np.ndarray, np.ndarray]:
    """Return cosines and sines along an arc; cached, as most are whole circles."""
    t = np.deg2rad(np.linspace(start, end, max(8, int(abs(end - start) / 9))))
    return np.cos(t), np.sin(t)


def smooth(points, closed: bool = False, steps: int = 8) -> np.ndarray:
    """Return a Catmull-Rom curve `[n * steps, 2]` through `points`."""
    p = np.asarray(points, dtype=float)
    padded = np.concatenate([p[-1:], p, p[:2]] if closed else [p[:1], p, p[-1:]])
    a, b, c, d = padded[:-3, None], padded[1:-2, None], padded[2:-1, None], padded[3:, None]
    t = np.linspace(0, 1, steps)[None, :, None]
    curve = 0.5 * (
        2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3
    )
    return curve.reshape(-1, 2)
