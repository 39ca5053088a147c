"""All kinds that the generator draws: which are ID, which are OOD, and which captions may name.

Half of the kinds of each OOD set, drawn once from `NAMED_SEED`, appear in the captioned stream
that the small CLIP trains on ("named"); the other half never do ("never seen").
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from generated.creatures import CREATURES
from generated.drawing import Thing
from generated.further import FURTHER_OBJECTS
from generated.objects import OBJECTS
from generated.places import PLACES, draw_place
from generated.scenes import SCENES
from generated.textures import TEXTURES, draw_texture

NAMED_SEED = 20261126
"""Fixed before the small CLIP of version 3 was trained."""

# Objects from `further.py` that are ID classes, and those of the near-OOD set: each of these shares
# a super-category (vehicles, animals, vessels, clothes, instruments, furniture) with ID classes.
_MORE_ID = ("chair", "drum", "anchor", "windmill", "helicopter", "cat", "hat", "bottle")
_NEAR = (
    "truck",
    "bus",
    "bucket",
    "spoon",
    "rabbit",
    "penguin",
    "sunglasses",
    "crown",
    "bell",
    "ladder",
)

ID_OBJECTS: dict[str, Thing] = {**OBJECTS, **{name: FURTHER_OBJECTS[name] for name in _MORE_ID}}
NEAR_OBJECTS: dict[str, Thing] = {name: FURTHER_OBJECTS[name] for name in _NEAR}


@dataclass(frozen=True)
class View:
    """A whole image without a foreground: `draw(rng, first, second)` -> float32 `[S, S, 3]`.

    `first` and `second` are the two colours (name, RGB) of a texture; scenes and places ignore
    them.
    """

    name: str
    draw: Callable
    texture: bool = False


SCENE_VIEWS = {name: View(name, lambda rng, *_, d=draw: d(rng)) for name, draw in SCENES.items()}
PLACE_VIEWS = {name: View(name, lambda rng, *_, n=name: draw_place(rng, n)) for name in PLACES}
TEXTURE_VIEWS = {
    name: View(name, lambda rng, a, b, n=name: draw_texture(rng, n, a[1], b[1]), texture=True)
    for name in TEXTURES
}

# OOD set -> its kinds.
OOD_SETS: dict[str, dict[str, Thing | View]] = {
    "generated-nature": CREATURES,
    "generated-scenes": SCENE_VIEWS,
    "generated-places": PLACE_VIEWS,
    "generated-textures": TEXTURE_VIEWS,
    "generated-near": NEAR_OBJECTS,
}


def _never_named() -> frozenset[str]:
    rng = np.random.default_rng(NAMED_SEED)
    halves = (rng.permutation(sorted(kinds))[: len(kinds) // 2] for kinds in OOD_SETS.values())
    return frozenset(str(name) for half in halves for name in half)


NEVER_NAMED = _never_named()

NAMED_THINGS: tuple[Thing, ...] = tuple(
    thing
    for thing in (*OBJECTS.values(), *FURTHER_OBJECTS.values(), *CREATURES.values())
    if thing.name not in NEVER_NAMED
)
NAMED_VIEWS: tuple[View, ...] = tuple(
    view
    for views in (SCENE_VIEWS, PLACE_VIEWS, TEXTURE_VIEWS)
    for view in views.values()
    if view.name not in NEVER_NAMED
)
