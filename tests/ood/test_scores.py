"""Scores against the papers' formulas, the public code's numbers and each other."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dassl.utils.errors import InputError
from ood import registry, scoring
from ood.metrics import ood_metrics
from ood.registry import FROM_WORDS
from ood.scores import SCORES, score
from ood.scoring import (
    compute_scores,
    get_scores,
    offered_scores,
    required_inputs,
    score_parameters,
)
from tests import oracles

with np.load(Path(__file__).parents[1] / "golden" / "ood_scores.npz") as arrays:
    GOLDEN = dict(arrays)  # inputs and scores of the public code; its sign where a test says so
FA_INPUTS, FA_GL_INPUTS = (SCORES[name].needs for name in ("FA-MCM", "FA-GL-MCM"))
ORACLES = {
    "MCM": lambda x, p: oracles.mcm(x["cosines"], p.get("temperature", 1.0)),
    "GL-MCM": lambda x, p: oracles.gl_mcm(x["cosines"], x["local_cosines"], **p),
    "L-MCM": lambda x, p: oracles.l_mcm(x["local_cosines"], **p),
    "FA-MCM": lambda x, p: oracles.fa_mcm(*map(x.get, FA_INPUTS), **p),
    "FA-GL-MCM": lambda x, p: oracles.fa_gl_mcm(*map(x.get, FA_GL_INPUTS), **p),
    "MSP": lambda x, p: oracles.msp(x["logits"]),
    "MaxLogit": lambda x, p: oracles.maxlogit(x["logits"]),
    "Energy": lambda x, p: oracles.energy(x["logits"], p.get("energy_temperature", 1.0)),
    "Entropy": lambda x, p: oracles.entropy(x["logits"]),
    "CTW": lambda x, p: oracles.ctw(x["logits"], x["no_logits"]),
    "ATD": lambda x, p: oracles.atd(x["logits"], x["no_logits"]),
    "CTW-public": lambda x, p: oracles.ctw_probability(x["logits"], x["no_logits"]),
    "ATD-public": lambda x, p: oracles.atd_probability(x["logits"], x["no_logits"]),
    "ODIN": lambda x, p: oracles.odin(x["odin_logits"], p.get("odin_temperature", 1000.0)),
    "GradNorm": lambda x, p: oracles.grad_norm(x["logits"], x["head_norm"]),
    "NegLabel": lambda x, p: oracles.neg_label(
        x["neglabel_logits"], x["neglabel_negatives_logits"]
    ),
    "CSP": lambda x, p: oracles.neg_label(x["csp_logits"], x["csp_negatives_logits"]),
    "EOE": lambda x, p: oracles.eoe(x["eoe_cosines"], x["eoe_outliers_cosines"]),
    "ZOC": lambda x, p: oracles.zoc(x["logits"], x["candidate_lse"]),
}
# Scores of "all" of which some tests also say by name what they do; a new one need not be here.
KNOWN = {
    *("MCM", "GL-MCM", "FA-MCM", "FA-GL-MCM", "MSP", "MaxLogit", "Energy", "Entropy", "GradNorm"),
    *("CTW", "ATD", "NegLabel", "EOE", "ZOC"),
}
# Scores that pass through 0, in a difference of numbers as large as the logits.
SLACK = {
    "Energy": 1e-5,
    "Entropy": 1e-6,
    "CTW": 1e-5,
    "ATD": 1e-5,
    "CTW-public": 1e-6,
    "ATD-public": 1e-6,
    "GradNorm": 1e-5,
    "NegLabel": 1e-6,
    "CSP": 1e-6,
    "EOE": 1e-6,
    "ZOC": 1e-5,
}


def make_inputs(seed=0, batch=5, regions=4, classes=7, scale=100.0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    cosines = torch.rand(batch, classes, generator=generator) * 2 - 1
    local = torch.rand(batch, regions, classes, generator=generator) * 2 - 1
    no = torch.rand(batch, classes, generator=generator) * 2 - 1
    inputs = {
        "cosines": cosines,
        "local_cosines": local,
        "logits": scale * cosines,
        "no_logits": scale * no,
        "odin_logits": scale * cosines.flip(0),
        "head_norm": scale * (1 + 7 * torch.rand(batch, generator=generator)),
        "frozen_cosines": cosines.flip(1) * 0.9,
        "frozen_local_cosines": local.flip(2) * 0.9,
        "frozen_copies": torch.arange(batch) % 4,  # none of the first image
    }
    words = 0.5 * torch.rand(batch, 3 + classes, generator=generator)  # as many as there may be
    for name in ("neglabel", "csp"):
        inputs |= {f"{name}_logits": scale * cosines, f"{name}_negatives_logits": scale * words}
    inputs |= {"eoe_cosines": cosines, "eoe_outliers_cosines": words}
    inputs |= {"candidate_lse": (scale * words).logsumexp(dim=-1)}
    features = torch.randn(batch, 6, generator=generator)
    inputs |= {"features": torch.nn.functional.normalize(features, dim=-1)}
    return {name: x.to(dtype) for name, x in inputs.items()}


def inputs_of(x):
    """Every input of images whose cosines with the classes are `x`, with other texts 0.2."""
    local, no = x.unsqueeze(1).expand(-1, 6, -1), torch.full_like(x, 0.2)
    return {
        "cosines": x,
        "logits": 100 * x,
        "features": torch.nn.functional.normalize(x, dim=-1),  # as if the classes were the axes
        "local_cosines": local,
        "no_logits": 100 * no,
        "odin_logits": 100 * x,
        "head_norm": torch.full((len(x),), 5.0),
        **{f"{own}_logits": 100 * x for own in ("neglabel", "csp")},
        **{f"{own}_negatives_logits": 100 * no for own in ("neglabel", "csp")},
        "eoe_cosines": x,
        "eoe_outliers_cosines": no,
        "candidate_lse": torch.full((len(x),), 20.0),
        "frozen_cosines": x - 0.05,
        "frozen_local_cosines": local - 0.05,
        "frozen_copies": torch.full((len(x),), 3.0),
    }


# Scores whose inputs are listed above; `test_inputs_of_every_score` says which are not.
LISTED = [name for name, s in SCORES.items() if {*s.needs} <= {*make_inputs()}]
ALL = offered_scores("all", make_inputs())


def recorded(key):
    return torch.from_numpy(GOLDEN[key])


def one(name, inputs, **params):
    return compute_scores(get_scores([name]), inputs, params)[name]


@given(
    seed=st.integers(0, 2**31),
    batch=st.integers(1, 4),
    regions=st.integers(1, 5),
    classes=st.integers(1, 9),
    scale=st.sampled_from([1e-3, 1.0, 100.0, 1e4]),
    temperature=st.sampled_from([1e-4, 0.01, 0.5, 1.0, 3.0, 100.0, 1e4]),
    weight=st.sampled_from([0.0, 0.5, 1.0, 2.0]),
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
)
def test_every_score_is_its_formula(
    seed, batch, regions, classes, scale, temperature, weight, dtype
):
    inputs = make_inputs(seed, batch, regions, classes, scale, dtype)
    params = {"temperature": temperature, "local_weight": weight, "energy_temperature": temperature}
    inputs = {name: x.clamp(-6e4, 6e4) for name, x in inputs.items()}
    results = compute_scores(get_scores(LISTED), inputs, params)
    plain = {name: x.double().tolist() for name, x in inputs.items()}
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    for name, values in results.items():
        declared = {p: v for p, v in params.items() if p in SCORES[name].parameters}
        expected = ORACLES[name](plain, declared)
        slack = SLACK.get(name, 0) * tolerance * 1e5 * max(1.0, scale / 10)
        assert values.tolist() == pytest.approx(expected, rel=tolerance, abs=slack)


def test_inputs_of_every_score():
    """An input of one's own has an entry in `make_inputs` and in `inputs_of`."""
    for listed in (make_inputs(), inputs_of(torch.full((4, 10), 0.15))):
        assert not [need for need in required_inputs(SCORES.values()) if need not in listed]


def test_oracle_for_every_score():
    assert set(ORACLES) == set(SCORES)


@pytest.mark.parametrize("name", LISTED)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_registered_score_shape_type_and_purity(name, dtype):
    inputs = make_inputs(batch=3, dtype=dtype)
    before = {key: x.clone() for key, x in inputs.items()}
    values = one(name, inputs)
    assert values.shape == (3,) and values.dtype == torch.float32 and values.isfinite().all()
    assert all(torch.equal(before[key], x) for key, x in inputs.items())


@pytest.mark.parametrize("name", LISTED)
def test_higher_is_more_in_distribution(name):
    """Images that resemble one class score above images that resemble all classes alike."""
    confident = torch.full((4, 10), 0.15)
    confident[:, 3] = 0.35
    uniform = torch.full((4, 10), 0.15)
    assert (one(name, inputs_of(confident)) > one(name, inputs_of(uniform))).all()


@pytest.mark.parametrize("name", LISTED)
def test_class_and_region_order_do_not_matter(name):
    inputs = make_inputs(seed=3, dtype=torch.float64)
    classes, regions = torch.randperm(7), torch.randperm(4)
    shuffled = {
        key: x[..., classes] if x.dim() > 1 and x.shape[-1] == 7 else x for key, x in inputs.items()
    }
    for key in FROM_WORDS:  # fewer than a group each: one group, in which no order counts
        shuffled[key] = inputs[key].flip(-1)
    for key in ("local_cosines", "frozen_local_cosines"):
        shuffled[key] = shuffled[key][:, regions]
    torch.testing.assert_close(one(name, shuffled), one(name, inputs), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", LISTED)
def test_images_are_scored_one_by_one(name):
    inputs = make_inputs(seed=4, batch=6)
    together = one(name, inputs)
    for i in range(6):
        alone = one(name, {key: x[i : i + 1] for key, x in inputs.items()})
        torch.testing.assert_close(alone, together[i : i + 1], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", LISTED)
def test_empty_batch(name):
    assert one(name, make_inputs(batch=0)).shape == (0,)


def test_gl_mcm_with_zero_weight_is_mcm():
    inputs = make_inputs(seed=5)
    assert torch.equal(one("GL-MCM", inputs, local_weight=0.0), one("MCM", inputs))


def test_fa_scores_without_copies_are_mcms():
    """K = 0: the frozen cosines count nowhere, however large they are."""
    inputs = make_inputs(seed=6)
    inputs["frozen_copies"] = torch.zeros(5)
    for key in ("frozen_cosines", "frozen_local_cosines"):
        inputs[key] = inputs[key] + 200
    for name in ("MCM", "GL-MCM"):
        torch.testing.assert_close(one(f"FA-{name}", inputs), one(name, inputs))


def test_half_precision_keeps_distinct_scores():
    """float16 softmax would leave a handful of values; float32 keeps (nearly) all apart."""
    inputs = make_inputs(batch=2000, classes=100, dtype=torch.float16)
    small = {"cosines": inputs["cosines"] * 0.1 + 0.2}
    assert one("MCM", small).unique().numel() > 1500


@pytest.mark.parametrize("model", ["tiny_vit", "tiny_rn"])
@pytest.mark.parametrize("t", ["1.0", "0.5", "2.0", "0.01"])
def test_public_locoop_mcm(model, t):
    """The public code divides logits by 100 and negates."""
    inputs = {"cosines": recorded(f"locoop/{model}/logits") / 100}
    expected = -recorded(f"locoop/{model}/T{t}/MCM")
    values = one("MCM", inputs, temperature=float(t))
    torch.testing.assert_close(values, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("images", ["id", "ood"])
@pytest.mark.parametrize("t", ["1", "0.01", "100"])
def test_public_mcm_project(images, t):
    cosines, temperature = recorded(f"mcm/{images}/cosines"), float(t)
    ours = {
        "MCM": one("MCM", {"cosines": cosines}, temperature=temperature),
        "max-logit": one("MaxLogit", {"logits": cosines}),
        "energy": one("Energy", {"logits": cosines}, energy_temperature=temperature),
        "entropy": one("Entropy", {"logits": cosines / temperature}),
    }
    for name, values in ours.items():
        expected = -recorded(f"mcm/{images}/T{t}/{name}").double()
        torch.testing.assert_close(values, expected, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("images", ["id", "ood"])
@pytest.mark.parametrize("t", ["1", "0.01", "100"])
@pytest.mark.parametrize("w", ["1.0", "0.5"])
def test_public_gl_mcm_project(images, t, w):
    inputs = {key: recorded(f"glmcm/{images}/{key}") for key in ("cosines", "local_cosines")}
    values = one("GL-MCM", inputs, temperature=float(t), local_weight=float(w))
    expected = -recorded(f"glmcm/{images}/T{t}/w{w}").double()
    torch.testing.assert_close(values, expected, rtol=1e-6, atol=0)
    for name in ("MCM", "L-MCM"):
        expected = -recorded(f"glmcm/{images}/T{t}/{name}").double()
        values = one(name, inputs, temperature=float(t))
        torch.testing.assert_close(values, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("case", ["normal", "saturated", "ties", "C1", "small_scale"])
@pytest.mark.parametrize("name", ["MSP", "MaxLogit", "Energy"])
def test_public_clipn_baselines(case, name):
    for images in ("id", "ood"):
        values = one(name, {"logits": recorded(f"clipn/{case}/{images}/logits").double()})
        expected = recorded(f"clipn/{case}/{images}/{name}").double().flatten()
        torch.testing.assert_close(values, expected, rtol=1e-12, atol=0)


def _clipn(case, golden_clipn, dtype=torch.float32):
    """Inputs of the ID and of the OOD images of a CLIPN case."""
    return [
        {
            "logits": torch.from_numpy(golden_clipn[f"{case}/{part}/yes"]).to(dtype),
            "no_logits": torch.from_numpy(golden_clipn[f"{case}/{part}/no"]).to(dtype),
        }
        for part in ("id", "ood")
    ]


CLIPN_CASES = ["normal", "saturated", "ties", "C1", "one_vs_one", "twenty", "small_scale"]


@pytest.mark.parametrize("name", ["CTW", "ATD"])
@pytest.mark.parametrize("case", CLIPN_CASES)
def test_public_clipn_scores(case, name, golden):
    """The public probabilities, in float32 and float64, and its metrics."""
    arrays, figures = golden("clipn_scores.npz"), golden("clipn_scores.json")[case]
    for dtype, precision in ((torch.float32, "fp32"), (torch.float64, "fp64")):
        sides = _clipn(case, arrays, dtype)
        public = [one(f"{name}-public", inputs) for inputs in sides]
        for values, part in zip(public, ("id", "ood"), strict=True):
            expected = torch.from_numpy(arrays[f"{case}/{part}/{name}_{precision}"]).to(dtype)
            torch.testing.assert_close(values, expected, rtol=1e-5, atol=1e-7)
            assert torch.equal(values == 1, expected == 1)  # saturated alike
        ours = [torch.sigmoid(one(name, inputs)) for inputs in sides]
        for values, expected in zip(ours, public, strict=True):
            torch.testing.assert_close(values, expected, rtol=1e-5, atol=1e-7)
        auroc, fpr = figures[precision][name]
        metrics = ood_metrics(*(x.numpy() for x in public))
        assert metrics["auroc"] == pytest.approx(auroc, abs=1e-9)
        assert metrics["fpr95_id_interpolated"] == pytest.approx(fpr, abs=1e-9)


@pytest.mark.parametrize("name", ["CTW", "ATD"])
def test_clipn_scores_do_not_saturate_into_ties(name, golden):
    """In float32 the probabilities tie at 1 and cost AUROC points; log-odds give float64's."""
    sides = _clipn("saturated", golden("clipn_scores.npz"))
    figures = golden("clipn_scores.json")["saturated"]
    ours = ood_metrics(*(one(name, inputs).numpy() for inputs in sides))["auroc"]
    exact = ood_metrics(
        *(one(name, {k: x.double() for k, x in inputs.items()}).numpy() for inputs in sides)
    )["auroc"]
    assert ours == pytest.approx(exact, abs=1e-9)
    assert abs(figures["fp32"][name][0] - ours) > 0.05
    far = {"logits": torch.tensor([[60.0, 0.0], [61.0, 0.0]]), "no_logits": torch.zeros(2, 2)}
    assert one(name, far).unique().numel() == 2 and (one(f"{name}-public", far) == 1).all()


def test_grad_norm_is_the_norm_of_the_gradient():
    """Of KL(uniform || softmax) with respect to the text features, image by image."""
    generator = torch.Generator().manual_seed(2)
    text, features = (
        torch.nn.functional.normalize(torch.randn(n, 6, generator=generator)) for n in (5, 3)
    )
    inputs = {"logits": 10 * features @ text.T, "head_norm": (10 * features).abs().sum(dim=1)}
    values = one("GradNorm", inputs)
    for feature, value in zip(features, values, strict=True):
        weights = text.clone().requires_grad_()
        log_p = (10 * feature @ weights.T).log_softmax(dim=-1)
        (-log_p.mean()).backward()  # KL(u || p) but for a constant
        assert value.item() == pytest.approx(weights.grad.abs().sum().item(), rel=1e-5)


def test_all_means_what_the_model_can_give():
    plain = {"cosines", "logits", "head_norm", "odin_logits"}
    names = [s.name for s in offered_scores("all", plain)]
    assert names == ["MCM", "MSP", "MaxLogit", "Energy", "Entropy", "GradNorm"]
    both = [s.name for s in offered_scores("all", plain | {"no_logits", "local_cosines"})]
    assert set(both) - set(names) == {"GL-MCM", "CTW", "ATD"}
    assert [s.name for s in offered_scores(["ODIN"], plain)] == ["ODIN"]
    with pytest.raises(InputError, match=r'score CTW: .*no "no" text encoder: CTW is for CLIPN'):
        offered_scores(["MCM", "CTW"], plain)


def test_get_scores():
    assert [s.name for s in get_scores(["GL-MCM", "MCM"])] == ["GL-MCM", "MCM"]
    assert [s.name for s in get_scores("all")] == [s.name for s in SCORES.values() if s.in_all]
    assert not {"ODIN", "L-MCM", "CTW-public", "ATD-public"} & {s.name for s in get_scores("all")}
    assert [s.name for s in get_scores("MCM")] == ["MCM"]
    assert required_inputs(get_scores(["MCM"])) == {"cosines"}
    assert required_inputs(get_scores(["GL-MCM", "MSP"])) == {"cosines", "local_cosines", "logits"}


@pytest.mark.parametrize(
    "asked, nearest", [("glmcm", "GL-MCM"), ("mcm", "MCM"), ("Enrgy", "Energy")]
)
def test_unknown_score_names_the_nearest(asked, nearest):
    with pytest.raises(InputError, match=f"Unknown score '{asked}'.*Did you mean '{nearest}'"):
        get_scores([asked])


@pytest.mark.parametrize("asked", [[], ["MCM", "MCM"]])
def test_no_or_repeated_score(asked):
    with pytest.raises(InputError, match="each once"):
        get_scores(asked)


def test_parameters_reach_only_those_who_declare_them():
    inputs = make_inputs()
    cold = compute_scores(ALL, inputs, {"temperature": 0.1})
    plain = compute_scores(ALL, inputs)
    changed = {name for name in cold if not torch.equal(cold[name], plain[name])}
    assert changed == {name for name in cold if "temperature" in SCORES[name].parameters}
    assert changed & KNOWN == {"MCM", "GL-MCM", "FA-MCM", "FA-GL-MCM"}
    assert score_parameters(get_scores(["MSP", "GL-MCM"]), {"temperature": 0.1}) == {
        "MSP": {},
        "GL-MCM": {"temperature": 0.1, "local_weight": 1.0},
    }


def test_parameter_nobody_declares():
    with pytest.raises(InputError, match=r"'temprature'.*Did you mean 'temperature'"):
        one("MCM", make_inputs(), temprature=1.0)


@pytest.mark.parametrize("value", [0.0, -1.0, 1e-45])
@pytest.mark.parametrize(
    "name, parameter", [(n, x) for n in LISTED for x in SCORES[n].parameters if "temperature" in x]
)
def test_temperature_must_be_positive(name, parameter, value):
    with pytest.raises(InputError, match="must be a positive number"):
        one(name, make_inputs(), **{parameter: value})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "warm", None])
def test_parameter_must_be_a_finite_number(value):
    with pytest.raises(InputError, match=r"local_weight.*finite number"):
        one("GL-MCM", make_inputs(), local_weight=value)


def test_missing_local_features_are_refused():
    inputs = make_inputs()
    without = {key: x for key, x in inputs.items() if key != "local_cosines"}
    for absent in (without, {**inputs, "local_cosines": None}):
        with pytest.raises(InputError, match="no local features: GL-MCM would silently equal MCM"):
            compute_scores(ALL, absent)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", LISTED)
def test_non_finite_input_names_the_score(name, value):
    inputs = make_inputs()
    inputs[SCORES[name].needs[-1]].view(5, -1)[3, -1] = value
    with pytest.raises(InputError, match=f"score {name}: .* 1 of 5 images .first in the batch: 3"):
        one(name, inputs)


@pytest.mark.parametrize("classes", [1, 7])
def test_classes_that_are_alike_are_warned_of_once(classes, caplog):
    scoring._warn_once.cache_clear()
    inputs = make_inputs(classes=classes)
    for key in (key for key in inputs if key not in FROM_WORDS and inputs[key].dim() > 1):
        inputs[key] = inputs[key][..., :1] + 1e-7 * inputs[key]  # equal texts, but for rounding
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            compute_scores(ALL, inputs)
    assert len(caplog.records) == 1
    plain = {key: x.tolist() for key, x in inputs.items()}
    values = {s.name: ORACLES[s.name](plain, {}) for s in ALL}
    constant = [name for name, x in values.items() if np.allclose(x, x[0], rtol=1e-4, atol=1e-6)]
    named = ", ".join(constant)
    assert f"so {named} cannot tell images apart; use MaxLogit or Energy" in caplog.text
    known = ["MCM", "GL-MCM", "MSP", "Entropy"] + ["GradNorm"] * (classes == 1)
    assert [name for name in constant if name in KNOWN] == known


@pytest.mark.parametrize("need", sorted(FROM_WORDS))
def test_a_single_word_is_not_a_single_class(need, caplog):
    scoring._warn_once.cache_clear()
    equal_images = {key: x[:1].expand_as(x) for key, x in make_inputs().items()}
    compute_scores(ALL, {**equal_images, need: torch.ones(5, 1)})
    assert not caplog.records


@pytest.mark.parametrize("name", LISTED)
def test_inputs_that_would_be_broadcast_are_refused(name):
    needs, right, score = SCORES[name].needs, make_inputs(), SCORES[name].function
    with pytest.raises(InputError, match=f"score {name}: .* must be a torch tensor, not ndarray"):
        score(*(right[need].numpy() for need in needs))
    if len(needs) == 1:  # one image, or many dimensions of images
        x = right[needs[0]]
        assert score(x[0]).item() == pytest.approx(score(x)[0].item(), rel=1e-5)
        assert score(x[:, None]).shape == (len(x), 1)
        return
    similar = [need for need in needs if right[need].dim() > 1]
    of_classes = [need for need in similar if need not in {*FROM_WORDS, "features"}]
    wrong = [{need: right[need][0]} for need in similar]  # as if of a single image
    wrong += [{need: right[need][:2]} for need in needs]
    wrong += [{need: right[need][..., :3]} for need in of_classes if len(of_classes) > 1]
    for change in wrong:
        with pytest.raises(InputError, match=f"score {name}: the shapes of its inputs are .*B, C"):
            score(*((right | change)[need] for need in needs))


def own_score(monkeypatch, function):
    monkeypatch.setattr(registry, "SCORES", {})
    score("Own")(function)
    return [registry.SCORES["Own"]]


@pytest.mark.parametrize(
    "function, found",
    [
        (lambda cosines: cosines.amax(dim=-1, keepdim=True), r"torch.float32 \[5, 1\]"),
        (lambda cosines: cosines.amax(), r"torch.float32 \[\]"),
        (lambda cosines: cosines.amax(dim=0), r"torch.float32 \[7\]"),
        (lambda cosines: cosines.max(dim=-1), "a max"),
        (lambda cosines: cosines.amax(dim=-1).tolist(), "a list"),
        (lambda cosines: cosines.amax(dim=-1).numpy(), "a ndarray"),
        (lambda cosines: None, "a NoneType"),
        (lambda cosines: cosines.amax(dim=-1) * 1j, r"torch.complex64 \[5\]"),
        (lambda features, cosines: features, r"torch.float32 \[5, 3\]"),
    ],
)
def test_result_that_is_no_number_for_each_image(function, found, monkeypatch):
    inputs = {"cosines": make_inputs()["cosines"], "features": torch.ones(5, 3)}
    with pytest.raises(
        InputError, match=f"^score Own: its function returned {found}.* a tensor .B"
    ):
        compute_scores(own_score(monkeypatch, function), inputs)


def test_nan_result_names_the_score_and_the_image(monkeypatch):
    inputs = make_inputs()
    inputs["cosines"][3] = -0.5
    own = own_score(monkeypatch, lambda cosines: cosines.amax(dim=-1).sqrt())
    with pytest.raises(InputError, match=r"^score Own: .*NaN for 1 of 5 .*first in the batch: 3"):
        compute_scores(get_scores("MCM") + own, inputs)


@pytest.mark.parametrize("shape", [(7,), (2, 5, 7)])
def test_results_of_one_image_and_of_several_batches(shape):
    x = make_inputs(batch=10)["cosines"].flatten()[: np.prod(shape)].view(shape)
    assert one("MCM", {"cosines": x}).shape == shape[:-1]
    assert compute_scores([], {}) == {}


def test_score_of_features_and_cosines(monkeypatch):
    """Features are [B, D], whose columns are no images; inputs of other names begin with B."""
    (own,) = own_score(monkeypatch, lambda features, cosines: cosines.amax(-1) * features[:, 0])
    inputs = {"features": torch.ones(5, 3), "cosines": make_inputs()["cosines"]}
    assert compute_scores([own], inputs)["Own"].shape == (5,)
    with pytest.raises(InputError, match=r"score Own: the shapes .*features \[4, 3\], cosines"):
        own.function(inputs["features"][:4], inputs["cosines"])


def test_function_defined_again_replaces_its_score(monkeypatch):
    """As in a notebook's cell that is run twice."""
    monkeypatch.setattr(registry, "SCORES", {})

    def run_cell(factor):
        @score("Own")
        def own(cosines):
            return factor * cosines.amax(dim=-1)

    run_cell(2)
    run_cell(3)
    assert registry.SCORES["Own"].function(torch.ones(4, 2)).tolist() == [3] * 4

    def other(cosines):
        return cosines.amax(dim=-1)

    with pytest.raises(TypeError, match=r'twice, by .*own and .*other: .* del .*SCORES\["Own"\]'):
        score("Own")(other)
    with pytest.raises(TypeError, match="twice"):
        score("Own")(torch.nn.Softmax(dim=-1))  # a callable without a name


def test_registration_rules(monkeypatch):
    monkeypatch.setattr(registry, "SCORES", {})

    register = score("New")
    with pytest.raises(TypeError, match="needs a default"):
        register(lambda cosines, *, power: cosines)
    register(lambda cosines, *, power=2.0: cosines.sum(-1))
    with pytest.raises(TypeError, match="twice"):
        register(lambda cosines: cosines)
    assert registry.SCORES["New"].needs == ("cosines",)
    assert registry.SCORES["New"].parameters == {"power": 2.0}


def test_scores_can_be_differentiated():
    """Gradient-based detectors stand on these functions; the in-place steps must not break them."""
    cosines = torch.rand(2, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: SCORES["MCM"].function(x, temperature=0.5), cosines)
    assert torch.autograd.gradcheck(lambda x: SCORES["Energy"].function(x), cosines)
