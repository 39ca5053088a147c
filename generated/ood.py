"""The OOD sets of the generated benchmark. None shows an ID class.

Four far sets take the roles of iNaturalist, SUN, Places and Texture; `generated-near` shows kinds
of the same super-categories as ID classes.
"""

import numpy as np

from generated.canvas import COLOUR_NAMES, colour
from generated.captions import choose
from generated.drawing import Thing
from generated.kinds import OOD_SETS, View
from generated.streams import (
    SEED,
    any_background,
    object_image,
    photograph,
    scatter_clutter,
    stream_rng,
    two_colours,
)


def _draw(rng: np.random.Generator, kind: Thing | View) -> np.ndarray:
    if isinstance(kind, Thing):
        paint, field = colour(rng, choose(rng, COLOUR_NAMES)), any_background(rng).draw(rng)
        return object_image(rng, kind, paint, field)[0]
    image = kind.draw(rng, *two_colours(rng))
    return image if kind.texture else scatter_clutter(rng, image)[0]


def ood_sample(name: str, index: int, seed: int = SEED) -> tuple[np.ndarray, str]:
    """Return image `index` of the OOD set `name`, uint8 `[S, S, 3]`, and the name of its kind.

    Kinds take turns.
    """
    kinds = list(OOD_SETS[name].values())
    kind = kinds[index % len(kinds)]
    rng = stream_rng(f"ood/{name}", index, seed)
    return photograph(rng, _draw(rng, kind)), kind.name
