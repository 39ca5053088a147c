"""Things that can be drawn on a transparent layer: objects, clutter and creatures."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from generated.canvas import SIZE, SUPERSAMPLE, Pen, Pose

Paint = tuple[int, int, int]


@dataclass(frozen=True)
class Thing:
    """A named drawing function (pen, rng, colour); `tilt` is the standard deviation of its rotation
    in degrees."""

    name: str
    draw: Callable[[Pen, np.random.Generator, Paint], None]
    tilt: float


class Things(dict[str, Thing]):
    """Things by name, in the order of definition, filled by the decorator `things(name)`."""

    def __call__(self, name: str, tilt: float = 10):
        def register(draw):
            self[name] = Thing(name, draw, tilt)
            return draw

        return register


def random_pose(rng: np.random.Generator, thing: Thing) -> Pose:
    """Draw angle, stretch and mirroring; `fit` chooses position and scale."""
    return Pose(
        aspect=float(np.exp(rng.normal(0, 0.12))),
        angle=float(rng.normal(0, thing.tilt)),
        mirror=bool(rng.random() < 0.5),
    )


def render(
    thing: Thing, paint: Paint, pose: Pose, seed: int, supersample: int = SUPERSAMPLE
) -> np.ndarray:
    """Draw the thing on a clear layer, float32 `[S, S, 4]`; `seed` determines the drawing."""
    pen = Pen(pose, supersample)
    thing.draw(pen, np.random.default_rng(seed), paint)
    return pen.rgba()


def fit(
    rng: np.random.Generator,
    thing: Thing,
    paint: Paint,
    coverage: float,
    at: np.ndarray | None = None,
) -> np.ndarray:
    """Draw `thing` so that it covers about the share `coverage` of the image, float32 `[S, S, 4]`.

    A thin thing that would exceed the image is made as large as fits. It lies anywhere inside the
    image, or is centred `at` (x, y) in pixels.
    """
    seed, pose = int(rng.integers(2**31)), random_pose(rng, thing)
    trial_scale = SIZE / 3.5
    trial = (
        render(
            thing,
            paint,
            Pose(SIZE / 2, SIZE / 2, trial_scale, pose.aspect, pose.angle, pose.mirror),
            seed,
            supersample=1,
        )[..., 3]
        > 0.5
    )
    ys, xs = np.nonzero(trial)
    width, height = np.ptp(xs) + 1, np.ptp(ys) + 1
    grow = min((coverage * SIZE**2 / trial.sum()) ** 0.5, 0.94 * SIZE / max(width, height))
    half = np.array([width, height]) * grow / 2
    centre = rng.uniform(half, SIZE - half) if at is None else np.asarray(at)
    middle = np.array([xs.min() + xs.max() + 1, ys.min() + ys.max() + 1]) / 2 - SIZE / 2
    x, y = centre - middle * grow
    return render(
        thing, paint, Pose(x, y, trial_scale * grow, pose.aspect, pose.angle, pose.mirror), seed
    )
