"""Composition of whole images, and the streams that they form.

Sample `index` of a stream depends only on (SEED, stream name, index), so that samples can be drawn
in any order and in parallel. The CLIP's training stream, the few-shot pool, the test images and the
OOD sets are different streams, so no two of them share an image.
"""

import zlib
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from generated import captions
from generated.backgrounds import BACKGROUNDS, Background
from generated.canvas import COLOUR_NAMES, SIZE, any_colour, colour, composite
from generated.captions import choose
from generated.clutter import CLUTTER
from generated.drawing import Thing, fit
from generated.kinds import ID_OBJECTS, NAMED_THINGS, NAMED_VIEWS, View
from generated.noise import gradient, grid

SEED = 20250517
"""Chosen before the first image was scored, and never changed since."""

COVERAGE = (0.08, 0.35)
"""Range of the share of the image that an object covers; thin objects may cover less."""

_LARGE, _SMALL = 0.22, 0.12
_OCCLUDED = 0.25

_CONTRAST = 70
"""Smallest distance in RGB between the two colours of a texture."""

# Only in the training stream: closer views, and objects on a plain background, as on the web;
# without them a small CLIP learns backgrounds and colours long before objects.
_TRAINING_COVERAGE = (0.08, 0.6)
_PAIRS, _VIEWS, _BARE, _PLAIN = 0.12, 0.22, 0.08, 0.25


@dataclass(frozen=True)
class Sample:
    """An image uint8 `[S, S, 3]`; its mask bool `[S, S]`, true where the (first) object is visible;
    its caption; label and background: names ("" = none)."""

    image: np.ndarray
    mask: np.ndarray
    caption: str
    label: str
    background: str


def stream_rng(stream: str, index: int, seed: int = SEED) -> np.random.Generator:
    """Return the random generator of sample `index` of `stream`."""
    return np.random.default_rng(np.random.SeedSequence([seed, zlib.crc32(stream.encode()), index]))


def any_background(rng: np.random.Generator) -> Background:
    return choose(rng, list(BACKGROUNDS.values()))


def scatter_clutter(rng: np.random.Generator, image: np.ndarray, limit: int = 2):
    """Draw up to `limit` small nuisances on `image`; return it and their names."""
    names = [choose(rng, list(CLUTTER)) for _ in range(rng.integers(0, limit + 1))]
    for name in names:
        layer = fit(rng, CLUTTER[name], any_colour(rng), rng.uniform(0.006, 0.03))
        image = place(rng, image, layer)
    return image, names


def place(rng: np.random.Generator, image: np.ndarray, layer: np.ndarray) -> np.ndarray:
    """Draw `layer` over `image`, lit from one side and with a soft shadow."""
    alpha = Image.fromarray((layer[..., 3] * 255).astype(np.uint8))
    soft = np.asarray(alpha.filter(ImageFilter.GaussianBlur(SIZE / 32)), np.float32) / 255
    shift = (int(rng.integers(1, SIZE // 16)), int(rng.integers(-SIZE // 20, SIZE // 20)))
    image = image * (1 - rng.uniform(0.15, 0.5) * np.roll(soft, shift, (0, 1)))[..., None]
    turn, strength = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.35)
    brightness = rng.uniform(0.75, 1.1)
    box = drawn_on(layer)  # the rest is clear
    y, x = (2 * axis - 1 for axis in grid())
    light = brightness + strength * (x[:, box[1]] * np.cos(turn) + y[box[0]] * np.sin(turn))
    lit = layer[box].copy()
    lit[..., :3] = np.clip(lit[..., :3] * light[..., None], 0, 255)
    image[box] = composite(image[box], lit)
    return image


def drawn_on(layer: np.ndarray) -> tuple[slice, slice]:
    """Return the slices of rows and columns of a layer that contain the drawing."""
    covered = layer[..., 3] > 0
    return tuple(
        slice(int(lines[0]), int(lines[-1]) + 1) if len(lines) else slice(0)
        for lines in (np.flatnonzero(covered.any(axis)) for axis in (1, 0))
    )


def photograph(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Add exposure, colour cast, contrast, a little blur and sensor noise: uint8 `[S, S, 3]`."""
    image = (image - 128) * rng.uniform(0.75, 1.1) + 128 + rng.normal(0, 10)
    cast = np.tile(rng.normal(1, 0.04, 3), SIZE)  # for a whole row: see `noise.mix`
    image = np.clip(image.reshape(SIZE, -1) * cast, 0, 255).reshape(image.shape)
    if rng.random() < 0.5:
        blur = ImageFilter.GaussianBlur(rng.uniform(0.2, 0.8) * SIZE / 64)
        image = np.asarray(Image.fromarray(image.astype(np.uint8)).filter(blur), np.float32)
    noise = rng.standard_normal(image.shape, dtype=np.float32) * rng.uniform(1, 7)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def _occlude(rng, image, mask):
    """Put a nuisance in front of a part of the object, and remove that part from the mask."""
    name = choose(rng, list(CLUTTER))
    ys, xs = np.nonzero(mask)
    pixel = int(rng.integers(len(xs)))
    layer = fit(
        rng, CLUTTER[name], any_colour(rng), rng.uniform(0.01, 0.035), at=(xs[pixel], ys[pixel])
    )
    return place(rng, image, layer), mask & (layer[..., 3] < 0.5), name


def object_image(
    rng: np.random.Generator,
    thing: Thing,
    paint,
    field: np.ndarray,
    coverages: tuple[float, float] = COVERAGE,
):
    """Draw `thing` and clutter over `field`; return image (float32), mask and names of clutter."""
    image, clutter = scatter_clutter(rng, field)
    coverage = np.exp(rng.uniform(*np.log(coverages)))
    layer = fit(rng, thing, paint, coverage)
    image, mask = place(rng, image, layer), layer[..., 3] > 0.5
    if rng.random() < _OCCLUDED:
        image, mask, name = _occlude(rng, image, mask)
        clutter = [*clutter, name]
    return image, mask, clutter


def _plain(rng: np.random.Generator) -> np.ndarray:
    return gradient(any_colour(rng), any_colour(rng)) * 0.3 + 0.7 * np.array(any_colour(rng))


PLAIN = Background("a plain background", "on a plain background", _plain)


def object_sample(
    rng: np.random.Generator,
    thing: Thing,
    background: Background | None = None,
    coverages: tuple[float, float] = COVERAGE,
) -> Sample:
    """Draw one object over `background`, or over a random one."""
    background = background or any_background(rng)
    colour_name = choose(rng, COLOUR_NAMES)
    image, mask, clutter = object_image(
        rng, thing, colour(rng, colour_name), background.draw(rng), coverages
    )
    image = photograph(rng, image)  # before the caption, whose draws must not change pixels
    share = mask.mean()
    size = "large" if share > _LARGE else "small" if share < _SMALL else "medium sized"
    caption = captions.object_caption(rng, thing.name, colour_name, size, background, clutter)
    return Sample(image, mask, caption, thing.name, background.name)


def pair_sample(rng: np.random.Generator, things: list[Thing]) -> Sample:
    """Draw two different objects; the second may partly hide the first."""
    background = any_background(rng)
    image, named, masks = background.draw(rng), [], []
    for side in rng.permutation(2):
        name = choose(rng, COLOUR_NAMES)
        at = SIZE * np.array([0.27 + 0.46 * side, 0.5]) + rng.normal(0, SIZE / 13, 2)
        layer = fit(rng, things[len(named)], colour(rng, name), rng.uniform(0.06, 0.14), at)
        image = place(rng, image, layer)
        masks.append(layer[..., 3] > 0.5)
        named.append((name, things[len(named)].name))
    image = photograph(rng, image)
    caption = captions.pair_caption(rng, named, background)
    return Sample(image, masks[0] & ~masks[1], caption, named[0][1], background.name)


def bare_sample(rng: np.random.Generator) -> Sample:
    """Draw a background without an object, perhaps with clutter."""
    background = any_background(rng)
    image, clutter = scatter_clutter(rng, background.draw(rng))
    image = photograph(rng, image)
    caption = captions.background_caption(rng, background, clutter)
    return Sample(image, np.zeros((SIZE, SIZE), bool), caption, "", background.name)


def view_sample(rng: np.random.Generator, view: View) -> Sample:
    """Draw a scene, a place or a texture."""
    first, second = two_colours(rng)
    image = photograph(rng, view.draw(rng, first, second))
    caption = captions.view_caption(rng, view.name, view.texture, (first[0], second[0]))
    return Sample(image, np.zeros((SIZE, SIZE), bool), caption, "", view.name)


def two_colours(rng: np.random.Generator):
    """Choose two clearly different colours, each as (name, RGB)."""
    names = [choose(rng, COLOUR_NAMES) for _ in range(2)]
    first, second = (colour(rng, name) for name in names)
    while np.linalg.norm(np.subtract(first, second)) < _CONTRAST:
        names[1] = choose(rng, COLOUR_NAMES)
        second = colour(rng, names[1])
    return (names[0], first), (names[1], second)


def id_sample(split: str, name: str, index: int, seed: int = SEED) -> Sample:
    """Draw image `index` of the ID class `name` in `split` ("train": few-shot pool, or "val")."""
    return object_sample(stream_rng(f"id-{split}/{name}", index, seed), ID_OBJECTS[name])


def captioned_sample(stream: str, index: int, seed: int = SEED) -> Sample:
    """Draw image `index` of a captioned stream ("clip-train", "clip-held-out", "web").

    These streams show all that the generator can draw except the kinds in `kinds.NEVER_NAMED`:
    objects and creatures alone (some on a plain background) and in pairs, scenes, places, textures,
    and backgrounds without an object.
    """
    rng = stream_rng(stream, index, seed)
    draw = rng.random()
    if draw < _BARE:
        return bare_sample(rng)
    if draw < _BARE + _VIEWS:
        return view_sample(rng, choose(rng, NAMED_VIEWS))
    if draw < _BARE + _VIEWS + _PAIRS:
        first, second = rng.choice(len(NAMED_THINGS), 2, replace=False)
        return pair_sample(rng, [NAMED_THINGS[first], NAMED_THINGS[second]])
    background = PLAIN if rng.random() < _PLAIN else any_background(rng)
    return object_sample(rng, choose(rng, NAMED_THINGS), background, _TRAINING_COVERAGE)
