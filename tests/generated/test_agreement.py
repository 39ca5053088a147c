import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from generated.agreement import region_agreement


def test_by_hand():
    objects = np.zeros((4, 4), bool)
    objects[:2, :2] = True  # the upper left of four regions
    irrelevant = np.array([[True, True], [False, True]])
    figures = region_agreement([irrelevant], [objects])
    assert figures == pytest.approx(
        {"precision": 2 / 3, "recall": 2 / 3, "background": 3 / 4, "extracted": 3 / 4}
    )


def test_a_region_half_covered_is_background():
    objects = np.zeros((2, 2), bool)
    objects[0] = True
    assert region_agreement([np.array([[True]])], [objects])["precision"] == 1.0


@given(st.integers(1, 5), st.integers(1, 5), st.integers(5, 13), st.integers(5, 13), st.randoms())
def test_against_counting_pixels(rows, columns, height, width, random):
    """Any size, divisible by the grid or not; the cells are those that are drawn."""
    from ood.region_maps import _to_pixels

    grid = np.array([[random.random() < 0.5 for _ in range(columns)] for _ in range(rows)])
    objects = np.array([[random.random() < 0.5 for _ in range(width)] for _ in range(height)])
    background = []
    for r in range(rows):
        for c in range(columns):
            cell = np.zeros((rows, columns), bool)
            cell[r, c] = True
            background.append(objects[_to_pixels(cell, height, width)].mean() <= 0.5)
    background = np.array(background)
    figures = region_agreement([grid], [objects])
    assert figures["background"] == pytest.approx(background.mean())
    if grid.any():
        assert figures["precision"] == pytest.approx(background[grid.ravel()].mean())
