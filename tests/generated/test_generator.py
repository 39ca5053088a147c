"""What the generator draws: determinism, masks, captions, and which concepts occur where."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from generated import captions, streams
from generated.backgrounds import BACKGROUNDS
from generated.canvas import CLEAR, COLOUR_NAMES, SIZE, Pen, Pose
from generated.clutter import CLUTTER
from generated.creatures import CREATURES
from generated.drawing import fit
from generated.further import FURTHER_OBJECTS
from generated.kinds import ID_OBJECTS, NAMED_THINGS, NAMED_VIEWS, NEVER_NAMED, OOD_SETS
from generated.ood import ood_sample

pytestmark = pytest.mark.slow  # many small drawings

# Mean colours of one image a stream. A change here is a change of the benchmark: raise
# build.VERSION, measure every published figure again.
MEAN_COLOURS = {
    "clip-train": (84.5, 116.1, 50.5),
    "web": (57.6, 58.2, 63.4),
    "id-train": (97.7, 58.0, 29.5),
    "id-val": (172.8, 130.2, 95.4),
    "generated-nature": (175.3, 180.9, 180.6),
    "generated-scenes": (74.9, 107.3, 135.3),
    "generated-places": (68.1, 46.9, 39.5),
    "generated-textures": (175.4, 89.4, 94.5),
    "generated-near": (190.3, 218.9, 218.4),
}


def draw(stream: str, index: int = 3) -> np.ndarray:
    if stream in ("clip-train", "web"):
        return streams.captioned_sample(stream, index).image
    if stream.startswith("id-"):
        return streams.id_sample(stream[3:], "duck", index).image
    return ood_sample(stream, index)[0]


@pytest.mark.parametrize("stream", MEAN_COLOURS)
def test_benchmark_is_the_one_whose_figures_are_published(stream):
    assert draw(stream).mean((0, 1)) == pytest.approx(MEAN_COLOURS[stream], abs=0.7)


@pytest.mark.parametrize("stream", MEAN_COLOURS)
def test_an_image_depends_on_stream_and_index_alone(stream):
    first = draw(stream)
    draw(stream, 4)
    assert np.array_equal(first, draw(stream))
    assert not np.array_equal(first, draw(stream, 4))
    assert first.shape == (SIZE, SIZE, 3) and first.dtype == np.uint8


def test_streams_and_seeds_share_no_image():
    images = [
        streams.captioned_sample("clip-train", 0).image,
        streams.captioned_sample("clip-held-out", 0).image,
        streams.captioned_sample("web", 0).image,
        streams.captioned_sample("clip-train", 0, seed=1).image,
    ]
    images += [streams.id_sample(split, "key", 0).image for split in ("train", "val")]
    assert len({image.tobytes() for image in images}) == len(images)


def test_no_ood_kind_is_an_id_class_or_a_nuisance():
    kinds = [name for kinds in OOD_SETS.values() for name in kinds]
    assert len(set(kinds)) == len(kinds)
    backgrounds = {name.removeprefix("a ").removeprefix("the ") for name in BACKGROUNDS}
    assert {*ID_OBJECTS, *CLUTTER, *backgrounds}.isdisjoint(kinds)
    assert set(ID_OBJECTS).isdisjoint(CLUTTER)


@pytest.mark.parametrize("name", OOD_SETS)
def test_half_of_each_sets_kinds_is_never_named(name):
    assert len(NEVER_NAMED & {*OOD_SETS[name]}) == len(OOD_SETS[name]) // 2


def test_training_captions_name_everything_else():
    """ID classes, further objects, creatures, views and bare backgrounds; never the other half."""
    samples = [streams.captioned_sample("clip-train", i) for i in range(400)]
    texts = " ".join(sample.caption for sample in samples)
    words = f" {texts.replace('.', '').replace(',', '')} "
    assert not [name for name in NEVER_NAMED if f" {name} " in words]
    shown = {sample.label or sample.background for sample in samples}
    assert shown.isdisjoint(NEVER_NAMED)
    named = {thing.name for thing in NAMED_THINGS} | {view.name for view in NAMED_VIEWS}
    for group in (ID_OBJECTS, FURTHER_OBJECTS, CREATURES, {view.name for view in NAMED_VIEWS}):
        assert shown & named & {*group}
    assert shown & {*BACKGROUNDS}, "no bare background"


@pytest.mark.parametrize("name", ID_OBJECTS)
@given(index=st.integers(0, 2**31))
@settings(max_examples=8, deadline=None)
def test_every_id_class_can_be_drawn(name, index):
    sample = streams.id_sample("val", name, index)
    assert 0.03 < sample.mask.mean() < 0.4
    assert name in sample.caption


@pytest.mark.parametrize(
    "thing", [*FURTHER_OBJECTS.values(), *CLUTTER.values()], ids=lambda thing: thing.name
)
def test_every_other_thing_can_be_drawn(thing):
    sample = streams.object_sample(np.random.default_rng(0), thing)
    assert sample.mask.sum() > 60 and thing.name in sample.caption


@pytest.mark.parametrize("name, kind", [(n, k) for n, kinds in OOD_SETS.items() for k in kinds])
def test_every_ood_kind_can_be_drawn(name, kind):
    step = len(OOD_SETS[name])
    index = [*OOD_SETS[name]].index(kind)
    (first, said), (second, _) = (ood_sample(name, index + turn * step) for turn in (0, 1))
    assert said == kind
    assert first.shape == (SIZE, SIZE, 3) and first.dtype == np.uint8
    assert first.std() > 3 and np.abs(first.astype(float) - second).mean() > 1


@given(coverage=st.floats(0.08, 0.35), seed=st.integers(0, 2**31))
@settings(max_examples=20, deadline=None)
def test_fit_keeps_the_object_inside_and_near_its_coverage(coverage, seed):
    rng = np.random.default_rng(seed)
    alpha = fit(rng, ID_OBJECTS["alarm clock"], (200, 30, 30), coverage)[..., 3]
    assert (alpha > 0.5).mean() == pytest.approx(coverage, rel=0.15)
    edge = np.concatenate([alpha[0], alpha[-1], alpha[:, 0], alpha[:, -1]])
    assert (edge > 0.5).mean() < 0.1


def test_mask_is_where_the_object_changed_the_image(monkeypatch):
    """Without shadow, light, clutter and occlusion, the mask is exactly the changed pixels."""
    monkeypatch.setattr(streams, "scatter_clutter", lambda rng, image: (image, []))
    monkeypatch.setattr(streams, "place", lambda rng, image, layer: streams.composite(image, layer))
    monkeypatch.setattr(streams, "_OCCLUDED", 0)
    field = np.full((SIZE, SIZE, 3), 255, np.float32)
    for thing in ID_OBJECTS.values():
        image, mask, _ = streams.object_image(np.random.default_rng(1), thing, (0, 0, 0), field)
        changed = np.abs(image - field).max(-1) > 140
        assert not (changed & ~mask).any(), thing.name
        # Cream, white and light blue parts change the white field less, but belong to the object.
        assert (changed & mask).sum() > 0.25 * mask.sum(), thing.name


def test_occluder_is_taken_out_of_the_mask(monkeypatch):
    """The same object with and without a nuisance in front: the mask only shrinks."""
    field = np.zeros((SIZE, SIZE, 3), np.float32)
    masks = []
    for share in (0, 1):
        monkeypatch.setattr(streams, "_OCCLUDED", share)
        masks.append(
            streams.object_image(np.random.default_rng(2), ID_OBJECTS["mug"], (200, 0, 0), field)[1]
        )
    assert (masks[1] <= masks[0]).all() and masks[1].sum() < masks[0].sum()


def test_pen_places_mirrors_and_erases():
    pen = Pen(Pose(x=32, y=32, scale=16, mirror=True))
    pen.box(0.2, -0.5, 1, 0.5, (255, 0, 0))
    pen.box(0.2, -0.5, 0.6, 0.5, CLEAR)
    alpha = pen.rgba()[..., 3]
    assert alpha[32, 19] == 1 and alpha[32, 26] == 0 and alpha[32, 40] == 0


def test_captions_name_object_and_background():
    rng, background = np.random.default_rng(0), BACKGROUNDS["a beach"]
    texts = [
        captions.object_caption(rng, "umbrella", "orange", "large", background, ["rock"])
        for _ in range(300)
    ]
    assert all("umbrella" in text for text in texts)
    assert any("on a beach" in t for t in texts) and any("a beach with an" in t for t in texts)
    assert any("rock" in t for t in texts) and any("an orange umbrella" in t for t in texts)
    assert len(set(texts)) > 30
    assert not any(f" a {vowel}" in text for text in texts for vowel in "aeiou")


def test_pairs_and_backgrounds_are_captioned():
    rng, background = np.random.default_rng(0), BACKGROUNDS["a forest"]
    text = captions.pair_caption(rng, [("red", "mug"), ("blue", "key")], background)
    assert "mug" in text and "key" in text
    assert "forest" in captions.background_caption(rng, background, [])


def test_colours_keep_their_names_apart():
    assert {"red", "green", "blue", "black", "white"} <= set(COLOUR_NAMES)
