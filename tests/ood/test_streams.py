"""Mixtures of ID and OOD images, and what a method is given of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dassl.utils.errors import InputError
from ood.metrics import ood_metrics
from ood.stream_methods import StreamMethod
from ood.streams import StreamImages, mixture, mixture_sizes, noise_images, run_stream


class Keeps(StreamMethod):
    """Returns the base score, and keeps what it was given."""

    def __init__(self):
        self.seen = []

    def update(self, features, base):
        self.seen.append(features)
        return 2 * base


@given(st.integers(1, 3000), st.integers(1, 3000), st.sampled_from([0.01, 0.1, 0.5, 0.9]))
def test_a_mixture_is_the_longest_of_its_share(inside, outside, ratio):
    try:
        sizes = mixture_sizes(inside, outside, ratio)
    except InputError as error:
        assert "too few" in str(error)
        assert min(inside / (1 - ratio), outside / ratio) < 1 / min(ratio, 1 - ratio)
        return
    assert sizes[0] == inside or sizes[1] == outside
    assert abs(sizes[1] - ratio * sum(sizes)) <= 0.5
    order = mixture(inside, outside, ratio, 5)
    assert len(set(order)) == len(order) == sum(sizes) and (order < inside).sum() == sizes[0]


def test_all_images_come_in_the_order_of_the_public_code(golden):
    arrays = golden("zeroshot_oodd.npz")
    for name in ("near", "far"):
        outside = len(arrays[f"{name}_scores"])
        found = mixture(len(arrays["id_scores"]), outside, None, 110)
        assert np.array_equal(found, arrays[f"{name}_order"])
    assert not np.array_equal(mixture(30, 30, 0.5, 1), mixture(30, 30, 0.5, 2))
    assert np.array_equal(mixture(30, 30, 0.5, 1), mixture(30, 30, 0.5, 1))


def test_a_method_sees_the_images_of_the_order_in_batches():
    draw = np.random.default_rng(0)
    features = draw.normal(size=(25, 3)).astype(np.float32)
    base = draw.normal(size=25).astype(np.float32)
    inside = StreamImages(features[:15], base[:15])
    outside = StreamImages(features[15:], base[15:])
    method, order = Keeps(), mixture(15, 10, None, 0)
    own, alone = run_stream(method, inside, outside, order, 7, torch.device("cpu"))
    assert [len(part) for part in method.seen] == [7, 7, 7, 4]
    assert torch.cat(method.seen).equal(torch.from_numpy(features[order]))
    assert own == alone == ood_metrics(base[:15], base[15:])


def test_noise_is_the_same_for_a_seed():
    images = noise_images(8)
    assert images.shape == (15, 3, 8, 8) and images.dtype == torch.float32
    assert images.min() == 0 and images.max() == 1 and set(images[12:].unique().tolist()) == {0, 1}
    assert images.equal(noise_images(8)) and not images.equal(noise_images(8, 1))


def test_noise_has_the_laws_that_it_says():
    """Shifted and scaled to [0, 1]; each kind has three images, 36,864 values."""
    normal, poisson, gamma, uniform, halves = noise_images(64).double().flatten(1).split(3)
    for kind, skew in ((normal, 0), (poisson, 5**-0.5), (gamma, 2 / 2**0.5), (uniform, 0)):
        z = (kind - kind.mean()) / kind.std()
        assert (z**3).mean().item() == pytest.approx(skew, abs=0.08)
    one = poisson[poisson > 0].min()  # they begin at 0
    assert (poisson.mean() / one).item() == pytest.approx(5, abs=0.05)
    kurtosis = ((normal - normal.mean()) / normal.std()).pow(4).mean().item()
    assert kurtosis == pytest.approx(3, abs=0.1)
    assert uniform.std().item() == pytest.approx(12**-0.5, abs=0.005)
    assert halves.mean().item() == pytest.approx(0.5, abs=0.01)
