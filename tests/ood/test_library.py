"""Detectors of pytorch-ood as scores, against our own scores and against numpy."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dassl.utils.errors import InputError
from ood.metrics import ood_metrics
from ood.scoring import compute_scores, get_scores

SCALE = torch.tensor(100.0)
C, D, SHOTS = 5, 16, 20


def test_without_the_library_its_scores_say_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_ood", None)
    with pytest.raises(InputError, match=r"not installed .*pip install -r requirements-baselines"):
        get_scores(["MCM", "pytorch-ood:ViM"])
    assert len(get_scores(["MCM", "Energy"])) == 2  # which need none


@pytest.fixture(scope="module")
def theirs():
    return pytest.importorskip("pytorch_ood")


def unit(*shape: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


class World:
    """Class texts, and images around them as CLIP's lie: near the right text, far from all."""

    text = F.normalize(unit(1, D, seed=0) + 0.6 * unit(C, D, seed=1), dim=-1)
    labels = torch.arange(C).repeat_interleave(SHOTS)
    train = F.normalize(text[labels] + 0.5 * unit(C * SHOTS, D, seed=2), dim=-1)
    inside = F.normalize(text[labels] + 0.5 * unit(C * SHOTS, D, seed=3), dim=-1)
    outside = F.normalize(text.mean(dim=0) + 0.9 * unit(80, D, seed=4), dim=-1)


def fit(name: str, train=(World.train, World.labels)):
    (score,) = get_scores([f"pytorch-ood:{name}"])
    return score.fitted(World.text, SCALE, train)


def inputs(features: torch.Tensor) -> dict[str, torch.Tensor]:
    cosines = features @ World.text.T
    return {"cosines": cosines, "logits": SCALE * cosines, "features": features}


def values(name: str, features: torch.Tensor = World.inside) -> np.ndarray:
    score = fit(name)
    with torch.inference_mode():
        return compute_scores([score], inputs(features))[score.name].numpy()


NAMES = ["DICE", "EnergyBased", "Entropy", "fDBD", "GEN", "GMM", "KLMatching", "KNN", "LTS"]
NAMES += ["Mahalanobis", "MaxLogit", "MaxSoftmax", "MCM", "NCI", "NNGuide", "OpenMax", "PNML"]
NAMES += ["RMD", "SHE", "TemperatureScaling", "ViM"]


def test_every_detector_of_features_or_logits_is_a_score(theirs):
    from ood.library import _detectors, missing_inputs

    assert [name for name, kind in _detectors().items() if not missing_inputs(kind)] == NAMES
    assert len(get_scores([f"pytorch-ood:{name}" for name in NAMES])) == 21


@pytest.mark.parametrize("name", NAMES)
def test_higher_is_more_in_distribution_and_a_second_fit_is_equal(name, theirs):
    inside, outside = values(name), values(name, World.outside)
    assert inside.dtype == np.float32 and inside.shape == (C * SHOTS,)
    saturated = name == "OpenMax"  # at 1 in float64, by logits near 100, for every image
    assert ood_metrics(inside, outside)["auroc"] > 0.6 or saturated
    assert np.array_equal(values(name), inside)


@pytest.mark.parametrize(
    "name, ours",
    [
        ("MCM", "MCM"),
        ("MaxSoftmax", "MSP"),
        ("EnergyBased", "Energy"),
        ("MaxLogit", "MaxLogit"),
        ("Entropy", "Entropy"),
    ],
)
def test_scores_that_are_ours_too_agree(name, ours, theirs):
    (score,) = get_scores([ours])
    for features in (World.inside, World.outside):
        expected = compute_scores([score], inputs(features))[ours].numpy()
        assert values(name, features) == pytest.approx(expected, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("name, gamma, top", [("GEN", 0.1, C), ("GEN:gamma=0.5:M=2", 0.5, 2)])
def test_gen_is_its_papers_equation(name, gamma, top, theirs):
    """Liu et al., CVPR 2023: minus sum_c (p_c (1 - p_c))^gamma of the M largest; there over M."""
    p = torch.softmax(inputs(World.inside)["logits"], dim=-1).clamp(1e-7, 1 - 1e-7).double()
    p = p.sort(dim=-1).values[:, -top:].numpy()
    expected = -((p * (1 - p)) ** gamma).mean(axis=-1)
    assert values(name) == pytest.approx(expected, rel=1e-5)


def test_vim_has_the_texts_as_its_last_layer(theirs):
    """Wang et al., CVPR 2022: energy minus alpha times the norm outside the principal space."""
    train, x, text = (a.double().numpy() for a in (World.train, World.inside, World.text))
    _, vectors = np.linalg.eigh(train.T @ train)  # ascending
    rest = vectors[:, : D - D // 2]  # all but the D // 2 largest
    logits, seen = 100 * x @ text.T, 100 * train @ text.T
    alpha = seen.max(axis=1).mean() / np.linalg.norm(train @ rest, axis=1).mean()
    energy = np.log(np.exp(logits).sum(axis=1))
    expected = energy - alpha * np.linalg.norm(x @ rest, axis=1)
    assert values("ViM") == pytest.approx(expected, rel=1e-3, abs=1e-2)


def test_knn_is_the_distance_to_the_kth_training_image(theirs):
    distances = np.sort(torch.cdist(World.inside.double(), World.train.double()).numpy(), axis=1)
    assert values("KNN:k=3") == pytest.approx(-distances[:, 2], abs=1e-5)
    assert values("KNN") == pytest.approx(-distances[:, 49], abs=1e-5)


def test_mahalanobis_is_that_to_the_nearest_class(theirs):
    train, x = World.train.double().numpy(), World.inside.double().numpy()
    means = train.reshape(C, SHOTS, D).mean(axis=1)
    rest = train - means.repeat(SHOTS, axis=0)
    inverse = np.linalg.inv(rest.T @ rest + 1e-6 * np.eye(D))
    away = x[:, None] - means  # [B, C, D]
    expected = -np.einsum("bcd,de,bce->bc", away, inverse, away).min(axis=1) / 2
    assert values("Mahalanobis") == pytest.approx(expected, rel=1e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("name", NAMES)
def test_a_gpu_gives_the_same(name, theirs):
    (score,) = get_scores([f"pytorch-ood:{name}"])
    train = World.train.cuda(), World.labels.cuda()
    score = score.fitted(World.text.cuda(), SCALE.cuda(), train)
    given = {need: x.cuda() for need, x in inputs(World.inside).items()}
    with torch.inference_mode():
        found = compute_scores([score], given)[score.name]
    assert found.is_cuda and found.cpu().numpy() == pytest.approx(values(name), rel=1e-2, abs=1e-3)


def test_results_name_hyper_parameters_and_images(theirs):
    version = {"version": theirs.__version__}
    assert fit("KNN:k=3").facts == {"k": 3, "normalize": True, "fitted_images": 100, **version}
    assert fit("ViM").facts == {"d": 8, "fitted_images": 100, **version}
    assert fit("DICE").facts == {"p": 0.7, "fitted_images": 100, **version}
    assert fit("GEN", None).facts == {"gamma": 0.1, "M": None, **version}


@pytest.mark.parametrize(
    "name, words",
    [
        ("ViN", r"Unknown detector .*'ViN'. Did you mean 'ViM'\? Known: DICE, .*ViM"),
        ("ODIN", r"needs gradients through .* Ours is --scores ODIN"),
        ("MahalanobisODIN", "needs gradients through the image tower"),
        ("ASH", "needs feature maps"),
        ("Gram", "needs the features of several layers"),
        ("MCD", "needs passes of the images"),
        ("WeightedEBO", "needs weights of its own training"),
        ("KNN:l=3", "Unknown hyper-parameter of KNN 'l'. Known: k, normalize"),
        ("KNN:k=3:k=4", "pytorch-ood:KNN:k=3:k=4 gives k twice"),
        ("KNN:k=three", "k must be a whole number, not 'three'"),
        ("ViM:d=64.5", "d must be a whole number, not '64.5'"),
        ("DICE:p=half", "p must be a number, not 'half'"),
    ],
)
def test_what_cannot_be_a_score_is_refused_by_name(name, words, theirs):
    with pytest.raises(InputError, match=words):
        get_scores([f"pytorch-ood:{name}"])


@pytest.mark.parametrize(
    "name, words",
    [
        ("KNN:k=101", "pytorch-ood:KNN:k=101 on 100 training images: k=101 exceeds"),
        ("KNN:k=0", "on 100 training images: .*Set its hyper-parameters .k, normalize. as in"),
        ("ViM:d=1000", "d=1000 does not fit these features, it took"),
        ("DICE:p=70", "p must be a fraction"),
    ],
)
def test_impossible_hyper_parameters_are_refused_before_an_image_is_scored(name, words, theirs):
    with pytest.raises(InputError, match=words):
        fit(name)


def test_a_class_without_an_image_is_refused(theirs):
    few = World.labels != 1
    with pytest.raises(InputError, match="on 80 training images: a class has no image"):
        fit("Mahalanobis", (World.train[few], World.labels[few]))


def test_scores_that_are_not_finite_are_refused(theirs):
    with pytest.raises(InputError, match="EnergyBased:t=0 is NaN or infinite"):
        values("EnergyBased:t=0")


def test_an_unfitted_detector_scores_nothing(theirs):
    with pytest.raises(InputError, match="must be fitted first"):
        compute_scores(get_scores(["pytorch-ood:ViM"]), inputs(World.inside))


@pytest.mark.parametrize("ties", [False, True])
def test_their_metrics_are_ours(ties, theirs):
    from pytorch_ood.metrics import functional

    rng = np.random.default_rng(5)
    inside, outside = rng.normal(1, 1, 4000), rng.normal(0, 1.5, 3000)
    if ties:
        inside, outside = inside.round(1), outside.round(1)
    figures = ood_metrics(inside, outside)
    scores = torch.from_numpy(-np.concatenate([inside, outside]))  # higher = more OOD there
    labels = torch.cat([torch.ones(4000), -torch.ones(3000)])
    assert float(functional.auroc(scores, labels)) == pytest.approx(figures["auroc"], abs=1e-9)
    first = float(functional.fpr_at_tpr(scores, labels, 0.95))
    assert first == pytest.approx(figures["fpr95_ood_first"], abs=1e-12)
    # Trapezoids there, steps here.
    area = float(functional.aupr(scores, labels, positive="id"))
    assert area == pytest.approx(figures["aupr_in"], abs=1e-2 if ties else 1e-3)
