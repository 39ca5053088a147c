"""The fast training step against the slow, obvious one."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import clip
from benchmarks import plain
from clip.building import build_model
from clip.facts import OPENAI_TRANSFORM
from clip.prompted import PromptedCLIP, cosines
from trainers.locoop import ood_regularisation
from trainers.prompt_learner import CLASS_TOKEN_POSITIONS, PromptLearner
from trainers.prompt_trainer import LearnedPrompts

# From one token to twelve.
NAMES = [
    "cat",
    "golden retriever",
    "crane (bird)",
    "jack-o'-lantern",
    "great white shark",
    "small black and white dog on the red kitchen table today",
]
assert len(clip.encode(NAMES[0])) == 1 and len(clip.encode(NAMES[-1])) >= 11


KINDS = [("tiny-vit", "quick_gelu"), ("tiny-rn", "quick_gelu"), ("tiny-vit", "gelu")]


@pytest.fixture(scope="module")
def models(generated_weights):
    """Each kind of model in float32 and in float64."""

    def build(arch, activation):
        model = build_model(generated_weights(arch), activation)
        return clip.ClipModel(
            model, name=arch, activation=activation, weights_hash="", **OPENAI_TRANSFORM
        )

    return {kind: (build(*kind), build(*kind).to_dtype(torch.float64)) for kind in KINDS}


def _relative(actual, expected):
    """Length of the difference relative to the length of the values."""
    return ((actual - expected).norm() / expected.norm()).item()


def _gradient(features, learner):
    direction = torch.linspace(-1, 1, features.numel(), dtype=features.dtype).view_as(features)
    return torch.autograd.grad((F.normalize(features, dim=-1) * direction).sum(), learner.ctx)[0]


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(
    names=st.lists(st.sampled_from(NAMES), min_size=1, max_size=7),
    kind=st.sampled_from(KINDS),
    n_ctx=st.sampled_from([1, 4, 16]),
    csc=st.booleans(),
    position=st.sampled_from(CLASS_TOKEN_POSITIONS),
    chunk=st.sampled_from([1, 40, 10**6]),
    seed=st.integers(0, 9),
)
def test_fast_features_are_the_plain_ones(names, kind, n_ctx, csc, position, chunk, seed, models):
    """Against the plain ones in float64, to 1e-6 beyond what the plain ones lose in float32.

    These weights are drawn wide, so that float32 itself loses up to 1e-6 on either path.
    """
    single, double = models[kind]
    learner = PromptLearner(
        names,
        single,
        n_ctx=n_ctx,
        csc=csc,
        position=position,
        generator=torch.Generator().manual_seed(seed),
    )
    plain = double.text(learner(), learner.eot)
    gradient = _gradient(plain, learner)
    exact = LearnedPrompts(double, learner, chunk)()
    assert _relative(exact, plain) <= 1e-12
    assert _relative(_gradient(exact, learner), gradient) <= 1e-6  # float32's, the context is
    fast = LearnedPrompts(single, learner, chunk)()
    lost = _relative(single.text(learner(), learner.eot), plain)
    assert fast.dtype == torch.float32 and _relative(fast, plain) <= 1e-6 + lost
    assert _relative(_gradient(fast, learner), gradient) <= 1e-5


@pytest.mark.parametrize("n_ctx", [1, 16])
def test_the_benchmarks_plain_step_is_the_fast_one(n_ctx, models):
    """Both sides of benchmarks/train_step.py compute the same loss and the same gradient."""
    model, draw = models[KINDS[0]][0], torch.Generator().manual_seed(n_ctx)
    learner = PromptLearner(NAMES, model, n_ctx=n_ctx, generator=draw)
    prompted = PromptedCLIP(model, LearnedPrompts(model, learner))
    # Seeded: where the two terms nearly cancel, the rest has fewer digits than the test asks for.
    images, labels = torch.randn(2, 3, 64, 64, generator=draw), torch.tensor([0, 4])
    slow = plain.locoop_loss(model, learner, images, labels, k=2, weight=0.25)
    features, regions = prompted.image_features(images, local=True)
    text, scale = prompted.text_features(), model.scale
    fast = F.cross_entropy(scale * cosines(features, text), labels)
    fast = fast + 0.25 * ood_regularisation(regions, text, labels, scale, k=2)
    assert fast.item() == pytest.approx(slow.item(), rel=1e-5)
    slow, fast = (torch.autograd.grad(loss, learner.ctx)[0] for loss in (slow, fast))
    assert _relative(fast, slow) <= 1e-4  # scaled by 100, then a softmax


def test_prompts_are_not_built(models, monkeypatch):
    learner = PromptLearner(NAMES, models[KINDS[0]][0], n_ctx=4)
    monkeypatch.setattr(learner, "forward", lambda: pytest.fail("[C, L, W] was built"))
    LearnedPrompts(models[KINDS[0]][0], learner)()
    prefix, rows, _ = learner.packed()
    assert prefix.shape[0] == 5 and rows.requires_grad is False


def test_loaded_context_keeps_the_class_names(models):
    """A published file holds the embeddings of its own names: its context alone is read."""
    ours, theirs = (PromptLearner([name] * 2, models[KINDS[0]][0], n_ctx=4) for name in NAMES[:2])
    fixed, prompts = ours.fixed.clone(), theirs()
    published = {"token_prefix": prompts[:, :1], "token_suffix": prompts[:, 5:]}
    ours.load_state_dict({**theirs.state_dict(), **published})
    assert torch.equal(ours.ctx, theirs.ctx) and torch.equal(ours.fixed, fixed)


def _obvious_regularisation(regions, text, labels, scale, k, weights=None):
    probabilities = (scale * regions @ text.T).softmax(dim=-1)  # [B, N, C]
    top = probabilities.topk(k, dim=-1).indices
    irrelevant = (top != labels[:, None, None]).all(dim=-1)
    p = probabilities[irrelevant]
    values = (p * torch.log(p + 1e-5)).sum(dim=-1)
    return (values if weights is None else values * weights[irrelevant]).sum() / max(1, len(p))


@settings(deadline=None, max_examples=40)
@given(
    batch=st.integers(1, 3),
    regions=st.integers(1, 9),
    classes=st.integers(2, 12),
    chunk=st.sampled_from([1, 17, 50, 10**6]),
    seed=st.integers(0, 99),
    data=st.data(),
)
def test_regularisation_in_chunks(batch, regions, classes, chunk, seed, data):
    k = data.draw(st.integers(1, classes))
    draw = torch.Generator().manual_seed(seed)
    local = F.normalize(torch.randn(batch, regions, 6, generator=draw), dim=-1)
    text = F.normalize(torch.randn(classes, 6, generator=draw), dim=-1).requires_grad_()
    labels = torch.randint(classes, (batch,), generator=draw)
    scale = torch.tensor(10.0)
    value = ood_regularisation(local, text, labels, scale, k, chunk)
    expected = _obvious_regularisation(local, text, labels, scale, k)
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-6)
    grads = [torch.autograd.grad(3 * loss, text)[0] for loss in (value, expected)]
    torch.testing.assert_close(*grads, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("k", [1, 3, 7])
@pytest.mark.parametrize("chunk", [None, 7 * 13, 1])
def test_regularisation_in_float64(k, chunk):
    """Value and gradient of the plain formula, to rounding."""
    draw = torch.Generator().manual_seed(k)
    wide = {"generator": draw, "dtype": torch.float64}
    local = F.normalize(torch.randn(4, 25, 16, **wide), dim=-1)
    text = F.normalize(torch.randn(7, 16, **wide), dim=-1).requires_grad_()
    labels, scale = torch.tensor([0, 6, 3, 3]), torch.tensor(30.0, dtype=torch.float64)
    losses = [
        ood_regularisation(local, text, labels, scale, k, chunk),
        _obvious_regularisation(local, text, labels, scale, k),
    ]
    torch.testing.assert_close(*losses, rtol=1e-12, atol=1e-14)
    grads = [torch.autograd.grad(loss, text)[0] for loss in losses]
    torch.testing.assert_close(*grads, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("chunk", [None, 7 * 13, 1])
def test_regularisation_with_weights_that_learn(chunk):
    """Value, gradient of the texts and of the weights; weights of 1 change no bit."""
    wide = {"generator": torch.Generator().manual_seed(0), "dtype": torch.float64}
    local = F.normalize(torch.randn(4, 25, 16, **wide), dim=-1)
    text = F.normalize(torch.randn(7, 16, **wide), dim=-1).requires_grad_()
    given = [local, text, torch.tensor([0, 6, 3, 3]), torch.tensor(30.0, dtype=torch.float64), 3]
    for shape in ((4, 25), (4, 1)):  # of every region, of every image
        weights = torch.rand(shape, **wide).requires_grad_()
        losses = [
            ood_regularisation(*given, chunk, weights=weights),
            _obvious_regularisation(*given, weights=weights.expand(4, 25)),
        ]
        torch.testing.assert_close(*losses, rtol=1e-12, atol=1e-14)
        both = [torch.autograd.grad(loss, (text, weights)) for loss in losses]
        for grads in zip(*both, strict=True):
            torch.testing.assert_close(*grads, rtol=1e-11, atol=1e-12)
    given[1] = text.detach()  # where the weights alone learn
    (alone,) = torch.autograd.grad(ood_regularisation(*given, chunk, weights=weights), weights)
    torch.testing.assert_close(alone, both[0][1], rtol=1e-12, atol=1e-14)
    plain, ones = (
        ood_regularisation(*given, chunk, weights=w)
        for w in (None, torch.ones(4, 1, dtype=torch.float64))
    )
    assert torch.equal(plain, ones)


def test_no_region_gives_zero_and_a_gradient():
    text = F.normalize(torch.randn(4, 3), dim=-1).requires_grad_()
    value = ood_regularisation(
        torch.randn(2, 3, 3), text, torch.tensor([0, 1]), torch.tensor(100.0), k=4
    )
    value.backward()
    assert value == 0 and value.dtype == torch.float32 and (text.grad == 0).all()


def test_similarities_exist_for_one_chunk_at_a_time(monkeypatch):
    sizes = []
    rank = ood_regularisation.__globals__["id_irrelevant_regions"]

    def watched(similarity, *args):
        sizes.append(similarity.numel())
        return rank(similarity, *args)

    monkeypatch.setitem(ood_regularisation.__globals__, "id_irrelevant_regions", watched)
    regions, text = torch.randn(4, 50, 8), torch.randn(21, 8)
    with torch.no_grad():
        ood_regularisation(regions, text, torch.arange(4), torch.tensor(1.0), 5, chunk=420)
    assert max(sizes) == 420 and sum(sizes) == 4 * 50 * 21
