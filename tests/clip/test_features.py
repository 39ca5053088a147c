import numpy as np
import open_clip
import pytest
import torch
from torch.testing import assert_close

import clip
from clip.tokenizer import cut_to_longest
from dassl.utils.errors import InputError

ARCHS = ["tiny-vit", "tiny-rn"]


def _close(actual, expected):
    """1e-5 of the largest entry: float32 against the public code in float64."""
    expected = torch.as_tensor(np.asarray(expected)).float()
    assert_close(actual.cpu(), expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


def _images(golden):
    return torch.from_numpy(golden("forward.npz")["images_q"]).float() / 32


def _distance(actual, expected) -> float:
    """Length of the difference relative to the length of the values."""
    expected = torch.as_tensor(expected).double()
    return ((actual.cpu().double() - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("arch", ARCHS)
def test_features_are_the_public_codes_in_float64(arch, golden, clip_file):
    arrays, key = golden("forward.npz"), arch.replace("-", "_")
    model = clip.load(clip_file(arch))[0].to_dtype(torch.float64)
    features, regions = model.encode_image(_images(golden), local=True)
    text = model.encode_text(torch.from_numpy(arrays["text_ids"]).long())
    for ours, name in ((features, "global"), (regions, "local"), (text, "text")):
        assert _distance(ours, arrays[f"{key}/{name}_f64"]) < 1e-12
    assert _distance(model.encode_image(_images(golden)), arrays[f"{key}/global_f64"]) < 1e-12


@pytest.mark.parametrize("arch", ARCHS)
def test_float32_is_as_near_as_open_clips_own(arch, golden, tiny_clip, device):
    """Within a small multiple of what the same float32 sums lose in open_clip's order."""
    arrays, key = golden("forward.npz"), arch.replace("-", "_")
    model, images = tiny_clip(arch, device), _images(golden).to(device)
    tokens = torch.from_numpy(arrays["text_ids"]).long().to(device)
    features, regions = model.encode_image(images, local=True)
    image_loss = _distance(model.visual(images), arrays[f"{key}/global_f64"])
    assert _distance(features, arrays[f"{key}/global_f64"]) < 4 * image_loss
    assert _distance(regions, arrays[f"{key}/local_f64"]) < 4 * image_loss
    whole = model.text(model.token_embedding(tokens), tokens.argmax(dim=1))
    text_loss = _distance(whole, arrays[f"{key}/text_f64"])
    assert _distance(model.encode_text(tokens), arrays[f"{key}/text_f64"]) < 4 * text_loss


def test_vit_matches_the_whole_last_block(golden, tiny_clip):
    """The one-pass last block against open_clip's own forward, and the value path by hand."""
    model, images = tiny_clip("tiny-vit"), _images(golden)
    visual = model.visual
    features, regions = model.encode_image(images, local=True)
    _close(features, visual(images))

    x = visual._embeds(images)
    for block in visual.transformer.resblocks[:-1]:
        x = block(x)
    last = visual.transformer.resblocks[-1]
    w, b = last.attn.in_proj_weight.chunk(3)[2], last.attn.in_proj_bias.chunk(3)[2]
    v = last.attn.out_proj(last.ln_1(x) @ w.T + b) + x
    v = v + last.mlp(last.ln_2(v))
    _close(regions, (visual.ln_post(v) @ visual.proj)[:, 1:])


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("count", [1, 5])
def test_images_in_parts_are_the_images_at_once(arch, count, golden, tiny_clip, monkeypatch):
    """On a CPU a large batch is encoded a few images at a time, each with its own gradient."""
    model, seen = tiny_clip(arch), []
    images = torch.cat([_images(golden)] * 5)[:count].requires_grad_()

    def encoded(largest: int) -> list[torch.Tensor]:
        monkeypatch.setattr(clip.image, "CPU_BYTES", largest)
        outputs = model.encode_image(images, local=True)
        return [*outputs, torch.autograd.grad(sum(x.square().sum() for x in outputs), images)[0]]

    hook = model.visual.conv1.register_forward_pre_hook(
        lambda _, inputs: seen.append(len(inputs[0]))
    )
    whole, parts = encoded(1 << 40), encoded(1)
    hook.remove()
    assert seen == [count] + [1] * count
    for one, other in zip(parts, whole, strict=True):
        _close(one, other.detach())


def test_prompts_need_no_padding(tiny_clip):
    """Attention is causal: what follows the last [EOT] changes nothing."""
    model = tiny_clip()
    tokens = clip.tokenize(["a cat", "a photo of a very small dog on a table."])
    eot = tokens.argmax(dim=1)
    whole = model.text(model.token_embedding(tokens), eot)
    short = model.text(model.token_embedding(tokens[:, : eot.max() + 1]), eot)
    assert_close(short, whole, rtol=1e-5, atol=1e-5)
    assert_close(model.encode_text(cut_to_longest(tokens)), whole, rtol=1e-5, atol=1e-5)


def test_regions_are_row_major(tiny_clip):
    """Changing one patch of the input changes most that region's own feature."""
    model = tiny_clip("tiny-vit")
    images = torch.zeros(1, 3, 64, 64)
    changed = images.clone()
    changed[:, :, 16:32, 48:64] = 2.0  # row 1, column 3 of 4 x 4
    difference = (
        model.encode_image(images, local=True)[1] - model.encode_image(changed, local=True)[1]
    ).norm(dim=-1)[0]
    assert difference.argmax() == 1 * 4 + 3 and model.grid == (4, 4)


def test_wrong_size_is_told(tiny_clip):
    with pytest.raises(InputError, match="64 x 64 pixels, got 32 x 64"):
        tiny_clip().encode_image(torch.zeros(1, 3, 32, 64))


def test_tower_without_regions_is_an_error():
    class Pooled(torch.nn.Flatten):
        def forward(self, images):  # the feature and tokens, as open_clip's with output_tokens
            return super().forward(images), images

    visual, images = torch.nn.Flatten(), torch.rand(1, 3, 4, 4)
    with pytest.raises(InputError, match="GL-MCM would silently equal MCM"):
        clip.image.encode_image(visual, images, local=True)
    for tower in (visual, Pooled()):
        features, regions = clip.image.encode_image(tower, images, local=False)
        assert features.equal(images.flatten(1)) and regions is None


def test_towers_stay_frozen_and_in_evaluation_mode(tiny_clip):
    model = tiny_clip("tiny-rn").train()
    assert not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_half_precision_keeps_the_scale(clip_file):
    model, _ = clip.load(clip_file("tiny-vit"))
    model.to_dtype(torch.float16)
    assert model.dtype == torch.float16 and model.logit_scale.dtype == torch.float32


@pytest.mark.parametrize("arch", ["vit", "tiny-vit", "tiny-rn"])
@pytest.mark.parametrize("batch", [1, 5])
def test_global_features_are_the_same_bits_with_and_without_regions(arch, batch, tiny_clip):
    """Runs with and without a local loss share them; so may evaluations."""
    if arch == "vit":  # wide enough for products whose rounding depends on the number of rows
        torch.manual_seed(0)
        vision = {"layers": 2, "width": 256, "patch_size": 16, "image_size": 64}
        text = {"context_length": 77, "vocab_size": 10, "width": 64, "heads": 1, "layers": 1}
        visual, size = open_clip.CLIP(128, vision, text).eval().visual, 64
    else:
        visual, size = tiny_clip(arch).visual, tiny_clip(arch).image_size
    images = torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        alone, beside = (
            clip.image.encode_image(visual, images, local)[0] for local in (False, True)
        )
    assert torch.equal(alone, beside)
