"""Captions of generated images, from varied templates."""

import numpy as np

# Every second caption names only the object. Colour and place together nearly identify an image
# within a batch, so a CLIP that sees them in most captions hardly learns the objects.
NAME_TEMPLATES = (
    "a photo of {a_object}.",
    "{a_object}",
    "a picture of {a_object}",
    "a photo of the {object}.",
    "an image of one {object}.",
    "a close photo of {a_object}.",
)
DETAILED_TEMPLATES = (
    "a photo of {a_object} {place}.",
    "a photo of {a_coloured} {place}",
    "{a_coloured} {place}",
    "{a_object} {place}",
    "a picture of {a_coloured}",
    "a {size} {object} {place}.",
    "there is {a_coloured} {place}",
    "an image of {a_object} {place}",
    "a photo of a {size} {colour} {object}.",
    "{background} with {a_object}",
    "a photo of {background} with {a_coloured}",
)
_NAME_ALONE = 0.5
BACKGROUND_TEMPLATES = (
    "a photo of {background}.",
    "{background}",
    "a picture of {background}",
    "an image of {background} without anything else",
    "a photo of {background}, nothing else.",
)
PAIR_TEMPLATES = (
    "{first} and {second} {place}",
    "a photo of {first} and {second}.",
    "a photo of {first} next to {second} {place}",
    "{background} with {first} and {second}",
)
VIEW_TEMPLATES = (
    "a photo of {view}.",
    "{view}",
    "a picture of {view}",
    "an image of {view}",
    "a photo of {view}, nothing else.",
)
TEXTURE_TEMPLATES = (
    "a texture of {texture}.",
    "{texture}",
    "a photo of {texture}.",
    "a pattern of {first} and {second} {name}",
    "{first} and {second} {name}",
    "a close photo of {first} {texture}",
)
NUISANCE_ENDINGS = (" next to {clutter}", " with {clutter}", " and {clutter}")


# Names that take no article.
_WITHOUT_ARTICLE = {
    *("mountains", "farmland", "shelves", "scissors", "sunglasses"),
    *("stripes", "dots", "checks", "plaid", "marble", "cracks", "cells", "scales", "swirls"),
    *("speckles", "fibres", "zigzag", "honeycomb"),
}


def with_article(name: str) -> str:
    """Return "an umbrella" for "umbrella"; plurals and materials get no article."""
    if name.split()[-1] in _WITHOUT_ARTICLE:
        return name
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def choose(rng: np.random.Generator, options):
    return options[int(rng.integers(len(options)))]


def object_caption(
    rng: np.random.Generator, name: str, colour: str, size: str, background, clutter: list[str]
) -> str:
    """Write a caption for an image of one object; some captions also name a nuisance."""
    templates = NAME_TEMPLATES if rng.random() < _NAME_ALONE else DETAILED_TEMPLATES
    caption = choose(rng, templates).format(
        object=name,
        a_object=with_article(name),
        a_coloured=with_article(f"{colour} {name}"),
        colour=colour,
        size=size,
        place=background.place,
        background=background.name,
    )
    if clutter and templates is DETAILED_TEMPLATES and rng.random() < 0.25:
        caption = caption.rstrip(".")
        caption += choose(rng, NUISANCE_ENDINGS).format(clutter=with_article(choose(rng, clutter)))
    return caption


def pair_caption(rng: np.random.Generator, named: list[tuple[str, str]], background) -> str:
    """Write a caption for an image of two objects, given as (colour, name)."""
    first, second = (
        with_article(f"{colour} {name}" if rng.random() < 0.5 else name) for colour, name in named
    )
    return choose(rng, PAIR_TEMPLATES).format(
        first=first, second=second, place=background.place, background=background.name
    )


def background_caption(rng: np.random.Generator, background, clutter: list[str]) -> str:
    """Write a caption for an image without an object: its background, perhaps a nuisance."""
    if clutter and rng.random() < 0.5:
        return f"{with_article(choose(rng, clutter))} {background.place}"
    return choose(rng, BACKGROUND_TEMPLATES).format(background=background.name)


def view_caption(
    rng: np.random.Generator, name: str, texture: bool, colours: tuple[str, str]
) -> str:
    """Write a caption for a scene, a place or a texture; `colours` are a texture's two."""
    if not texture:
        return choose(rng, VIEW_TEMPLATES).format(view=with_article(name))
    first, second = colours
    return choose(rng, TEXTURE_TEMPLATES).format(
        texture=with_article(name), name=name, first=first, second=second
    )
