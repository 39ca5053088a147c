"""LoCoOp's ID-irrelevant regions: which they are."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dassl.utils.errors import InputError
from ood.regions import id_irrelevant_regions, label_ranks, suggest_top_k
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
        for region, rank in zip(local[i].tolist(), label_ranks(local[i], labels[i]), strict=True):
            ordered = sorted(region, reverse=True)
            assert rank == 1 + ordered.index(region[labels[i]])


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
