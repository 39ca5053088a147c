"""What a model gives to scores: by name, from one pass, as the formulas say."""

import pytest
import torch
import torch.nn.functional as F

import clip
from clip.negation import build_no_encoder
from clip.prompted import DescribedCLIP, PromptedCLIP, TwoBranchCLIP
from clip.templates import template_pairs
from tests.golden import weights_clipn

NAMES = ["cat", "dog", "tea pot"]


@pytest.fixture
def model(tiny_clip):
    tiny = tiny_clip()
    features = tiny.encode_text(clip.tokenize(NAMES))
    return PromptedCLIP(tiny, lambda: features)


def _images(count=2):
    return torch.from_numpy(weights_clipn.make_images(3, count, 64))


def _inputs(model, images, classes, needs):
    features, regions = model.image_features(images, "local_cosines" in needs)
    return model.inputs(features, regions, classes, needs, images)


def test_everything_a_model_provides(model):
    classes = model.class_features()
    inputs = _inputs(model, _images(), classes, model.provides)
    assert set(inputs) == model.provides
    features, regions = model.image_features(_images(), local=True)
    cosines, local = (x @ model.text_features().T for x in (features, regions))
    assert torch.equal(inputs["cosines"], cosines)
    assert torch.equal(inputs["local_cosines"], local)
    torch.testing.assert_close(inputs["logits"], model.scale * cosines)
    torch.testing.assert_close(inputs["head_norm"], model.scale * features.abs().sum(dim=1))
    assert set(_inputs(model, _images(), classes, {"logits"})) == {"logits", "cosines"}
    assert DescribedCLIP(model.clip, classes, model.scale).provides == model.provides


def test_odin_steps_up_the_confidence_by_the_papers_magnitude(model):
    """Its images against the gradient taken here; within the evaluation's inference mode too."""
    images, text = _images(), model.text_features()
    leaf = images.clone().requires_grad_()
    features = F.normalize(model.clip.encode_image(leaf), dim=-1)
    logits = model.scale * features @ text.T
    F.log_softmax(logits / 1000, dim=-1).amax(dim=-1).sum().backward()
    with torch.inference_mode():
        moved = model.odin_images(images, text)
        odin_logits = _inputs(model, images, model.class_features(), {"odin_logits"})["odin_logits"]
    std = torch.tensor(model.clip.preprocess.std).view(3, 1, 1)
    step = (moved - images) * std / 0.0014  # -1, 0 or 1, but for rounding
    agree = (step - leaf.grad.sign()).abs() < 0.01
    assert agree.float().mean() > 0.999
    confidence = [F.softmax(x / 1000, dim=-1).amax(dim=-1) for x in (logits, odin_logits)]
    assert (confidence[1] > confidence[0]).all()
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("variant", ["src", "hand"])
def test_two_branches_are_the_public_codes(variant, clipn_file, golden):
    """Logits of both branches at scale 100, on the recorded image features."""
    about, arrays = golden("clipn_encode.json")["zeroshot"], golden("clipn_encode.npz")
    tiny, _ = clip.load(clipn_file(about["seed"], variant), activation="gelu")
    names = {"src": "learnable", "hand": "handcrafted"}
    model = TwoBranchCLIP(
        tiny, build_no_encoder(tiny, names[variant]), about["classes"], template_pairs("published")
    ).requires_grad_(False)
    images = torch.from_numpy(weights_clipn.make_images(about["seed"] + 1, 5, 64))
    classes = model.class_features()
    assert DescribedCLIP(tiny, classes, model.scale).provides == model.provides
    inputs = _inputs(model, images, classes, model.provides - {"odin_logits"})
    features = F.normalize(torch.from_numpy(arrays[f"zeroshot/{variant}/feat"]), dim=-1).float()
    for key, branch in (("cosines", "yes"), ("no_cosines", "no")):
        weights = torch.from_numpy(arrays[f"zeroshot/{variant}/fc_{branch}"]).float()
        torch.testing.assert_close(inputs[key], features @ weights.T, rtol=1e-5, atol=1e-5)
        if variant == "src":
            expected = torch.from_numpy(arrays[f"zeroshot/src/logits_{branch}"]).float()
            torch.testing.assert_close(100 * inputs[key], expected, rtol=1e-5, atol=1e-4)
    assert model.scale.item() == pytest.approx(100, rel=1e-4)


def test_published_checkpoint_gives_the_published_scores(clipn_file, golden):
    """Per-image scores of the public inference script, from a file as it is published."""
    from ood.scoring import compute_scores, get_scores

    about, arrays = golden("clipn_encode.json")["zeroshot"], golden("clipn_encode.npz")
    infer = about["infer"]
    tiny, _ = clip.load(clipn_file(infer["seed"], arch="tiny512"), activation="gelu")
    model = TwoBranchCLIP(
        tiny, build_no_encoder(tiny, "learnable"), about["classes"], template_pairs("published")
    ).requires_grad_(False)
    names = ["MSP", "MaxLogit", "Energy", "CTW-public", "ATD-public"]
    classes = model.class_features()
    for name, count in infer["n"].items():
        images = weights_clipn.make_images(
            infer["image_seeds"][name], count, 64, infer["image_scale"][name]
        )
        inputs = _inputs(model, torch.from_numpy(images), classes, {"logits", "no_logits"})
        inputs = {key: 100 * inputs[key] / model.scale for key in ("logits", "no_logits")}
        for score, values in compute_scores(get_scores(names), inputs).items():
            expected = arrays[f"zeroshot/src/infer_{name}_{score.removesuffix('-public')}"]
            torch.testing.assert_close(values, torch.from_numpy(expected), rtol=1e-5, atol=2e-5)
