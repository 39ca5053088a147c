"""Weights stored once in autocast's dtype: fewer casts, the same bits; precisions of a GPU."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import clip
from clip.building import build_model
from clip.facts import OPENAI_TRANSFORM
from clip.precision import PRECISIONS, _warn_if_emulated, resolve_precision
from clip.prompted import PromptedCLIP, cosines, exact
from trainers.locoop import ood_regularisation
from trainers.prompt_learner import PromptLearner
from trainers.prompt_trainer import LearnedPrompts

NAMES = ["cat", "golden retriever", "crane (bird)"]


class _Casts(TorchDispatchMode):
    """Counts the operators that are casts, and all of them."""

    def __init__(self):
        super().__init__()
        self.casts = self.all = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.all += 1
        self.casts += func is torch.ops.aten._to_copy.default
        return func(*args, **(kwargs or {}))


def _model(state, stored):
    model = clip.ClipModel(
        build_model(state, "quick_gelu"),
        name="tiny",
        activation="quick_gelu",
        weights_hash="",
        **OPENAI_TRANSFORM,
    )
    return model.store_for_autocast(torch.bfloat16) if stored else model


def _step(model, per_class):
    """Features and the gradient of a LoCoOp loss, in bfloat16 autocast, with the casts counted."""
    generator = torch.Generator().manual_seed(0)
    learner = PromptLearner(NAMES, model, n_ctx=4, csc=per_class, generator=generator)
    prompted = PromptedCLIP(model, LearnedPrompts(model, learner))
    images = torch.randn(4, 3, model.image_size, model.image_size, generator=generator)
    labels = torch.tensor([0, 1, 2, 0])
    with _Casts() as count, torch.autocast("cpu", dtype=torch.bfloat16):
        with torch.no_grad():
            features, regions = prompted.image_features(images, local=True)
        text = prompted.text_features()
        loss = F.cross_entropy(prompted.scale * cosines(features, text), labels)
        loss = loss + ood_regularisation(regions, text, labels, prompted.scale, 1)
        loss.backward()
    return (features, regions, text, learner.ctx.grad), count


@pytest.fixture
def attention_as_on_a_gpu():
    """PyTorch's fused attention does not see a CPU's autocast, as it sees a GPU's: it would be
    computed in float32."""
    torch.backends.mha.set_fastpath_enabled(False)
    yield
    torch.backends.mha.set_fastpath_enabled(True)


@pytest.mark.usefixtures("attention_as_on_a_gpu")
@pytest.mark.parametrize("arch", ["tiny-vit", "tiny-rn"])
@pytest.mark.parametrize("per_class", [False, True])
def test_stored_weights_give_the_bits_of_autocast(arch, per_class, generated_weights):
    plain, casts = _step(_model(generated_weights(arch), False), per_class)
    stored, fewer = _step(_model(generated_weights(arch), True), per_class)
    for ours, theirs in zip(stored, plain, strict=True):
        assert torch.equal(ours, theirs)
    assert fewer.casts < 0.6 * casts.casts and fewer.all - fewer.casts == casts.all - casts.casts


@pytest.mark.parametrize("arch", ["tiny-vit", "tiny-rn"])
def test_stored_weights_stay_in_autocast_without_a_context(arch, generated_weights):
    model = _model(generated_weights(arch), True)
    images, tokens = torch.ones(1, 3, 64, 64), clip.tokenize(["a cat"])
    alone = *model.encode_image(images, local=True), model.encode_text(tokens)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = *model.encode_image(images, local=True), model.encode_text(tokens)
    assert all(map(torch.equal, alone, inside))


def test_norms_and_embeddings_stay_in_float32(generated_weights):
    model = _model(generated_weights("tiny-vit"), True)
    for name, weight in model.named_parameters():
        whole = "ln_" in name or "embedding" in name or name == "logit_scale"
        assert weight.dtype == (torch.float32 if whole else torch.bfloat16), name


@pytest.fixture
def switches():
    """The TF32 switches as PyTorch sets them, put back afterwards."""
    backends = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [backend.allow_tf32 for backend in backends]
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = True, False
    yield lambda: tuple(backend.allow_tf32 for backend in backends)
    for backend, value in zip(backends, before, strict=True):
        backend.allow_tf32 = value


@pytest.mark.parametrize("name, allowed", [("fp32", False), ("tf32", True), ("fp16", False)])
def test_only_tf32_computes_in_tf32(name, allowed, switches):
    assert resolve_precision(name, "cuda").name == name
    assert switches() == (allowed, allowed)


@pytest.mark.parametrize("name, allowed", [("fp32", False), ("tf32", True), ("fp16", False)])
def test_a_forward_pass_has_its_own_switches_whatever_was_loaded_since(name, allowed, switches):
    for other in ("fp32", "tf32"):
        resolve_precision(other, "cuda")
        with PRECISIONS[name].context(torch.device("cuda")):
            assert switches() == (allowed, allowed)
        assert switches() == (other == "tf32",) * 2
    with pytest.raises(KeyError), PRECISIONS[name].context(torch.device("cuda")):
        raise KeyError
    assert switches() == (True, True)


def test_a_cpu_leaves_the_switches_alone(switches):
    with PRECISIONS["fp32"].context(torch.device("cpu")):
        assert switches() == (True, False)


def test_scores_are_float32_in_tf32(switches):
    resolve_precision("tf32", "cuda")
    with exact(SimpleNamespace(device=torch.device("cuda"))):
        assert switches() == (False, False)
    assert switches() == (True, True)


def test_tf32_on_a_cpu_is_fp32(caplog):
    caplog.set_level("INFO")
    assert resolve_precision("tf32", "cpu").name == "fp32" and "fp32 is used" in caplog.text


def test_emulated_bfloat16_is_warned_of_once(monkeypatch, caplog, tmp_path):
    (tmp_path / "cpuinfo").write_text("flags : avx2 avx512f")
    monkeypatch.setattr("clip.precision.CPU_FACTS", tmp_path / "cpuinfo")
    _warn_if_emulated.cache_clear()
    for _ in range(2):
        assert resolve_precision("amp_bf16", "cpu").name == "amp_bf16"
    assert caplog.text.count("emulates bfloat16") == 1
    _warn_if_emulated.cache_clear()
