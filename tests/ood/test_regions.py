"""LoCoOp's ID-irrelevant regions: selection and drawing."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dassl.utils.errors import InputError
from ood.regions import (
    GREY,
    draw_regions,
    id_irrelevant_regions,
    region_caption,
    region_figure,
    save_region_map,
    suggest_top_k,
)
from tests import oracles

with np.load(Path(__file__).parents[1] / "golden" / "ood_regions.npz") as arrays:
    GOLDEN = dict(arrays)
MASKS = [key for key in GOLDEN if "/label" in key]  # <few|k200>/label<L>/k<K>


@pytest.mark.parametrize("case", MASKS)
def test_public_locoop_masks(case):
    """Upstream's mask is True where the label IS in the top K: the complement of ours."""
    model, label, k = case.split("/")
    local = torch.from_numpy(GOLDEN[f"{model}/local"])
    ours = id_irrelevant_regions(local, torch.tensor([int(label[5:])]), int(k[1:]))
    assert (ours[0].numpy() == ~GOLDEN[case]).all()


@given(
    seed=st.integers(0, 2**31),
    batch=st.integers(1, 3),
    regions=st.integers(1, 6),
    classes=st.integers(1, 8),
    levels=st.sampled_from([2, 4, 10**6]),
    data=st.data(),
)
def test_selection_is_a_sort(seed, batch, regions, classes, levels, data):
    """Also with heavy ties; and for one image without the batch dimension."""
    rng = np.random.default_rng(seed)
    local = torch.from_numpy(rng.integers(0, levels, (batch, regions, classes)) / levels)
    labels = torch.from_numpy(rng.integers(0, classes, batch))
    k = data.draw(st.integers(1, classes))
    ours = id_irrelevant_regions(local, labels, k)
    assert ours.shape == (batch, regions) and ours.dtype == torch.bool
    for i in range(batch):
        expected = oracles.id_irrelevant_regions(local[i].tolist(), int(labels[i]), k)
        assert ours[i].tolist() == expected
        assert id_irrelevant_regions(local[i], int(labels[i]), k).tolist() == expected


def test_larger_k_extracts_fewer_regions():
    local, labels = torch.rand(4, 49, 20), torch.tensor([0, 5, 19, 3])
    kept = [id_irrelevant_regions(local, labels, k) for k in range(1, 21)]
    assert all((more | fewer).equal(more) for more, fewer in pairwise(kept))
    assert not kept[-1].any()


@pytest.mark.parametrize("k", [0, -3, 11, 200])
def test_k_outside_the_classes_is_refused_with_a_suggestion(k):
    with pytest.raises(InputError, match=f"K = {k} with 10 classes: .*gives K = 2"):
        id_irrelevant_regions(torch.rand(4, 10), 0, k)


def test_suggested_k():
    assert [suggest_top_k(c) for c in (1, 4, 10, 100, 1000)] == [1, 1, 2, 20, 200]


@pytest.mark.parametrize("label", [0, torch.zeros(3, dtype=torch.int64)])
def test_one_label_per_image(label):
    with pytest.raises(InputError, match="one label per image"):
        id_irrelevant_regions(torch.rand(2, 4, 10), label, 2)


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
    caption = region_caption("cash machine", 200, 1000, torch.tensor([[True, False], [True, True]]))
    for part in ("cash machine", "K = 200 of 1000", "3 of 4 regions", "75.0%"):
        assert part in caption


def test_figure_holds_all_three_pictures():
    red = Image.new("RGB", (30, 20), "red")
    green, blue = Image.new("RGB", (20, 20), "lime"), Image.new("RGB", (20, 20), "blue")
    figure = region_figure(red, green, blue, "a caption with $dollars_1$")
    pixels = np.array(figure)
    middles = [pixels[figure.height // 2, (2 * i + 1) * figure.width // 6] for i in range(3)]
    assert [m.tolist() for m in middles] == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]


def test_saved_map_and_refusal_to_overwrite_the_input(tmp_path):
    source = tmp_path / "photo.png"
    image = Image.new("RGB", (33, 21), "red")
    image.save(source)
    content = source.read_bytes()
    mask = np.eye(3, dtype=bool)
    alias = tmp_path / "alias.png"
    alias.hardlink_to(source)
    for path in (source, alias, tmp_path / "x" / ".." / "photo.png"):
        (tmp_path / "x").mkdir(exist_ok=True)
        with pytest.raises(InputError, match="is the input image"):
            save_region_map(path, source, image, image, mask, "c")
    assert source.read_bytes() == content
    saved = save_region_map(tmp_path / "visualization" / "map.png", source, image, image, mask, "c")
    with Image.open(saved) as opened:
        assert opened.format == "PNG" and opened.width > opened.height
