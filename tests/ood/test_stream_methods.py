"""Test-time methods against the public code's results, batch by batch."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from dassl.utils.errors import InputError
from ood.stream_methods import INPUTS, OODD, STREAMS, TANL, AdaNeg, StreamMethod, dividing_threshold

CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def _case(golden, name: str, letter: str, case: int) -> tuple[dict, dict]:
    """The numbers of a case, and its arrays without the prefix."""
    arrays, start = golden(f"zeroshot_{name}.npz"), f"{letter}{case}_"
    own = {k.removeprefix(start): torch.from_numpy(arrays[k]) for k in arrays if start in k}
    return golden(f"zeroshot_{name}.json")["cases"][case], own


@pytest.mark.parametrize("name", ["near", "far"])
def test_oodd_scores_and_queue_after_each_batch(golden, name):
    arrays = golden("zeroshot_oodd.npz")
    features, base = (
        torch.from_numpy(np.concatenate([arrays[f"id_{what}"], arrays[f"{name}_{what}"]]))
        for what in ("features", "scores")
    )
    order = arrays[f"{name}_order"]
    members = np.unpackbits(arrays[f"{name}_queue_members_packed"], axis=1).astype(bool)
    method, found = OODD(), []
    for part, queued in zip(torch.from_numpy(order).split(64), members, strict=True):
        found.append(method.update(features[part], base[part]))
        own = torch.from_numpy(order[queued[: len(order)]])
        own = own[base[own].argsort(stable=True)]
        assert method.scores.equal(base[own]) and method.features.equal(features[own])
    found, inside = torch.cat(found), order < len(arrays["id_scores"])
    assert_close(found[inside], torch.from_numpy(arrays[f"{name}_id_final"]), **CLOSE)
    assert_close(found[~inside], torch.from_numpy(arrays[f"{name}_ood_final"]), **CLOSE)


def test_oodd_with_fewer_images_than_neighbours():
    method, image = OODD(), torch.nn.functional.normalize(torch.eye(3) + 0.1, dim=1)
    base = torch.tensor([0.2, 0.5, 0.5])
    assert_close(method.update(image, base), base - (image @ image.T).amin(dim=1))
    assert method.features.equal(image)


@pytest.mark.parametrize("case", range(3))
def test_adaneg_scores_and_memory_after_each_batch(golden, case):
    about, own = _case(golden, "adaneg", "a", case)
    classes, negatives = own["text"].split([about["C"], about["M"]])
    numbers = {"groups": about["groups"], "length": about["L"], "threshold": about["tau"]}
    numbers |= {"gap": about["gap"], "weight": about["lam"]}
    method = AdaNeg(classes, negatives, torch.tensor(about["scale"]), **numbers)
    batches = own["stream"].split(about["batch"])
    scores = own["score"].split(about["batch"])
    for i, (batch, expected) in enumerate(zip(batches, scores, strict=True)):
        assert_close(method.update(batch, torch.zeros(len(batch))), expected, **CLOSE)
        filled = np.isfinite(method.entropies)
        assert (1 + filled.sum(axis=1) == own["fill"][i].numpy()).all()
        entropies = np.where(filled, method.entropies, 0)
        np.testing.assert_allclose(entropies, own["entropy"][i][:, 1:-1], **CLOSE)
        if i in (0, len(batches) - 1):
            memory = own["memory_last" if i else "memory_first"]
            assert method.images.equal(memory[:, 1:-1])


@pytest.mark.parametrize("case", range(4))
def test_tanl_scores_and_queues_after_each_batch(golden, monkeypatch, case):
    about, own = _case(golden, "tanl", "t", case)
    orders = iter([own["perm_pos"], own["perm_neg"]])
    monkeypatch.setattr(torch, "randperm", lambda n, generator: next(orders))
    classes, words = own["text"].split([about["C"], about["A"]])
    numbers = {"labels": about["beta"], "step": about["gamma"], "length": about["L"]}
    numbers["weight"] = about["alpha"]
    method = TANL(classes, words, own["noise"], torch.tensor(about["scale"]), **numbers)
    assert_close(method.history, own["initial_scores"], **CLOSE)
    scores = own["score"].split(about["batch"])
    firsts = own["first_pass_score"].split(about["batch"])
    for i, batch in enumerate(own["stream"].split(about["batch"])):
        assert_close(method.update(batch, torch.zeros(len(batch))), scores[i], **CLOSE)
        assert_close(method.history[-len(batch) :], firsts[i], **CLOSE)
        assert method.threshold == pytest.approx(float(own["threshold"][i]), abs=1e-6)
        for queue, side in ((method.inside, "pos"), (method.outside, "neg")):
            assert len(queue) == own[f"{side}_len"][i]
            assert_close(queue.mean(dim=0), own[f"{side}_mean"][i], **CLOSE)
    assert_close(method.inside, own["pos_queue_last"], **CLOSE)
    assert_close(method.outside, own["neg_queue_last"], **CLOSE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_dividing_threshold_is_the_middle_of_the_best(dtype):
    middle = torch.tensor(0.51, dtype=dtype).item()
    assert dividing_threshold(torch.tensor([0.1, 0.1, 0.9], dtype=dtype)) == middle
    assert dividing_threshold(torch.tensor([0.995], dtype=dtype)) == 0.5


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_adaneg_compares_entropies_in_float64(order):
    """Two images whose entropies are equal in float32: the second is the surer one."""
    texts, scale = torch.eye(3, dtype=torch.float64), torch.tensor(8.0, dtype=torch.float64)
    angles = torch.tensor([0.1, 0.1 - 1e-10], dtype=torch.float64)
    images = torch.stack([angles.cos(), angles.sin(), 0 * angles], dim=1)
    method = AdaNeg(texts[:2], texts[2:], scale, groups=1, length=2)
    method.update(images[order], images[order, 0])
    assert method.images[0, 0].equal(images[1])


@pytest.mark.parametrize(
    "kind, batch, published",
    [
        (OODD, 64, {"size": 2048, "k": 5}),
        (AdaNeg, 256, {"groups": 5, "length": 10, "threshold": 0.5, "gap": 0.5, "weight": 0.1}),
        (
            TANL,
            256,
            {"labels": 1000, "step": 1, "length": 300, "gap": 0.5, "weight": 0.0, "past": 20000}
            | {"seed": 0},
        ),
    ],
)
def test_the_defaults_are_the_published_numbers(kind, batch, published):
    """A command sets none of them; docs/methods.md says what they are."""
    parameters = inspect.signature(kind).parameters.values()
    assert {x.name: x.default for x in parameters if x.default is not x.empty} == published
    assert kind.batch == batch


def test_needs_are_the_arguments_without_a_default():
    class Own(StreamMethod):
        def __init__(self, scale, k=5, *, classes, name="own"):
            pass

    assert Own.needs == ("scale", "classes") and Own.settings == {"k": 5, "name": "own"}
    assert Own.batch == 256 and not OODD.needs
    assert set(INPUTS) == {need for kind in STREAMS.values() for need in kind.needs}


def _texts(draw: torch.Generator) -> dict[str, torch.Tensor]:
    """All texts and images that a method may need, random."""
    numbers = {"classes": 4, "negatives": 30, "words": 40, "noise": 15}
    return {
        name: torch.nn.functional.normalize(torch.randn(n, 8, generator=draw), dim=1)
        for name, n in numbers.items()
    } | {"scale": torch.tensor(20.0)}


@pytest.mark.parametrize(
    "kind, change, message",
    [
        (OODD, {"size": 0}, "OODD.size is 0, it must be at least 1"),
        (OODD, {"k": 0}, "OODD.k is 0, it must be at least 1"),
        (AdaNeg, {"groups": 0}, "groups is 0: the number of groups must be 1 or more"),
        (AdaNeg, {"length": 1}, "AdaNeg.length is 1, it must be at least 2"),
        (AdaNeg, {"threshold": 1.5}, "AdaNeg.threshold is 1.5, it must lie between 0 and 1"),
        (AdaNeg, {"gap": -0.5}, "AdaNeg.gap is -0.5, it must lie between 0 and 1"),
        (TANL, {"labels": 0}, "TANL.labels is 0, it must be at least 1"),
        (TANL, {"step": -1}, "TANL.step is -1, it must be at least 0"),
        (TANL, {"length": 0}, "TANL.length is 0, it must be at least 1"),
        (TANL, {"gap": 2}, "TANL.gap is 2, it must lie between 0 and 1"),
        (TANL, {"weight": -1}, "TANL.weight is -1, it must lie between 0 and 1"),
        (TANL, {"past": 0}, "TANL.past is 0, it must be at least 1"),
    ],
)
def test_settings_below_their_least_values_are_refused_at_once(kind, change, message):
    known = _texts(torch.Generator().manual_seed(3))
    with pytest.raises(InputError, match=f"^{message}"):
        kind(**{name: known[name] for name in kind.needs}, **change)


@pytest.mark.parametrize("kind", STREAMS.values(), ids=STREAMS)
def test_images_after_a_batch_do_not_change_its_scores(kind):
    draw = torch.Generator().manual_seed(3)
    known = _texts(draw)
    images = torch.nn.functional.normalize(torch.randn(24, 8, generator=draw), dim=1)
    base = torch.rand(24, generator=draw)
    one, two = (kind(**{name: known[name] for name in kind.needs}) for _ in range(2))
    first = one.update(images[:12], base[:12])
    assert torch.isfinite(one.update(images[12:], base[12:])).all()
    assert two.update(images[:12], base[:12]).equal(first)
