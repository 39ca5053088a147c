"""The four OOD sets of the generated benchmark, which play the parts of iNaturalist, SUN, Places
and Texture. None shows an ID class, and none of their concepts occurs in the training stream."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from generated.canvas import COLOUR_NAMES, any_colour, colour
from generated.captions import choose
from generated.creatures import CREATURES
from generated.places import PLACES, draw_place
from generated.scenes import SCENES
from generated.streams import (
    SEED,
    any_background,
    object_image,
    photograph,
    scatter_clutter,
    stream_rng,
)
from generated.textures import TEXTURES, draw_texture

_CONTRAST = 70
"""Least distance of a texture's two colours in RGB."""


def _creature(rng: np.random.Generator, concept: str) -> np.ndarray:
    paint, field = colour(rng, choose(rng, COLOUR_NAMES)), any_background(rng).draw(rng)
    return object_image(rng, CREATURES[concept], paint, field)[0]


def _scene(rng: np.random.Generator, concept: str) -> np.ndarray:
    return scatter_clutter(rng, SCENES[concept](rng))[0]


def _place(rng: np.random.Generator, concept: str) -> np.ndarray:
    return scatter_clutter(rng, draw_place(rng, concept))[0]


def _texture(rng: np.random.Generator, concept: str) -> np.ndarray:
    first = second = any_colour(rng)
    while np.linalg.norm(np.subtract(first, second)) < _CONTRAST:
        second = any_colour(rng)
    return draw_texture(rng, concept, first, second)


# set -> (its concepts, the function that draws one of them)
OOD_SETS: dict[str, tuple[tuple[str, ...], Callable]] = {
    "generated-nature": (tuple(CREATURES), _creature),
    "generated-scenes": (tuple(SCENES), _scene),
    "generated-places": (tuple(PLACES), _place),
    "generated-textures": (tuple(TEXTURES), _texture),
}


def ood_sample(name: str, index: int, seed: int = SEED) -> tuple[np.ndarray, str]:
    """Image `index` of the OOD set `name`, uint8 [64, 64, 3], and its concept; the concepts take
    turns."""
    concepts, draw = OOD_SETS[name]
    concept = concepts[index % len(concepts)]
    rng = stream_rng(f"ood/{name}", index, seed)
    return photograph(rng, draw(rng, concept)), concept
