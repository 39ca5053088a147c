"""Region maps: what is drawn where, at any size of image, grid and number of classes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dassl.data.transforms import Preprocess
from dassl.utils.errors import InputError
from ood.region_maps import GREY, RegionMap, draw_regions, region_figure, save_region_maps

with np.load(Path(__file__).parents[1] / "golden" / "ood_regions.npz") as arrays:
    GOLDEN = dict(arrays)


def region_map(size=(30, 20), grid=(4, 4), classes=10, label="cat", **more):
    width, height = size
    side = min(size)
    left, top = (width - side) // 2, (height - side) // 2
    ranks = np.random.default_rng(0).integers(1, classes + 1, grid)
    box = (left, top, left + side, top + side)
    image = Image.new("RGB", size, (200, 0, 0))
    return RegionMap(Path("photo.png"), image, box, ranks, 2, classes, label, **more)


@given(
    width=st.integers(1, 60),
    height=st.integers(1, 60),
    columns=st.integers(1, 14),
    rows=st.integers(1, 14),
    seed=st.integers(0, 99),
)
def test_every_pixel_belongs_to_the_region_around_it(width, height, columns, rows, seed):
    mask = np.random.default_rng(seed).random((rows, columns)) < 0.5
    drawn = np.array(draw_regions(Image.new("RGB", (width, height), (10, 20, 30)), mask))
    assert drawn.shape == (height, width, 3)
    for y in range(height):
        for x in range(width):
            # The cell that holds the pixel's centre; on a boundary, the cell before it.
            row = ((2 * y + 1) * rows - 1) // (2 * height)
            column = ((2 * x + 1) * columns - 1) // (2 * width)
            expected = [10, 20, 30] if mask[row, column] else [GREY] * 3
            assert drawn[y, x].tolist() == expected


@pytest.mark.parametrize("name, grid", [("vit", 14), ("rn", 7)])
def test_public_overlay_apart_from_its_last_column(name, grid):
    in_top_k = GOLDEN[f"overlay_{name}/mask"].reshape(grid, grid)
    upstream = GOLDEN[f"overlay_{name}/greyed_cells"].reshape(grid, grid)
    drawn = np.array(draw_regions(Image.new("RGB", (224, 224)), ~in_top_k))
    cell = 224 // grid
    greyed = (drawn == GREY).all(axis=2).reshape(grid, cell, grid, cell).all(axis=(1, 3))
    assert (greyed == in_top_k).all()
    assert (greyed[:, :-1] == upstream[:, :-1]).all()
    assert upstream[:, -1].sum() == 0 < greyed[:, -1].sum()


def test_drawing_takes_tensors_and_leaves_its_input_alone():
    image = Image.new("L", (8, 8), 100)
    drawn = draw_regions(image, torch.tensor([[True, False]]))
    assert np.array(image).tolist() == [[100] * 8] * 8
    assert np.array(drawn)[0, :, 0].tolist() == [100] * 4 + [GREY] * 4
    with pytest.raises(InputError, match="grid"):
        draw_regions(image, torch.ones(4, dtype=torch.bool))


def test_caption_says_label_k_and_share():
    each = replace(region_map(classes=1000), k=200, ranks=np.array([[201, 200], [999, 250]]))
    for part in ("label: cat", "K = 200 of 1000", "3 of 4 regions", "75.0%"):
        assert part in each.caption
    assert each.caption.count("\n") == 0


@pytest.mark.parametrize(
    "ranks, why",
    [
        ([[1, 1]], "None, whatever K is: the label is the most similar class in every region"),
        ([[1, 2]], "None: in every region .* (its worst rank is 2)"),
        ([[7, 3]], "All: in no region .* (its best rank is 3)"),
    ],
)
def test_caption_says_why_it_is_none_or_all(ranks, why):
    start, _, end = why.partition(".*")
    last = replace(region_map(), ranks=np.array(ranks)).caption.splitlines()[-1]
    assert last.startswith(start) and last.endswith(end)


@pytest.mark.parametrize("mode", ["shortest", "squash"])
@pytest.mark.parametrize("size", [(64, 64), (500, 375), (333, 500), (97, 96)])
@pytest.mark.parametrize("side", [64, 96, 224])
def test_the_box_is_what_the_model_sees(size, side, mode):
    """Where each pixel's colour is its place, the model's corner pixels say where they are from."""
    x, y = (np.linspace(0, 255, n, dtype=np.float32) for n in size)
    planes = np.broadcast_arrays(x[None], y[:, None], np.float32(0))
    image = Image.fromarray(np.stack(planes, axis=-1).astype(np.uint8))
    preprocess = Preprocess((side, side), resize_mode=mode)
    seen = np.asarray(preprocess.view(image)).astype(float)
    left, top, right, bottom = preprocess.box(*size)
    # Half a pixel of the model, and the rounding of crop, box and colours.
    slack = [255 / n * (1.5 + min(size) / side) + 1 for n in size]
    assert abs(seen[0, 0, 0] - 255 * left / size[0]) <= slack[0]
    assert abs(seen[0, 0, 1] - 255 * top / size[1]) <= slack[1]
    assert abs(seen[-1, -1, 0] - 255 * right / size[0]) <= slack[0]
    assert abs(seen[-1, -1, 1] - 255 * bottom / size[1]) <= slack[1]


@pytest.mark.slow
@pytest.mark.parametrize("classes, k", [(1, 1), (2, 1), (4, 2), (24, 4), (1000, 200), (1000, 999)])
@pytest.mark.parametrize("size, grid", [((30, 20), (4, 4)), ((20, 96), (12, 12))])
def test_nothing_written_is_cut_off_or_covered(size, grid, classes, k):
    """Texts lie within the figure, and do not overlap."""
    mask = Image.new("L", size)
    mask.paste(255, (8, 8, 16, 16))
    one = replace(region_map(size, grid, classes, "a $name_ " * 12, mask=mask), k=k)
    figure = region_figure([one, replace(one, label="dog", verdict="MCM 0.5")])
    figure.draw_without_rendering()
    texts = [*figure.texts, *figure.axes[-1].get_xticklabels()]
    boxes = [text.get_window_extent() for text in texts]
    assert len(texts) >= 2 + 3 + 1 + 1
    for i, box in enumerate(boxes):
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1
        assert not any(box.overlaps(other) for other in boxes[:i]), texts[i]


def test_the_colours_are_the_ranks_and_the_outline_is_the_mask():
    mask = Image.new("L", (30, 30))
    mask.paste(255, (10, 10, 20, 20))
    ranks = np.array([[1, 10], [3, 3]])
    figure = region_figure([replace(region_map((30, 30), mask=mask), ranks=ranks)])
    original, extracted, ranked, scale = figure.axes
    drawn = ranked.images[0].get_array()
    quarter = drawn.shape[0] // 4
    centres = drawn[quarter :: 2 * quarter, quarter :: 2 * quarter]
    np.testing.assert_allclose(centres, ranks, rtol=0.02)
    assert scale.get_xlim() == pytest.approx((1, 10))
    for axes in (original, extracted, ranked):
        for outline in axes.collections:
            border = np.concatenate([path.vertices for path in outline.get_paths()])
            assert np.abs(border.min(0) - 10).max() < 0.5 and np.abs(border.max(0) - 20).max() < 0.5


@pytest.mark.slow
@pytest.mark.parametrize("suffix, head", [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")])
def test_saved_in_every_format_the_same_each_time(tmp_path, suffix, head):
    paths = [save_region_maps(tmp_path / f"{i}.{suffix}", [region_map()]) for i in (0, 1)]
    first, second = (path.read_bytes() for path in paths)
    assert first.startswith(head) and first == second
    assert b"Type3" not in first
    with pytest.raises(InputError, match=r"a figure is a \.png, \.pdf or \.svg file"):
        save_region_maps(tmp_path / "map.jpg", [region_map()])


def test_refusal_to_overwrite_the_input(tmp_path):
    source = tmp_path / "photo.png"
    Image.new("RGB", (33, 21), "red").save(source)
    content = source.read_bytes()
    alias = tmp_path / "alias.png"
    alias.hardlink_to(source)
    (tmp_path / "x").mkdir()
    for path in (source, alias, tmp_path / "x" / ".." / "photo.png"):
        with pytest.raises(InputError, match="is the input image"):
            save_region_maps(path, [replace(region_map(), source=source)])
    assert source.read_bytes() == content
